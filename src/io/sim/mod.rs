//! A simulated world: a disk in memory and a scheduler, driven by one seed, that crash and fail.
//!
//! ```text
//! Sim::new(seed, model, faults)
//!    | world()                      disk + host for one life of the engine
//!    v
//!  engine: open, append, wait --+   every wait steps the world, on the caller's thread
//!    |                          |
//!    |   faults.crash_at: from that operation on everything fails; machines are dropped
//!    v                          |
//!  crash(kind) <----------------+   loses or lands what was not durable; handles go dead
//!    |
//!    +--> world() again: the same disk, after a reboot
//! ```
//!
//! No thread, no real clock, no hash order: the same seed and the same calls give the same
//! [`trace`](Sim::trace). What the disk may do is what `Disk` and `Queue` allow:
//!
//! 1. A completed write with `dsync` is durable, also if it was short. A plain one is durable
//!    after a sync that was submitted once the write's answer had been reaped.
//! 2. At a power cut each sector of every other write is kept or lost by itself, in any order;
//!    size and names likewise, within [`NameOrder`].
//! 3. A failed sync drops unsynced sectors for good; the page cache keeps showing them, and the
//!    next sync succeeds.
//! 4. Requests complete in any order, at any time after `reap` has started them.
//!
//! The fourteen classes of faults, and what makes them. Those that give wrong bytes in silence (12
//! to 14) and a disk that [lies](Model::lying) break promises that no log can keep without the
//! disk; what it still must not do is to serve other bytes than were appended, or to go on past
//! damage that a surviving watermark proves. How often each made a difference tells
//! [`Sim::met`].
//!
//! | | class | made by |
//! |---|---|---|
//! | 1 | crash at any operation | [`Faults::crash_at`], [`Sim::crash`] |
//! | 2 | unsynced write lost | [`CrashKind::Power`] |
//! | 3 | write torn at a sector | [`CrashKind::Power`], [`Model::whole_blocks`] |
//! | 4 | unsynced writes reordered | [`CrashKind::Power`] |
//! | 5 | unsynced size or directory entry lost | [`CrashKind::Power`], [`Model::names`] |
//! | 6 | sync fails, its pages are clean afterwards | [`Faults::sync_eio`] |
//! | 7 | write fails (EIO) | [`Faults::write_eio`] |
//! | 8 | ENOSPC, EDQUOT, EFBIG | [`Faults::capacity`], `enospc`, `edquot`, `efbig`, `write_full` |
//! | 9 | short write | [`Faults::short_write`] |
//! | 10 | EINTR, EAGAIN, ECANCELED | [`Faults::interrupted`], [`Faults::canceled`] |
//! | 11 | completions reordered or late | always; [`Faults::late`] |
//! | 12 | rot in synced data | [`Faults::rot`], [`Sim::flip`] |
//! | 13 | misdirected write or read | [`Faults::misdirected_write`], [`Faults::misdirected_read`] |
//! | 14 | stale read | [`Faults::stale_read`] |
//!
//! Allocation has no durability of its own: blocks come with the size. What a crash makes of blocks
//! that are allocated and not durable is, to the engine, a first overwrite that fails for want of
//! space: `write_full` does that to any write.
//!
//! Any operation fails in any of these ways by its number: [`Faults::fail_nth`],
//! [`Faults::fail_as`]. A failed read ([`Faults::read_eio`]) changes nothing on the disk and is no
//! class of its own. A name call that fails ([`Faults::names_eio`]) may have been carried out, and
//! a queue that breaks ([`Faults::break_at`]) may have done what it never answers. ECANCELED of a
//! sync does not reach the engine from a disk of this crate: the ring's queue sends a plain
//! `fdatasync` in its place, and so does this one; a disk of one's own that hides nothing is what
//! `fail_as` with [`Failure::Canceled`] is like.
//!
//! A wait that nothing can end panics: a hang is a bug that was found. Sources: Rebello et al.,
//! ATC 2020, on failed syncs; Pillai et al. (ALICE), OSDI 2014, on what crashes leave.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use crate::cast;
use crate::io::World;

mod disk;
mod faults;
mod image;
mod inode;
mod met;
mod names;
mod plan;
mod queue;
mod request;
mod rng;
mod scheduler;
mod state;
#[cfg(test)]
mod tests;
mod wrong;

pub use faults::{Failure, Faults};
pub use met::{FaultClass, Met};
pub use plan::{CrashKind, Model, NameOrder};
pub use rng::Rng;

/// A simulated world. Clones are the same world; different ones share nothing. When the last clone
/// is dropped, the world ends and its machines are dropped.
#[derive(Clone)]
pub struct Sim(Arc<Owner>);

/// Breaks the circle of a world that holds machines that hold the world.
struct Owner(Arc<state::Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.crashed = true;
        let machines = std::mem::take(&mut state.tasks);
        drop(state);
        drop(machines);
    }
}

