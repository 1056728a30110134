//! Recoveries that give up what is damaged, crashed at each of their operations.
//!
//! ```text
//! for n in 1..: world -> log -> closed or killed -> damage -> open (crash at operation n)
//!               -> open again (crashed once more) -> open -> default policy -> append -> power cut
//! ```
//!
//! Wherever it is cut short, the same policy finds the same records lost, and no others; then every
//! policy finds the log like that, and no LSN is given twice.
#![expect(clippy::single_range_in_vec_init, reason = "a list of holes, of which there is one")]

use std::ops::Range;
use std::path::PathBuf;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    ErrorKind, Lsn, RecoveryPolicy, RepairReport, Wal, WalConfig, repair_in, repair_to_in,
};

use crate::damage::{frames, segments};

const DIR: &str = "/log";
const RECORDS: u64 = 120;

fn config(recovery: RecoveryPolicy) -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, recovery, ..WalConfig::new(DIR) }
}

fn content(life: u64, lsn: u64) -> Vec<u8> {
    let mut record = format!("life {life}, record {lsn}").into_bytes();
    record.resize(20_000, b' ');
    record
}

fn append(wal: &Wal, life: u64, count: u64) -> prkdb_core::Result<()> {
    for _ in 0..count {
        let lsn = wal.next_lsn().get();
        wal.append_batch([content(life, lsn)])?.wait()?;
    }
    Ok(())
}

/// A frame: file, offset, LSN; each holds one record.
type Place = (PathBuf, u64, u64);

fn places(sim: &Sim) -> Vec<Place> {
    let mut all = Vec::new();
    for (path, bytes) in segments(sim) {
        for (at, header) in frames(&bytes) {
            let lsn = u64::from_le_bytes(header[24..32].try_into().expect("eight bytes"));
            if header[0] == 1 {
                all.push((path.clone(), at as u64, lsn));
            }
        }
    }
    all.sort_by_key(|(_, _, lsn)| *lsn);
    all
}

/// Damages the log; gives the first record of what is lost, and how many.
type Damage = fn(&Sim, &[Place]) -> Vec<Range<u64>>;

const DAMAGES: &[Damage] = &[
    // A frame in the first segment, its header; another one, its record.
    |sim, places| {
        let ((a, at, lsn), (b, bt, other)) = (&places[4], &places[20]);
        sim.flip(a, at + 30, 1).expect("it is inside");
        sim.flip(b, bt + 90, 1).expect("it is inside");
        vec![*lsn..lsn + 1, *other..other + 1]
    },
    // The newest segment: three records before its last.
    |sim, places| {
        let (path, at, lsn) = &places[places.len() - 4];
        sim.flip(path, at + 30, 1).expect("it is inside");
        [*lsn..lsn + 1].to_vec()
    },
    // A segment's header.
    |sim, places| {
        let path = &places[60].0;
        sim.flip(path, 20, 1).expect("it is inside");
        let lsns = places.iter().filter(|(p, _, _)| p == path).map(|(_, _, lsn)| *lsn);
        let (first, last) = (lsns.clone().min(), lsns.max());
        [first.expect("it has frames")..last.expect("it has frames") + 1].to_vec()
    },
];

fn damaged(n: u64, closed: bool, damage: Damage) -> (Sim, Vec<Range<u64>>) {
    let sim = Sim::new(n, Model::weak(n.is_multiple_of(2)), Faults::default());
    let wal = Wal::open_in(sim.world(), config(RecoveryPolicy::TornTail)).expect("a healthy world");
    append(&wal, 1, RECORDS).expect("a healthy world");
    if closed {
        wal.close().expect("a healthy world");
    } else {
        sim.crash(CrashKind::Kill);
        drop(wal);
    }
    let lost = damage(&sim, &places(&sim));
    (sim, lost)
}

fn check(wal: &Wal, lost: &[Range<u64>], lives: &[u64], n: u64) {
    let mut holes = Vec::new();
    let mut reader = wal.reader(Lsn::FIRST).expect("the log starts there");
    let mut expected = 1;
    loop {
        let from = reader.next_lsn().get();
        match reader.next() {
            None => break,
            Some(Ok(record)) => {
                assert_eq!(record.lsn.get(), expected, "operation {n}");
                let past = expected.saturating_sub(RECORDS);
                let life = if past == 0 {
                    1
                } else {
                    lives[usize::try_from(past - 1).expect("a short log")]
                };
                assert!(*record.data == content(life, expected)[..], "operation {n}: {expected}");
                expected += 1;
            }
            Some(Err(e)) => {
                assert_eq!(e.kind(), ErrorKind::Lost, "operation {n}: {e}");
                expected = reader.next_lsn().get();
                holes.push(from..expected);
            }
        }
    }
    assert_eq!(holes, lost, "operation {n}");
    assert_eq!(expected, RECORDS + 1 + lives.len() as u64, "operation {n}");
    assert_eq!(wal.next_lsn().get(), expected, "operation {n}");
}

