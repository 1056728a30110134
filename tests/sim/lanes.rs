//! Several segments open at once: what a crash, a cut or damage in one of them does to the others.
//!
//! ```text
//! segment a: 1 5 9 ..      a group each in turn; what was answered is there after a crash, and of
//! segment b: 2 6 [10] ..   the rest nothing behind the first hole, in whichever segment it is
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    Append, Durability, Error, ErrorKind, Finding, Lsn, ReadOnlyWal, Result, SyncMethod, Verdict,
    Wal, WalConfig,
};

use crate::damage::{HEADER_LEN, frames, segments};
use crate::through::{Opens, Through};

const DIR: &str = "/log";
/// So large that each batch is a group of its own; 14 fill a segment.
const LARGE: usize = 70_000;

fn try_open(sim: &Sim, lanes: usize) -> Result<Wal> {
    let sync_method = SyncMethod::Fdatasync;
    let config = WalConfig { segment_bytes: 1 << 20, sync_method, ..WalConfig::new(DIR) };
    Wal::open_in(sim.world(), WalConfig { num_segments: lanes, ..config })
}

fn open(sim: &Sim, lanes: usize) -> Wal {
    try_open(sim, lanes).expect("a healthy world opens")
}

/// The record at `lsn` that `life` appended.
fn record(life: u8, lsn: u64) -> Vec<u8> {
    let mut bytes = format!("{life} {lsn} ").into_bytes();
    bytes.resize(LARGE, life);
    bytes
}

/// Appends `count` records, each a group of its own, and waits for none.
fn submit(wal: &Wal, life: u8, count: u64, level: Durability, next: &mut u64) -> Vec<Append> {
    let lsns = *next..*next + count;
    *next = lsns.end;
    let append = |lsn| wal.with(level).append_batch([record(life, lsn)]).expect("there is room");
    lsns.map(append).collect()
}

/// Appends durable records until `lanes` segments hold some.
fn widen(wal: &Wal, life: u8, lanes: u64) -> u64 {
    let mut next = wal.next_lsn().get();
    while wal.segment_count() < lanes {
        assert!(next < 1000, "{lanes} segments were never open");
        for ticket in submit(wal, life, 1, Durability::Sync, &mut next) {
            ticket.wait().expect("a healthy world appends");
        }
    }
    next
}

/// What a log holds: `(life, lsn)` each, from its first record on.
fn contents(wal: &Wal) -> Vec<(u8, u64)> {
    let reader = wal.reader(wal.first_lsn()).expect("it starts there");
    let read = reader.zip(wal.first_lsn().get()..).map(|(read, lsn)| {
        let read = read.expect("nothing is damaged");
        let life = read.data[0] - b'0';
        assert!(read.lsn.get() == lsn && *read.data == record(life, lsn)[..], "at {lsn}");
        (life, lsn)
    });
    read.collect()
}

/// Records `lsns` of `life`.
fn all(life: u8, lsns: std::ops::Range<u64>) -> Vec<(u8, u64)> {
    lsns.map(|lsn| (life, lsn)).collect()
}

fn findings(sim: &Sim) -> Vec<Finding> {
    let mut found = Vec::new();
    let tell = &mut |finding| found.push(finding);
    ReadOnlyWal::verify_on(&*sim.world().disk, DIR, tell, &mut |_, _| {}).expect("it can be read");
    found
}

/// File and offset of each frame of `lsn`.
fn places(sim: &Sim, lsn: u64) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for (path, bytes) in segments(sim) {
        for (at, header) in frames(&bytes) {
            let first = u64::from_le_bytes(header[24..32].try_into().expect("eight bytes"));
            if header[0] == 1 && first == lsn {
                found.push((path.clone(), at as u64));
            }
        }
    }
    found
}

/// Four open segments with records of life 1, of which those from the LSN given on are written and
/// neither synced nor promised; the process is gone.
fn killed_with_unsynced_lanes(model: Model) -> (Sim, u64, u64) {
    let sim = Sim::new(5, model, Faults::default());
    let wal = open(&sim, 4);
    let mut next = widen(&wal, 1, 4);
    let unsynced = next;
    for ticket in submit(&wal, 1, 12, Durability::Written, &mut next) {
        ticket.wait().expect("a healthy world writes");
    }
    assert!(wal.durable_lsn().get() < unsynced, "nobody asked for a sync");
    sim.crash(CrashKind::Kill);
    drop(wal);
    let files: BTreeSet<_> = (unsynced..next).flat_map(|lsn| places(&sim, lsn)).collect();
    let files: BTreeSet<_> = files.into_iter().map(|(path, _)| path).collect();
    assert_eq!(files.len(), 4, "groups take turns");
    (sim, unsynced, next)
}

