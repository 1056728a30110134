//! What is whole and given up leaves the log under another name: no policy, and no repair, removes
//! the last copy of a record that was acknowledged and can still be read by hand.
//!
//! ```text
//! before   whole frames in any file of the log  \  after a mend, cut short anywhere:
//! after    whole frames in any file             /  the same ones, in segments or beside them
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Lsn, RecoveryPolicy, Result, Wal, WalConfig, repair_in};

use crate::damage::{frames, segments};

/// How a log is made whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    By(RecoveryPolicy),
    Repair,
}

const WAYS: [Way; 3] =
    [Way::By(RecoveryPolicy::PointInTime), Way::By(RecoveryPolicy::Salvage), Way::Repair];

/// A rename is one step here, as on every file system with a journal.
fn world() -> Sim {
    Sim::new(7, Model::ordered(true), Faults::default())
}

fn config(recovery: RecoveryPolicy) -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, recovery, ..WalConfig::new("/log") }
}

fn open(sim: &Sim) -> Wal {
    Wal::open_in(sim.world(), config(RecoveryPolicy::TornTail)).expect("a healthy world")
}

/// Appends one batch of `count` records; 26 of 40,000 bytes fill a segment.
fn append(wal: &Wal, count: u64) {
    let next = wal.next_lsn().get();
    let record = |lsn: u64| {
        let mut record = format!("record {lsn}.").into_bytes();
        record.resize(40_000, b' ');
        record
    };
    let batch: Vec<_> = (next..next + count).map(record).collect();
    wal.append_batch(&batch).expect("healthy").wait().expect("healthy");
}

fn mend(sim: &Sim, way: Way) -> Result<Vec<prkdb_core::GivenUp>> {
    match way {
        Way::By(policy) => {
            let wal = Wal::open_in(sim.world(), config(policy))?;
            let given_up = wal.recovery().given_up;
            wal.close()?;
            Ok(given_up)
        }
        Way::Repair => Ok(repair_in(sim.world(), "/log", &mut |_, _| ())?.given_up),
    }
}

/// The first record of each whole frame in any file.
fn held(sim: &Sim) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    for (path, _) in sim.files() {
        let bytes = sim.peek(&path).expect("listed just now");
        for (at, header) in frames(&bytes).into_iter().filter(|(_, header)| header[0] == 1) {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[48..64]);
            crc.update(&(at as u64).to_le_bytes());
            crc.update(&header[..68]);
            if crc.finalize().to_le_bytes() == header[68..72] {
                let text = bytes[at + 72..].split(|byte| *byte == b'.').next().expect("one");
                held.insert(String::from_utf8_lossy(text).into_owned());
            }
        }
    }
    held
}

/// The segment whose first frame begins with `lsn`, and where that is.
fn segment_of(sim: &Sim, lsn: u64) -> (PathBuf, u64) {
    let begins = |(_, bytes): &(PathBuf, Vec<u8>)| {
        frames(bytes).iter().any(|(_, header)| header[24..32] == lsn.to_le_bytes())
    };
    let (path, bytes) = segments(sim).into_iter().find(begins).expect("it was promised");
    let all = frames(&bytes);
    let frame = all.iter().find(|(_, header)| header[24..32] == lsn.to_le_bytes());
    (path.clone(), frame.expect("looked for just now").0 as u64)
}

fn rot_frame(sim: &Sim, lsn: u64) {
    let (path, at) = segment_of(sim, lsn);
    sim.flip(&path, at + 30, 1).expect("it is inside");
}

fn rot_footer(sim: &Sim, lsn: u64) {
    let (path, _) = segment_of(sim, lsn);
    let size = sim.peek(&path).expect("it is there").len() as u64;
    sim.flip(&path, size - 4096 + 30, 1).expect("it is inside");
}

