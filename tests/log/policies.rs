//! Recovery policies on damaged logs: what is kept, what is lost, and that it stays so.
//!
//! ```text
//! closed log --copy--> damage --> TornTail: Corrupt, or Corrupt at the record
//!                             --> Salvage: all but the lost   --> default policy: the same log
//!                             --> PointInTime: all before     --> default policy: the same log
//! ```
#![expect(clippy::single_range_in_vec_init, reason = "a list of holes, of which there is one")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use prkdb_core::{
    Backend, ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, RecoveryPolicy, RecoveryProgress,
    Verdict, Wal, WalConfig,
};

use crate::support;
use crate::support::damages::{BATCH, DAMAGES, Damage, RECORDS, read_over};
use crate::support::format::{self, Frame, flip};
use crate::support::{config, copy, fill, open, segments};

fn closed_log(dir: &Path, num_segments: usize) {
    let wal = Wal::open(WalConfig { num_segments, ..config(dir, Backend::Pwrite) }).unwrap();
    match num_segments {
        1 => fill(&wal, 1, RECORDS, BATCH),
        // A group each: they take turns.
        _ => (0..RECORDS / BATCH).for_each(|_| fill(&wal, 1, BATCH, BATCH)),
    }
    wal.set_user_state("kept").unwrap();
    wal.close().unwrap();
}

fn open_as(dir: &Path, recovery: RecoveryPolicy) -> Wal {
    let config = config(dir, Backend::Pwrite);
    Wal::open(WalConfig { recovery, ..config }).unwrap_or_else(|e| panic!("{recovery:?}: {e}"))
}

/// The log holds what was not lost, and `new` records behind that, however it is looked at.
fn assert_holds(dir: &Path, kept: &[u64], lost: &[Range<u64>], new: &[u64]) {
    let expected = [kept, new].concat();
    let plain = |holes: Vec<Range<Lsn>>| -> Vec<Range<u64>> {
        holes.into_iter().map(|hole| hole.start.get()..hole.end.get()).collect()
    };
    let log = ReadOnlyWal::open(dir).unwrap();
    assert_eq!(plain(log.holes()), lost);
    let (lsns, holes) = read_over(log.reader(Lsn::FIRST).unwrap());
    assert_eq!((&lsns[..], &holes[..]), (&expected[..], lost));
    for hole in lost {
        for lsn in [hole.start, hole.end - 1] {
            assert_eq!(log.read(Lsn::new(lsn)).unwrap_err().kind(), ErrorKind::Lost);
        }
        for lsn in [hole.start - 1, hole.end] {
            if kept.contains(&lsn) {
                assert_eq!(log.read(Lsn::new(lsn)).unwrap().lsn.get(), lsn);
            }
        }
    }
    assert_eq!(log.user_state(), b"kept");
    for threads in [1, 3] {
        let mut found = Vec::new();
        let tell = &mut |finding| found.push(finding);
        let summary = ReadOnlyWal::verify_with(dir, threads, tell, &mut |_, _| {}).unwrap();
        assert!(!found.iter().any(Finding::is_damage), "{found:?}");
        assert!(summary.given_up >= lost.len() as u64, "{summary:?}");
        for hole in lost {
            let names = |f: &Finding| f.lsn == Some(Lsn::new(hole.start));
            assert!(found.iter().any(|f| f.kind == FindingKind::GivenUp && names(f)), "{found:?}");
        }
        assert_eq!(summary.records, expected.len() as u64);
    }
}

