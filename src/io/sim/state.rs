//! The state of a simulated world, behind one lock: files, names, requests, clock, randomness.
//!
//! ```text
//! SimQueue::submit --> requests (any order) --complete--> inode, answer in its queue's `ready`
//! SimDisk, SimFile --> names, inodes             |
//!              every call: `tick` counts it, and the world may end there
//! ```
//!
//! Invariants: (1) the lock is never held while a machine, a job or a drop of the caller's runs;
//! (2) nothing here depends on an address, a hash or a thread; (3) handles of a life that has
//! ended change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::faults::{Failure, Faults};
use super::inode::Inode;
use super::met::{FaultClass, Met};
use super::names::Names;
use super::plan::{CrashKind, Model};
use super::queue::QueueState;
use super::request::Request;
use super::rng::Rng;
use super::scheduler::Task;

/// How many calls a world that has ended, or steps a world without I/O, answers before it
/// concludes that its caller waits in vain.
pub(super) const PATIENCE: u32 = 100_000;

/// The state with its lock.
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(state: State) -> Shared {
        Shared(Mutex::new(state))
    }

    /// Locks. A caller that panicked has left no half-made change: panics are raised unlocked or
    /// before the first change.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything there is in one world.
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    /// For `Host::random`, so that asking for it shifts nothing else.
    pub(super) entropy: Rng,
    pub(super) model: Model,
    pub(super) faults: Faults,
    /// How many crashes there were: handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) crashed: bool,
    pub(super) ops: u64,
    /// The clock, microseconds.
    pub(super) now: u64,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) queues: BTreeMap<u64, QueueState>,
    pub(super) requests: Vec<Request>,
    pub(super) tasks: Vec<Task>,
    /// The chance, per mille, that a machine goes before a request where both could.
    pub(super) machines_first: u32,
    /// Steps since the last operation, or calls since the end of the world.
    pub(super) quiet: u32,
    /// How often bytes were put or given wrong without a word.
    pub(super) corruptions: u64,
    /// How often faults made a difference.
    pub(super) met: Met,
    trace: u64,
    next_id: u64,
}

/// What every call says once the world has ended.
fn ended() -> io::Error {
    io::Error::other("simulated crash")
}

impl State {
    pub(super) fn new(seed: u64, model: Model, faults: Faults) -> State {
        let mut rng = Rng::new(seed);
        State {
            seed,
            machines_first: rng.pick(&[100, 500, 900, 980]),
            rng,
            entropy: Rng::stream(seed, u64::MAX),
            names: Names::new(&model),
            model,
            faults,
            life: 0,
            crashed: false,
            ops: 0,
            now: 0,
            inodes: BTreeMap::new(),
            locks: BTreeSet::new(),
            queues: BTreeMap::new(),
            requests: Vec::new(),
            tasks: Vec::new(),
            quiet: 0,
            corruptions: 0,
            met: Met::default(),
            trace: seed,
            next_id: 0,
        }
    }

    /// Whether handles made in `life` are of no use any more.
    pub(super) fn dead(&self, life: u64) -> bool {
        self.crashed || life != self.life
    }

    /// Fails if the world of `life` has ended.
    ///
    /// # Panics
    /// If it was asked so often that its caller must be waiting for an answer in vain.
    pub(super) fn alive(&mut self, life: u64) -> io::Result<()> {
        if !self.dead(life) {
            return Ok(());
        }
        self.quiet += 1;
        assert!(self.quiet < PATIENCE, "simulated hang: a caller waits on after the crash");
        Err(ended())
    }

    /// Counts one operation; gives whether it is to fail.
    pub(super) fn tick(&mut self, life: u64) -> io::Result<bool> {
        self.alive(life)?;
        self.ops += 1;
        self.quiet = 0;
        if self.faults.crash_at.is_some_and(|at| self.ops >= at) {
            self.crashed = true;
            self.met.note(FaultClass::Crash);
            return Err(ended());
        }
        let nth = self.faults.fail_nth;
        Ok(nth.is_some_and(|n| self.ops == n || (self.faults.fail_on && self.ops > n)))
    }

