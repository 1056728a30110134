//! What a log held of its process is given back, on real disks: descriptors and threads.
//!
//! ```text
//! this test --child--> counts, 100 x open | close | failed open | poison, resume --> counts again
//! ```
//!
//! In a child process: the threads of other tests come and go. Rings and threads end some
//! milliseconds after they were let go of, so that the count is waited for.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{Backend, ErrorKind, Wal, WalConfig};

mod support;

use support::through::{Panics, Through};
use support::{config, on_each_backend};

/// Where the child finds its directory, and which backend it takes.
const DIR: &str = "PRKDB_HANDLES_DIR";
const BACKEND: &str = "PRKDB_HANDLES_BACKEND";
const ROUNDS: usize = 100;

/// Open descriptors, and threads.
fn held() -> (usize, usize) {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

fn one_round(dir: &Path, backend: Backend, round: usize) {
    let parent = dir.parent().unwrap();
    let hook = Arc::new(Panics::on("prkdb-writer"));
    let disk = Arc::new(Through::new(open_disk(parent, backend).unwrap().0, &hook));
    let world = World { disk, host: Arc::new(ThreadHost::new()) };
    let wal = Wal::open_in(world, config(dir, backend)).unwrap();
    wal.append_batch([vec![7; 1000 + round]]).unwrap().wait().unwrap();
    // A second writer is refused, late: all its parts may have been made.
    let refused = Wal::open(config(dir, backend)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    // And one with nothing there, and one of a directory that is somebody else's.
    let file = dir.join("LOCK").join("below");
    assert!(Wal::open(config(&file, backend)).is_err());
    let new = WalConfig { create_new: true, ..config(dir, backend) };
    assert!(Wal::open(new).is_err());
    let mut reader = wal.reader(wal.first_lsn()).unwrap();
    reader.next().unwrap().unwrap();
    // Poisoned with groups in flight.
    hook.arm(1);
    let tickets: Vec<_> = (0..20).map(|_| wal.append_batch([[7; 100]])).collect();
    for answer in tickets {
        answer.and_then(|ticket| ticket.wait()).err();
    }
    while wal.health().is_ok() {
        wal.append_batch([[7; 100]]).and_then(|ticket| ticket.wait()).err();
    }
    wal.resume().unwrap();
    if round.is_multiple_of(2) {
        wal.close().unwrap();
    } else {
        drop(wal);
    }
}

#[test]
fn a_hundred_lives_leave_no_descriptor_and_no_thread() {
    let own = "a_hundred_lives_leave_no_descriptor_and_no_thread";
    if let (Ok(dir), Ok(name)) = (std::env::var(DIR), std::env::var(BACKEND)) {
        let all = support::backends(Path::new(&dir));
        let backend = all.into_iter().find(|b| b.name() == name).unwrap();
        return live(Path::new(&dir), backend);
    }
    on_each_backend(|dir, backend| {
        fs::create_dir_all(dir).unwrap();
        let outcome = Command::new(std::env::current_exe().unwrap())
            .args([own, "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(BACKEND, backend.name())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(outcome.status.success(), "{backend:?}: {said}");
        let told = said.lines().find(|line| line.starts_with("held")).unwrap();
        println!("{backend:?}: {told}");
    });
}

fn live(dir: &Path, backend: Backend) {
    let dir = dir.join("log");
    let quiet = Box::new(|_: &std::panic::PanicHookInfo<'_>| {});
    std::panic::set_hook(quiet);
    // What is made once and kept for all of the process is made here.
    one_round(&dir, backend, 0);
    let before = settled((usize::MAX, usize::MAX));
    for round in 1..=ROUNDS {
        one_round(&dir, backend, round);
    }
    let after = settled(before);
    eprintln!("held before {before:?}, after {after:?}: descriptors, threads");
    assert_eq!(after, before, "descriptors, threads after {ROUNDS} lives");
}

/// What is held when no more than `most` is, or else after some seconds.
fn settled(most: (usize, usize)) -> (usize, usize) {
    let until = Instant::now() + Duration::from_secs(10);
    let mut last = held();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = held();
        let few = now.0 <= most.0 && now.1 <= most.1;
        if (now == last && few) || Instant::now() > until {
            return now;
        }
        last = now;
    }
}
