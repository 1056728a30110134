//! Syncs on a ring through the page cache: one of a file at a time, none after one that failed.
//!
//! ```text
//! log -> ring: write, write, write -> sync, sync, sync of one file
//!              one turn after the other: ok, EIO | never asked for: answered with that EIO
//! ```
//!
//! Of two syncs at once one takes the error of the other's pages, and whichever comes later is told
//! that all is well. The kernel lets one at a time through to a server, so that two at once can't
//! be seen there while both go well; but the second of them comes even if the first fails.

use std::sync::Arc;

use prkdb_core::io::{Buf, Completion, FileRef, Op, Queue, Until, open_disk};
use prkdb_core::{Append, Backend, ErrorKind, SyncMethod, Wal, WalConfig};

use crate::failing::{Fault, How};
use crate::fuse::Served;
use crate::support::watchdog::Watchdog;
use crate::support::{self, Random, contents, record};
use crate::{FILES, HANGS};

/// Requests in flight at once.
const DEPTH: u64 = 8;
/// Lives of a log in each of which a sync fails.
const LIVES: u64 = 12;
/// Batches that are appended before the first is waited for.
const ROUND: u64 = 50;

/// The served files, if rings work there.
fn served() -> Option<(Served, Watchdog)> {
    let served = Served::start(FILES)?;
    if !support::backends(&served.path()).contains(&Backend::Uring) {
        return None;
    }
    let watchdog = Watchdog::new(HANGS, served.pid(), served.path());
    Some((served, watchdog))
}

/// From now on the sync after so many of a file whose name ends so fails, once.
fn arm(served: &Served, suffix: &'static str, after: u64) {
    let how = How::Errno(libc::EIO);
    let fault = Fault { what: "sync", how, suffix, after, sticky: false };
    served.ask(format_args!("arm {fault} 1"));
}

fn count(served: &Served, word: &str) -> u64 {
    served.ask(format_args!("{word}")).parse().unwrap()
}

/// How a sync or a forced write ended.
fn errno(answer: &Completion) -> Option<i32> {
    answer.result.as_ref().err().map(|e| e.raw_os_error().expect("an errno of the system"))
}

/// Makes `DEPTH` of these requests at once; their answers in the order in which they came.
fn all(queue: &mut dyn Queue, op: impl Fn(u64) -> Op) -> Vec<Completion> {
    let mut answers = Vec::new();
    for number in 0..DEPTH {
        queue.submit(op(number));
    }
    while queue.in_flight() > 0 {
        queue.reap(&mut answers, Until::Forever).unwrap();
    }
    answers
}

#[test]
fn of_many_syncs_at_once_the_one_that_fails_is_the_last() {
    let Some((served, watchdog)) = served() else { return };
    let disk = open_disk(&served.path(), Backend::Uring).unwrap().0;
    let mut queue = disk.queue(usize::try_from(DEPTH).unwrap(), &[]).unwrap();
    let mut file = |name: &str| -> FileRef {
        let file = disk.create(&served.path().join(name), 1 << 16).unwrap();
        let healthy = all(&mut *queue, |_| Op::Sync { file: Arc::clone(&file) });
        assert!(healthy.iter().all(|answer| errno(answer).is_none()), "{name}: {healthy:?}");
        file
    };
    let (syncs, writes) = (file("syncs"), file("writes"));
    let sync = |_| Op::Sync { file: Arc::clone(&syncs) };
    let write = |number| {
        let (file, buf) = (Arc::clone(&writes), Buf::zeroed(4096, 4096));
        Op::Write { file, at: number * 4096, buf, dsync: true }
    };
    let ops: [(&str, &dyn Fn(u64) -> Op); 2] = [("syncs", &sync), ("writes", &write)];
    for (name, op) in ops {
        for after in [3, 0] {
            watchdog.step(format_args!("{name}: the sync after {after} fails"));
            arm(&served, name, after);
            let answers = all(&mut *queue, op);
            assert_eq!(count(&served, "again"), 0, "{name}: a sync after the one that failed");
            let failed = answers.iter().skip_while(|answer| errno(answer).is_none());
            let (well, failed) = (answers.len() - failed.clone().count(), failed);
            assert!(failed.map(errno).all(|e| e == Some(libc::EIO)), "{name}: {answers:?}");
            // The second time there is none left to fail.
            assert_eq!(well as u64, after, "{name}: {answers:?}");
            assert_eq!(count(&served, "heal"), u64::from(after > 0), "{name}");
        }
    }
}

#[test]
fn a_log_syncs_no_file_again_of_which_a_sync_failed() {
    let Some((served, watchdog)) = served() else { return };
    let mut random = Random(support::seed());
    println!("seed {}", random.0);
    let mut deepest = 0;
    for life in 1..=LIVES {
        let dir = served.path().join(life.to_string());
        watchdog.step(format_args!("life {life}"));
        let (depth, sync_method) = (usize::try_from(DEPTH).unwrap(), SyncMethod::Dsync);
        let config = WalConfig { depth, sync_method, ..support::config(&dir, Backend::Uring) };
        let wal = Wal::open(config.clone()).unwrap();
        arm(&served, ".seg", random.below(40));
        let mut acked = 0;
        loop {
            // Nobody waits until all are queued, so that there are groups to be in flight at once.
            let next = wal.next_lsn().get();
            let append = |lsn| wal.append_batch([record(life, lsn)]);
            let tickets: Vec<_> = (next..next + ROUND).map(append).collect();
            let answers: Vec<_> = tickets.into_iter().map(|t| t.and_then(Append::wait)).collect();
            let well = answers.iter().take_while(|answer| answer.is_ok()).count();
            assert!(answers[well..].iter().all(Result::is_err), "acknowledged after that");
            acked += well;
            if well < answers.len() {
                break;
            }
        }
        assert_eq!(count(&served, "fired"), 1, "no sync failed: this proves nothing");
        assert!(!wal.health().is_ok(), "a failed sync was believed");
        deepest = deepest.max(wal.metrics().depth.max());
        assert_eq!(wal.close().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(count(&served, "again"), 0, "a sync of a file after the one that failed");
        served.ask(format_args!("heal"));
        Wal::open(config).unwrap().close().unwrap();
        let found = contents(&dir);
        assert!(found.len() >= acked, "{acked} were acknowledged, {} are there", found.len());
        assert!(found.iter().zip(1..).all(|(found, lsn)| *found == record(life, lsn)));
    }
    println!("up to {deepest} groups in flight");
    assert!(deepest > 1, "one group at a time: this proves nothing");
}
