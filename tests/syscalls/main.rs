//! Counted from outside: system calls by strace, instructions by callgrind.
//!
//! ```text
//! test --strace -f--> this binary, `traced::child`, which appends in a way and on a backend
//! test --valgrind --> this binary, `instructions::child_appends`, so many batches
//! ```
//! What one group costs, who makes no ring call, whether the log's own counts are right; what one
//! record costs a processor.
#![cfg(all(target_os = "linux", not(prkdb_portable)))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use prkdb_core::{Backend, Lsn, ReadOnlyWal};

mod groups;
mod instructions;
#[path = "../support/mod.rs"]
mod support;
mod traced;

use traced::{BATCHES, Job, Run, record};

/// What the log's counts call each kind, and the calls that are of it.
const KINDS: &[(&str, &[&str])] = &[
    ("enters", &["io_uring_enter"]),
    ("reads", &["pread64"]),
    ("writes", &["pwrite64"]),
    ("syncs", &["fdatasync", "msync"]),
];

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
        let Some(run) = Run::with(Job::on(Backend::Uring), &["-e", &inject], look) else { return };
        let turned = run.count(|call| call.rest.contains("(INJECTED)"));
        println!("{errno}: {turned} enters were turned away");
        assert!(turned > 50, "{errno}: {turned}");
        assert!(run.said["groups"] >= BATCHES, "{errno}: a group is missing or was merged");
    }
}

#[test]
fn no_ring_call_where_another_backend_is_named() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let Some(run) = Run::of(Job::on(backend)) else { continue };
        let ring = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
        assert_eq!(run.named(&ring), 0, "{backend:?}");
        let syncs = run.named(&["fdatasync"]);
        match backend {
            // Copies are no calls; each group is populated, and a sync covers one or several.
            Backend::Mmap => {
                assert!((100..2100).contains(&syncs), "{syncs} syncs");
                assert!(run.named(&["madvise"]) >= 2000 && run.named(&["pwrite64"]) < 20);
            }
            // Each group is one forced write.
            _ => assert!(run.named(&["pwrite64"]) >= 2000 && syncs < 100),
        }
        assert_counts_are_right(&run);
    }
}

/// What the log counted of itself is what the tracer saw, but for the probe before and the close
/// after it was asked.
fn assert_counts_are_right(run: &Run) {
    for (kind, names) in KINDS {
        let (counted, traced) = (run.said[*kind], run.named(names));
        println!("{kind}: {counted} counted, {traced} traced");
        assert!(counted <= traced, "{kind}: {counted} counted, {traced} traced");
        assert!(traced - counted <= 60, "{kind}: {counted} counted, {traced} traced");
    }
}
