//! Where a case runs: a fresh directory on a real disk or a simulated one, and what it is opened
//! with. A contestant that does not work on this machine skips, and says so.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prkdb_core::io::{Buf, Completion, DiskOptions, Op, Queue, ThreadHost, Until, World};
use prkdb_core::{Backend, ReadOnlyWal, Result, Wal, WalConfig};

use crate::support;
use crate::support::format::{self, Frame};

/// Who is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// Whatever a log gets that names nothing.
    Auto,
    /// A backend as it is.
    Named(Backend),
    /// A backend that is kept from bypassing the page cache.
    Cached(Backend),
    /// The simulated disk.
    #[cfg(feature = "sim")]
    Sim,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contestant::Auto => f.write_str("auto"),
            Contestant::Named(backend) => write!(f, "{backend}"),
            Contestant::Cached(backend) => write!(f, "{backend} through the page cache"),
            #[cfg(feature = "sim")]
            Contestant::Sim => f.write_str("sim"),
        }
    }
}

/// What `Auto` has to find, as `name reason`, where a caller of these tests knows it.
pub const EXPECTED: &str = "PRKDB_TEST_EXPECT_AUTO";

/// A place for one case.
pub struct Place {
    pub contestant: Contestant,
    pub dir: PathBuf,
    pub world: World,
    sim: Option<Box<dyn Simulated>>,
    _root: tempfile::TempDir,
}

/// What a simulated disk can do beyond the contract.
trait Simulated {
    fn put(&self, path: &Path, bytes: &[u8]);
    fn pass(&self, time: Duration);
}

#[cfg(feature = "sim")]
impl Simulated for prkdb_core::io::sim::Sim {
    fn put(&self, path: &Path, bytes: &[u8]) {
        self.put(path, bytes).unwrap();
    }

    fn pass(&self, time: Duration) {
        self.pass(time);
    }
}

/// Runs `case` in a place of its own.
pub fn run(contestant: Contestant, case: fn(&Place)) {
    match Place::new(contestant) {
        Ok(place) => case(&place),
        Err(e) => support::must_be_missing(contestant, &e),
    }
}

impl Place {
    fn new(contestant: Contestant) -> Result<Place> {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("place");
        let options = match contestant {
            #[cfg(feature = "sim")]
            Contestant::Sim => return Ok(Place::simulated(root)),
            Contestant::Auto => DiskOptions::default(),
            Contestant::Named(backend) => backend.into(),
            Contestant::Cached(backend) => DiskOptions { backend, direct: false },
        };
        let (disk, report) = prkdb_core::io::open_disk(&dir, options)?;
        if contestant == Contestant::Auto
            && let Ok(expected) = std::env::var(EXPECTED)
        {
            assert_eq!(format!("{} {}", report.name, report.reason), expected);
        }
        disk.create_dir(&dir).unwrap();
        let world = World { disk, host: Arc::new(ThreadHost::new()) };
        Ok(Place { contestant, dir, world, sim: None, _root: root })
    }

    #[cfg(feature = "sim")]
    fn simulated(root: tempfile::TempDir) -> Place {
        use prkdb_core::io::sim::{Faults, Model, Sim};
        let sim = Sim::new(7, Model::weak(true), Faults::default());
        let (world, dir) = (sim.world(), PathBuf::from("/place"));
        world.disk.create_dir(&dir).unwrap();
        Place { contestant: Contestant::Sim, dir, world, sim: Some(Box::new(sim)), _root: root }
    }

    // ---- files --------------------------------------------------------------------------------

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn block(&self) -> usize {
        self.world.disk.block_size()
    }

    /// A buffer of so many blocks of `byte`.
    pub fn filled(&self, blocks: usize, byte: u8) -> Buf {
        let mut buf = Buf::zeroed(blocks * self.block(), self.block());
        buf.bytes_mut().unwrap().fill(byte);
        buf
    }

    /// Puts a file there by other means than the disk's.
    pub fn plant(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        match &self.sim {
            Some(sim) => sim.put(&path, bytes),
            None => std::fs::write(&path, bytes).unwrap(),
        }
        path
    }

    pub fn queue(&self, depth: usize) -> Box<dyn Queue> {
        self.world.disk.queue(depth, &[]).unwrap()
    }

    // ---- logs ---------------------------------------------------------------------------------

    /// The configuration of a log of small segments here.
    pub fn config(&self) -> WalConfig {
        let backend = match self.contestant {
            Contestant::Named(backend) => backend,
            _ => Backend::Auto,
        };
        support::config(&self.dir, backend)
    }

    pub fn try_open(&self, config: WalConfig) -> Result<Wal> {
        match self.contestant {
            Contestant::Auto | Contestant::Named(_) => Wal::open(config),
            _ => Wal::open_in(self.world.clone(), config),
        }
    }

    pub fn open(&self) -> Wal {
        self.try_open(self.config()).unwrap()
    }

    pub fn read_only(&self) -> ReadOnlyWal {
        match self.sim {
            None => ReadOnlyWal::open(&self.dir).unwrap(),
            Some(_) => ReadOnlyWal::open_on(Arc::clone(&self.world.disk), &self.dir).unwrap(),
        }
    }

    /// Every record of the log, read without a writer.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        let log = self.read_only();
        let first = log.first_lsn().unwrap_or(log.next_lsn());
        support::read_all(log.reader(first).unwrap(), first.get())
    }

    /// The segments of the log, by number.
    pub fn segments(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let names = self.world.disk.list(&self.dir).unwrap().into_iter().map(|entry| entry.name);
        let mut paths: Vec<_> = names.map(|name| self.path(&name)).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "seg"));
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), whole_file(self, &path))).collect()
    }

    /// The batches of the log as they stand in its files, in LSN order.
    pub fn frames(&self) -> Vec<Frame> {
        let segments = self.segments().into_iter();
        let mut frames: Vec<_> =
            segments.flat_map(|(path, bytes)| format::frames_in(&path, &bytes).0).collect();
        frames.sort_by_key(|frame| frame.first);
        frames
    }

    /// Drives a future: by parking, or by letting the simulated world go on.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        if self.sim.is_none() {
            return support::block_on(future);
        }
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(output) => return output,
                Poll::Pending => assert!(self.world.host.step()),
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        match &self.sim {
            Some(sim) => sim.pass(time),
            None => std::thread::sleep(time),
        }
    }
}

/// Reaps until `count` answers are there.
pub fn reap(queue: &mut dyn Queue, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < count {
        queue.reap(&mut out, Until::Forever).unwrap();
    }
    assert_eq!(out.len(), count);
    out
}

/// Submits one request and waits for its answer.
pub fn one(queue: &mut dyn Queue, op: Op) -> Completion {
    let id = queue.submit(op);
    let answer = reap(queue, 1).remove(0);
    assert_eq!(answer.id, id);
    answer
}

/// All of a file, by the disk's own reads.
pub fn whole_file(place: &Place, path: &Path) -> Vec<u8> {
    let file = place.world.disk.open(path, prkdb_core::io::Access::Cached).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}
