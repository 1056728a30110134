//! An ordinary user at the limits of its process: the log works, or says what is in the way; the
//! process lives, and what was acknowledged is there.
//!
//! ```text
//! test (root) --> prlimit LIMIT setpriv (nobody) prkdb append --acks --> cat: all that was acked
//! test -> child: RLIMIT_FSIZE -> open, append: EFBIG, no signal -> raised -> the log goes on
//! test -> child: half read -> RLIMIT_NOFILE 0 -> Io, Io .. -> raised -> the same reader goes on
//! ```
#![cfg(all(feature = "cli", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prkdb_core::{Backend, ErrorKind, Lsn, ReadOnlyWal, Reader, Wal, WalConfig};

mod support;

const NOBODY: &str = "65534";
/// Nobody else: threads are counted by user.
const ALONE: &str = "65501";
const LINES: u64 = 60_000;
/// What a child is to do: `BACKEND DIR`.
const JOB: &str = "PRKDB_TEST_LIMITS";
const RECORDS: u64 = 4000;
/// The least sizes of files that a log begins with: both slots of META, the first segment.
const META: u64 = 128 << 10;
const FIRST_SEGMENT: u64 = 1 << 20;

/// A directory that any user may write to, with the command in it.
struct Place {
    root: tempfile::TempDir,
    command: PathBuf,
    user: String,
}

impl Place {
    /// None, said aloud, where this test is not root's or the tools are missing.
    fn new(user: &str) -> Option<Place> {
        let root = tempfile::tempdir().unwrap();
        if std::fs::metadata(root.path()).unwrap().uid() != 0 {
            support::skip("limits of an ordinary user", "setting them takes root");
            return None;
        }
        for tool in ["prlimit", "setpriv"] {
            if let Err(e) = Command::new(tool).arg("--version").output() {
                support::skip(format_args!("limits of an ordinary user: no {tool}"), e);
                return None;
            }
        }
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
        let command = root.path().join("prkdb");
        std::fs::copy(env!("CARGO_BIN_EXE_prkdb"), &command).unwrap();
        Some(Place { root, command, user: user.to_string() })
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// Appends lines under `limit` as its user; all of what was acknowledged must be there after.
    fn append(&self, backend: &str, limit: &str) -> (Output, u64) {
        if self.log().exists() {
            std::fs::remove_dir_all(self.log()).unwrap();
        }
        let mut child = Command::new("prlimit")
            .args([limit, "setpriv", "--reuid", &self.user, "--regid", &self.user])
            .arg("--clear-groups")
            .arg(&self.command)
            .args(["append", "--acks", "--backend", backend])
            .arg(self.log())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            let lines: String = (1..=LINES).map(|n| format!("{n} {:60}\n", "")).collect();
            // It may end before it has read everything.
            scope.spawn(move || stdin.write_all(lines.as_bytes()).ok());
            child.wait_with_output().unwrap()
        });
        let acked = String::from_utf8_lossy(&output.stdout)
            .lines()
            .last()
            .map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap());
        assert!(output.status.code().is_some(), "{backend} {limit}: {}", output.status);
        if acked > 0 {
            let found = self.cat();
            assert!(found >= acked, "{backend} {limit}: {found} of {acked} acknowledged");
        }
        (output, acked)
    }

    /// How many records there are, each of them checked.
    fn cat(&self) -> u64 {
        let cat = Command::new(&self.command).arg("cat").arg(self.log()).output().unwrap();
        assert!(cat.status.success(), "{}", String::from_utf8_lossy(&cat.stderr));
        let mut found = 0;
        for line in String::from_utf8(cat.stdout).unwrap().lines() {
            found += 1;
            assert_eq!(line.trim_end(), found.to_string());
        }
        found
    }

    fn works(&self, backend: &str, limit: &str) -> Output {
        let (output, acked) = self.append(backend, limit);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && acked == LINES, "{backend} {limit}: {acked}: {talk}");
        output
    }

    /// It ends with status 1, and its last word says what to do.
    fn is_refused(&self, backend: &str, limit: &str, advice: &str) {
        let (output, acked) = self.append(backend, limit);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{backend} {limit}: {talk}");
        assert!(acked < LINES, "{backend} {limit}: nothing was in the way");
        let last = talk.lines().last().unwrap_or("");
        assert!(last.contains(advice), "{backend} {limit}: {talk}");
    }
}