impl Sim {
    /// A world with an empty disk.
    pub fn new(seed: u64, model: Model, faults: Faults) -> Sim {
        let state = state::State::new(seed, model, faults);
        Sim(Arc::new(Owner(Arc::new(state::Shared::new(state)))))
    }

    fn lock(&self) -> MutexGuard<'_, state::State> {
        self.0.0.lock()
    }

    /// Disk and host of the life that the world is in. After [`crash`](Sim::crash) they are dead,
    /// with all that was opened through them: every call fails, nothing changes.
    pub fn world(&self) -> World {
        let life = self.lock().life;
        World {
            disk: Arc::new(disk::SimDisk::new(&self.0.0, life)),
            host: Arc::new(scheduler::Scheduler::new(&self.0.0, life)),
        }
    }

    /// Ends this life, wherever it is: drops all machines, lands or loses what was not durable,
    /// releases the locks, forgets `crash_at`. Other faults stay as they are.
    pub fn crash(&self, kind: CrashKind) {
        let mut state = self.lock();
        let machines = state.crash(kind);
        drop(state);
        drop(machines);
    }

    /// As a [`crash`](Sim::crash) by [`CrashKind::Power`], but what was not durable survives as
    /// `keep` says: it is asked for each sector, size and name that would make a difference, always
    /// in the same order, so that all outcomes can be gone through. Sectors land in the order of
    /// their writes.
    pub fn cut_power(&self, mut keep: impl FnMut() -> bool) {
        let mut state = self.lock();
        let machines = state.cut_power(&mut keep);
        drop(state);
        drop(machines);
    }

    /// Whether the operation `crash_at` was reached and [`crash`](Sim::crash) is due.
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Operations since the world was made, over all lives.
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// How often a fault gave or kept wrong bytes and said nothing.
    pub fn corruptions(&self) -> u64 {
        self.lock().corruptions
    }

    /// How often the faults of each class made a difference.
    pub fn met(&self) -> Met {
        self.lock().met
    }

    /// What is held of the world at present: all zeros when nothing leaks.
    pub fn held(&self) -> Held {
        let state = self.lock();
        Held {
            files: state.inodes.values().map(inode::Inode::handles).sum(),
            locks: state.locks.len(),
            queues: state.queues.len(),
            requests: state.requests.len(),
            machines: state.tasks.len(),
        }
    }

    /// A checksum over all that has happened: equal for equal seeds and equal calls.
    pub fn trace(&self) -> u64 {
        self.lock().trace()
    }

    /// The world's clock.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.lock().now)
    }

    /// What kind of disk it has.
    pub fn model(&self) -> Model {
        self.lock().model.clone()
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What goes wrong at present.
    pub fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// A generator of the world's seed for a client of one's own; the same for the same `number`.
    pub fn rng(&self, number: u64) -> Rng {
        Rng::stream(self.lock().seed, number)
    }

    /// Lets the world go on for `time` of its clock, or until it has ended.
    pub fn pass(&self, time: Duration) {
        let (life, end) = {
            let state = self.lock();
            (state.life, state.now.saturating_add(queue::micros(time)))
        };
        loop {
            let state = self.lock();
            let over = state.dead(life) || state.now >= end;
            drop(state);
            if over {
                return;
            }
            scheduler::advance(&self.0.0, life, Some(end));
        }
    }

    /// All files with their sizes, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.lock();
        let mut files: Vec<_> =
            state.names.files().map(|(path, inode)| (path, state.inodes[&inode].size)).collect();
        files.sort();
        files
    }

    /// What the device holds of a file.
    ///
    /// # Errors
    /// There is no such file.
    pub fn peek(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        Ok(state.named(path.as_ref())?.bytes())
    }

    /// Overwrites bytes on the media and in every cache.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn poke(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.named(path.as_ref())?;
        check(offset, bytes.len() as u64, file.size)?;
        file.poke(cast::len(offset), bytes);
        Ok(())
    }

    /// Flips the bits in `mask` of one byte, on the media and in every cache.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.named(path.as_ref())?;
        check(offset, 1, file.size)?;
        file.flip(cast::len(offset), mask);
        Ok(())
    }

    /// Gives a file one more name, durable, as a checkpoint by hard links does; makes missing
    /// directories.
    ///
    /// # Errors
    /// There is no such file, or `to` names none.
    pub fn link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.names.get(from.as_ref())?;
        state.names.plant(to.as_ref(), inode)
    }

    /// Puts a file there, durable, in place of any of that name; makes missing directories.
    ///
    /// # Errors
    /// `path` names no file.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.add_inode(inode::Inode::with(bytes));
        let planted = state.names.plant(path.as_ref(), inode);
        state.collect();
        planted
    }
}

/// What one life of a world holds, by count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Open files: handles, and requests under way.
    pub files: usize,
    /// Locks.
    pub locks: usize,
    /// Queues that were not dropped.
    pub queues: usize,
    /// Requests under way.
    pub requests: usize,
    /// Machines that have not ended.
    pub machines: usize,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "Sim(seed {}, life {}, operation {})", state.seed, state.life, state.ops)
    }
}

fn check(offset: u64, len: u64, size: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
