//! Frames that end in the middle of a block, and damage that makes one look like the padding behind
//! them: what stood there is told as lost, not passed over in silence.
//!
//! ```text
//! block: | frame | frame | frame | frame | 0 0 0 |    a tag that becomes zero hides what follows
//!                     0 -------------------->  next block
//! ```
#![cfg(feature = "sim")]

use std::path::PathBuf;
use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    BatchConfig, Durability, ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, RecoveryPolicy,
    RepairReport, Wal, WalConfig, repair_in,
};

use crate::support::format::{self, Frame};

const DIR: &str = "/log";
/// Eight of their frames fill a block.
const RECORD: usize = 512 - format::HEADER - 8;

fn sim() -> Sim {
    Sim::new(1, Model::weak(true), Faults::default())
}

/// Nothing leaves before somebody waits for it.
fn config() -> WalConfig {
    let batch_config = BatchConfig { linger_ms: 1 << 40, ..BatchConfig::default() };
    WalConfig { segment_bytes: 1 << 20, batch_config, ..WalConfig::new(DIR) }
}

/// Appends `count` batches of a record each as one group.
fn group(wal: &Wal, count: usize) {
    let queued = wal.with(Durability::Queued);
    for _ in 1..count {
        queued.append_batch([[7; RECORD]]).unwrap().wait().unwrap();
    }
    wal.append_batch([[7; RECORD]]).unwrap().wait().unwrap();
}

fn frames(sim: &Sim) -> Vec<Frame> {
    let segments = sim.files().into_iter().map(|(path, _)| path);
    let segments = segments.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let of = |path: PathBuf| format::frames_in(&path, &sim.peek(&path).unwrap()).0;
    let mut all: Vec<Frame> = segments.flat_map(of).collect();
    all.sort_by_key(|frame| frame.first);
    all
}

fn hide(sim: &Sim, frame: &Frame) {
    assert!(!frame.offset.is_multiple_of(4096), "a block that begins with zero was never written");
    sim.poke(&frame.path, frame.offset as u64, &[0]).unwrap();
}

/// A closed log of blocks with four frames, of so many lanes.
fn closed(num_segments: usize) -> (Sim, Vec<Frame>) {
    let sim = sim();
    let config = WalConfig { num_segments, ..config() };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    for _ in 0..300 * num_segments {
        group(&wal, 4);
    }
    wal.close().unwrap();
    let frames = frames(&sim);
    assert_eq!(frames.len(), 1200 * num_segments);
    (sim, frames)
}

fn verify(sim: &Sim) -> Vec<Finding> {
    let mut found = Vec::new();
    let tell = &mut |finding| found.push(finding);
    ReadOnlyWal::verify_on(&*sim.world().disk, DIR, tell, &mut |_, _| {}).unwrap();
    found
}

fn repair(sim: &Sim) -> RepairReport {
    let report = repair_in(sim.world(), DIR, &mut |_, _| {}).unwrap();
    let found = verify(sim);
    assert!(found.iter().all(|finding| !finding.is_damage()), "{found:?}");
    report
}

#[test]
fn frames_that_look_like_padding_are_missed_in_the_middle() {
    let (sim, frames) = closed(1);
    // The second of its block, and with it the third and fourth.
    let hidden = &frames[41];
    assert!(hidden.sealed);
    hide(&sim, hidden);
    let found = verify(&sim);
    let [missing] = &found[..] else { panic!("{found:?}") };
    assert_eq!(missing.kind, FindingKind::Corrupt);
    assert!(missing.detail.contains(&format!("record {} is missing", hidden.first)), "{missing:?}");
    let report = repair(&sim);
    assert_eq!((report.records_kept, report.records_lost), (1197, 3), "{report:?}");
}

#[test]
fn a_frame_that_looks_like_padding_is_missed_at_the_end() {
    let (sim, frames) = closed(1);
    let hidden = frames.iter().rfind(|frame| frame.sealed).unwrap();
    hide(&sim, hidden);
    let found = verify(&sim);
    let [missing] = &found[..] else { panic!("{found:?}") };
    assert!(missing.detail.contains("zeros where a frame should be"), "{missing:?}");
    assert_eq!(missing.lsn, Some(Lsn::new(hidden.first)));
    let report = repair(&sim);
    assert_eq!((report.records_kept, report.records_lost), (1199, 1), "{report:?}");
    assert_eq!(report.holes, [Lsn::new(hidden.first)..Lsn::new(hidden.first + 1)]);
}

/// What a lane leaves out others may have: only its footer counts what it has itself.
#[test]
fn a_frame_that_looks_like_padding_is_missed_in_a_lane() {
    let (sim, frames) = closed(2);
    let hidden = frames.iter().find(|f| f.sealed && f.offset == 20 * 4096 + 3 * 512).unwrap();
    hide(&sim, hidden);
    let found = verify(&sim);
    let [missing] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&missing.path, missing.kind), (&hidden.path, FindingKind::Corrupt));
    assert!(missing.detail.contains("promises other records"), "{missing:?}");
    let report = repair(&sim);
    assert_eq!((report.records_kept, report.records_lost), (2399, 1), "{report:?}");
}