fn models() -> [Model; 3] {
    [Model::weak(true), Model::weak(false), Model { mapped: true, ..Model::weak(true) }]
}

#[test]
fn a_crash_with_groups_in_flight_on_four_lanes_keeps_all_that_was_answered() {
    let (mut torn, mut kept) = (0, 0);
    for seed in 0..200 {
        let sim = Sim::new(seed, Model::weak(seed % 2 == 0), Faults::default());
        let wal = open(&sim, 4);
        let mut next = widen(&wal, 1, 4);
        let promised = next;
        let crash_at = Some(sim.ops() + 1 + seed % 40);
        sim.set_faults(Faults { crash_at, ..Faults::default() });
        let level = if seed % 3 == 0 { Durability::Written } else { Durability::Sync };
        let tickets = submit(&wal, 1, 8, Durability::Sync, &mut next);
        drop(submit(&wal, 1, 4, level, &mut next));
        let answers = tickets.into_iter().map(Append::wait);
        let owed = answers.filter_map(Result::ok).map(|lsns| lsns.last().get()).max();
        sim.crash(if seed % 5 == 0 { CrashKind::Kill } else { CrashKind::Power });
        drop(wal);
        sim.set_faults(Faults::default());
        let wal = open(&sim, 1 + usize::try_from(seed % 6).expect("small"));
        let end = wal.next_lsn().get();
        assert!(end > owed.unwrap_or(promised - 1), "seed {seed}: {owed:?} was answered");
        assert_eq!(contents(&wal), all(1, 1..end), "seed {seed}");
        torn += u64::from(wal.recovery().verdict == Verdict::Torn);
        kept += end - promised;
        // What was given up must not come back among what is written now.
        let mut next = end;
        for ticket in submit(&wal, 2, 6, Durability::Sync, &mut next) {
            ticket.wait().expect("a healthy world appends");
        }
        sim.crash(CrashKind::Power);
        drop(wal);
        let wal = open(&sim, 4);
        assert_eq!(contents(&wal), [all(1, 1..end), all(2, end..end + 6)].concat(), "seed {seed}");
        wal.close().expect("a healthy world closes");
        assert!(findings(&sim).is_empty(), "seed {seed}");
    }
    assert!(torn > 10 && kept > 10, "{torn} torn tails, {kept} records kept: it shows nothing");
}

#[test]
fn a_sync_answers_for_what_was_written_when_it_began() {
    one_sync_at_a_time();
}

/// Cuts the power at each operation of appends that come while a sync is under way, on a disk of
/// which some syncs fail as well.
pub fn one_sync_at_a_time() {
    let (mut answered, mut failed, mut lost) = (0, 0, 0);
    for seed in 0..300 {
        let sim = Sim::new(seed, Model::weak(seed % 2 == 0), Faults::default());
        let wal = open(&sim, 1);
        let mut next = widen(&wal, 1, 1);
        let first = next;
        // Every third time a sync may fail instead.
        let faults = match seed % 3 {
            0 => Faults { sync_eio: 300, ..Faults::default() },
            _ => Faults { crash_at: Some(sim.ops() + 1 + seed % 50), ..Faults::default() },
        };
        sim.set_faults(faults);
        let tickets = submit(&wal, 1, 10, Durability::Sync, &mut next);
        let answers: Vec<_> = tickets.into_iter().map(Append::wait).collect();
        let owed = answers.iter().flatten().map(|lsns| lsns.last().get()).max();
        let owed = owed.unwrap_or(first - 1);
        failed += u64::from(!sim.crashed() && answers.iter().any(Result::is_err));
        sim.crash(CrashKind::Power);
        drop(wal);
        sim.set_faults(Faults::default());
        let wal = open(&sim, 1);
        let end = wal.next_lsn().get();
        assert!(end > owed, "seed {seed}: {owed} was answered, {end} is to come");
        assert_eq!(contents(&wal), all(1, 1..end), "seed {seed}");
        answered += owed + 1 - first;
        lost += next - end;
    }
    assert!(answered > 100 && failed > 10 && lost > 100, "{answered} {failed} {lost}: too few");
}