fn run(dir: &Path, damage: Damage, policy: RecoveryPolicy) {
    let (frames, _) = format::log(dir);
    let mut lost = damage(dir, &frames);
    if policy == RecoveryPolicy::PointInTime {
        lost = [lost[0].start..RECORDS + 1].to_vec();
    }
    let kept: Vec<u64> =
        (1..=RECORDS).filter(|lsn| !lost.iter().any(|hole| hole.contains(lsn))).collect();
    let wal = open_as(dir, policy);
    let report = wal.recovery();
    assert_eq!(report.verdict, Verdict::Damaged);
    assert!(!report.given_up.is_empty(), "nothing was said to be given up");
    let told: Vec<_> = report.given_up.iter().filter_map(|gone| gone.lsns.clone()).collect();
    for hole in &lost {
        let tells = |lsn| told.iter().any(|lsns| lsns.contains(&Lsn::new(lsn)));
        let unusable = report.given_up.iter().any(|gone| gone.kept_as.is_some());
        assert!(unusable || hole.clone().all(tells), "{hole:?}: {report:?}");
    }
    for gone in &report.given_up {
        assert!(!gone.why.is_empty());
        let there = gone.kept_as.as_ref().unwrap_or(&gone.path);
        let renamed =
            report.given_up.iter().any(|other| other.path == gone.path && other.kept_as.is_some());
        assert!(there.exists() || renamed, "{gone:?} is not there any more");
    }
    assert_eq!(report.holes.len(), lost.len(), "{report:?}");
    assert_eq!(wal.next_lsn().get(), RECORDS + 1, "an LSN is given again, or left out");
    drop(wal);
    assert_holds(dir, &kept, &lost, &[]);
    // Nothing more is lost when it is opened the same way again, nor when the log goes on.
    let wal = open_as(dir, policy);
    assert_ne!(wal.recovery().verdict, Verdict::Damaged, "{:?}", wal.recovery());
    assert_eq!(wal.recovery().given_up, []);
    fill(&wal, 2, 3, 1);
    drop(wal);
    let new = [RECORDS + 1, RECORDS + 2, RECORDS + 3];
    assert_holds(dir, &kept, &lost, &new);
    let wal = open(dir, Backend::Auto);
    let (lsns, _) = read_over(wal.reader(Lsn::FIRST).unwrap());
    assert_eq!(lsns, [&kept[..], &new].concat());
    // A hole is a place like others to cut at.
    wal.truncate_before(Lsn::new(lost[0].start)).unwrap();
    assert_eq!(wal.first_lsn().get(), lost[0].start);
    wal.truncate_after(Lsn::new(RECORDS)).unwrap();
    wal.close().unwrap();
    let kept: Vec<u64> = kept.into_iter().filter(|lsn| *lsn >= lost[0].start).collect();
    let log = ReadOnlyWal::open(dir).unwrap();
    assert_eq!(read_over(log.reader(Lsn::new(lost[0].start)).unwrap()).0, kept);
}

#[test]
fn salvage_keeps_all_but_what_is_damaged() {
    on_all(1, RecoveryPolicy::Salvage);
}

#[test]
fn point_in_time_keeps_all_before_the_damage() {
    on_all(1, RecoveryPolicy::PointInTime);
}

#[test]
fn both_know_segments_that_were_written_side_by_side() {
    on_all(3, RecoveryPolicy::Salvage);
    on_all(3, RecoveryPolicy::PointInTime);
}

