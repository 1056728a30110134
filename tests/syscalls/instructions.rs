//! What one record costs a processor, counted by callgrind.

use std::collections::VecDeque;
use std::process::Command;

use prkdb_core::{Backend, SyncMethod, Wal, WalConfig};

use super::support;

const APPENDS: &str = "PRKDB_INSTRUCTIONS";
const BATCH: u64 = 1000;
/// Of one record of 100 bytes, optimized as for tests, which look at more than a release does: 466
/// when this was written, of which the checksum of so short a record has most.
const MOST_INSTRUCTIONS: u64 = 510;

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
        .args(["--exact", "instructions::child_appends"])
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
