//! What the tests of the public API share: backends, records, a tiny executor, killed children.
//!
//! ```text
//! test --re-exec(dir, life)--> child: append .. append --acks--> test --SIGKILL--> child
//!                                 '----> directory <---- copied, damaged, opened
//! ```
//!
//! A record's bytes follow from its LSN and from the life of the process that appended it, so that
//! one that came back from an earlier life is told from the one that took its place.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::SystemTime;

use prkdb_core::{Backend, ReadOnlyWal, Reader, SyncMethod, Wal, WalConfig};

use commit::commit;

pub mod commit;
pub mod damages;
pub mod disk;
pub mod format;
pub mod gate;
pub mod through;
pub mod watchdog;
pub mod zeros;

/// Says, past the test runner's capture, what is not tested here, once, and why.
pub fn skip(what: impl Display, why: impl Display) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap().insert(what.to_string()) {
        writeln!(std::io::stderr().lock(), "SKIPPED {what}: {why}").unwrap();
    }
}

/// Skips what was refused because this machine lacks it; whatever else it was refused for is a
/// failure, above all where a fallback did not work.
pub fn must_be_missing(who: impl Display, e: &prkdb_core::Error) {
    let (name, why) = (who.to_string(), e.to_string());
    let may = match name.split(' ').next() {
        Some("uring" | "tokio-uring") => true,
        Some("mmap") => why.contains("copies on write"),
        _ => false,
    };
    assert!(may && e.kind() == prkdb_core::ErrorKind::Unsupported, "{name}: {why}");
    skip(format_args!("on {name}"), why);
}

/// Every backend of this build but `Auto`.
pub const BACKENDS: &[Backend] = &[
    Backend::Uring,
    Backend::Mmap,
    Backend::Pwrite,
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    Backend::TokioUring,
];

/// The backends that work where `dir` is; says so if one does not.
pub fn backends(dir: &Path) -> Vec<Backend> {
    let works = |backend: &Backend| match prkdb_core::probe(dir, *backend) {
        Ok(_) => true,
        Err(e) => {
            must_be_missing(backend, &e);
            false
        }
    };
    BACKENDS.iter().copied().filter(works).collect()
}

/// Runs `test` in a fresh directory for each backend.
pub fn on_each_backend(test: impl Fn(&Path, Backend)) {
    let root = tempfile::tempdir().unwrap();
    for backend in backends(root.path()) {
        println!("on {backend:?}");
        test(&root.path().join(format!("{backend:?}")), backend);
    }
}

/// A log of small segments.
pub fn config(dir: &Path, backend: Backend) -> WalConfig {
    WalConfig { backend, segment_bytes: 1 << 20, ..WalConfig::new(dir) }
}

/// The same with as many lanes and the sync method that come in this turn: each with each.
pub fn config_in_turn(dir: &Path, backend: Backend, turn: u64, lanes: &[usize]) -> WalConfig {
    let turn = usize::try_from(turn).unwrap();
    let methods = [SyncMethod::Auto, SyncMethod::Dsync, SyncMethod::Fdatasync];
    let (num_segments, sync_method) = (lanes[turn % lanes.len()], methods[turn / lanes.len() % 3]);
    WalConfig { num_segments, sync_method, ..config(dir, backend) }
}

pub fn open(dir: &Path, backend: Backend) -> Wal {
    Wal::open(config(dir, backend)).unwrap()
}

/// The record at `lsn` appended in `life`: it names both, then comes noise, up to 4 KiB.
pub fn record(life: u64, lsn: u64) -> Vec<u8> {
    let mut random = Random(life << 32 | lsn);
    let mut bytes = format!("{life} {lsn} ").into_bytes();
    bytes.extend((0..random.below(4096)).map(|_| random.next().to_le_bytes()[0]));
    bytes
}

/// Appends `count` records of `life` in batches of `batch` and waits for all.
pub fn fill(wal: &Wal, life: u64, count: u64, batch: u64) {
    let first = wal.next_lsn().get();
    let mut tickets = Vec::new();
    for start in (first..first + count).step_by(usize::try_from(batch).unwrap()) {
        let end = (start + batch).min(first + count);
        let records: Vec<_> = (start..end).map(|lsn| record(life, lsn)).collect();
        tickets.push((start, wal.append_batch(&records).unwrap()));
    }
    for (start, ticket) in tickets {
        assert_eq!(ticket.wait().unwrap().first().get(), start);
    }
}