/// Backends by name that work here at all; `auto` first.
fn backends(dir: &Path) -> Vec<String> {
    let found = support::backends(dir).into_iter().map(|backend| backend.to_string());
    ["auto".into()].into_iter().chain(found).collect()
}

#[test]
fn locked_memory_is_done_without() {
    let Some(mut place) = Place::new(NOBODY) else { return };
    // Locked memory is counted by user, and a ring gives it back some time after its process: each
    // process is another user's.
    let mut users = 65_510_u32..;
    for backend in backends(place.root.path()) {
        let best = match backend.as_str() {
            "auto" => prkdb_core::probe(place.root.path(), Backend::Auto).unwrap().name,
            name => name,
        };
        // Enough for the 4 MiB of group buffers, and not: they are not registered then. The ring
        // stays either way.
        for limit in ["--memlock=8388608:8388608", "--memlock=65536:65536"] {
            place.user = users.next().unwrap().to_string();
            let output = place.works(&backend, limit);
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(talk.contains(&format!("({best})")), "{backend} {limit}: {talk}");
        }

        // Kernels that charge the ring itself refuse it: then the log goes on without, or says so.
        place.user = users.next().unwrap().to_string();
        let (output, acked) = place.append(&backend, "--memlock=0:0");
        let talk = String::from_utf8_lossy(&output.stderr);
        println!("{backend}: {talk}");
        match (backend.as_str(), output.status.success()) {
            ("uring" | "tokio-uring", false) => assert!(talk.contains("ulimit -l"), "{talk}"),
            (_, works) => assert!(works && acked == LINES, "{backend}: {talk}"),
        }
        let fell_back = backend == "auto" && best == "uring" && talk.contains("(mmap)");
        assert!(!fell_back || talk.contains("memlock"), "{talk}");
    }
}

#[test]
fn a_process_that_may_start_no_thread_is_told_so() {
    let Some(place) = Place::new(ALONE) else { return };
    for backend in backends(place.root.path()) {
        place.is_refused(&backend, "--nproc=1:1", "ulimit -u");
    }
}

#[test]
fn a_process_with_few_descriptors_works_or_is_told_so() {
    let Some(place) = Place::new(NOBODY) else { return };
    for backend in backends(place.root.path()) {
        place.works(&backend, "--nofile=128:128");
        place.is_refused(&backend, "--nofile=6:6", "ulimit -n");
        for limit in ["--nofile=8:8", "--nofile=16:16", "--nofile=32:32"] {
            let (output, _) = place.append(&backend, limit);
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || talk.contains("ulimit -n"), "{backend}: {talk}");
        }
    }
}

#[test]
fn files_that_may_not_grow_are_an_error_and_no_signal() {
    let Some(place) = Place::new(NOBODY) else { return };
    for backend in backends(place.root.path()) {
        for bytes in [0, 100_000, 1 << 20, 3_000_000] {
            place.is_refused(&backend, &format!("--fsize={bytes}:{bytes}"), "ulimit -f");
        }
    }
}

/// What is left of RLIMIT_FSIZE until this is dropped.
struct FileSize(u64, u64);

impl FileSize {
    fn limit(bytes: u64) -> FileSize {
        let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
        FileSize(soft, hard)
    }
}

impl Drop for FileSize {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_FSIZE, self.0, self.1).unwrap();
    }
}

/// A batch of 20 records, the first at `next`, waited for.
fn append_at(wal: &Wal, next: u64) -> prkdb_core::Result<()> {
    let records: Vec<_> = (next..next + 20).map(|lsn| support::record(1, lsn)).collect();
    wal.append_batch(&records)?.wait().map(|lsns| assert_eq!(lsns.first().get(), next))
}

