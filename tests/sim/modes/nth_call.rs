//! Every call fails: each operation of a life, and each of the recovery after a crash.

use prkdb_core::io::sim::{CrashKind, Failure, Faults, Sim};
use prkdb_core::{Durability, Error, ErrorKind, Lsn, Result, Wal};

use super::{OTHERS, PLAIN, Promised, Setup, in_all_ways};
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
fn fail_one(setup: Setup, way: Way, failure: Failure, sticky: bool, n: u64) -> bool {
    let (seed, direct, kind) = way;
    let at = format!("{setup:?}, direct {direct}, {kind:?}, {failure:?}, sticky {sticky}, {n}");
    let sim = setup.sim(seed, direct);
    let mut promised = Promised::default();
    let before = sim.ops();
    fail_from(&sim, failure, sticky, n);
    match setup.open(&sim) {
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
    match setup.open(&sim) {
        // I5: what it served is promised.
        Ok(wal) => promised.durable = promised.durable.max(wal.durable_lsn().get()),
        Err(e) => expect_failure(&e, &at),
    }
    heal(setup, &sim, &mut promised, &at);
    met
}

/// Fails operation `n` of the recovery after a crash that left a torn tail; false if there was no
/// `n`-th.
fn fail_recovery(setup: Setup, direct: bool, failure: Failure, sticky: bool, n: u64) -> bool {
    let at = format!("{setup:?}, direct {direct}, {failure:?}, sticky {sticky}, {n} of recovery");
    let sim = setup.sim(7, direct);
    let mut promised = Promised::default();
    let wal = setup.open_healthy(&sim, &at);
    all_steps(&wal, &mut promised).expect("a healthy world does all of it");
    for _ in 0..3 {
        promised.append(&wal, Durability::Written).expect("a healthy world writes");
    }
    sim.crash(CrashKind::Power);
    drop(wal);
    let before = sim.ops();
    fail_from(&sim, failure, sticky, n);
    match setup.open(&sim) {
        // I5: what it served is promised.
        Ok(wal) => promised.durable = promised.durable.max(wal.durable_lsn().get()),
        Err(e) => expect_failure(&e, &at),
    }
    let met = sim.ops() - before >= n;
    sim.crash(if direct == sticky { CrashKind::Kill } else { CrashKind::Power });
    heal(setup, &sim, &mut promised, &at);
    met
}

pub(super) fn fail_from(sim: &Sim, failure: Failure, sticky: bool, n: u64) {
    let fail_nth = Some(sim.ops() + n);
    sim.set_faults(Faults { fail_nth, fail_on: sticky, fail_as: failure, ..Faults::default() });
}

/// Nothing fails any more: all that was promised is there, and I9: service is restored.
fn heal(setup: Setup, sim: &Sim, promised: &mut Promised, at: &str) {
    sim.crash(CrashKind::Power);
    sim.set_faults(Faults::default());
    let wal = setup.open_healthy(sim, at);
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

/// What each failure is tried on: all ways of the plain setup, one of each other.
fn setups(sticky: bool) -> Vec<(Setup, Way)> {
    let plain = WAYS.map(|way| (PLAIN, way));
    let all = || OTHERS.into_iter().flat_map(|setup| WAYS.map(|way| (setup, way)));
    let first = if sticky { 1 } else { 0 };
    let one = OTHERS.into_iter().zip([WAYS[first], WAYS[first + 2], WAYS[1 - first]]);
    let others: Vec<_> = if in_all_ways() { all().collect() } else { one.collect() };
    plain.into_iter().chain(others).collect()
}

#[test]
fn whichever_call_fails_what_was_promised_is_there() {
    let mut runs = 0;
    for failure in Failure::ALL {
        for sticky in [false, true] {
            for (setup, way) in setups(sticky) {
                let calls = (1..).take_while(|n| fail_one(setup, way, failure, sticky, *n)).count();
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
    for failure in Failure::ALL {
        for (direct, sticky) in [(false, false), (false, true), (true, false), (true, true)] {
            let others = OTHERS.into_iter().filter(|_| direct == sticky || in_all_ways());
            for setup in others.chain([PLAIN]) {
                let fails = |n: &u64| fail_recovery(setup, direct, failure, sticky, *n);
                let calls = (1..).take_while(fails).count();
                assert!(calls > 20, "{failure:?}: only {calls} calls");
                runs += calls;
            }
        }
    }
    eprintln!("{runs} calls of recovery failed");
}
