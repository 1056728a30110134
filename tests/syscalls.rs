//! What the writer thread asks of the kernel, counted by strace: with eight groups in flight one
//! `io_uring_enter` submits and reaps, and nothing else writes or syncs.
#![cfg(target_os = "linux")]
#![cfg(not(prkdb_portable))]

use std::collections::VecDeque;
use std::io::Write;
use std::process::Command;

use prkdb_core::{Backend, Wal, WalConfig};

const CHILD: &str = "PRKDB_SYSCALLS_DIR";
const WATCHED: &str = "io_uring_enter,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,msync";

/// Does nothing unless the other test runs it under strace.
#[test]
fn child_keeps_groups_in_flight() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut config = WalConfig { backend: Backend::Uring, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config).unwrap();
    let record = vec![7; 64 << 10];
    let mut tickets = VecDeque::new();
    for _ in 0..2000 {
        tickets.push_back(wal.append_batch([&record]).unwrap());
        if tickets.len() > 64 {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    println!("groups {}", wal.stats().groups);
    wal.close().unwrap();
}

#[test]
fn one_enter_a_group_and_no_other_write_or_sync() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if let Err(e) = prkdb_core::probe(root.path(), Backend::Uring) {
        return writeln!(std::io::stderr().lock(), "SKIPPED: no io_uring here: {e}").unwrap();
    }
    let trace = root.path().join("trace");
    let run = Command::new("strace")
        .args(["-f", "-Y", "--seccomp-bpf", "-e", &format!("trace={WATCHED}"), "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_keeps_groups_in_flight", "--nocapture"])
        .env(CHILD, root.path().join("log"))
        .output();
    let run = match run {
        Ok(run) => run,
        Err(e) => {
            return writeln!(std::io::stderr().lock(), "SKIPPED: no strace here: {e}").unwrap();
        }
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8(run.stdout).unwrap();
    let groups = said.split_once("groups ").expect("the child tells").1;
    let groups: u64 = groups.split_whitespace().next().unwrap().parse().unwrap();
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter_map(|line| line.split_once("<prkdb-writer> "));
    let (mut enters, mut others) = (0, Vec::new());
    for (_, call) in calls.filter(|(_, call)| !call.starts_with(['<', '+', '-'])) {
        match call.split_once('(').map(|(name, _)| name) {
            Some("io_uring_enter") => enters += 1,
            // Waking the maker: eight bytes into its eventfd, once a MiB at most.
            Some("write") if call.contains(", 8") => {}
            _ => others.push(call),
        }
    }
    println!("{enters} enters for {groups} groups");
    assert!(groups >= 2000, "{groups} groups of 2000 batches that are one each");
    assert!(enters * 10 <= groups * 11, "{enters} enters for {groups} groups");
    assert!(others.is_empty(), "{others:?}");
}