fn on_all(num_segments: usize, policy: RecoveryPolicy) {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from, num_segments);
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        println!("{what}");
        let dir = root.path().join(number.to_string());
        copy(&from, &dir);
        if num_segments > 1 {
            side_by_side(&dir, *damage, policy);
        } else {
            run(&dir, *damage, policy);
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

/// Which records a segment held is woven then: what is lost is what its frames say.
fn side_by_side(dir: &Path, damage: Damage, policy: RecoveryPolicy) {
    let (before, _) = format::log(dir);
    let apart = |w: &[Frame]| w[0].path != w[1].path;
    assert!(before.windows(2).filter(|w| apart(w)).count() > 20, "they did not take turns");
    let most = match policy {
        // Between the frames of a segment stand those of the others, which are not lost.
        RecoveryPolicy::Salvage => {
            damage(dir, &before).iter().map(|lost| lost.end - lost.start).sum()
        }
        _ => damage(dir, &before).len() as u64 * RECORDS,
    };
    let wal = open_as(dir, policy);
    let report = wal.recovery();
    let lost: u64 = report.holes.iter().map(|hole| hole.end.get() - hole.start.get()).sum();
    assert!((BATCH..=most).contains(&lost), "{report:?}");
    drop(wal);
    let wal = open_as(dir, RecoveryPolicy::TornTail);
    fill(&wal, 2, 3, 1);
    let (lsns, holes) = read_over(wal.reader(Lsn::FIRST).unwrap());
    let told: u64 = holes.iter().map(|hole| hole.end - hole.start).sum();
    assert_eq!((lsns.len() as u64 + lost, told), (RECORDS + 3, lost));
    if policy == RecoveryPolicy::PointInTime {
        assert_eq!(holes.len(), 1);
    }
    wal.close().unwrap();
    let told = |f: &Finding| format!("{policy:?}: {f:?} beside {report:?}");
    let tell = &mut |f: Finding| assert!(!f.is_damage(), "{}", told(&f));
    let summary = ReadOnlyWal::verify(dir, tell, &mut |_, _| {}).unwrap();
    assert_eq!(summary.records, RECORDS + 3 - lost);
    assert_ne!(open_as(dir, policy).recovery().verdict, Verdict::Damaged);
}

#[test]
fn without_damage_both_do_what_the_default_does() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from, 1);
    let (frames, _) = format::log(&from);
    for policy in [RecoveryPolicy::Salvage, RecoveryPolicy::PointInTime] {
        let dir = root.path().join(format!("{policy:?}"));
        copy(&from, &dir);
        let wal = open_as(&dir, policy);
        assert_eq!(wal.recovery().verdict, Verdict::Clean);
        assert_eq!(wal.holes(), []);
        wal.close().unwrap();
        assert_eq!(support::contents(&dir).len(), usize::try_from(RECORDS).unwrap());
        assert_eq!(format::log(&dir).0.len(), frames.len());
    }
}

#[test]
fn progress_is_told_from_nothing_to_all_under_every_policy() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir, 1);
    let policies = [
        (RecoveryPolicy::TornTail, 1),
        (RecoveryPolicy::Strict, 1),
        (RecoveryPolicy::PointInTime, 3),
        (RecoveryPolicy::Salvage, 3),
    ];
    for (recovery, passes) in policies {
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        let bytes: u64 = support::segments(&dir).iter().map(size).sum();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let config = WalConfig { recovery, ..config(&dir, Backend::Pwrite) };
        let hear = move |p: RecoveryProgress| heard.lock().unwrap().push(p);
        let config = config.on_recovery_progress(hear);
        assert_eq!(config.clone(), config);
        assert!(format!("{config:?}").contains("recovery_progress: Some("));
        let wal = Wal::open(config).unwrap();
        let told = told.lock().unwrap().clone();
        assert!(told.len() as u64 >= passes * support::segments(&dir).len() as u64, "{told:?}");
        assert!(told.iter().all(|p| p.bytes_total == passes * bytes), "{told:?} of {bytes}");
        assert!(told.is_sorted_by_key(|p| p.bytes_done), "{told:?}");
        let (first, last) = (told[0], told[told.len() - 1]);
        assert!(first.bytes_done < first.bytes_total && last.bytes_done == last.bytes_total);
        wal.close().unwrap();
    }
}

