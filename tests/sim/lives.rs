//! What an earlier life left behind its end is never taken for what a later one promised, though
//! both ends of that are lost.
//!
//! ```text
//! life 1   | 1 .. k | lost | whole, and given up | .. | footer, rots
//! life 2                | k+1 .. of life 2       |      header of its first segment, rots
//! repair   1 .. k of life 1, holes, and of life 2 what is left
//! ```

use std::path::PathBuf;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{ErrorKind, Lsn, RecoveryPolicy, Wal, WalConfig, repair_in};

use crate::damage::{frames, segments};

const BEFORE: u64 = 10;
const IN_FLIGHT: u64 = 12;
const AFTER: u64 = 50;
const FIRST_FRAME: u64 = 4096;

fn open(sim: &Sim, recovery: RecoveryPolicy) -> prkdb_core::Result<Wal> {
    let config = WalConfig { segment_bytes: 1 << 20, recovery, ..WalConfig::new("/log") };
    Wal::open_in(sim.world(), config)
}

fn record(life: u64, lsn: u64) -> Vec<u8> {
    let mut record = format!("life {life}, record {lsn}").into_bytes();
    record.resize(20_000, b' ');
    record
}

/// The records that whole frames of a file hold.
fn lsns(bytes: &[u8]) -> Vec<u64> {
    let header = |(_, header): (usize, &[u8])| (header[0] == 1).then(|| header[24..32].try_into());
    let lsns = frames(bytes).into_iter().filter_map(header);
    lsns.map(|lsn| u64::from_le_bytes(lsn.expect("eight bytes"))).collect()
}

/// How many batches the second life appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batches {
    Many,
    One,
}

/// A log of two lives, the first ended by a power cut; the last record of the first life, its
/// segment, and the first segment of the second. None if the cut left nothing whole behind a hole.
fn two_lives(seed: u64, batches: Batches) -> Option<(Sim, u64, PathBuf, PathBuf)> {
    let sim = Sim::new(seed, Model::weak(true), Faults::default());
    let wal = open(&sim, RecoveryPolicy::TornTail).expect("a healthy world");
    for lsn in 1..=BEFORE {
        wal.append_batch([record(1, lsn)]).expect("healthy").wait().expect("healthy");
    }
    let in_flight = BEFORE + 1..=BEFORE + IN_FLIGHT;
    let tickets = in_flight.map(|lsn| wal.append_batch([record(1, lsn)]).expect("healthy"));
    let tickets: Vec<_> = tickets.collect();
    sim.set_faults(Faults { crash_at: Some(sim.ops() + 8 + seed % 8), ..Faults::default() });
    tickets.into_iter().for_each(|ticket| drop(ticket.wait()));
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Power);
    drop(wal);
    let wal = open(&sim, RecoveryPolicy::TornTail).expect("a healthy world");
    let kept = wal.next_lsn().get() - 1;
    let behind = |(_, bytes): &&(PathBuf, Vec<u8>)| lsns(bytes).iter().any(|lsn| *lsn > kept + 1);
    let first = segments(&sim).iter().find(behind).map(|(path, _)| path.clone())?;
    let batch = match batches {
        Batches::Many => 1,
        Batches::One => AFTER - kept,
    };
    for first in (kept + 1..=AFTER).step_by(usize::try_from(batch).expect("few")) {
        let records: Vec<_> = (first..first + batch).map(|lsn| record(2, lsn)).collect();
        wal.append_batch(&records).expect("healthy").wait().expect("healthy");
    }
    wal.close().expect("a healthy world");
    let begins = |(_, bytes): &&(PathBuf, Vec<u8>)| lsns(bytes).first() == Some(&(kept + 1));
    let second = segments(&sim).iter().find(begins).map(|(path, _)| path.clone())?;
    Some((sim, kept, first, second))
}

/// Nothing is served as what another life put in its place; gives how many records are.
fn check(wal: &Wal, kept: u64, at: &str) -> u64 {
    let mut served = 0;
    for found in wal.reader(Lsn::FIRST).expect("it starts there") {
        match found {
            Ok(found) => {
                let lsn = found.lsn.get();
                let life = if lsn <= kept { 1 } else { 2 };
                assert!(found.data[..] == record(life, lsn)[..], "{at}: {lsn} of another life");
                served += 1;
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Lost, "{at}: {e}"),
        }
    }
    served
}

/// Rots the footer of the first life's segment and the header of the second's first, at `byte`.
fn rot(sim: &Sim, first: &PathBuf, second: &PathBuf, byte: u64) {
    let size = sim.files().iter().find(|(path, _)| path == first).expect("it is there").1;
    let footer = size - 4096;
    sim.flip(first, footer + 30, 1).expect("it is inside");
    sim.flip(second, byte, 1).expect("it is inside");
}

#[test]
fn what_an_earlier_life_gave_up_never_comes_back() {
    let mut tried = 0;
    for seed in 0..200 {
        // Of the second segment nothing is known; or its first record is; or its only frame is
        // lost.
        for (byte, batches) in
            [(50, Batches::Many), (20, Batches::Many), (FIRST_FRAME + 30, Batches::One)]
        {
            let Some((sim, kept, first, second)) = two_lives(seed, batches) else { continue };
            tried += 1;
            rot(&sim, &first, &second, byte);
            let at = format!("seed {seed}, byte {byte}");
            let wal = open(&sim, RecoveryPolicy::Salvage).expect("it gives up what it must");
            assert!(check(&wal, kept, &at) >= BEFORE, "{at}: what was promised first");
            wal.close().expect("a healthy world");
        }
    }
    assert!(tried >= 10, "{tried} logs had something whole behind a hole");
}

