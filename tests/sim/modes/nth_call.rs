//! Every call fails: each operation of a life, and each of the recovery after a crash.

use prkdb_core::io::sim::{CrashKind, Failure, Faults, Model, Sim};
use prkdb_core::{Durability, Error, ErrorKind, Lsn, Result, Wal};

use super::{Promised, config, open};
use crate::{WAYS, Way};

/// Each step is tried, whatever became of those before; the first error is kept. I8: what is
/// poisoned stays so.
fn all_steps(wal: &Wal, promised: &mut Promised) -> Result<()> {
    let mut outcome: Result<()> = Ok(());
    let poisoned = |e: &Error| e.kind() == ErrorKind::Poisoned;
    for step in 0..6 {
        let did = match step {
            0 | 3 => promised.append(wal, Durability::Sync),
            1 | 4 => promised.append(wal, Durability::Written),
            2 => promised.set_state(wal, b"term 1"),
            _ => wal.wait_durable(Lsn::FIRST).and_then(|ticket| ticket.wait()).map(drop),
        };
        if outcome.as_ref().is_err_and(poisoned) && step != 5 {
            assert!(did.is_err(), "I8: step {step} worked in a poisoned log");
        }
        if outcome.as_ref().err().is_none_or(|e| !poisoned(e)) && did.is_err() {
            outcome = did;
        }
    }
    outcome
}

/// Fails operation `n` of a life, and one of the recovery after it; false if there was no `n`-th.
fn fail_one((seed, direct, kind): Way, failure: Failure, sticky: bool, n: u64) -> bool {
    let at = format!("direct {direct}, {kind:?}, {failure:?}, sticky {sticky}, operation {n}");
    let sim = Sim::new(seed, Model::weak(direct), Faults::default());
    let mut promised = Promised::default();
    let before = sim.ops();
    fail_from(&sim, failure, sticky, n);
    match Wal::open_in(sim.world(), config()) {
        Ok(wal) => {
            let ran = all_steps(&wal, &mut promised);
            let closed = wal.close();
            let passing = matches!(failure, Failure::Interrupted | Failure::Again) && !sticky;
            let passes = passing || failure == Failure::Short;
            assert!(!passes || (ran.is_ok() && closed.is_ok()), "{at}: {ran:?}, {closed:?}");
        }
        Err(e) => expect_failure(&e, &at),
    }
    let met = sim.ops() - before >= n;
    sim.crash(kind);
    // Whatever failed then, something fails in the recovery too.
    fail_from(&sim, failure, sticky, 1 + n * 7 % 60);
    match Wal::open_in(sim.world(), config()) {
        // I5: what it served is promised.
        Ok(wal) => promised.durable = promised.durable.max(wal.durable_lsn().get()),
        Err(e) => expect_failure(&e, &at),
    }
    heal(&sim, &mut promised, &at);
    met
}

/// Fails operation `n` of the recovery after a crash that left a torn tail; false if there was no
/// `n`-th.
fn fail_recovery(direct: bool, failure: Failure, sticky: bool, n: u64) -> bool {
    let at = format!("direct {direct}, {failure:?}, sticky {sticky}, operation {n} of recovery");
    let sim = Sim::new(7, Model::weak(direct), Faults::default());
    let mut promised = Promised::default();
    let wal = open(&sim);
    all_steps(&wal, &mut promised).expect("a healthy world does all of it");
    for _ in 0..3 {
        promised.append(&wal, Durability::Written).expect("a healthy world writes");
    }
    sim.crash(CrashKind::Power);
    drop(wal);
    let before = sim.ops();
    fail_from(&sim, failure, sticky, n);
    match Wal::open_in(sim.world(), config()) {
        // I5: what it served is promised.
        Ok(wal) => promised.durable = promised.durable.max(wal.durable_lsn().get()),
        Err(e) => expect_failure(&e, &at),
    }
    let met = sim.ops() - before >= n;
    sim.crash(if direct == sticky { CrashKind::Kill } else { CrashKind::Power });
    heal(&sim, &mut promised, &at);
    met
}

pub(super) fn fail_from(sim: &Sim, failure: Failure, sticky: bool, n: u64) {
    let fail_nth = Some(sim.ops() + n);
    sim.set_faults(Faults { fail_nth, fail_on: sticky, fail_as: failure, ..Faults::default() });
}

/// Nothing fails any more: all that was promised is there, and I9: service is restored.
fn heal(sim: &Sim, promised: &mut Promised, at: &str) {
    sim.crash(CrashKind::Power);
    sim.set_faults(Faults::default());
    let wal = Wal::open_in(sim.world(), config()).unwrap_or_else(|e| panic!("{at}: {e}"));
    let found = promised.check(&wal, at);
    promised.append(&wal, Durability::Sync).unwrap_or_else(|e| panic!("{at}: I9: {e}"));
    assert_eq!(promised.check(&wal, at), found + 1);
    wal.close().unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(sim.held(), Default::default(), "{at}: I10");
}

pub(super) fn expect_failure(e: &Error, at: &str) {
    let known = matches!(e.kind(), ErrorKind::Io | ErrorKind::StorageFull);
    assert!(known, "{at}: a failed call is no reason for {e}");
}

#[test]
fn whichever_call_fails_what_was_promised_is_there() {
    let mut runs = 0;
    for failure in Failure::ALL {
        for sticky in [false, true] {
            for way in WAYS {
                let calls = (1..).take_while(|n| fail_one(way, failure, sticky, *n)).count();
                assert!(calls > 20, "{failure:?}: only {calls} calls");
                runs += calls;
            }
        }
    }
    eprintln!("{runs} calls failed");
}

#[test]
fn whichever_call_of_recovery_fails_what_was_promised_is_there() {
    let mut runs = 0;
    for (direct, sticky) in [(false, false), (false, true), (true, false), (true, true)] {
        for failure in Failure::ALL {
            let fails = |n: &u64| fail_recovery(direct, failure, sticky, *n);
            let calls = (1..).take_while(fails).count();
            assert!(calls > 20, "{failure:?}: only {calls} calls");
            runs += calls;
        }
    }
    eprintln!("{runs} calls of recovery failed");
}