/// Appends batches until one fails; the LSN after the last that was acknowledged, and why.
fn append_until_it_fails(wal: &Wal) -> (u64, prkdb_core::Error) {
    let mut next = wal.next_lsn().get();
    loop {
        match append_at(wal, next) {
            Ok(()) => next += 20,
            Err(e) => return (next, e),
        }
        assert!(next < RECORDS, "nothing was in the way");
    }
}

/// It is EFBIG, and says what to do.
fn is_too_large(e: &prkdb_core::Error) {
    let text = e.to_string();
    assert!(text.contains("os error 27") && text.contains("ulimit -f"), "{:?}: {text}", e.kind());
}

fn holds(dir: &Path, next: u64) {
    let expected: Vec<_> = (1..next).map(|lsn| support::record(1, lsn)).collect();
    assert!(support::contents(dir) == expected, "not the {} that were acknowledged", next - 1);
}

/// A new log: `open` fails where META does not fit, else the batch for which no segment can be made
/// does, and nothing is poisoned.
fn a_log_is_made_under(limit: u64, config: WalConfig) {
    let (dir, limited) = (config.log_dir.clone(), FileSize::limit(limit));
    let wal = match Wal::open(config.clone()) {
        Err(e) => {
            println!("a new log, {limit} bytes: open: {e}");
            assert!(limit < META, "{e}");
            assert_eq!(e.kind(), ErrorKind::Io);
            is_too_large(&e);
            drop(limited);
            Wal::open(config).unwrap()
        }
        Ok(wal) => {
            assert!(limit >= META, "META does not fit");
            let (next, e) = append_until_it_fails(&wal);
            println!("a new log, {limit} bytes: {} records, then {e}", next - 1);
            assert_eq!((e.kind(), next > 1), (ErrorKind::Io, limit >= FIRST_SEGMENT), "{e}");
            is_too_large(&e);
            assert!(wal.health().is_ok(), "{:?}", wal.health());
            drop(limited);
            wal
        }
    };
    let next = wal.next_lsn().get();
    append_at(&wal, next).unwrap();
    wal.close().unwrap();
    holds(&dir, next + 20);
}

/// A log whose open segment is larger than files may be now.
fn a_log_is_continued_under(limit: u64, config: WalConfig) {
    let (dir, backend) = (config.log_dir.clone(), config.backend);
    let wal = Wal::open(config.clone()).unwrap();
    append_at(&wal, 1).unwrap();
    wal.close().unwrap();
    let limited = FileSize::limit(limit);
    let wal = Wal::open(config.clone()).unwrap();
    let (next, e) = append_until_it_fails(&wal);
    println!("a log that is there, {limit} bytes: {} records, then {:?}: {e}", next - 1, e.kind());
    // The rest of a write that was cut short inside a block can't go past the page cache; through
    // it the write is cut short there again.
    let inside = ["os error 22", "cut short again"].iter().any(|why| e.to_string().contains(why));
    match limit.is_multiple_of(4096) || !inside {
        true => is_too_large(&e),
        false => assert!(e.kind() == ErrorKind::NotConfirmed && backend != Backend::Mmap, "{e}"),
    }
    // It says whether the log was poisoned; what is there is looked at below.
    assert_eq!(wal.close().is_err(), e.kind() == ErrorKind::NotConfirmed);
    drop(limited);
    let wal = Wal::open(config).unwrap();
    // A batch that was not confirmed may be there, whole.
    let found = wal.next_lsn().get();
    assert!(found == next || (found == next + 20 && e.kind() != ErrorKind::Io), "{found}, {next}");
    append_at(&wal, found).unwrap();
    wal.close().unwrap();
    holds(&dir, found + 20);
}

/// A log that ends where no file may grow, or be written at all: nothing kills the process, which
/// may be dropped as well as closed.
fn a_log_ends_under(limit: u64, config: WalConfig, closed: bool) {
    let dir = config.log_dir.clone();
    let wal = Wal::open(config.clone()).unwrap();
    append_at(&wal, 1).unwrap();
    let limited = FileSize::limit(limit);
    match closed {
        true => println!("closed with files of {limit} bytes: {:?}", wal.close()),
        false => drop(wal),
    }
    drop(limited);
    // The lock was given back.
    let wal = Wal::open(config).unwrap();
    append_at(&wal, wal.next_lsn().get()).unwrap();
    wal.close().unwrap();
    holds(&dir, 41);
}

