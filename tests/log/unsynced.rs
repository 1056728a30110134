//! What is written and not synced is bounded, however long a sync takes.
//!
//! ```text
//! append, Written --> log --> writes | .. | MOST | nothing more      Busy to whoever asks
//!                             sync, not answered ---> answered --> all goes on
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prkdb_core::io::{Op, ThreadHost, World, open_disk};
use prkdb_core::{Durability, ErrorKind, SyncMethod, Wal, WalConfig};

use crate::support;
use crate::support::through::{Hook, Through};

/// Twice 64 MiB, and the groups in flight when the bound was met.
const MOST: u64 = 160 << 20;
/// More than any bound.
const ASKED: u64 = 384 << 20;

/// Counts what is written to segments; may leave their syncs unanswered.
#[derive(Default)]
struct Stalls {
    written: AtomicU64,
    stalls: AtomicBool,
}

impl Hook for Stalls {
    fn submit(&self, op: &Op) -> Option<&'static str> {
        let (Op::Write { file, .. } | Op::Sync { file } | Op::Read { file, .. }) = op;
        if file.path().extension().is_none_or(|extension| extension != "seg") {
            return None;
        }
        match op {
            Op::Write { buf, .. } => {
                self.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
                None
            }
            Op::Sync { .. } => Some("sync"),
            Op::Read { .. } => None,
        }
    }

    fn holds(&self, _name: &'static str) -> bool {
        self.stalls.load(Ordering::Relaxed)
    }
}

#[test]
fn a_sync_that_takes_long_stops_what_is_not_waited_for() {
    for backend in support::backends(std::env::temp_dir().as_path()) {
        let root = tempfile::tempdir().unwrap();
        let hook = Arc::new(Stalls::default());
        let disk = Through::new(open_disk(root.path(), backend).unwrap().0, &hook);
        let world = World { disk: Arc::new(disk), host: Arc::new(ThreadHost::new()) };
        let sync_method = SyncMethod::Fdatasync;
        let config = WalConfig { sync_method, backend, ..WalConfig::new(root.path().join("log")) };
        let wal = Wal::open_in(world, config).unwrap();
        wal.append_batch(["a segment is there"]).unwrap().wait().unwrap();
        let batch = vec![vec![7; 1000]; 100];
        let before = hook.written.load(Ordering::Relaxed);
        let written = || hook.written.load(Ordering::Relaxed) - before;
        hook.stalls.store(true, Ordering::Relaxed);
        let appender = wal.with(Durability::Written);
        let (mut asked, mut idle, mut last) = (0, 0, 0);
        // It stands still when it says Busy again and again and nothing more is written.
        while asked < ASKED && idle < 100 {
            match appender.try_append_batch(&batch) {
                Ok(ticket) => {
                    drop(ticket);
                    asked += 100 * 1000;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Busy, "{backend}: {e}");
                    std::thread::sleep(Duration::from_millis(5));
                    idle = if written() == last { idle + 1 } else { 0 };
                    last = written();
                }
            }
        }
        let most = written();
        hook.stalls.store(false, Ordering::Relaxed);
        let last = wal.next_lsn().prev();
        wal.wait_durable(last).unwrap().wait().unwrap();
        wal.append_batch(&batch).unwrap().wait().unwrap();
        wal.close().unwrap();
        println!("{backend}: {} MiB without a sync", most >> 20);
        assert!(most <= MOST, "{backend}: {} MiB without a sync", most >> 20);
    }
}
