//! A mending that failed, and what its owner does then: he has the damaged file restored, or not,
//! and opens the log as ever. Whatever is served then stays, though of what the mending did before
//! it failed, footers and names, some may be in a cache alone.
//!
//! ```text
//! log -> damage -> open by a policy, operation n fails -> kill -> restored, or not
//!     -> default policy, or the same one -> all that it serves -> append -> power cut -> the same
//! ```

use std::path::PathBuf;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Error, ErrorKind, Lsn, RecoveryPolicy, Wal};

use crate::damage::segments;
use crate::mend::{Case, append, config, contents, damaged_on};

/// What the damage turned over: file, offset, mask.
type Flips = Vec<(PathBuf, u64, u8)>;

fn flips(model: &Model, case: Case) -> Flips {
    let [sim, whole] = [(); 2].map(|()| Sim::new(7, model.clone(), Faults::default()));
    damaged_on(&whole, Case { damage: usize::MAX, ..case });
    damaged_on(&sim, case);
    let mut all = Vec::new();
    for ((path, bytes), (_, before)) in segments(&sim).into_iter().zip(segments(&whole)) {
        for (at, (is, was)) in (0..).zip(bytes.iter().zip(&before)).filter(|(_, (a, b))| a != b) {
            all.push((path.clone(), at, is ^ was));
        }
    }
    assert!(!all.is_empty(), "{case:?}");
    all
}

/// The log, served and gone on with after a mending that failed at operation `n`, with these bits
/// turned back; false if there was no `n`-th.
fn fails_at(n: u64, model: &Model, policy: RecoveryPolicy, case: Case, restored: &Flips) -> bool {
    let back = !restored.is_empty();
    let at = format!("{model:?}, {policy:?}, {case:?}, restored {back}, operation {n}");
    let sim = Sim::new(7, model.clone(), Faults::default());
    damaged_on(&sim, case);
    sim.set_faults(Faults { fail_nth: Some(sim.ops() + n), ..Faults::default() });
    let before = sim.ops();
    let opened = Wal::open_in(sim.world(), config(policy));
    let met = sim.ops() >= before + n;
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Kill);
    drop(opened);
    for (path, at, mask) in restored {
        // It may have left the log under another name.
        if sim.peek(path).is_ok() {
            sim.flip(path, *at, *mask).expect("it is inside");
        }
    }
    let open = |policy| Wal::open_in(sim.world(), config(policy));
    let corrupt = |e: &Error| e.kind() == ErrorKind::Corrupt;
    let meets_damage = |wal: &Wal| {
        let mut read = wal.reader(Lsn::FIRST).expect("the log starts there");
        read.any(|read| read.as_ref().is_err_and(corrupt))
    };
    let wal = match open(RecoveryPolicy::TornTail) {
        Err(e) if corrupt(&e) => open(policy),
        // In a segment that has a footer it is found by who reads it.
        Ok(wal) if meets_damage(&wal) => {
            sim.crash(CrashKind::Kill);
            drop(wal);
            open(policy)
        }
        opened => opened,
    };
    let wal = wal.unwrap_or_else(|e| panic!("{at}: {e}"));
    append(&wal, 2, 1).unwrap_or_else(|e| panic!("{at}: {e}"));
    let served = contents(&wal);
    sim.crash(CrashKind::Power);
    drop(wal);
    let wal = open(RecoveryPolicy::TornTail).unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!(contents(&wal) == served, "{at}: what was served is not there any more");
    wal.close().unwrap_or_else(|e| panic!("{at}: {e}"));
    met
}

#[test]
fn what_is_served_after_a_mending_that_failed_stays() {
    a_failure_each();
}

/// Fails each operation of each mending.
pub fn a_failure_each() {
    let mut runs = 0;
    for (direct, damage) in [true, false].into_iter().flat_map(|d| (0..4).map(move |n| (d, n))) {
        let model = Model::weak(direct);
        for (lanes, closed) in [(1, direct), (2, true)] {
            let case = Case { lanes, closed, damage };
            let policy = match (damage + lanes) % 3 {
                0 => RecoveryPolicy::PointInTime,
                _ => RecoveryPolicy::Salvage,
            };
            for restored in [Vec::new(), flips(&model, case)] {
                let fails = |n: &u64| fails_at(*n, &model, policy, case, &restored);
                runs += (1..).take_while(fails).count();
            }
        }
    }
    eprintln!("{runs} operations failed");
    assert!(runs > 1000, "{runs}");
}