#[test]
fn a_hole_in_one_lane_gives_up_what_the_others_hold_beyond() {
    for model in models() {
        let (sim, unsynced, next) = killed_with_unsynced_lanes(model);
        let hole = unsynced + 5;
        let (path, at) = places(&sim, hole).pop().expect("it is written");
        sim.flip(&path, at + 5000, 1).expect("it is inside");
        assert!(findings(&sim).iter().all(|finding| !finding.is_damage()));
        let wal = open(&sim, 4);
        let report = wal.recovery();
        assert_eq!((report.verdict, report.kept_through.get()), (Verdict::Torn, hole - 1));
        let given_up: BTreeSet<_> = report.given_up.iter().map(|gone| &gone.path).collect();
        assert_eq!(given_up.len(), 4, "{report:?}");
        // Each from behind its last frame that is kept on.
        for gone in &report.given_up {
            let lost = (hole..next).flat_map(|lsn| places(&sim, lsn));
            let first = lost.filter(|(path, _)| *path == gone.path).map(|(_, at)| at).min();
            assert_eq!(Some(gone.offset), first, "{gone:?}");
        }
        assert_eq!(contents(&wal), all(1, 1..hole));
        let mut next = hole;
        for ticket in submit(&wal, 2, 12, Durability::Sync, &mut next) {
            ticket.wait().expect("a healthy world appends");
        }
        sim.crash(CrashKind::Power);
        drop(wal);
        let wal = open(&sim, 2);
        assert_eq!(contents(&wal), [all(1, 1..hole), all(2, hole..next)].concat());
        wal.close().expect("a healthy world closes");
        assert!(findings(&sim).is_empty());
    }
}

#[test]
fn recovery_of_unsynced_lanes_can_crash_anywhere() {
    crash_recovery();
}

/// Cuts the power at each operation of a recovery, and recovers again.
pub fn crash_recovery() {
    for model in models() {
        let mut reached = 0;
        for n in 1.. {
            let (sim, unsynced, _) = killed_with_unsynced_lanes(model.clone());
            sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
            let served = try_open(&sim, 4).ok().filter(|_| !sim.crashed());
            let served = served.map_or(unsynced - 1, |wal| wal.durable_lsn().get());
            let crashed = sim.crashed();
            sim.crash(CrashKind::Power);
            sim.set_faults(Faults::default());
            let wal = try_open(&sim, 4).unwrap_or_else(|e| panic!("operation {n}: {e}"));
            assert!(wal.durable_lsn().get() >= served, "operation {n}: {served} was served");
            assert_eq!(contents(&wal), all(1, 1..wal.next_lsn().get()), "operation {n}");
            if !crashed {
                reached = n;
                break;
            }
        }
        assert!(reached > 20, "{reached} operations are no recovery");
    }
}

#[test]
fn reopened_with_fewer_or_more_lanes_a_log_goes_on() {
    let sim = Sim::new(3, Model::weak(true), Faults::default());
    let mut expected = Vec::new();
    for (life, lanes) in (1..).zip([4, 1, 8, 2, 32, 1, 3, 4]) {
        let wal = open(&sim, lanes);
        assert_eq!(contents(&wal), expected, "life {life}");
        let first = wal.next_lsn().get();
        let mut next = first;
        for ticket in submit(&wal, life, 40, Durability::Sync, &mut next) {
            ticket.wait().expect("a healthy world appends");
        }
        expected.extend(all(life, first..next));
        // Every third life ends in the dark.
        if life % 3 == 0 {
            sim.crash(CrashKind::Power);
        } else {
            wal.close().expect("a healthy world closes");
            assert!(findings(&sim).is_empty(), "life {life}");
        }
    }
    let at = |lsn: u64| places(&sim, lsn).pop().map(|(path, _)| path);
    let turns = (1..expected.len() as u64).filter(|lsn| at(*lsn) != at(lsn + 1)).count();
    assert!(turns > 40, "groups took turns {turns} times");
}

#[test]
fn a_sync_append_makes_the_lanes_beside_it_durable_too() {
    for seed in 0..50 {
        let sim = Sim::new(seed, Model::weak(true), Faults::default());
        let wal = open(&sim, 4);
        let mut next = widen(&wal, 1, 4);
        for ticket in submit(&wal, 1, 7, Durability::Written, &mut next) {
            ticket.wait().expect("a healthy world writes");
        }
        let last = submit(&wal, 1, 1, Durability::Sync, &mut next).pop().expect("one");
        last.wait().expect("a healthy world syncs");
        sim.crash(CrashKind::Power);
        drop(wal);
        let wal = open(&sim, 4);
        assert_eq!(contents(&wal), all(1, 1..next), "seed {seed}");
    }
}

