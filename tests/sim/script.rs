//! A short script of calls, run again and again with the world crashed one operation later each
//! time, until it runs through: no crash point of it is left out.
//!
//! ```text
//! for n in 1..: fresh world -> script (crash at its n-th operation) -> power off or kill
//!                           -> recovery, crashed once itself -> recovery -> check
//! ```

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Error, ErrorKind, Lsn, Result, Wal, WalConfig};

const DIR: &str = "/log";

fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) }
}

/// Runs `script` crashed at each of its operations; `check` gets the log as it was recovered and
/// what the script had noted by then. Gives how many crash points there were.
fn at_every_operation<N: Default>(
    prepare: fn(&Wal),
    script: fn(&Wal, &mut N) -> Result<()>,
    check: fn(&Wal, &N, u64),
) -> u64 {
    for n in 1.. {
        let kind = if n % 3 == 0 { CrashKind::Kill } else { CrashKind::Power };
        let sim = Sim::new(n, Model::weak(n % 2 == 0), Faults::default());
        let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
        prepare(&wal);
        sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
        let mut noted = N::default();
        let ran = script(&wal, &mut noted);
        let crashed = sim.crashed();
        assert!(crashed || ran.is_ok(), "operation {n}: {ran:?}");
        sim.crash(kind);
        drop(wal);
        // The recovery is crashed as well, somewhere.
        sim.set_faults(Faults { crash_at: Some(sim.ops() + 1 + n % 40), ..Faults::default() });
        if let Ok(wal) = Wal::open_in(sim.world(), config())
            && !sim.crashed()
        {
            check(&wal, &noted, n);
        }
        sim.crash(CrashKind::Power);
        sim.set_faults(Faults::default());
        let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
        check(&wal, &noted, n);
        wal.close().expect("a healthy world closes");
        if !crashed {
            return n;
        }
    }
    unreachable!("a script ends")
}

/// What a script knows of the user slot: the last state that was confirmed, and the one under way.
#[derive(Default)]
struct Slot {
    confirmed: Vec<u8>,
    asked: Vec<u8>,
}

#[test]
fn the_user_slot_is_the_old_one_or_the_new_one_at_every_crash() {
    let points = at_every_operation::<Slot>(
        |wal| {
            wal.append_batch(["a record"]).unwrap().wait().unwrap();
        },
        |wal, slot| {
            for state in [&b"term 1"[..], &[7; 4096], b"", b"term 2"] {
                slot.asked = state.to_vec();
                wal.set_user_state(state)?;
                slot.confirmed = state.to_vec();
                assert_eq!(wal.user_state(), state);
            }
            Ok(())
        },
        |wal, slot, n| {
            let found = wal.user_state();
            let known = found == slot.confirmed || found == slot.asked;
            assert!(known, "operation {n}: {} bytes that were not asked for", found.len());
            assert_eq!(*wal.read(Lsn::FIRST).unwrap().data, *b"a record");
        },
    );
    assert!(points > 16, "four updates are two forced writes each; {points} crash points");
}

#[test]
fn append_at_places_a_batch_where_it_was_wanted_or_not_at_all() {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    // Both are queued before either is placed: the second finds its place taken.
    let (a, b) = (wal.append_at(Lsn::FIRST, ["a"]), wal.append_at(Lsn::FIRST, ["b"]));
    assert_eq!(a.unwrap().wait().unwrap().first(), Lsn::FIRST);
    let refused: Error = b.unwrap().wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("the next record is 2"), "{refused}");
    assert_eq!(wal.append_at(Lsn::new(2), ["c"]).unwrap().wait().unwrap().last(), Lsn::new(2));
    let all: Vec<_> = wal.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap().data).collect();
    assert_eq!(all.iter().map(|data| &**data).collect::<Vec<_>>(), [b"a", b"c"]);
    wal.close().unwrap();
}
