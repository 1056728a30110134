//! `Wal::health` tells what is wrong while it is wrong, and nothing else.

use std::time::Duration;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{ErrorKind, SyncMethod, Wal, WalConfig};

fn log(faults: Faults) -> (Sim, Wal) {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let config = WalConfig { segment_bytes: 1 << 20, depth: 1, ..WalConfig::new("/log") };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    wal.append_batch(["before"]).unwrap().wait().unwrap();
    sim.set_faults(faults);
    (sim, wal)
}

#[test]
fn the_oldest_append_without_an_answer_grows_old() {
    let (sim, wal) = log(Faults::default());
    assert_eq!(wal.health().oldest_unanswered, None);
    // Each of these is a group, and one is in flight at a time.
    let since = sim.now();
    let append = || wal.append_batch([[7; 70_000]]).unwrap();
    let (first, second, third) = (append(), append(), append());
    assert_eq!(wal.health().oldest_unanswered, Some(Duration::ZERO));
    first.wait().unwrap();
    let waited = wal.health().oldest_unanswered.expect("two wait");
    assert_eq!(waited, sim.now() - since);
    assert!(waited > Duration::ZERO);
    let later = sim.now();
    let last = append();
    for ticket in [second, third] {
        ticket.wait().unwrap();
    }
    assert_eq!(wal.health().oldest_unanswered, Some(sim.now() - later));
    last.wait().unwrap();
    assert_eq!(wal.health().oldest_unanswered, None);
}

#[test]
fn the_last_sync_is_told_whichever_method_made_it() {
    for sync_method in [SyncMethod::Dsync, SyncMethod::Fdatasync] {
        let sim = Sim::new(1, Model::weak(true), Faults::default());
        let config = WalConfig { sync_method, ..WalConfig::new("/log") };
        let wal = Wal::open_in(sim.world(), config).unwrap();
        assert_eq!(wal.health().last_sync, None);
        wal.append_batch(["one"]).unwrap().wait().unwrap();
        let took = wal.health().last_sync.expect("it is durable");
        assert!(Duration::ZERO < took && took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn a_failed_write_says_why_until_the_log_is_resumed() {
    let (sim, wal) = log(Faults { write_eio: 1000, ..Faults::default() });
    assert!(wal.health().is_ok());
    let error = wal.append_batch(["lost"]).unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConfirmed);
    let health = wal.health();
    let why = health.poisoned.expect("a write failed");
    assert_eq!((why.kind(), why.op()), (ErrorKind::Io, "write"));
    assert_eq!(health.oldest_unanswered, None);
    sim.set_faults(Faults::default());
    wal.resume().unwrap();
    assert!(wal.health().is_ok());
}

/// Nobody asks a log that is dropped, so it says by itself what it could not do.
#[cfg(feature = "cli")]
#[test]
fn a_log_that_is_dropped_tells_the_programs_log_what_it_could_not_do() {
    use crate::heard::heard;
    let failing = || Faults { write_eio: 1000, ..Faults::default() };
    // One line says that, of which file, and why.
    let words = ["ERROR", "could not be closed whole", "poisoned", "/log/0", ".seg", "I/O error"];
    let says_so =
        |said: &str| said.lines().any(|line| words.iter().all(|word| line.contains(word)));

    let (_sim, wal) = log(failing());
    wal.append_batch(["lost"]).unwrap().wait().unwrap_err();
    assert!(!wal.health().is_ok());
    let said = heard(|| drop(wal));
    assert!(says_so(&said), "poisoned: {said:?}");

    // What was queued and not waited for fails only now.
    let (_sim, wal) = log(failing());
    drop(wal.append_batch(["queued"]).unwrap());
    assert!(wal.health().is_ok());
    let said = heard(|| drop(wal));
    assert!(says_so(&said), "failing: {said:?}");

    let (_sim, wal) = log(Faults::default());
    drop(wal.append_batch(["queued"]).unwrap());
    let said = heard(|| drop(wal));
    assert!(!said.contains("ERROR"), "all went well: {said}");
}