#[test]
fn what_a_torn_tail_left_behind_the_end_does_not_stand_in_for_what_was_there() {
    let sim = sim();
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    group(&wal, 8);
    group(&wal, 24);
    sim.crash(CrashKind::Kill);
    drop(wal);
    let all = frames(&sim);
    assert_eq!((all.len(), all[31].offset), (32, all[8].offset + 23 * 512));
    // Nobody was promised the second group: it ends with its third frame, the others stay.
    sim.flip(&all[11].path, all[11].offset as u64 + 30, 1).unwrap();
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    assert_eq!(wal.next_lsn(), Lsn::new(12));
    group(&wal, 3);
    wal.close().unwrap();
    hide(&sim, &all[10]);
    let found = verify(&sim);
    let [missing] = &found[..] else { panic!("{found:?}") };
    assert_eq!((missing.kind, missing.lsn), (FindingKind::Corrupt, Some(Lsn::new(11))));
    let report = repair(&sim);
    assert_eq!((report.records_kept, report.records_lost), (13, 1), "{report:?}");
    assert_eq!(report.holes, [Lsn::new(11)..Lsn::new(12)]);
}

#[test]
fn a_mark_that_is_damaged_loses_no_record() {
    let sim = sim();
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    group(&wal, 8);
    let before = frames(&sim);
    // An idle second: a mark.
    sim.pass(Duration::from_secs(3));
    for _ in 0..3 {
        group(&wal, 8);
    }
    sim.crash(CrashKind::Kill);
    drop(wal);
    let mark = before[7].offset + 512;
    sim.flip(&before[7].path, mark as u64 + 30, 1).unwrap();
    let refused = Wal::open_in(sim.world(), config()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let config = WalConfig { recovery: RecoveryPolicy::Salvage, ..config() };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    let report = wal.recovery();
    assert_eq!(report.given_up.len(), 1, "{report:?}");
    assert_eq!((wal.holes(), wal.next_lsn()), (Vec::new(), Lsn::new(33)));
    let found: Vec<_> = wal.reader(Lsn::FIRST).unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), 32);
    wal.close().unwrap();
    let found = verify(&sim);
    let [mark] = &found[..] else { panic!("{found:?}") };
    assert_eq!((mark.kind, mark.lsn), (FindingKind::GivenUp, None), "{mark:?}");
    assert!(mark.detail.contains("no record is missing"), "{mark:?}");
}

/// On a disk that is not read past its cache what no watermark proves is copied; here nothing is.
#[test]
fn where_all_is_proven_nothing_is_copied() {
    let sim = Sim::new(1, Model::weak(false), Faults::default());
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    group(&wal, 8);
    group(&wal, 8);
    sim.pass(Duration::from_secs(3));
    sim.crash(CrashKind::Kill);
    drop(wal);
    let all = frames(&sim);
    sim.flip(&all[3].path, all[3].offset as u64 + 30, 1).unwrap();
    let config = WalConfig { recovery: RecoveryPolicy::Salvage, ..config() };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    assert_eq!((wal.holes().len(), wal.next_lsn()), (1, Lsn::new(17)));
    wal.close().unwrap();
}

#[test]
fn a_header_that_is_gone_hides_no_more_than_its_segment() {
    for (used, trace) in [(true, true), (true, false), (false, true)] {
        let sim = sim();
        let wal = Wal::open_in(sim.world(), config()).unwrap();
        for _ in 0..300 {
            group(&wal, 4);
        }
        sim.pass(Duration::from_secs(3));
        sim.crash(CrashKind::Kill);
        drop(wal);
        let all = frames(&sim);
        let segments = sim.files().into_iter().map(|(path, _)| path);
        let unused = segments.filter(|path| path.extension().is_some_and(|e| e == "seg")).max();
        let path = if used { all[0].path.clone() } else { unused.unwrap() };
        let lost = all.iter().filter(|frame| frame.path == path).count() as u64;
        assert_eq!(lost > 0, used);
        sim.flip(&path, 20, 1).unwrap();
        if !trace {
            sim.flip(&path, all[20].offset as u64 + 30, 1).unwrap();
        }
        let report = repair(&sim);
        assert_eq!((report.records_kept, report.records_lost), (1200 - lost, lost), "{report:?}");
    }
}

/// Of a segment that lost its header and its first frame nobody knows whether it followed a cut
/// that META has forgotten: what older segments hold behind their beginning is in doubt.
#[test]
fn a_segment_whose_beginning_is_gone_casts_doubt_on_those_before() {
    let sim = sim();
    for _ in 0..2 {
        let wal = Wal::open_in(sim.world(), config()).unwrap();
        group(&wal, 8);
        group(&wal, 8);
        sim.pass(Duration::from_secs(3));
        sim.crash(CrashKind::Kill);
        drop(wal);
    }
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    group(&wal, 8);
    wal.truncate_after(Lsn::new(36)).unwrap();
    group(&wal, 4);
    wal.close().unwrap();
    let all = frames(&sim);
    assert_ne!(all[15].path, all[16].path);
    sim.flip(&all[16].path, 20, 1).unwrap();
    sim.flip(&all[16].path, all[16].offset as u64, 1).unwrap();
    let report = repair(&sim);
    let log = ReadOnlyWal::open_on(sim.world().disk, DIR).unwrap();
    let found = log.reader(Lsn::FIRST).unwrap().filter_map(Result::ok);
    let found: Vec<u64> = found.map(|record| record.lsn.get()).collect();
    assert_eq!(found, [1, 33, 34, 35, 36, 37, 38, 39, 40], "{report:?}");
    assert_eq!(report.records_lost, 31, "{report:?}");
}
