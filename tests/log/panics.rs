//! A thread of the log panics: whoever waits hears it, nothing that was promised is lost, and the
//! log goes on in the process.

use std::path::Path;
use std::sync::Arc;

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{Backend, ErrorKind, Lsn, Wal};

use crate::support::through::{Panics, Through};
use crate::support::{backends, config, contents, record};

fn batch(from: u64) -> Vec<Vec<u8>> {
    (from..from + 20).map(|lsn| record(1, lsn)).collect()
}

/// One log whose `thread` panics at its `n`-th look for answers while batches are appended; whether
/// it did.
fn survives(dir: &Path, backend: Backend, thread: &'static str, n: i64) -> bool {
    let disk = open_disk(dir, backend).unwrap().0;
    let hook = Arc::new(Panics::on(thread));
    let disk = Arc::new(Through::new(disk, &hook));
    let world = World { disk, host: Arc::new(ThreadHost::new()) };
    let log = dir.join(format!("{} {thread} {n}", backend.name()));
    let wal = Wal::open_in(world, config(&log, backend)).unwrap();
    wal.append_batch(batch(1)).unwrap().wait().unwrap();
    hook.arm(n);
    let mut acked = 20;
    // Some segments' worth: the maker is needed too.
    for _ in 0..100 {
        let from = wal.next_lsn().get();
        match wal.append_batch(batch(from)).and_then(|ticket| ticket.wait()) {
            Ok(lsns) => acked = lsns.last().get(),
            Err(e) => {
                let kinds = [ErrorKind::NotConfirmed, ErrorKind::Poisoned];
                assert!(kinds.contains(&e.kind()), "{e}");
                break;
            }
        }
    }
    let panicked = hook.has_panicked();
    if panicked {
        // It may have happened when the last batch was answered already.
        let e = loop {
            let from = wal.next_lsn().get();
            match wal.append_batch(batch(from)).and_then(|ticket| ticket.wait()) {
                Ok(lsns) => acked = lsns.last().get(),
                Err(e) => break e,
            }
        };
        assert!(e.to_string().contains("unexpectedly"), "it says why: {e}");
        assert!(!wal.health().is_ok());
        wal.set_user_state(b"state").unwrap_err();
        assert!(wal.durable_lsn().get() >= acked);
        let reader = wal.reader(Lsn::FIRST).unwrap().take(usize::try_from(acked).unwrap());
        assert_eq!(reader.map(Result::unwrap).count() as u64, acked, "what is durable is read");
        wal.resume().unwrap();
        assert!(wal.health().is_ok());
    }
    let next = wal.next_lsn().get();
    assert!(next > acked, "{acked} were promised, {next} is next");
    let last = wal.append_batch(batch(next)).unwrap().wait().unwrap().last().get();
    wal.close().unwrap();
    let kept = contents(&log);
    assert_eq!(kept.len() as u64, last);
    for (lsn, bytes) in (1..).zip(&kept) {
        assert!(*bytes == record(1, lsn), "record {lsn}");
    }
    panicked
}

fn on_each_backend(thread: &'static str) {
    let root = tempfile::tempdir().unwrap();
    for backend in backends(root.path()) {
        let panics = (0..12).filter(|n| survives(root.path(), backend, thread, *n)).count();
        println!("{backend}: {thread} panicked in {panics} of 12 logs");
        assert!(panics >= 3, "{backend}: {thread} panicked in {panics} of 12 logs");
    }
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting_and_the_log_resumes() {
    on_each_backend("prkdb-writer");
}

#[test]
fn a_maker_that_panics_leaves_nobody_waiting_and_the_log_resumes() {
    on_each_backend("prkdb-maker");
}
