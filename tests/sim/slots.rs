//! META's two slots: an update that was broken off, by a kill or a failed write, and then a power
//! cut during the next one. A state of several sectors is torn by that; one slot has to be whole.
//!
//! ```text
//! set_user_state(old) | set_user_state(new), broken off at operation n | open, power cut at its
//!                                                                        operation m | open, check
//! ```

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Lsn, Wal, WalConfig};

fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new("/log") }
}

/// What breaks the first update off.
#[derive(Clone, Copy)]
enum Break {
    Kill,
    FailedWrite,
}

/// A log whose user state is being changed from one of 4 KiB to another when it is broken off at
/// operation `n`; whether it was.
fn broken_off(sim: &Sim, how: Break, n: u64, states: [&[u8]; 2]) -> bool {
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    wal.append_batch(["a record"]).expect("room").wait().expect("a healthy world appends");
    // Twice: which slot is written first alternates.
    wal.set_user_state(b"before").expect("a healthy world updates");
    wal.set_user_state(states[0]).expect("a healthy world updates");
    let at = Some(sim.ops() + n);
    sim.set_faults(match how {
        Break::Kill => Faults { crash_at: at, ..Faults::default() },
        Break::FailedWrite => Faults { fail_nth: at, ..Faults::default() },
    });
    let broken = wal.set_user_state(states[1]).is_err();
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Kill);
    drop(wal);
    broken
}

/// Opens the log with the power cut at operation `m` of that; whether it was.
fn cut_while_it_opens(sim: &Sim, m: u64) -> bool {
    sim.set_faults(Faults { crash_at: Some(sim.ops() + m), ..Faults::default() });
    let wal = Wal::open_in(sim.world(), config());
    let cut = sim.crashed();
    sim.crash(CrashKind::Power);
    drop(wal);
    sim.set_faults(Faults::default());
    cut
}

fn models() -> [Model; 3] {
    [Model::weak(true), Model::weak(false), Model { mapped: true, ..Model::weak(true) }]
}

#[test]
fn an_update_of_meta_that_was_broken_off_leaves_a_slot_that_the_next_one_does_not_touch() {
    broken_off_and_cut_again();
}

/// Breaks an update off at each of its operations, and cuts the power at each of the next `open`.
pub fn broken_off_and_cut_again() {
    let states: [&[u8]; 2] = [&[7; 4096], &[8; 4096]];
    let (mut runs, mut kept) = (0, [0, 0]);
    for (model, how) in models().iter().flat_map(|m| [(m, Break::Kill), (m, Break::FailedWrite)]) {
        for n in 1.. {
            let mut broken = false;
            for (m, seed) in (1..).flat_map(|m| (0..8).map(move |seed| (m, seed))) {
                let sim = Sim::new(10_000 * n + 100 * m + seed, model.clone(), Faults::default());
                broken = broken_off(&sim, how, n, states);
                let cut = cut_while_it_opens(&sim, m);
                let wal = Wal::open_in(sim.world(), config());
                let wal = wal.unwrap_or_else(|e| panic!("operations {n}, {m}, seed {seed}: {e}"));
                let found = states.iter().position(|state| wal.user_state() == *state);
                let found = found.expect("one of the two states");
                assert!(broken || found == 1, "operation {m}: a state that was confirmed is gone");
                kept[found] += 1;
                assert_eq!(*wal.read(Lsn::FIRST).expect("it is durable").data, *b"a record");
                wal.close().expect("a healthy world closes");
                runs += 1;
                if !cut {
                    break;
                }
            }
            // One that was not broken off was confirmed, and was killed after it.
            if !broken {
                break;
            }
        }
    }
    assert!(runs > 300 && kept.iter().all(|n| *n > 50), "{runs} runs, {kept:?}: too few");
}

#[test]
fn a_meta_whose_name_did_not_become_durable_is_no_ground_for_a_log() {
    let mut failed = 0;
    for model in models() {
        for n in 1.. {
            let sim = Sim::new(7, model.clone(), Faults::default());
            // What fails is answered, and what would take it back never happens.
            let faults = Faults { fail_nth: Some(n), crash_at: Some(n + 1), ..Faults::default() };
            sim.set_faults(faults);
            let made = Wal::open_in(sim.world(), config());
            sim.set_faults(Faults::default());
            sim.crash(CrashKind::Kill);
            let done = made.is_ok_and(|wal| wal.next_lsn() == Lsn::FIRST) && n > 40;
            let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
            wal.append_batch(["a record"]).expect("room").wait().expect("a healthy world appends");
            sim.crash(CrashKind::Power);
            drop(wal);
            let wal = Wal::open_in(sim.world(), config());
            let wal = wal.unwrap_or_else(|e| panic!("operation {n}: {e}"));
            assert_eq!(*wal.read(Lsn::FIRST).expect("it is durable").data, *b"a record", "{n}");
            wal.close().expect("a healthy world closes");
            if done {
                break;
            }
            failed += 1;
        }
    }
    assert!(failed > 60, "{failed} operations make no log");
}
