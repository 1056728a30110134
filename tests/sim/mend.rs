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
    ErrorKind, Finding, Lsn, ReadOnlyWal, RecoveryPolicy, RepairReport, SyncMethod, Wal, WalConfig,
    repair_in, repair_to_in,
};

use crate::damage::{frames, segments};
use crate::{WAYS, Way};

const DIR: &str = "/log";
const RECORDS: u64 = 120;
const TOGETHER: u64 = 6;

pub(super) fn config(recovery: RecoveryPolicy) -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, recovery, ..WalConfig::new(DIR) }
}

fn content(life: u64, lsn: u64) -> Vec<u8> {
    let mut record = format!("life {life}, record {lsn}").into_bytes();
    record.resize(20_000, b' ');
    record
}

/// Waits for each record; for the last few only when all of them are in flight: of those no
/// watermark tells.
pub(super) fn append(wal: &Wal, life: u64, count: u64) -> prkdb_core::Result<()> {
    let (mut tickets, next) = (Vec::new(), wal.next_lsn().get());
    for i in 0..count {
        let ticket = wal.append_batch([content(life, next + i)])?;
        match i + TOGETHER < count {
            true => drop(ticket.wait()?),
            false => tickets.push(ticket),
        }
    }
    tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))
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
        ranges([*lsn, *other])
    },
    // The newest segment: a few records before its last.
    |sim, places| {
        let (path, at, lsn) = &places[places.len() - usize::try_from(TOGETHER).expect("few") - 3];
        sim.flip(path, at + 30, 1).expect("it is inside");
        ranges([*lsn])
    },
    // A segment's header.
    |sim, places| header(sim, places, 20),
    // In it the number that its checksums are salted with: nothing of it can be found again.
    |sim, places| header(sim, places, 50),
];

fn header(sim: &Sim, places: &[Place], at: u64) -> Vec<Range<u64>> {
    let path = &places[60].0;
    sim.flip(path, at, 1).expect("it is inside");
    ranges(places.iter().filter(|(p, _, _)| p == path).map(|(_, _, lsn)| *lsn))
}

/// Rising LSNs as ranges.
fn ranges(lsns: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for lsn in lsns {
        match ranges.last_mut() {
            Some(range) if range.end == lsn => range.end += 1,
            _ => ranges.push(lsn..lsn + 1),
        }
    }
    ranges
}

/// How a log was written and left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) lanes: usize,
    pub(super) closed: bool,
    pub(super) damage: usize,
}

fn damaged(seed: u64, direct: bool, case: Case) -> (Sim, Vec<Range<u64>>) {
    let sim = Sim::new(seed, Model::weak(direct), Faults::default());
    let lost = damaged_on(&sim, case);
    (sim, lost)
}

/// A log, damaged in one of the ways that there are, or in none; what is lost by that.
pub(super) fn damaged_on(sim: &Sim, case: Case) -> Vec<Range<u64>> {
    let Case { lanes: num_segments, closed, damage } = case;
    let config = WalConfig { num_segments, ..config(RecoveryPolicy::TornTail) };
    let wal = Wal::open_in(sim.world(), config).expect("a healthy world");
    append(&wal, 1, RECORDS).expect("a healthy world");
    if closed {
        wal.close().expect("a healthy world");
    } else {
        sim.crash(CrashKind::Kill);
        drop(wal);
    }
    DAMAGES.get(damage).map(|damage| damage(sim, &places(sim))).unwrap_or_default()
}