#[test]
fn a_log_without_meta_is_refused_under_every_policy() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir, 1);
    for offset in [20, format::SLOT + 20] {
        flip(&dir.join("META"), offset);
    }
    let before = support::image(&dir);
    let policies = [
        RecoveryPolicy::TornTail,
        RecoveryPolicy::Strict,
        RecoveryPolicy::PointInTime,
        RecoveryPolicy::Salvage,
    ];
    for recovery in policies {
        let e = Wal::open(WalConfig { recovery, ..config(&dir, Backend::Pwrite) }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
    assert!(support::image(&dir) == before, "a refused open changed the log");
}

/// Cut twice: META tells of both cuts, and the segment that began at the first is lost.
#[test]
fn what_was_cut_does_not_come_back_with_the_segment_behind_it_lost() {
    // Of the header: what only names the log; what its checksums are salted with.
    for at in [20, 50] {
        for policy in [RecoveryPolicy::Salvage, RecoveryPolicy::PointInTime] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("log");
            let wal = Wal::open(config(&dir, Backend::Pwrite)).unwrap();
            fill(&wal, 1, 80, 1);
            wal.truncate_after(Lsn::new(49)).unwrap();
            fill(&wal, 2, 30, 1);
            wal.truncate_after(Lsn::new(60)).unwrap();
            fill(&wal, 3, 10, 1);
            wal.close().unwrap();
            let behind = support::segments(&dir).into_iter();
            let mut behind = behind.filter(|path| format::frames(path).0[0].first == 50);
            flip(&behind.next().unwrap(), at);
            let wal = open_as(&dir, policy);
            let mut kept = Vec::new();
            for read in wal.reader(Lsn::FIRST).unwrap().flatten() {
                let lsn = read.lsn.get();
                let life = if lsn > 60 { 3 } else { 1 };
                assert!(*read.data == support::record(life, lsn)[..], "{lsn} is of another life");
                kept.push(lsn);
            }
            assert!(kept[0] == 1 && kept.iter().all(|lsn| !(50..=60).contains(lsn)), "{kept:?}");
            assert!(kept.contains(&49), "nothing casts doubt on what lies before a known cut");
            assert_eq!(kept.contains(&61), policy == RecoveryPolicy::Salvage);
            assert_eq!(wal.next_lsn().get(), 71);
        }
    }
}

#[test]
fn a_segment_of_which_nothing_is_kept_is_renamed_and_not_removed() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from, 1);
    for policy in [RecoveryPolicy::Salvage, RecoveryPolicy::PointInTime] {
        let dir = root.path().join(format!("{policy:?}"));
        copy(&from, &dir);
        let (frames, _) = format::log(&dir);
        let paths = support::segments(&dir);
        flip(&paths[0], frames[3].offset + 24);
        let all = frames.iter().filter(|f| f.path == paths[1]);
        all.for_each(|frame| flip(&frame.path, frame.offset + 24));
        let before = fs::read(&paths[1]).unwrap();
        let wal = open_as(&dir, policy);
        let kept_as = PathBuf::from(format!("{}.given-up", paths[1].display()));
        assert!(fs::read(&kept_as).unwrap() == before && !paths[1].exists());
        let report = wal.recovery();
        let told = report.given_up.iter().filter(|gone| gone.path == paths[1]);
        assert!(told.clone().count() > 0, "{report:?}");
        assert!(told.clone().all(|gone| gone.kept_as.as_ref() == Some(&kept_as)), "{report:?}");
    }
}

#[test]
fn names_and_watermarks_that_leave_no_numbers_are_no_panic() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    closed_log(&from, 1);
    for policy in [RecoveryPolicy::Salvage, RecoveryPolicy::PointInTime] {
        let dir = root.path().join(format!("{policy:?}"));
        copy(&from, &dir);
        for number in [u64::MAX, u64::MAX - 1] {
            fs::write(dir.join(format!("{number:020}.seg")), vec![7; 20 * 4096]).unwrap();
        }
        let wal = open_as(&dir, policy);
        assert_eq!(wal.holes(), []);
        fill(&wal, 2, 3, 1);
        drop(wal);
        let wal = open(&dir, Backend::Auto);
        assert_eq!(read_over(wal.reader(Lsn::FIRST).unwrap()).0.len() as u64, RECORDS + 3);
        wal.close().unwrap();
        // META promises all there is.
        let meta = dir.join("META");
        for slot in [0, format::SLOT] {
            format::change(&meta, slot..slot + format::SLOT, |bytes| {
                bytes[64..72].fill(0xff);
                format::fix_crc(bytes);
            });
        }
        let refused = Wal::open(WalConfig { recovery: policy, ..config(&dir, Backend::Pwrite) });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn new_rot_beside_a_known_hole_is_told() {
    for num_segments in [1, 3] {
        let root = tempfile::tempdir().unwrap();
        let from = root.path().join("from");
        closed_log(&from, num_segments);
        let (frames, _) = format::log(&from);
        let one: Vec<&Frame> = frames.iter().filter(|f| f.path == frames[0].path).collect();
        let damage = |found: &Path, frame: &Frame| {
            flip(&found.join(frame.path.file_name().unwrap()), frame.offset + 24);
        };
        for beside in [4, 6] {
            let dir = root.path().join(beside.to_string());
            copy(&from, &dir);
            damage(&dir, one[5]);
            open_as(&dir, RecoveryPolicy::Salvage).close().unwrap();
            let verify = || {
                let mut found = Vec::new();
                let tell = &mut |finding| found.push(finding);
                ReadOnlyWal::verify_with(&dir, 1, tell, &mut |_, _| {}).unwrap();
                found
            };
            assert!(!verify().iter().any(Finding::is_damage), "{:?}", verify());
            damage(&dir, one[beside]);
            let found = verify();
            assert!(found.iter().any(Finding::is_damage), "{num_segments}: {found:?}");
        }
    }
}

#[test]
fn holes_go_with_the_records_before_the_cut() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    closed_log(&dir, 1);
    let (frames, _) = format::log(&dir);
    for frame in [&frames[5], &frames[50]] {
        flip(&frame.path, frame.offset + 24);
    }
    let wal = open_as(&dir, RecoveryPolicy::Salvage);
    let holes = wal.holes();
    assert_eq!(holes.len(), 2);
    let inside = Lsn::new(holes[1].start.get() + 2);
    wal.truncate_before(inside).unwrap();
    assert_eq!(wal.holes(), [inside..holes[1].end].to_vec());
    wal.truncate_before(holes[1].end).unwrap();
    assert_eq!(wal.holes(), []);
    wal.close().unwrap();
    let meta = fs::read(dir.join("META")).unwrap();
    assert_eq!(format::u32_at(&meta, 100), 0, "META keeps ranges below the first record");
    assert_eq!(ReadOnlyWal::open(&dir).unwrap().holes(), []);
}