/// Does nothing unless the test below started it: the limit is the process's.
#[test]
fn child_writes_small_files() {
    let Ok(job) = std::env::var(JOB) else { return };
    let (backend, dir) = job.split_once(' ').unwrap();
    let backend = *support::BACKENDS.iter().find(|b| b.to_string() == backend).unwrap();
    let config = |name: String| WalConfig { backend, ..WalConfig::new(Path::new(dir).join(name)) };
    for limit in [0, 100_000, META, 500_000, FIRST_SEGMENT, 3_000_000] {
        a_log_is_made_under(limit, config(format!("made-{limit}")));
    }
    for limit in [500_000, 512 << 10] {
        a_log_is_continued_under(limit, config(format!("continued-{limit}")));
    }
    for (limit, closed) in [(0, true), (0, false), (30, true), (META, false)] {
        a_log_ends_under(limit, config(format!("ended-{limit}-{closed}")), closed);
    }
}

#[test]
fn a_log_goes_on_when_its_files_may_grow_again() {
    run_on_each_backend("child_writes_small_files");
}

/// Reads all of a log that `reader` goes through; where it has to open a segment it has no
/// descriptor for, once. How often it was refused.
fn read_without_descriptors(mut reader: Reader) -> u64 {
    let (mut next, mut refusals) = (1, 0);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    while next <= RECORDS {
        match reader.next().unwrap() {
            Ok(found) => {
                assert_eq!(
                    (found.lsn.get(), &found.data[..]),
                    (next, &support::record(1, next)[..])
                );
                next += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Io, "{e}");
                let again = reader.next().unwrap().unwrap_err();
                assert_eq!(again.kind(), ErrorKind::Io, "{again}");
                assert_eq!(reader.next_lsn().get(), next);
                println!("at {next}: {again}");
                refusals += 1;
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
                let found = reader.next().unwrap().unwrap();
                assert_eq!(found.lsn.get(), next);
                next += 1;
                setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
            }
        }
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(reader.next().is_none());
    refusals
}

/// Does nothing unless the test below started it: the limit is the process's.
#[test]
fn child_reads_without_descriptors() {
    let Ok(job) = std::env::var(JOB) else { return };
    let (backend, dir) = job.split_once(' ').unwrap();
    let dir = Path::new(dir);
    let backend = *support::BACKENDS.iter().find(|b| b.to_string() == backend).unwrap();
    support::fill(&support::open(dir, backend), 1, RECORDS, 20);
    let sealed = support::segments(dir).len() as u64 - 1;
    for _ in 0..2 {
        let wal = Wal::open(support::config(dir, backend)).unwrap();
        let refusals = read_without_descriptors(wal.reader(Lsn::FIRST).unwrap());
        println!("{refusals} refusals, {sealed} sealed segments");
        assert!(refusals > 0, "nothing had to be opened");
        assert!(wal.health().is_ok());
        wal.append_batch(["after"]).unwrap().wait().unwrap();
        wal.truncate_after(Lsn::new(RECORDS)).unwrap();
        wal.close().unwrap();
    }
    let log = ReadOnlyWal::open(dir).unwrap();
    let refusals = read_without_descriptors(log.reader(Lsn::FIRST).unwrap());
    println!("read only: {refusals} refusals");
}

#[test]
fn a_reader_without_descriptors_goes_on_when_there_are_some() {
    run_on_each_backend("child_reads_without_descriptors");
}

/// Runs a test of this binary in a process of its own for each backend; no signal may end it.
fn run_on_each_backend(test: &str) {
    let root = tempfile::tempdir().unwrap();
    for backend in support::backends(root.path()) {
        let dir = root.path().join(backend.to_string());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(JOB, format!("{backend} {}", dir.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{backend}: {said}");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{backend}: {}: {said}{talk}", output.status);
    }
}