#[test]
fn nor_where_the_mending_is_cut_short() {
    let seeds: Vec<u64> =
        (0..60).filter(|seed| two_lives(*seed, Batches::Many).is_some()).collect();
    assert!(seeds.len() >= 3, "{seeds:?} had something whole behind a hole");
    for (seed, policy) in seeds.iter().flat_map(|seed| {
        [RecoveryPolicy::Salvage, RecoveryPolicy::PointInTime].map(|policy| (*seed, policy))
    }) {
        let operations = (1..).find(|n| cut_short(seed, policy, *n)).unwrap_or_default();
        println!("seed {seed}, {policy:?}: {operations} operations");
    }
}

/// Crashes the mending at operation `n`, and mends again; whether it was at its end before.
fn cut_short(seed: u64, policy: RecoveryPolicy, n: u64) -> bool {
    let (sim, kept, first, second) =
        two_lives(seed, Batches::Many).expect("it was one a moment ago");
    rot(&sim, &first, &second, 20);
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let opened = open(&sim, policy);
    let is_done = !sim.crashed();
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Power);
    drop(opened);
    let wal = open(&sim, policy).expect("it gives up what it must");
    check(&wal, kept, &format!("seed {seed}, {policy:?}, operation {n}"));
    wal.close().expect("a healthy world");
    is_done
}

#[test]
fn a_segment_that_waits_to_be_used_again_explains_no_loss() {
    let sim = Sim::new(7, Model::weak(true), Faults::default());
    let wal = open(&sim, RecoveryPolicy::TornTail).expect("a healthy world");
    let mut next = 1;
    let mut append = |wal: &Wal, count: u64| {
        for _ in 0..count {
            wal.append_batch([record(1, next)]).expect("healthy").wait().expect("healthy");
            next += 1;
        }
        next
    };
    let first = append(&wal, 400) - 5;
    wal.truncate_before(Lsn::new(first)).expect("a healthy world");
    let next = append(&wal, 120);
    sim.crash(CrashKind::Kill);
    drop(wal);
    let reused = segments(&sim).iter().filter(|(_, bytes)| lsns(bytes).is_empty()).count();
    assert!(reused > 0, "a segment is ready, and was used before");
    let (path, at) = segments(&sim)
        .iter()
        .find_map(|(path, bytes)| {
            let mut all = frames(bytes).into_iter();
            let place = all.find(|(_, header)| header[24..32] == (first + 60).to_le_bytes())?;
            Some((path.clone(), place.0 as u64))
        })
        .expect("it was promised");
    sim.flip(&path, at + 30, 1).expect("it is inside");
    let wal = open(&sim, RecoveryPolicy::Salvage).expect("it gives up one record");
    let given_up: Vec<_> = wal.recovery().given_up;
    let told: Vec<_> = given_up.iter().filter_map(|gone| gone.lsns.clone()).collect();
    assert_eq!(told, [Lsn::new(first + 60)..Lsn::new(first + 61)], "{given_up:?}");
    let aside = |(path, _): &(PathBuf, u64)| path.to_string_lossy().contains("given-up");
    assert!(!sim.files().iter().any(aside), "{given_up:?}");
    assert_eq!(wal.next_lsn(), Lsn::new(next));
    wal.close().expect("a healthy world");
}

/// Segments in the pool.
fn retired(sim: &Sim) -> Vec<PathBuf> {
    let files = sim.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.extension().is_some_and(|extension| extension == "free")).collect()
}

#[test]
fn what_waits_to_be_wiped_waits_through_a_repair() {
    let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new("/log") };
    let config = WalConfig { wipe_retired: true, ..config };
    let mut waited = 0;
    for n in 1.. {
        let sim = Sim::new(7, Model::weak(true), Faults::default());
        let wal = Wal::open_in(sim.world(), config.clone()).expect("a healthy world");
        for lsn in 1..=300 {
            wal.append_batch([record(1, lsn)]).expect("healthy").wait().expect("healthy");
        }
        sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
        let cut = wal.truncate_before(Lsn::new(250));
        sim.set_faults(Faults::default());
        sim.crash(CrashKind::Kill);
        drop(wal);
        let waiting = retired(&sim);
        waited += waiting.len();
        let last = |(_, bytes): &&(PathBuf, Vec<u8>)| lsns(bytes).contains(&290);
        let (path, bytes) = segments(&sim).iter().find(last).cloned().expect("it was promised");
        let (at, _) = frames(&bytes)[1];
        sim.flip(&path, at as u64 + 30, 1).expect("it is inside");
        let done = repair_in(sim.world(), "/log", &mut |_, _| ()).expect("a healthy world");
        assert!(done.changed, "operation {n}: {done:?}");
        let after = retired(&sim);
        assert!(after.len() >= waiting.len(), "operation {n}: {waiting:?}, {after:?}");
        // Nor is one of them used again: what is not closed tells nothing of names on the device.
        let as_before = |path: &&PathBuf| waiting.contains(path);
        assert_eq!(after.iter().find(as_before), None, "operation {n}");
        if cut.is_ok() {
            break;
        }
    }
    assert!(waited > 0, "nothing waited to be wiped");
}
