//! A write of a killed process that lands late: until it did nobody gets the log.
//!
//! ```text
//! child:  append .. append -> SIGKILL, it is gone
//! disk:         one write ------- is held ----------------------------- freed, done
//! test:                              LOCK is refused, open waits ------------------> Ok, all acked
//! ```
//!
//! The kernel frees the lock with the last reference to the open file, and of a process that is
//! gone that is its ring's, of which LOCK is a registered file. Else recovery would judge a tail
//! that still changes.

use std::fs::{File, TryLockError};
use std::time::Duration;

use prkdb_core::{Backend, Wal};

use crate::HANGS;
use crate::recorder::{Kind, Recorder};
use crate::support::{self, gate, read_all, record};

#[test]
fn no_log_is_opened_before_the_writes_of_a_killed_process_have_landed() {
    let Some(recorder) = Recorder::start() else { return };
    let watchdog = recorder.watchdog(HANGS);
    let Some(base) = recorder.make(Kind::Ext4) else { return };
    recorder.load(&base);
    let Some(disk) = recorder.mount(0, Kind::Ext4) else { return };
    assert!(disk.is_direct(), "the loop device writes through the page cache");
    let (dir, backends) = (disk.path().join("log"), support::backends(disk.path()));
    let Some(uring) = backends.iter().position(|backend| *backend == Backend::Uring) else {
        return;
    };
    let ask = |word: &str| recorder.served().ask(format_args!("{word}"));
    watchdog.step(format_args!("a child appends"));
    // The life whose turn it is to write through a ring.
    let life = (backends.len() + uring) as u64;
    let mut child = support::start_appending(&dir, life);
    let mut acked = support::acked(&mut child);
    let mut last = acked.by_ref().take(10).last().expect("the child ended by itself");
    watchdog.step(format_args!("the disk holds a write"));
    ask("hold");
    while ask("held") == "0" {
        std::thread::sleep(Duration::from_millis(1));
    }
    watchdog.step(format_args!("the child is killed"));
    child.kill().unwrap();
    last = acked.last().unwrap_or(last);
    child.wait().unwrap();
    let lock = File::open(dir.join("LOCK")).unwrap();
    let taken = lock.try_lock();
    assert_eq!(ask("held"), "1", "the write is done: this proves nothing");
    assert!(matches!(taken, Err(TryLockError::WouldBlock)), "{taken:?} while a write is to land");
    drop(lock);
    watchdog.step(format_args!("the log is opened"));
    let config = support::config(&dir, Backend::Uring);
    let wal = std::thread::scope(|scope| {
        let opened = scope.spawn(|| Wal::open(config));
        gate::a_moment();
        assert!(!opened.is_finished(), "{:?} while a write is to land", opened.join().unwrap());
        ask("free");
        opened.join().unwrap().unwrap()
    });
    let found = read_all(wal.reader(wal.first_lsn()).unwrap(), 1);
    assert!(found.len() as u64 >= last, "{last} were acknowledged, {} are there", found.len());
    assert!(found.iter().zip(1..).all(|(found, lsn)| *found == record(life, lsn)));
    wal.close().unwrap();
    watchdog.step(format_args!("unmount"));
    disk.unmount();
}
