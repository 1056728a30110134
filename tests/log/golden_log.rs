//! Whole logs as version 1 left them: read, verified and continued by whatever version is built.
//!
//! ```text
//! tests/golden/NAME.log --unpack--> directory --> verify, read all, open, append, close, open
//!           ^                                               |
//!     made once, by `make_the_golden_logs`              script(): what must be in it
//! ```
//!
//! `closed`: five lives, one of each codec and one with two segments open at once; cut from the end
//! in the middle of a batch, from the start too; closed in order. `torn`: killed with a batch half
//! written. An archive holds every file of the directory but LOCK, without its zeros:
//!
//! ```text
//! archive = file*
//! file    = name "\n" size "\n" runs "\n" run*     ; path in the log, decimal numbers
//! run     = offset:u32 len:u32 bytes               ; little-endian; all between runs is zero
//! ```
//!
//! A released log is never made anew. For one of a later version write another script; its archive
//! is made by `cargo test --all-features --test log -- --ignored`, which replaces none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use prkdb_core::io::{Host, MakeMachine, Running, ThreadHost, World, open_disk};
use prkdb_core::{
    Backend, CompressionConfig, CompressionType, FindingKind, Lsn, ReadOnlyWal, Reader, Verdict,
    Wal, WalConfig,
};

use crate::support;
use crate::support::{copy, files, format, image};

/// The most that both archives may take in the repository.
const MOST_BYTES: u64 = 100 << 10;
/// The block that was written for; where another one is wanted other bytes are written.
const BLOCK: usize = 4096;

// ---- what was done ----------------------------------------------------------------------------

/// One step of the making of a log.
enum Step {
    /// Closes the log if it is open, opens it with this codec and so many segments at a time.
    Open(CompressionType, usize),
    /// Appends one batch and waits for it; the clock goes on by a second.
    Append(Vec<Vec<u8>>),
    TruncateAfter(u64),
    TruncateBefore(u64),
    SetUserState(&'static [u8]),
}

/// A record as it must be read: LSN, time and bytes.
type Expected = (u64, u64, Vec<u8>);

/// Time of batch `n` of a log, counted from 1, cut ones too.
fn time_us(n: u64) -> u64 {
    1_700_000_000_000_000 + n * 1_000_000
}

/// `count` records of batch `n`.
fn lines(n: u64, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("batch {n}, line {i} of a text in version 1").into_bytes()).collect()
}

/// A large record that takes no room in the repository, between two small ones.
fn filler(n: u64, len: usize) -> Vec<Vec<u8>> {
    vec![format!("before {n}").into_bytes(), vec![0; len], format!("behind {n}").into_bytes()]
}

fn closed_script() -> Vec<Step> {
    use CompressionType::{Lz4, None, Snappy, Zstd};
    use Step::*;
    let mut steps = vec![Open(None, 1), SetUserState(b"a term and a vote")];
    steps.extend([Append(vec![b"the first".to_vec()]), Append(vec![Vec::new()])]);
    steps.extend((3..9).map(|n| Append(filler(n, 220_000))));
    steps.push(Append(lines(9, 20)));
    for (codec, n) in [(Lz4, 10), (Snappy, 13), (Zstd, 16)] {
        steps.push(Open(codec, 1));
        steps.extend((n..n + 3).map(|n| Append(lines(n, 10 * n))));
    }
    // Records 41 to 140 are batch 10, 141 to 250 batch 11: it is cut in the middle, and so are all
    // behind it; the next ones take their LSNs.
    steps.extend([TruncateAfter(200), Open(Zstd, 1), Append(lines(19, 50))]);
    steps.extend([Open(None, 2), Append(lines(20, 3))]);
    steps.extend((21..30).map(|n| Append(filler(n, 170_000))));
    // In the middle of a batch of the second segment.
    steps.push(TruncateBefore(19));
    steps.push(Append(lines(30, 7)));
    steps
}

fn torn_script() -> Vec<Step> {
    let mut steps = vec![Step::Open(CompressionType::None, 1), Step::Append(lines(1, 5))];
    steps.extend((2..7).map(|n| Step::Append(filler(n, 240_000))));
    steps.push(Step::Append(lines(7, 12)));
    // This one spans several blocks, of which the last never got to the disk.
    steps.push(Step::Append(lines(8, 400)));
    steps
}

