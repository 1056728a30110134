//! The same records, appended one batch after the other, make the same segments on every backend.
//!
//! Clocks stand still and randomness counts, so that nothing but the backend could differ. META
//! names the backend, so it is left out.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;
use std::time::Duration;

use prkdb_core::io::{Host, MakeMachine, Running, ThreadHost, World, open_disk};
use prkdb_core::{Backend, Wal};

use crate::place::{Place, whole_file};
use crate::support::{self, record};

/// A host whose clocks stand still and whose randomness counts.
#[derive(Debug)]
struct Still {
    inner: Arc<dyn Host>,
    drawn: AtomicU8,
}

impl Host for Still {
    fn now(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wall_us(&self) -> u64 {
        1_700_000_000_000_000
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        Ok([self.drawn.fetch_add(1, Ordering::Relaxed); 16])
    }

    fn start(&self, name: &str, make: MakeMachine) -> io::Result<Box<dyn Running>> {
        self.inner.start(name, make)
    }

    fn run(&self, name: &str, job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()> {
        self.inner.run(name, job)
    }

    fn wake(&self, waker: Waker) {
        self.inner.wake(waker);
    }

    fn step(&self) -> bool {
        self.inner.step()
    }
}

/// Appends batches of all sizes over several segments; the world stands still meanwhile.
fn append(world: &World, dir: &std::path::Path) {
    let host = Arc::new(Still { inner: Arc::clone(&world.host), drawn: AtomicU8::new(1) });
    let world = World { disk: Arc::clone(&world.disk), host };
    let wal = Wal::open_in(world, support::config(dir, Backend::Auto)).unwrap();
    let mut lsn = 1;
    for count in [1, 7, 100, 1, 300].repeat(2) {
        let records: Vec<_> = (lsn..lsn + count).map(|lsn| record(3, lsn)).collect();
        lsn += count;
        assert_eq!(wal.append_batch(&records).unwrap().wait().unwrap().last().get(), lsn - 1);
    }
    wal.append_batch([vec![7; 900_000]]).unwrap().wait().unwrap();
    wal.close().unwrap();
}

pub fn the_same_records_make_the_same_segments(place: &Place) {
    append(&place.world, &place.dir);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("reference");
    let (disk, _) = open_disk(&dir, Backend::Pwrite).unwrap();
    assert_eq!(disk.block_size(), place.block(), "another block makes other bytes");
    append(&World { disk, host: Arc::new(ThreadHost::new()) }, &dir);
    // The last one was made ahead, or not: it holds nothing.
    let expected: Vec<PathBuf> = support::segments(&dir);
    let mut with_frames = 0;
    for path in &expected {
        let name = path.file_name().unwrap();
        let (frames, _) = support::format::frames(path);
        if frames.is_empty() {
            continue;
        }
        with_frames += 1;
        let (ours, theirs) = (whole_file(place, &place.dir.join(name)), std::fs::read(path));
        let theirs = theirs.unwrap();
        let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((ours.len(), differ), (theirs.len(), None), "{}", path.display());
    }
    assert!(with_frames >= 3, "{with_frames} segments: too few to say anything");
}
