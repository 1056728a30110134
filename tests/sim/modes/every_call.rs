//! Every call of a whole life fails: appends that roll segments, cuts from both ends, a reset, a
//! compaction, and the `resume` after it.
//!
//! ```text
//! for n in 1..: log -> steps, operation n fails (and all after it) -> resume, where it is poisoned
//!                   -> the steps that are left -> crash -> recovery -> check
//! ```
//!
//! After a call that failed the log is as it was before or as it was asked to be; the check is
//! `script`'s. What failed once leaves nothing behind: `resume` works, and so do the other steps.

use std::time::Duration;

use prkdb_core::io::sim::{Failure, Model, Sim};
use prkdb_core::{ErrorKind, Result, Wal};

use super::nth_call::{expect_failure, fail_from};
use crate::script::{Known, config, prepare};
use crate::{WAYS, Way};

type Step = fn(&Wal, &mut Known) -> Result<()>;

const STEPS: &[Step] = &[
    |wal, log| log.append(wal, "new"),
    |wal, log| {
        let first = log.first() + 9;
        log.truncate_before(wal, first)
    },
    |wal, log| (0..4).try_for_each(|_| log.append(wal, "rolled")),
    |wal, log| {
        let keep = log.last() - 4;
        log.truncate_after(wal, keep)
    },
    |wal, log| log.append(wal, "behind the cut"),
    |wal, _| wal.compact().map(drop),
    |wal, log| log.reset_to(wal, 1000),
    |wal, log| log.append(wal, "after the reset"),
];

/// Fails operation `n`; false if there was no `n`-th.
fn fail_one((seed, direct, kind): Way, failure: Failure, sticky: bool, n: u64) -> bool {
    let at = format!("direct {direct}, {kind:?}, {failure:?}, sticky {sticky}, operation {n}");
    let sim = Sim::new(seed, Model::weak(direct), Default::default());
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    prepare(&wal);
    let (mut log, before) = (Known::prepared(), sim.ops());
    fail_from(&sim, failure, sticky, n);
    for step in STEPS {
        let Err(error) = step(&wal, &mut log) else { continue };
        let poisoned = !wal.health().is_ok();
        assert!(poisoned || error.kind() != ErrorKind::Poisoned, "{at}: {error}");
        if sticky {
            // I8: nothing works, and everything returns.
            if poisoned {
                assert!(wal.append_batch(["x"]).is_err(), "{at}: a poisoned log appends");
                wal.resume().err().iter().for_each(|e| expect_failure(e, &at));
            }
            break;
        }
        if poisoned {
            wal.resume().unwrap_or_else(|e| panic!("{at}: {e}"));
        }
        log.settle(&wal, n);
    }
    let met = sim.ops() - before >= n;
    sim.set_faults(Default::default());
    // What failed in the background may be heard only now.
    sim.pass(Duration::from_millis(100));
    if !wal.health().is_ok() {
        wal.resume().unwrap_or_else(|e| panic!("{at}: {e}"));
    }
    log.settle(&wal, n);
    // I9: whatever it was, it is over.
    log.append(&wal, "at last").unwrap_or_else(|e| panic!("{at}: {e}"));
    sim.crash(kind);
    drop(wal);
    let wal = Wal::open_in(sim.world(), config()).unwrap_or_else(|e| panic!("{at}: {e}"));
    log.check(&wal, n);
    wal.close().unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(sim.held(), Default::default(), "{at}: I10");
    met
}

#[test]
fn whichever_call_of_a_whole_life_fails_the_log_is_as_it_was_or_as_it_was_asked_to_be() {
    let mut runs = 0;
    for failure in Failure::ALL {
        for (way, sticky) in [(0, false), (1, true), (2, true), (3, false)] {
            let fails = |n: &u64| fail_one(WAYS[way], failure, sticky, *n);
            let calls = (1..).take_while(fails).count();
            assert!(calls > 100, "{failure:?}: only {calls} calls");
            runs += calls;
        }
    }
    eprintln!("{runs} calls of a whole life failed");
}