#[test]
fn cutting_interleaved_segments_keeps_every_record_from_there_on() {
    let sim = Sim::new(9, Model::weak(true), Faults::default());
    let mut next = 1;
    let mut first = 1;
    for life in 1..=6_u8 {
        let wal = open(&sim, 4);
        let mut tickets = submit(&wal, 1, 80, Durability::Sync, &mut next);
        for ticket in tickets.drain(..) {
            ticket.wait().expect("a healthy world appends");
        }
        let before = wal.segment_count();
        for cut in [first + 3, first + 40, first + 61] {
            wal.truncate_before(Lsn::new(cut)).expect("a healthy world truncates");
            assert_eq!(contents(&wal), all(1, cut..next), "cut at {cut}");
            let gone = wal.read(Lsn::new(cut - 1)).expect_err("it was cut");
            assert_eq!(gone.kind(), ErrorKind::Truncated);
        }
        first += 61;
        assert!(wal.segment_count() < before, "no segment was let go");
        if life % 2 == 0 {
            sim.crash(CrashKind::Power);
        } else {
            wal.close().expect("a healthy world closes");
            assert!(findings(&sim).is_empty(), "{:?}", findings(&sim));
        }
        let wal = open(&sim, usize::from(life));
        assert_eq!(contents(&wal), all(1, first..next), "life {life}");
        // From the middle of a segment too, and one alone.
        for lsn in first..next {
            let read = wal.read(Lsn::new(lsn)).expect("it is there");
            assert!(*read.data == record(1, lsn)[..]);
        }
        wal.close().expect("a healthy world closes");
    }
}

/// A closed log of interleaved segments, all but one sealed, that holds 1 to before the LSN given.
fn closed() -> (Sim, u64) {
    let sim = Sim::new(11, Model::weak(true), Faults::default());
    let wal = open(&sim, 4);
    let mut next = 1;
    for ticket in submit(&wal, 1, 90, Durability::Sync, &mut next) {
        ticket.wait().expect("a healthy world appends");
    }
    wal.close().expect("a healthy world closes");
    (sim, next)
}

fn assert_names(e: &Error, place: &(PathBuf, u64)) {
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert_eq!((e.path(), e.offset()), (Some(&*place.0), Some(place.1)), "{e}");
}

#[test]
fn one_flipped_bit_fails_at_its_record_and_nowhere_else() {
    let (sim, next) = closed();
    let (mut refused, mut opened) = (0, 0);
    for lsn in 1..next {
        let place = places(&sim, lsn).pop().expect("it is written");
        for within in [30, HEADER_LEN as u64 + 900] {
            let flip = || sim.flip(&place.0, place.1 + within, 2).expect("it is inside");
            flip();
            let found = findings(&sim);
            let named =
                found.iter().any(|f| f.is_damage() && (&f.path, f.offset) == (&place.0, place.1));
            assert!(named, "record {lsn}: {found:?}");
            match ReadOnlyWal::open_on(sim.world().disk, DIR) {
                Err(e) => {
                    assert_names(&e, &place);
                    refused += 1;
                }
                Ok(log) => {
                    let mut reader = log.reader(Lsn::FIRST).expect("it starts there");
                    let read = reader.by_ref().take_while(Result::is_ok).count() as u64;
                    assert_eq!(read, lsn - 1);
                    assert_names(
                        &reader.next().expect("an error stays").expect_err("it is bad"),
                        &place,
                    );
                    // The record that stands beside it in another segment is not harmed.
                    assert!(log.read(Lsn::new(if lsn == 1 { 2 } else { lsn - 1 })).is_ok());
                    opened += 1;
                }
            }
            flip();
        }
    }
    assert!(findings(&sim).is_empty());
    assert!(refused > 0 && opened > 100, "{refused} refused, {opened} opened");
}

