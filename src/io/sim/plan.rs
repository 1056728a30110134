//! What a simulated world is like and what goes wrong in it: plain data, set by a test or drawn.

use super::rng::Rng;
use crate::io::Access;

/// Which changes of names survive a power cut that came before `sync_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOrder {
    /// All of them: each is durable when its call returns.
    Strict,
    /// Those made before some moment, across all directories, as in a journal. A rename is one
    /// change; `sync_dir` of any directory commits the whole journal.
    Journal,
    /// For each name those made before some moment of its own. A rename is two changes, so that a
    /// file may have both names, or, if neither directory was synced, none.
    Weak,
}

/// What kind of disk a world has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Which unsynced changes of names survive a power cut.
    pub names: NameOrder,
    /// Whether `Direct` and `Write` files are read past the page cache.
    pub direct: bool,
    /// Whether `Write` files are read through it all the same, as where memory is mapped.
    pub mapped: bool,
    /// Whether writes tear between blocks of 4096 bytes only, not between sectors of 512.
    pub whole_blocks: bool,
}

impl Model {
    /// Whether a file opened so is read past the page cache.
    pub(super) fn reads_past_cache(&self, access: Access) -> bool {
        match access {
            Access::Cached => false,
            Access::Direct => self.direct,
            Access::Write => self.direct && !self.mapped,
        }
    }

    /// The most forgetful disk: weak names, small sectors; `direct` as told.
    pub fn weak(direct: bool) -> Model {
        Model { names: NameOrder::Weak, direct, mapped: false, whole_blocks: false }
    }

    /// A disk drawn from all there are.
    pub fn draw(rng: &mut Rng) -> Model {
        Model {
            names: rng.pick(&[NameOrder::Strict, NameOrder::Journal, NameOrder::Weak]),
            direct: rng.chance(667),
            mapped: rng.chance(333),
            whole_blocks: rng.chance(250),
        }
    }
}

/// How a world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process is killed: page cache and names stay, requests in flight land whole, in part
    /// or not at all.
    Kill,
    /// The power fails: the page cache is gone; of what was not synced each sector, size and name
    /// survives or not.
    Power,
}

/// What goes wrong. Rates are per mille; `Faults::default()` is a healthy world.
///
/// Operations are counted by [`ops`](super::Sim::ops): each submit, each completion, each call on
/// a directory, each blocking read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Writes that fail; any subset of their sectors landed.
    pub write_eio: u32,
    /// Reads that fail.
    pub read_eio: u32,
    /// Syncs of files and directories that fail: any subset of what was unsynced is gone for
    /// good, and the next sync succeeds.
    pub sync_eio: u32,
    /// Writes of several blocks that write fewer. What a short write with `dsync` wrote is durable.
    pub short_write: u32,
    /// Reads and writes that end as `Interrupted` or `WouldBlock` with nothing done.
    pub interrupted: u32,
    /// Requests that take up to 65 ms of the world's clock instead of completing at any moment.
    pub late: u32,
    /// Creations of files that end as `StorageFull` although there is space.
    pub enospc: u32,
    /// Bytes that the files may have together; none: as good as endless.
    pub capacity: Option<u64>,
    /// The operation, counted since the world was made, that never happens: everything fails from
    /// there until [`crash`](super::Sim::crash).
    pub crash_at: Option<u64>,
    /// The operation, counted since the world was made, that fails. A submitted request fails
    /// when it completes.
    pub fail_nth: Option<u64>,
    /// Whether all operations after `fail_nth` fail as well.
    pub fail_on: bool,
}

impl Faults {
    /// Rates drawn by kind, most of them 0; no crash and no limit of space.
    pub fn draw(rng: &mut Rng) -> Faults {
        let mut rate = |present: u32| {
            if rng.chance(present) { rng.pick(&[2, 10, 50, 200]) } else { 0 }
        };
        Faults {
            short_write: rate(300),
            interrupted: rate(300),
            late: rate(300),
            write_eio: rate(80),
            sync_eio: rate(80),
            read_eio: rate(40),
            enospc: rate(80),
            ..Faults::default()
        }
    }
}