/// What the steps leave, by plain lists.
fn left_by(script: &[Step]) -> Vec<Expected> {
    let (mut log, mut batches, mut next): (Vec<Expected>, u64, u64) = (Vec::new(), 0, 1);
    for step in script {
        match step {
            Step::Append(records) => {
                batches += 1;
                for record in records {
                    log.push((next, time_us(batches), record.clone()));
                    next += 1;
                }
            }
            Step::TruncateAfter(last) => {
                log.retain(|record| record.0 <= *last);
                next = last + 1;
            }
            Step::TruncateBefore(first) => log.retain(|record| record.0 >= *first),
            Step::Open(..) | Step::SetUserState(_) => {}
        }
    }
    log
}

// ---- making a log -----------------------------------------------------------------------------

/// A host whose clock is set and whose randomness counts.
#[derive(Debug)]
struct Set {
    inner: ThreadHost,
    wall_us: AtomicU64,
    drawn: AtomicU8,
}

impl Host for Set {
    fn now(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wall_us(&self) -> u64 {
        self.wall_us.load(Ordering::Relaxed)
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        Ok([self.drawn.fetch_add(1, Ordering::Relaxed); 16])
    }

    fn start(&self, name: &str, make: MakeMachine) -> io::Result<Box<dyn Running>> {
        if name == "prkdb-calibrate" {
            // What is measured is not the same twice, and META remembers it.
            return Err(io::ErrorKind::Unsupported.into());
        }
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

/// Takes the steps in `dir`, by position: that works everywhere. The log is still open.
fn make(script: &[Step], dir: &Path) -> Wal {
    let drawn = AtomicU8::new(1);
    let host = Set { inner: ThreadHost::new(), wall_us: AtomicU64::new(time_us(0)), drawn };
    let host = Arc::new(host);
    let (disk, _) = open_disk(dir, Backend::Pwrite).unwrap();
    let world = World { disk, host: Arc::clone(&host) as Arc<dyn Host> };
    let (mut open, mut batches): (Option<Wal>, u64) = (None, 0);
    for step in script {
        if let Step::Open(codec, num_segments) = step {
            if let Some(wal) = open.take() {
                wal.close().unwrap();
            }
            let compression =
                CompressionConfig { compression_type: *codec, ..CompressionConfig::default() };
            let config = support::config(dir, Backend::Auto);
            let config = WalConfig { compression, num_segments: *num_segments, ..config };
            open = Some(Wal::open_in(world.clone(), config).unwrap());
        }
        let wal = open.as_ref().expect("a script begins with an opening");
        match step {
            Step::Open(..) => {}
            Step::Append(records) => {
                batches += 1;
                host.wall_us.store(time_us(batches), Ordering::Relaxed);
                wal.append_batch(records).unwrap().wait().unwrap();
            }
            Step::TruncateAfter(lsn) => wal.truncate_after(Lsn::new(*lsn)).unwrap(),
            Step::TruncateBefore(lsn) => wal.truncate_before(Lsn::new(*lsn)).unwrap(),
            Step::SetUserState(state) => wal.set_user_state(state).unwrap(),
        }
    }
    open.expect("a script opens the log")
}

fn make_closed(dir: &Path) {
    make(&closed_script(), dir).close().unwrap();
}

/// What a killed process leaves: its files as they stood, the last block not yet written.
fn make_torn(dir: &Path) {
    let root = tempfile::tempdir().unwrap();
    let alive = root.path().join("alive");
    let wal = make(&torn_script(), &alive);
    copy(&alive, dir);
    fs::remove_file(dir.join("LOCK")).unwrap();
    wal.close().unwrap();
    let (frames, promised) = format::log(dir);
    let last = frames.last().unwrap();
    assert!(last.first > promised, "the last batch is told to be promised");
    let end = last.offset + last.len;
    format::change(&last.path, end / BLOCK * BLOCK..end, |bytes| bytes.fill(0));
}

// ---- archives ---------------------------------------------------------------------------------

fn archive(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.log"))
}

/// The stretches of `bytes` between which there are at least 16 zeros.
fn runs(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match found.last_mut() {
            Some(run) if at < run.1 + 16 => run.1 = at + 1,
            _ => found.push((at, at + 1)),
        }
    }
    found
}

fn pack(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, bytes) in image(dir) {
        let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
        let runs = runs(&bytes);
        out.extend(format!("{name}\n{}\n{}\n", bytes.len(), runs.len()).into_bytes());
        for (from, to) in runs {
            for number in [from, to - from] {
                out.extend(u32::try_from(number).unwrap().to_le_bytes());
            }
            out.extend(&bytes[from..to]);
        }
    }
    out
}

/// Puts an archive's files into `dir`; one that is not what `pack` makes is a panic.
fn unpack(mut archive: &[u8], dir: &Path) {
    fn take<'a>(archive: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (head, rest) = archive.split_at(len);
        *archive = rest;
        head
    }
    fn text<'a>(archive: &mut &'a [u8]) -> &'a str {
        let len = archive.iter().position(|byte| *byte == b'\n').unwrap();
        let line = take(archive, len + 1);
        std::str::from_utf8(&line[..len]).unwrap()
    }
    while !archive.is_empty() {
        let path = dir.join(text(&mut archive));
        let mut bytes = vec![0; text(&mut archive).parse().unwrap()];
        for _ in 0..text(&mut archive).parse().unwrap() {
            let [at, len] = [0, 4].map(|place| format::u32_at(archive, place));
            take(&mut archive, 8);
            bytes[at..at + len].copy_from_slice(take(&mut archive, len));
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn unpack_named(name: &str, dir: &Path) {
    unpack(&fs::read(archive(name)).unwrap(), dir);
}

#[test]
#[ignore = "makes tests/golden/*.log, once and for all"]
fn make_the_golden_logs() {
    for (name, make) in [("closed", make_closed as fn(&Path)), ("torn", make_torn)] {
        let path = archive(name);
        if path.exists() {
            println!("{} is there and stays", path.display());
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        make(&dir);
        fs::write(&path, pack(&dir)).unwrap();
    }
}

#[test]
fn an_archive_gives_back_what_was_packed_and_all_are_small() {
    let root = tempfile::tempdir().unwrap();
    for name in ["closed", "torn"] {
        let dir = root.path().join(name);
        unpack_named(name, &dir);
        assert!(pack(&dir) == fs::read(archive(name)).unwrap(), "{name}");
        assert!(files(&dir, "seg").len() >= 2, "{name}: a log of one segment is no whole log");
    }
    let bytes: u64 =
        ["closed", "torn"].map(|name| archive(name).metadata().unwrap().len()).iter().sum();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}

// ---- reading them -----------------------------------------------------------------------------

fn assert_reads(reader: Reader, expected: &[Expected], what: &str) {
    let mut read = 0;
    for (record, (lsn, time_us, data)) in reader.zip(expected) {
        let record = record.unwrap_or_else(|e| panic!("{what}: record {lsn}: {e}"));
        assert_eq!((record.lsn.get(), record.time_us), (*lsn, *time_us), "{what}");
        assert!(record.data[..] == data[..], "{what}: the bytes of record {lsn}");
        read += 1;
    }
    assert_eq!(read, expected.len(), "{what}: records");
}

fn verify(dir: &Path) -> (Vec<FindingKind>, u64) {
    let mut found = Vec::new();
    let summary = ReadOnlyWal::verify(dir, &mut |finding| found.push(finding.kind), &mut |_, _| {});
    (found, summary.unwrap().records)
}

/// Reads the log without a writer, opens it, appends, closes, opens: all is there each time.
fn read_and_continue(dir: &Path, backend: Backend, expected: &[Expected], verdict: Verdict) {
    let first = Lsn::new(expected[0].0);
    let next = Lsn::new(expected.last().unwrap().0).next();
    let log = ReadOnlyWal::open(dir).unwrap();
    assert_eq!((log.first_lsn(), log.next_lsn()), (Some(first), next));
    assert_eq!((log.stat().format_version, log.stat().last_backend), (1, "pwrite"));
    assert_eq!(log.recovery().verdict, verdict);
    assert_reads(log.reader(first).unwrap(), expected, "without a writer");
    drop(log);

    let wal = support::open(dir, backend);
    let report = wal.recovery();
    assert_eq!((report.verdict, report.kept_through), (verdict, next.prev()));
    assert_eq!(report.given_up.is_empty(), verdict == Verdict::Clean, "{report:?}");
    assert_eq!((wal.first_lsn(), wal.next_lsn(), wal.durable_lsn()), (first, next, next.prev()));
    assert_reads(wal.reader(first).unwrap(), expected, "beside its writer");
    for (lsn, time_us, data) in [&expected[0], expected.last().unwrap()] {
        let record = wal.read(Lsn::new(*lsn)).unwrap();
        assert!((record.time_us, &record.data[..]) == (*time_us, &data[..]), "record {lsn}");
    }
    assert_eq!(wal.append_batch(["new", ""]).unwrap().wait().unwrap().first(), next);
    wal.close().unwrap();

    let wal = support::open(dir, backend);
    assert_eq!(wal.recovery().verdict, Verdict::Clean);
    assert_reads(wal.reader(first).unwrap(), expected, "reopened");
    let new: Vec<_> = wal.reader(next).unwrap().map(|record| record.unwrap()).collect();
    assert_eq!(new.iter().map(|record| &record.data[..]).collect::<Vec<_>>(), [&b"new"[..], b""]);
    assert!(new[0].time_us >= expected.last().unwrap().1, "times run backwards");
    wal.close().unwrap();
    assert_eq!(verify(dir).0, [], "verify after all");
}

#[test]
fn a_closed_log_of_version_1_is_read_to_the_last_byte_and_goes_on() {
    if let Some(missing) = CompressionType::ALL.into_iter().find(|codec| !codec.is_built_in()) {
        return support::skip("a log of all codecs", format_args!("{missing} is not built in"));
    }
    let expected = left_by(&closed_script());
    support::on_each_backend(|dir, backend| {
        unpack_named("closed", dir);
        let (frames, _) = format::log(dir);
        let codecs: std::collections::BTreeSet<_> = frames.iter().map(|f| f.codec).collect();
        assert_eq!(codecs, (0..4).collect(), "the log has batches of each codec");
        let (found, records) = verify(dir);
        assert_eq!(found, []);
        assert!(records >= expected.len() as u64, "{records} of {} verified", expected.len());
        let log = ReadOnlyWal::open(dir).unwrap();
        assert_eq!(log.user_state(), b"a term and a vote");
        read_and_continue(dir, backend, &expected, Verdict::Clean);
    });
}

#[test]
fn a_torn_log_of_version_1_gives_up_the_torn_batch_alone_and_goes_on() {
    let mut script = torn_script();
    script.pop();
    let expected = left_by(&script);
    support::on_each_backend(|dir, backend| {
        unpack_named("torn", dir);
        assert_eq!(verify(dir), (vec![FindingKind::Torn], expected.len() as u64));
        read_and_continue(dir, backend, &expected, Verdict::Torn);
    });
}

/// The other direction: a log written today holds no byte that version 1 would not have written.
#[test]
fn the_same_records_make_the_segments_that_version_1_made() {
    let root = tempfile::tempdir().unwrap();
    let (released, made) = (root.path().join("released"), root.path().join("made"));
    unpack_named("torn", &released);
    let block = open_disk(root.path(), Backend::Pwrite).unwrap().0.block_size();
    if block != BLOCK {
        return support::skip("bytes of a golden log", format_args!("blocks are {block} here"));
    }
    make_torn(&made);
    let mut compared = 0;
    for path in files(&released, "seg") {
        // The last ones were made ahead, or not.
        if format::frames(&path).0.is_empty() {
            continue;
        }
        let name = path.file_name().unwrap();
        let (ours, theirs) = (fs::read(made.join(name)).unwrap(), fs::read(&path).unwrap());
        let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((ours.len(), differ), (theirs.len(), None), "{}", path.display());
        compared += 1;
    }
    assert!(compared >= 2, "{compared} segments: too few to say anything");
}