/// Mends what `make` made, whole and cut short at each operation: all that was held still is.
fn all_stays(name: &str, make: fn() -> Sim) {
    for way in WAYS {
        for n in 0.. {
            let sim = make();
            let at = format!("{name}, {way:?}, crash at operation {n}");
            let before = held(&sim);
            if n > 0 {
                sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
                let cut_short = mend(&sim, way);
                let is_done = !sim.crashed();
                sim.set_faults(Faults::default());
                sim.crash(CrashKind::Power);
                drop(cut_short);
                if is_done {
                    break;
                }
            }
            mend(&sim, way).unwrap_or_else(|e| panic!("{at}: {e}"));
            // Whatever is spent goes with the next open.
            open(&sim).close().expect("a healthy world");
            let after = held(&sim);
            let gone: Vec<_> = before.difference(&after).collect();
            assert!(gone.is_empty(), "{at}: {gone:?}, of {} whole frames", before.len());
        }
    }
}

#[test]
fn the_tail_behind_a_hole() {
    all_stays("tail", || {
        let sim = world();
        let wal = open(&sim);
        (0..5).for_each(|_| append(&wal, 8));
        sim.crash(CrashKind::Kill);
        drop(wal);
        rot_frame(&sim, 9);
        sim
    });
}

#[test]
fn an_earlier_life_that_lost_its_footer_before_one_that_lost_its_beginning() {
    all_stays("two lives", || {
        let sim = world();
        for _ in 0..3 {
            let wal = open(&sim);
            append(&wal, 2);
            if wal.next_lsn() > Lsn::new(5) {
                append(&wal, 2);
            }
            sim.crash(CrashKind::Kill);
            drop(wal);
        }
        rot_footer(&sim, 3);
        rot_frame(&sim, 5);
        sim
    });
}

#[test]
fn what_stood_before_a_cut_and_lost_its_first_frame() {
    all_stays("cut", || {
        let sim = world();
        let wal = open(&sim);
        (0..5).for_each(|_| append(&wal, 2));
        wal.truncate_after(Lsn::new(8)).expect("healthy");
        (0..3).for_each(|_| append(&wal, 2));
        wal.close().expect("healthy");
        rot_footer(&sim, 1);
        rot_frame(&sim, 1);
        sim
    });
}

/// A log whose last segment was used before and holds one batch.
fn reused() -> (Sim, u64) {
    let sim = world();
    let wal = open(&sim);
    (0..30).for_each(|_| append(&wal, 8));
    wal.truncate_before(Lsn::new(200)).expect("healthy");
    for _ in 0..20 {
        append(&wal, 8);
        let last = wal.next_lsn().get() - 8;
        let (path, at) = segment_of(&sim, last);
        let bytes = sim.peek(&path).expect("it is there");
        // Flags of the header: made of zeros, or of a segment that was used before.
        let was_used = bytes[usize::try_from(at).expect("a segment is small")..]
            .chunks(4096)
            .rev()
            .skip(1)
            .any(|block| block[0] == 1 && block[48..56] != bytes[32..40]);
        if at == 4096 && was_used {
            wal.close().expect("healthy");
            return (sim, last);
        }
    }
    panic!("no segment was used again");
}

#[test]
fn a_segment_that_was_used_before_and_lost_its_only_frame() {
    for way in WAYS {
        let (sim, last) = reused();
        let (path, at) = segment_of(&sim, last);
        rot_frame(&sim, last);
        let given_up = mend(&sim, way).unwrap_or_else(|e| panic!("{way:?}: {e}"));
        let told = given_up.iter().find(|gone| gone.path == path);
        let told = told.unwrap_or_else(|| panic!("{way:?} tells of no {path:?}: {given_up:?}"));
        assert_eq!(told.offset, at, "{way:?}: {told:?}");
        assert_eq!(told.lsns, Some(Lsn::new(last)..Lsn::new(last + 8)), "{way:?}: {told:?}");
        open(&sim).close().expect("a healthy world");
        let kept = told.kept_as.as_ref().unwrap_or_else(|| panic!("{way:?}: {told:?}"));
        assert!(sim.peek(kept).is_ok(), "{way:?}: {kept:?} is gone");
    }
}