#[test]
fn a_promised_frame_that_rots_in_one_lane_of_a_crashed_log_is_corrupt() {
    let sim = Sim::new(13, Model::weak(true), Faults::default());
    let wal = open(&sim, 4);
    let mut next = widen(&wal, 1, 4);
    for ticket in submit(&wal, 1, 10, Durability::Sync, &mut next) {
        ticket.wait().expect("a healthy world appends");
    }
    // So long that a mark says what was promised.
    sim.pass(Duration::from_secs(2));
    sim.crash(CrashKind::Power);
    drop(wal);
    let (path, at) = places(&sim, next - 6).pop().expect("it is written");
    sim.flip(&path, at + 5000, 1).expect("it is inside");
    assert_names(&try_open(&sim, 4).expect_err("it was promised"), &(path.clone(), at));
    let found = findings(&sim);
    assert!(found.iter().any(|f| f.is_damage() && f.path == path && f.offset == at), "{found:?}");
    sim.flip(&path, at + 5000, 1).expect("it is inside");
    assert_eq!(contents(&open(&sim, 4)), all(1, 1..next));
}

#[test]
fn a_segment_that_is_gone_from_between_the_others_is_missed() {
    let (sim, next) = closed();
    let files: Vec<PathBuf> = segments(&sim).into_iter().map(|(path, _)| path).collect();
    let mut missed = 0;
    for path in files {
        let bytes = sim.peek(&path).expect("it is there");
        if frames(&bytes).is_empty() {
            continue;
        }
        sim.world().disk.unlink(&path).expect("it is there");
        let refused = try_open(&sim, 4).expect_err("promised records are gone");
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert!(findings(&sim).iter().any(Finding::is_damage), "verify misses nothing");
        sim.put(&path, &bytes).expect("it was there");
        missed += 1;
    }
    assert!(missed >= 6, "{missed} segments");
    assert_eq!(contents(&open(&sim, 4)), all(1, 1..next));
}

#[test]
fn a_look_that_takes_longer_than_an_append_sees_promises_and_no_damage() {
    let sim = Sim::new(17, Model::weak(true), Faults::default());
    let wal = Arc::new(open(&sim, 4));
    let next = Arc::new(Mutex::new(widen(&wal, 1, 4)));
    let (writer, at) = (Arc::clone(&wal), Arc::clone(&next));
    // Between two files that are read records become durable that are in both, and say so.
    let before = move |_: &std::path::Path| {
        for ticket in submit(&writer, 1, 3, Durability::Sync, &mut at.lock().expect("one thread")) {
            ticket.wait().expect("a healthy world appends");
        }
    };
    let disk = Through::new(sim.world().disk, &Arc::new(Opens(before)));
    let promised = wal.durable_lsn();
    let mut log = ReadOnlyWal::open_on(Arc::new(disk), DIR).expect("nothing is damaged");
    for _ in 0..5 {
        log.refresh().expect("nothing is damaged");
    }
    assert!(log.durable_lsn() >= promised && log.durable_lsn() <= wal.durable_lsn());
    for (read, lsn) in log.reader(Lsn::FIRST).expect("it starts there").zip(1..) {
        assert!(*read.expect("it was promised").data == record(1, lsn)[..], "at {lsn}");
    }
}

#[test]
fn a_look_misses_no_segment_that_came_after_the_names_were_read() {
    // The last record kept stands in a segment whose name was read, or in another.
    (2..10).for_each(look_while_lanes_open);
}

fn look_while_lanes_open(taken: u64) {
    let sim = Sim::new(18, Model::weak(true), Faults::default());
    let wal = Arc::new(open(&sim, 4));
    let first = submit(&wal, 1, 1, Durability::Sync, &mut 1);
    first.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    let (writer, turn) = (Arc::clone(&wal), AtomicBool::new(true));
    // Names were read, META was not: lanes open, records go into all of them, and a cut seals all.
    let before = move |path: &std::path::Path| {
        if path.ends_with("META") && turn.swap(false, Ordering::Relaxed) {
            let mut next = widen(&writer, 1, 4);
            let tickets = submit(&writer, 1, 8, Durability::Sync, &mut next);
            tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
            writer.truncate_after(Lsn::new(next - taken)).expect("a healthy world cuts");
        }
    };
    let disk = Through::new(sim.world().disk, &Arc::new(Opens(before)));
    let log = ReadOnlyWal::open_on(Arc::new(disk), DIR).expect("nothing is damaged");
    let read = log.reader(Lsn::FIRST).expect("it starts there").zip(1..).map(|(read, lsn)| {
        assert!(*read.expect("it was promised").data == record(1, lsn)[..], "at {lsn}");
    });
    assert_eq!(read.count() as u64, wal.next_lsn().get() - 1);
}
