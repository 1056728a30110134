//! Counted from outside: system calls by strace, instructions by callgrind.
//!
//! ```text
//! test --strace -f--> this binary, `child_keeps_groups_in_flight`, on a backend by name
//! test --valgrind --> this binary, `child_appends`, so many batches
//! ```
//! What one group costs, who makes no ring call, whether the log's own counts are right; what one
//! record costs a processor.
#![cfg(all(target_os = "linux", not(prkdb_portable)))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::Command;

use prkdb_core::{Backend, Lsn, ReadOnlyWal, SyncMethod, Wal, WalConfig};

mod support;

const CHILD: &str = "PRKDB_SYSCALLS_DIR";
const WATCHED: &str = "io_uring_setup,io_uring_enter,io_uring_register,write,writev,pread64,\
                       pwrite64,pwritev,pwritev2,fsync,fdatasync,msync,madvise,mmap";
/// What the log's counts call each kind, and the calls that are of it.
const KINDS: &[(&str, &[&str])] = &[
    ("enters", &["io_uring_enter"]),
    ("reads", &["pread64"]),
    ("writes", &["pwrite64"]),
    ("syncs", &["fdatasync", "msync"]),
];

/// Batches of one record that the child appends.
const BATCHES: u64 = 2000;

fn record(number: u64) -> Vec<u8> {
    [&number.to_le_bytes()[..], &[7; (64 << 10) - 8]].concat()
}