    /// Counts a call that answers at once, and fails it if it is to fail.
    pub(super) fn call(&mut self, life: u64, what: &'static str) -> io::Result<()> {
        let failing = self.tick(life)?;
        self.note(&[u64::from(crc32fast::hash(what.as_bytes()))]);
        match self.faults.fail_as {
            // Of an interrupted call the system's own loop makes sure.
            how if failing && !how.is_passing() => {
                // A read that fails changes nothing: it is no class of its own.
                self.met.note_if(FaultClass::of(how), what != "read_at");
                Err(how.error(what))
            }
            _ => Ok(()),
        }
    }

    /// A call that changes a name: where it fails as EIO it may have done so all the same, for a
    /// file system reports what it could not write down, not only what it did not do.
    pub(super) fn change<T>(
        &mut self,
        life: u64,
        what: &'static str,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let told = self.call(life, what);
        self.alive(life)?;
        let fails = told.is_err() || self.rng.chance(self.faults.names_eio);
        if !fails {
            return work(self);
        }
        if told.is_ok() {
            self.met.note(FaultClass::WriteFailed);
        }
        let error = told.err().unwrap_or_else(|| eio(what));
        if error.raw_os_error().is_none() && self.rng.chance(500) {
            // What it would have said itself comes first.
            work(self)?;
            self.note(&[1]);
        }
        Err(error)
    }

    /// Adds what has happened to the trace.
    pub(super) fn note(&mut self, words: &[u64]) {
        for word in [self.ops, self.now].iter().chain(words) {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// A number that nothing else in this world has.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a file without a name.
    pub(super) fn add_inode(&mut self, inode: Inode) -> u64 {
        let id = self.fresh_id();
        self.inodes.insert(id, inode);
        id
    }

    /// The file of a name, to change behind everyone's back.
    pub(super) fn named(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let id = self.names.get(path)?;
        Ok(self.inodes.get_mut(&id).expect("a named file is kept"))
    }

    /// Bytes still free: what has neither a name nor an open file takes none.
    pub(super) fn space(&self) -> u64 {
        let Some(capacity) = self.faults.capacity else { return u64::MAX >> 1 };
        let in_use = |(id, inode): &(&u64, &Inode)| inode.is_open() || self.names.links(**id) > 0;
        let used: u64 = self.inodes.iter().filter(in_use).map(|(_, inode)| inode.size).sum();
        capacity.saturating_sub(used)
    }

    /// Forgets files that nobody can reach any more.
    pub(super) fn collect(&mut self) {
        let reachable = self.names.reachable();
        self.inodes.retain(|id, inode| inode.is_open() || reachable.contains(id));
    }

    /// Ends this life: lands or loses what was under way, and gives back what the caller has to
    /// drop without the lock.
    pub(super) fn crash(&mut self, kind: CrashKind) -> Vec<Task> {
        self.note_end();
        let mut requests = std::mem::take(&mut self.requests);
        self.rng.shuffle(&mut requests);
        for request in &requests {
            self.land_in_part(request, kind);
        }
        drop(requests);
        for inode in self.inodes.values_mut() {
            inode.crash(kind, self.ops, &self.model, &mut self.rng, &mut self.met);
        }
        if kind == CrashKind::Power {
            self.names.lose_power(&mut self.rng, &mut self.met);
        }
        self.reboot(kind)
    }

    /// As `crash` with a power cut, but `keep` says what survives.
    pub(super) fn cut_power(&mut self, keep: &mut dyn FnMut() -> bool) -> Vec<Task> {
        self.note_end();
        for request in std::mem::take(&mut self.requests) {
            self.land_in_part(&request, CrashKind::Power);
        }
        for inode in self.inodes.values_mut() {
            inode.lose_power_but(&self.model, keep, &mut self.met);
        }
        self.names.lose_power_but(keep, &mut self.met);
        self.reboot(CrashKind::Power)
    }

    /// A world that is crashed from outside ends at an operation too, if something runs in it.
    fn note_end(&mut self) {
        let runs = !self.tasks.is_empty() || !self.requests.is_empty();
        self.met.note_if(FaultClass::Crash, runs && !self.crashed);
    }

    fn reboot(&mut self, kind: CrashKind) -> Vec<Task> {
        self.queues.clear();
        self.locks.clear();
        self.collect();
        self.faults.crash_at = None;
        self.crashed = false;
        self.life += 1;
        self.quiet = 0;
        self.note(&[kind as u64, self.life]);
        std::mem::take(&mut self.tasks)
    }
}

/// A failure that says where it comes from.
pub(super) fn eio(what: &str) -> io::Error {
    Failure::Device.error(what)
}