/// All that `reader` gives; LSNs must be dense from `from`.
pub fn read_all(reader: Reader, from: u64) -> Vec<Vec<u8>> {
    let number = |(record, lsn): (prkdb_core::Result<prkdb_core::Record>, u64)| {
        let record = record.unwrap();
        assert_eq!(record.lsn.get(), lsn);
        record.data.to_vec()
    };
    reader.zip(from..).map(number).collect()
}

/// What the system said, if it said anything.
pub fn io_kind(error: &prkdb_core::Error) -> Option<std::io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

/// Every record of the log in `dir`, read without a writer.
pub fn contents(dir: &Path) -> Vec<Vec<u8>> {
    let log = ReadOnlyWal::open(dir).unwrap();
    let first = log.first_lsn().unwrap_or(log.next_lsn());
    read_all(log.reader(first).unwrap(), first.get())
}

/// The segment files of a log, by number.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir, "seg")
}

/// Files of a directory by extension, sorted.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

/// Copies a log: plain files, and the pool with its files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => match fs::copy(entry.path(), target) {
                // Of a log that is open: named otherwise meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
        }
    }
}

/// Names and bytes of everything below `dir`.
pub fn image(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(image(&path)),
            // The lock names its last holder.
            false if path.ends_with("LOCK") => {}
            false => all.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

/// Drives a future on this thread: all the runtime that the crate's futures need.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Tells how much of a suite was done, in the one form that `ci/soak` adds up, and how to do it
/// again: what was asserted on the way is that nothing was lost.
pub fn tally(suite: impl Display, cycles: u64, faults: u64) {
    let (base, commit) = (base(), commit());
    println!(
        "soak: {suite}: {cycles} cycles, {faults} faults, 0 lost, PRKDB_SEED={base}, \
         commit {commit}"
    );
}

/// Another one for each call and each run, or those of an earlier run, if `PRKDB_SEED` names it.
pub fn seed() -> u64 {
    thread_local!(static CALLS: Cell<u64> = const { Cell::new(0) });
    let call = CALLS.replace(CALLS.get() + 1);
    base().wrapping_add(call.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Where the seeds of this run begin.
fn base() -> u64 {
    static BASE: OnceLock<u64> = OnceLock::new();
    *BASE.get_or_init(|| {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let drawn = u64::from(clock.subsec_nanos());
        std::env::var("PRKDB_SEED").map_or(drawn, |seed| seed.parse().unwrap())
    })
}

/// Marsaglia's xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 |= u64::from(self.0 == 0);
        for (left, shift) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << shift } else { self.0 >> shift };
        }
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 8) % bound
    }
}

const CHILD: &str = "PRKDB_TEST_CHILD";

/// What a re-executed test binary does: appends with many tickets outstanding until it is killed.
pub fn child_main() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let (life, dir) = job.split_once(' ').unwrap();
    let life: u64 = life.parse().unwrap();
    let backends = backends(dir.as_ref());
    let backend = backends[usize::try_from(life).unwrap() % backends.len()];
    // The first three lives have one, two and three segments open at once, all later ones four.
    let num_segments = usize::try_from(life).unwrap().min(4);
    let config = WalConfig { num_segments, ..config(dir.as_ref(), backend) };
    let wal = Wal::open(WalConfig { segment_bytes: 4 << 20, ..config }).unwrap();
    let mut next = wal.next_lsn().get();
    let mut tickets = std::collections::VecDeque::new();
    loop {
        let records: Vec<_> = (next..next + 20).map(|lsn| record(life, lsn)).collect();
        next += 20;
        tickets.push_back(wal.append_batch(&records).unwrap());
        if tickets.len() > 12 {
            let range = tickets.pop_front().unwrap().wait().unwrap();
            println!("acked {}", range.last());
        }
    }
}

/// Starts a child that appends to `dir` in `life` and tells what was acknowledged, see [`acked`].
pub fn start_appending(dir: &Path, life: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
        .env(CHILD, format!("{life} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The last LSN of each batch that the child was answered, as it tells them, until it is gone.
pub fn acked(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(|line| line.unwrap().split_once("acked ")?.1.trim().parse().ok())
}

/// Lets a child append to `dir` in `life` and kills it after `acks` answers; the last LSN acked.
pub fn append_and_kill(dir: &Path, life: u64, acks: usize) -> u64 {
    let mut child = start_appending(dir, life);
    let mut acked = acked(&mut child);
    let last: Option<u64> = acked.by_ref().take(acks).last();
    child.kill().unwrap();
    let last = acked.last().or(last).expect("the child ended before it acknowledged anything");
    child.wait().unwrap();
    std::io::stdout().flush().unwrap();
    last
}