/// Crashes the recovery at each of its operations; gives how many there were.
fn at_every_operation(policy: RecoveryPolicy, closed: bool, damage: Damage) -> u64 {
    for n in 1.. {
        let (sim, mut lost) = damaged(n, closed, damage);
        if policy == RecoveryPolicy::PointInTime {
            lost = [lost[0].start..RECORDS + 1].to_vec();
        }
        for at in [n, 1 + n * 7 % 60] {
            sim.set_faults(Faults { crash_at: Some(sim.ops() + at), ..Faults::default() });
            let opened = Wal::open_in(sim.world(), config(policy));
            let done = !sim.crashed();
            sim.set_faults(Faults::default());
            match opened {
                Ok(wal) if done => {
                    check(&wal, &lost, &[], n);
                    sim.crash(CrashKind::Power);
                    drop(wal);
                }
                opened => {
                    assert!(!done, "operation {n}: {:?}", opened.err());
                    sim.crash(if n % 3 == 0 { CrashKind::Kill } else { CrashKind::Power });
                }
            }
            if done && at == n {
                return n;
            }
        }
        let wal = Wal::open_in(sim.world(), config(policy)).expect("a healthy world");
        check(&wal, &lost, &[], n);
        append(&wal, 2, 2).expect("a healthy world");
        sim.crash(CrashKind::Power);
        drop(wal);
        // Under the default it is the same log, and it goes on.
        let wal = Wal::open_in(sim.world(), config(RecoveryPolicy::TornTail));
        let wal = wal.unwrap_or_else(|e| panic!("operation {n}: {e}"));
        check(&wal, &lost, &[2, 2], n);
        append(&wal, 3, 1).expect("a healthy world");
        wal.close().expect("a healthy world");
        let wal = Wal::open_in(sim.world(), config(policy)).expect("a healthy world");
        assert!(wal.recovery().given_up.is_empty(), "operation {n}: {:?}", wal.recovery());
        check(&wal, &lost, &[2, 2, 3], n);
        wal.close().expect("a healthy world");
    }
    unreachable!("a recovery ends")
}

#[test]
fn a_salvage_can_be_cut_short_anywhere() {
    every_case(RecoveryPolicy::Salvage);
}

#[test]
fn a_cut_to_a_point_in_time_can_be_cut_short_anywhere() {
    every_case(RecoveryPolicy::PointInTime);
}

fn every_case(policy: RecoveryPolicy) {
    for (number, damage) in DAMAGES.iter().enumerate() {
        for closed in [true, false] {
            let points = at_every_operation(policy, closed, *damage);
            println!("{policy:?}, damage {number}, closed {closed}: {points} operations");
            assert!(points > 20, "{points} operations are no recovery");
        }
    }
}

/// Takes META too, in every second world.
fn damaged_with_meta(n: u64, damage: Damage) -> (Sim, Vec<Range<u64>>) {
    let (sim, lost) = damaged(n, true, damage);
    if n.is_multiple_of(2) {
        for at in [20, (64 << 10) + 20] {
            sim.flip(format!("{DIR}/META"), at, 1).expect("it is inside");
        }
    }
    (sim, lost)
}

/// Repairs with the power cut at operation `n`, then once more; says where the repaired log is.
fn crashed_repair(sim: &Sim, n: u64, to_new: bool) -> (bool, &'static str) {
    let run = |to: &'static str| -> prkdb_core::Result<RepairReport> {
        match to_new {
            true => repair_to_in(sim.world(), DIR, sim.world(), to, &mut |_, _| {}),
            false => repair_in(sim.world(), DIR, &mut |_, _| {}),
        }
    };
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let outcome = run("/first");
    let crashed = sim.crashed();
    assert!(crashed || outcome.is_ok(), "operation {n}: {outcome:?}");
    sim.crash(if n.is_multiple_of(3) { CrashKind::Kill } else { CrashKind::Power });
    sim.set_faults(Faults::default());
    let to = if crashed { "/second" } else { "/first" };
    if crashed {
        run(to).unwrap_or_else(|e| panic!("operation {n}: {e}"));
        sim.crash(CrashKind::Power);
    }
    (crashed, if to_new { to } else { DIR })
}

#[test]
fn a_repair_can_be_cut_short_anywhere() {
    for (number, damage) in DAMAGES.iter().enumerate() {
        for to_new in [false, true] {
            for n in 1.. {
                let (sim, lost) = damaged_with_meta(n, *damage);
                let (crashed, at) = crashed_repair(&sim, n, to_new);
                let config = WalConfig { log_dir: at.into(), ..config(RecoveryPolicy::TornTail) };
                let wal = Wal::open_in(sim.world(), config.clone());
                let wal = wal.unwrap_or_else(|e| panic!("operation {n}: {e}"));
                check(&wal, &lost, &[], n);
                append(&wal, 2, 2).expect("a healthy world");
                sim.crash(CrashKind::Power);
                drop(wal);
                let wal = Wal::open_in(sim.world(), config).expect("a healthy world");
                check(&wal, &lost, &[2, 2], n);
                wal.close().expect("a healthy world");
                if !crashed {
                    println!("damage {number}, to a new directory {to_new}: {n} operations");
                    assert!(n > 20, "{n} operations are no repair");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_read_error_is_no_damage_under_any_policy() {
    for policy in [RecoveryPolicy::PointInTime, RecoveryPolicy::Salvage] {
        let mut failed = 0;
        for n in 1..40 {
            let (sim, lost) = damaged(n, true, DAMAGES[0]);
            let before: Vec<_> = segments(&sim);
            sim.set_faults(Faults { read_eio: 200, ..Faults::default() });
            let opened = Wal::open_in(sim.world(), config(policy));
            sim.set_faults(Faults::default());
            match opened {
                Ok(wal) => drop(wal),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
                    assert!(segments(&sim).len() == before.len(), "a segment is gone");
                    failed += 1;
                }
            }
            let wal = Wal::open_in(sim.world(), config(RecoveryPolicy::Salvage)).expect("healthy");
            if policy == RecoveryPolicy::Salvage {
                check(&wal, &lost, &[], n);
            }
        }
        assert!(failed > 10, "{failed} of 39 opens met a read error");
    }
}