/// The default policy refuses the log as it is now, or finds in it what it should: of a segment
/// with a footer it finds damage only when it reads that.
fn default_accepts_nothing_less(sim: &Sim, dir: &str, lost: &[Range<u64>], n: u64) {
    let config = WalConfig { log_dir: dir.into(), ..config(RecoveryPolicy::TornTail) };
    match Wal::open_in(sim.world(), config) {
        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "operation {n}: {e}"),
        Ok(wal) => {
            for lsn in 1..=RECORDS {
                let gone = lost.iter().any(|hole| hole.contains(&lsn));
                match wal.read(Lsn::new(lsn)) {
                    Ok(record) => assert!(*record.data == content(1, lsn)[..], "operation {n}"),
                    Err(e) => assert!(gone, "operation {n}: {e}"),
                }
            }
            assert_eq!(wal.next_lsn().get(), RECORDS + 1, "operation {n}");
            sim.crash(CrashKind::Power);
        }
    }
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
fn at_every_operation(way: Way, policy: RecoveryPolicy, case: Case) -> u64 {
    let (seed, direct, kind) = way;
    for n in 1.. {
        let (sim, mut lost) = damaged(seed, direct, case);
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
                    sim.crash(kind);
                    default_accepts_nothing_less(&sim, DIR, &lost, n);
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
    every_case(RecoveryPolicy::Salvage, [WAYS[0], WAYS[3]]);
}

#[test]
fn a_cut_to_a_point_in_time_can_be_cut_short_anywhere() {
    every_case(RecoveryPolicy::PointInTime, [WAYS[1], WAYS[2]]);
}

fn every_case(policy: RecoveryPolicy, ways: [Way; 2]) {
    for (way, damage) in ways.iter().flat_map(|way| (0..DAMAGES.len()).map(move |d| (*way, d))) {
        for (lanes, closed) in [(1, true), (1, false), (2, false)] {
            let case = Case { lanes, closed, damage };
            // How much a segment held that can't be read at all only a closed log knows.
            if closed || damage != 3 {
                let points = at_every_operation(way, policy, case);
                println!("{policy:?}, {case:?}: {points} operations");
                assert!(points > 20, "{points} operations are no recovery");
            }
        }
    }
}

/// Takes META too, in every second world.
fn damaged_with_meta(direct: bool, damage: usize) -> (Sim, Vec<Range<u64>>) {
    let (sim, lost) = damaged(7, direct, Case { lanes: 1, closed: true, damage });
    if damage < 3 && direct {
        for at in [20, (64 << 10) + 20] {
            sim.flip(format!("{DIR}/META"), at, 1).expect("it is inside");
        }
    }
    (sim, lost)
}

/// Repairs with the power cut at operation `n`, then once more; says where the repaired log is.
fn crashed_repair(sim: &Sim, n: u64, to_new: bool, lost: &[Range<u64>]) -> (bool, &'static str) {
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
    sim.crash(if to_new { CrashKind::Kill } else { CrashKind::Power });
    sim.set_faults(Faults::default());
    let to = if crashed { "/second" } else { "/first" };
    if crashed {
        default_accepts_nothing_less(sim, DIR, lost, n);
        run(to).unwrap_or_else(|e| panic!("operation {n}: {e}"));
        sim.crash(CrashKind::Power);
    }
    (crashed, if to_new { to } else { DIR })
}

#[test]
fn a_repair_can_be_cut_short_anywhere() {
    for damage in 0..DAMAGES.len() {
        for (to_new, direct) in [(false, false), (false, true), (true, false), (true, true)] {
            for n in 1.. {
                let (sim, lost) = damaged_with_meta(direct, damage);
                let (crashed, at) = crashed_repair(&sim, n, to_new, &lost);
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
                    println!("damage {damage}, to a new directory {to_new}: {n} operations");
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
            let case = Case { lanes: 1, closed: true, damage: 0 };
            let (sim, lost) = damaged(n, n.is_multiple_of(2), case);
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

/// All that a log gives, by LSN, over its holes.
pub(super) fn contents(wal: &Wal) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    for read in wal.reader(Lsn::FIRST).expect("the log starts there") {
        match read {
            Ok(record) => all.push((record.lsn.get(), record.data.to_vec())),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Lost, "{e}"),
        }
    }
    all
}

/// Makes `RECORDS` - 20 records durable and five more that only the cache shows from then on.
fn a_sync_fails_before_a_kill(sim: &Sim, config: WalConfig) {
    let wal = Wal::open_in(sim.world(), config).expect("a healthy world");
    append(&wal, 1, RECORDS - 20).expect("a healthy world");
    sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
    append(&wal, 1, 5).expect_err("its sync fails");
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Kill);
}

/// A sync fails, and the cache shows what the device never got: whatever a salvage serves of it has
/// to be there after a power cut, though a segment that can't be read may have been promised more.
#[test]
fn what_a_salvage_served_from_a_cache_that_lies_survives() {
    let mut unproven = 0;
    for seed in 0..60 {
        let sim = Sim::new(seed, Model::weak(false), Faults::default());
        let (num_segments, sync_method) = (1 + usize::from(seed % 2 == 1), SyncMethod::Fdatasync);
        let healthy = WalConfig { num_segments, sync_method, ..config(RecoveryPolicy::TornTail) };
        a_sync_fails_before_a_kill(&sim, healthy);
        let places = places(&sim);
        if seed % 3 == 0 {
            sim.flip(&places[4].0, places[4].1 + 30, 1).expect("it is inside");
            sim.flip(&places[85].0, places[85].1 + 30, 1).expect("it is inside");
        } else {
            sim.flip(&places[30].0, 50, 1).expect("it is inside");
        }
        let served = {
            let wal = Wal::open_in(sim.world(), config(RecoveryPolicy::Salvage));
            let wal = wal.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let served = contents(&wal);
            sim.crash(CrashKind::Power);
            served
        };
        unproven += served.iter().filter(|(lsn, _)| *lsn > RECORDS - 20).count();
        let wal = Wal::open_in(sim.world(), config(RecoveryPolicy::TornTail));
        let wal = wal.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(contents(&wal) == served, "seed {seed}: what was served is not there any more");
    }
    assert!(unproven > 20, "only {unproven} records were served that no sync covered");
}

/// Nothing tells how much of what the cache shows is on the device: a copy puts it there.
#[test]
fn without_meta_a_copy_of_what_a_cache_that_lies_shows_survives() {
    for seed in 0..20 {
        let sim = Sim::new(seed, Model::weak(false), Faults::default());
        let tail = config(RecoveryPolicy::TornTail);
        let config = WalConfig { sync_method: SyncMethod::Fdatasync, ..tail };
        a_sync_fails_before_a_kill(&sim, config.clone());
        let places = places(&sim);
        if seed % 2 == 0 {
            sim.flip(&places[30].0, places[30].1 + 30, 1).expect("it is inside");
        }
        sim.world().disk.unlink(&PathBuf::from(DIR).join("META")).expect("it is there");
        let report = repair_to_in(sim.world(), DIR, sim.world(), "/new", &mut |_, _| {});
        let report = report.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        sim.crash(CrashKind::Power);
        let wal = Wal::open_in(sim.world(), WalConfig { log_dir: "/new".into(), ..config });
        let found = contents(&wal.unwrap_or_else(|e| panic!("seed {seed}: {e}"))).len() as u64;
        assert_eq!(found, report.records_kept, "seed {seed}");
        assert!(found >= RECORDS - 21, "seed {seed}: {found} records");
    }
}

/// Of lanes with a hole nobody knows which of them held what is lost: only all of them together
/// tell that more is missing, also while the log is being written.
#[test]
fn beside_a_writer_verify_names_what_a_lane_lost_besides_a_hole() {
    let sim = Sim::new(4, Model::weak(true), Faults::default());
    let lanes = WalConfig { num_segments: 4, ..config(RecoveryPolicy::Salvage) };
    let wal = Wal::open_in(sim.world(), lanes.clone()).expect("a healthy world");
    append(&wal, 1, RECORDS).expect("a healthy world");
    sim.crash(CrashKind::Kill);
    drop(wal);
    let places = places(&sim);
    sim.flip(&places[30].0, places[30].1 + 30, 1).expect("it is inside");
    let wal = Wal::open_in(sim.world(), lanes).expect("Salvage gives it up");
    append(&wal, 2, 20).expect("a healthy world");
    let damage = || {
        let (disk, mut damage) = (sim.world().disk, 0);
        let tell = &mut |finding: Finding| damage += u64::from(finding.is_damage());
        let read = ReadOnlyWal::verify_on(&*disk, DIR, tell, &mut |_, _| {});
        assert!(read.expect("a healthy world").given_up > 0);
        damage
    };
    assert_eq!(damage(), 0, "the hole is known");
    for (path, at, lsn) in [&places[50], &places[70]] {
        sim.flip(path, at + 30, 1).expect("it is inside");
        assert!(damage() > 0, "record {lsn} is lost");
        sim.flip(path, at + 30, 1).expect("it is inside");
    }
    assert_eq!(damage(), 0, "nothing else is");
}