/// Does nothing unless another test runs it under strace.
#[test]
fn child_keeps_groups_in_flight() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let (name, dir) = job.split_once(' ').unwrap();
    let backend = *support::BACKENDS.iter().find(|b| format!("{b:?}") == name).unwrap();
    let mut config = WalConfig { backend, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config).unwrap();
    let mut tickets = VecDeque::new();
    for number in 0..BATCHES {
        tickets.push_back(wal.append_batch([record(number)]).unwrap());
        if tickets.len() > 64 {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let metrics = wal.metrics();
    println!("groups {}", metrics.groups);
    if let Some(calls) = metrics.calls {
        println!("enters {}", calls.enters);
        println!("reads {}", calls.reads);
        println!("writes {}", calls.writes);
        println!("syncs {}", calls.syncs);
    }
    wal.close().unwrap();
}

/// What one run of the child said and called.
struct Run {
    /// Figures by name.
    said: BTreeMap<String, u64>,
    /// Each call as strace wrote it, with the name of its thread.
    calls: Vec<(String, String)>,
}

impl Run {
    /// Runs the child; none, said aloud, where that can't be.
    fn of(backend: Backend) -> Option<Run> {
        Run::with(backend, &[], |_| ())
    }

    /// The same where strace is told more; `look` sees the log afterwards.
    fn with(backend: Backend, more: &[&str], look: impl FnOnce(&Path)) -> Option<Run> {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        if let Err(e) = prkdb_core::probe(root.path(), backend) {
            support::must_be_missing(backend, &e);
            return None;
        }
        let trace = root.path().join("trace");
        let run = Command::new("strace")
            .args(["-f", "-Y", "--seccomp-bpf", "-e", &format!("trace={WATCHED}")])
            .args(more)
            .arg("-o")
            .arg(&trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child_keeps_groups_in_flight", "--nocapture"])
            .env(CHILD, format!("{backend:?} {}", root.path().join("log").display()))
            .output();
        let run = match run {
            Ok(run) => run,
            Err(e) => {
                support::skip("counting system calls, which takes strace", e);
                return None;
            }
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        look(&root.path().join("log"));
        let said = String::from_utf8(run.stdout).unwrap();
        let figure = |line: &str| {
            let (name, number) = line.rsplit_once(' ')?;
            // The test runner may have begun the line.
            let name = name.rsplit(' ').next()?;
            Some((name.to_string(), number.parse().ok()?))
        };
        let said = said.lines().filter_map(figure).collect();
        let trace = std::fs::read_to_string(trace).unwrap();
        let call = |line: &str| {
            let (thread, call) = line.split_once('<')?.1.split_once("> ")?;
            // `<... resumed>`, exits and signals are no calls.
            let is_call = !call.starts_with(['<', '+', '-']);
            is_call.then(|| (thread.to_string(), call.to_string()))
        };
        Some(Run { said, calls: trace.lines().filter_map(call).collect() })
    }

    /// How often any of `names` was called.
    fn count(&self, names: &[&str]) -> u64 {
        let named = |(_, call): &&(String, String)| {
            call.split_once('(').is_some_and(|(name, _)| names.contains(&name))
        };
        self.calls.iter().filter(named).count() as u64
    }
}

#[test]
fn one_enter_a_group_and_no_other_write_or_sync() {
    // An appender that is held up lets the writer run dry and park: best of three.
    for left in (0..3).rev() {
        let Some(run) = Run::of(Backend::Uring) else { return };
        let (enters, groups) = enters_and_groups(&run);
        println!("{enters} enters for {groups} groups");
        if enters * 10 <= groups * 11 {
            return assert_counts_are_right(&run);
        }
        assert!(left > 0, "{enters} enters for {groups} groups");
    }
}

/// What the writer entered the ring for; it makes no other call that writes or syncs.
fn enters_and_groups(run: &Run) -> (u64, u64) {
    let (mut enters, mut others) = (0, Vec::new());
    for (_, call) in run.calls.iter().filter(|(thread, _)| thread == "prkdb-writer") {
        match call.split_once('(').map(|(name, _)| name) {
            Some("io_uring_enter") => enters += 1,
            // Waking the maker: eight bytes into its eventfd, once a MiB at most.
            Some("write") if call.contains(", 8") => {}
            // Making the ring and telling it of files; memory of the allocator's.
            Some("io_uring_setup" | "io_uring_register" | "mmap" | "madvise") => {}
            _ => others.push(call),
        }
    }
    let groups = run.said["groups"];
    assert!(groups >= 2000, "{groups} groups of 2000 batches that are one each");
    assert!(others.is_empty(), "{others:?}");
    (enters, groups)
}

/// The kernel may turn `io_uring_enter` away with what was handed over still queued: entered again
/// it is done, once, and nobody hears of it.
#[test]
fn an_enter_that_is_turned_away_loses_and_repeats_nothing() {
    for (errno, when) in [("EINTR", "3+4"), ("EBUSY", "4+5"), ("EAGAIN", "5+7")] {
        let inject = format!("inject=io_uring_enter:error={errno}:when={when}");
        let look = |log: &Path| {
            let log = ReadOnlyWal::open(log).unwrap();
            let mut found = 0;
            for read in log.reader(Lsn::FIRST).unwrap() {
                let read = read.unwrap_or_else(|e| panic!("{errno}: {e}"));
                assert_eq!(read.lsn.get(), found + 1, "{errno}");
                assert!(*read.data == record(found)[..], "{errno}: record {} is another", read.lsn);
                found += 1;
            }
            assert_eq!(found, BATCHES, "{errno}");
        };
        let Some(run) = Run::with(Backend::Uring, &["-e", &inject], look) else { return };
        let turned = run.calls.iter().filter(|(_, call)| call.contains("(INJECTED)")).count();
        println!("{errno}: {turned} enters were turned away");
        assert!(turned > 50, "{errno}: {turned}");
        assert!(run.said["groups"] >= BATCHES, "{errno}: a group is missing or was merged");
    }
}

#[test]
fn no_ring_call_where_another_backend_is_named() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let Some(run) = Run::of(backend) else { continue };
        let ring = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
        assert_eq!(run.count(&ring), 0, "{backend:?}");
        let syncs = run.count(&["fdatasync"]);
        match backend {
            // Copies are no calls; each group is populated, and a sync covers one or several.
            Backend::Mmap => {
                assert!((100..2100).contains(&syncs), "{syncs} syncs");
                assert!(run.count(&["madvise"]) >= 2000 && run.count(&["pwrite64"]) < 20);
            }
            // Each group is one forced write.
            _ => assert!(run.count(&["pwrite64"]) >= 2000 && syncs < 100),
        }
        assert_counts_are_right(&run);
    }
}

/// What the log counted of itself is what the tracer saw, but for the probe before and the close
/// after it was asked.
fn assert_counts_are_right(run: &Run) {
    for (kind, names) in KINDS {
        let (counted, traced) = (run.said[*kind], run.count(names));
        println!("{kind}: {counted} counted, {traced} traced");
        assert!(counted <= traced, "{kind}: {counted} counted, {traced} traced");
        assert!(traced - counted <= 60, "{kind}: {counted} counted, {traced} traced");
    }
}

const APPENDS: &str = "PRKDB_INSTRUCTIONS";
const BATCH: u64 = 1000;
/// Of one record of 100 bytes, optimized as for tests, which look at more than a release does: 489
/// when this was written, of which the checksum of so short a record has most.
const MOST_INSTRUCTIONS: u64 = 600;

/// Does nothing unless another test runs it under callgrind.
#[test]
fn child_appends() {
    let Ok(job) = std::env::var(APPENDS) else { return };
    let (batches, dir) = job.split_once(' ').unwrap();
    // A ring is more than every valgrind knows; what a record costs is the same on each backend.
    let config = WalConfig {
        backend: Backend::Pwrite,
        sync_method: SyncMethod::Dsync,
        ..WalConfig::new(dir)
    };
    let wal = Wal::open(config).unwrap();
    let records = vec![[7; 100]; 1000];
    let mut tickets = VecDeque::new();
    for _ in 0..batches.parse().unwrap() {
        tickets.push_back(wal.append_batch(&records).unwrap());
        if tickets.len() > 8 {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    wal.close().unwrap();
}

/// Instructions of a process that appends so many batches, all threads; none where nobody counts.
fn instructions(batches: u64) -> Option<u64> {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends"])
        .env(APPENDS, format!("{batches} {}", root.path().join("log").display()))
        .output();
    let run = match run {
        Ok(run) => run,
        Err(e) => {
            support::skip("counting instructions, which takes valgrind", e);
            return None;
        }
    };
    let said = String::from_utf8_lossy(&run.stderr);
    let Some((_, count)) = said.lines().find_map(|line| line.split_once("Collected : ")) else {
        support::skip("counting instructions", format_args!("valgrind can't: {said}"));
        return None;
    };
    assert!(run.status.success(), "{said}");
    Some(count.trim().parse().unwrap())
}

#[test]
fn a_record_costs_so_many_instructions_at_most() {
    let (few, many) = (20, 120);
    let Some(less) = instructions(few) else { return };
    let Some(more) = instructions(many) else { return };
    let each = (more - less) / ((many - few) * BATCH);
    println!("{each} instructions a record of 100 bytes, in batches of {BATCH}");
    assert!(each <= MOST_INSTRUCTIONS, "{each} instructions a record");
}