/// Two cuts, the later one higher: each is known from META, also when the segment that stood
/// between them is gone.
#[test]
fn what_was_cut_does_not_come_back_where_what_came_after_it_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let from = root.path().join("from");
    let wal = open(&from, Backend::Pwrite);
    let append = |texts: &[&str]| wal.append_batch(texts).unwrap().wait().unwrap();
    append(&["a"; 10]);
    append(&["b"; 10]);
    wal.truncate_after(Lsn::new(15)).unwrap();
    append(&["c", "c", "c"]);
    wal.truncate_after(Lsn::new(17)).unwrap();
    append(&["d", "d"]);
    wal.close().unwrap();
    let read = |wal: &Wal| {
        let kept = wal.reader(Lsn::FIRST).unwrap().filter_map(|record| match record {
            Ok(record) => Some((record.lsn.get(), char::from(record.data[0]))),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Lost, "{e}");
                None
            }
        });
        kept.collect::<Vec<_>>()
    };
    let texts = |text: char, lsns: Range<u64>| lsns.map(move |lsn| (lsn, text));
    let before = texts('a', 1..11).chain(texts('b', 11..16));
    let all = before.clone().chain(texts('c', 16..18)).chain(texts('d', 18..20));
    let wal = open(&from, Backend::Pwrite);
    assert_eq!(read(&wal), all.collect::<Vec<_>>());
    wal.close().unwrap();

    let between = segments(&from).remove(1);
    let gone = |policy| {
        let dir = root.path().join(format!("{policy:?}"));
        copy(&from, &dir);
        fs::remove_file(dir.join(between.file_name().unwrap())).unwrap();
        dir
    };
    let dir = gone(RecoveryPolicy::TornTail);
    assert_eq!(Wal::open(config(&dir, Backend::Pwrite)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(ReadOnlyWal::open(&dir).unwrap_err().kind(), ErrorKind::Corrupt);
    let wal = open_as(&gone(RecoveryPolicy::Salvage), RecoveryPolicy::Salvage);
    assert_eq!(read(&wal), before.clone().chain(texts('d', 18..20)).collect::<Vec<_>>());
    assert_eq!(wal.holes(), [Lsn::new(16)..Lsn::new(18)]);
    let wal = open_as(&gone(RecoveryPolicy::PointInTime), RecoveryPolicy::PointInTime);
    assert_eq!(read(&wal), before.collect::<Vec<_>>());
}
