//! A whole log, damaged: opened for reading, read, verified; opened for writing, written on;
//! mended by a policy or by repair, in place or elsewhere.
//!
//! Where no checksum was forged, whatever is read is what was written, in every case. What was
//! mended opens by the default policy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use prkdb_core::io::sim::Sim;
use prkdb_core::{
    ErrorKind, Finding, FindingKind, Lsn, ReadOnlyWal, RecoveryPolicy, Result, Wal, WalConfig,
    repair_in, repair_to_in,
};

use super::base::{self, Base, DIR, Kind};
use super::input::Input;
use super::layout::BLOCK;

/// Bits of the second byte: forge checksums; write on; three of how to mend; a log with a hole.
const FORGE: u8 = 1;
const WRITE: u8 = 2;
const MEND_SHIFT: u8 = 2;
const HOLE: u8 = 32;
/// A log has no more files than that, here.
const MOST_FILES: usize = 12;

/// Input: which log, what to do; then edits of its files: a way, a spot, a place in it, operands.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (number, mode) = (input.pick(base::COUNT), input.byte());
    let number = if mode & HOLE == 0 { number } else { base::WITH_HOLE };
    let base = base::base(number);
    let mut files = base.files.clone();
    while !input.is_empty() {
        edit(&mut input, base, &mut files, mode & FORGE != 0);
    }
    let sim = base::world(&files);
    let read = look(&sim);
    if mode & FORGE == 0 {
        check_genuine(base, &sim, &read);
    }
    if mode & WRITE != 0 {
        write_on(number, &files, &read, mode & FORGE != 0);
    }
    if let Some(way) = Mend::of(mode >> MEND_SHIFT & 7) {
        mend(way, number, &files, mode & FORGE != 0);
    }
}

/// How a log is made whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    By(RecoveryPolicy),
    InPlace,
    Elsewhere,
}

impl Mend {
    fn of(bits: u8) -> Option<Mend> {
        match bits {
            1 => Some(Mend::By(RecoveryPolicy::Strict)),
            2 => Some(Mend::By(RecoveryPolicy::PointInTime)),
            3 => Some(Mend::By(RecoveryPolicy::Salvage)),
            4 => Some(Mend::InPlace),
            5 => Some(Mend::Elsewhere),
            _ => None,
        }
    }
}

fn edit(input: &mut Input<'_>, base: &Base, files: &mut Vec<(String, Vec<u8>)>, forge: bool) {
    let (way, spot) = (input.byte(), &base.spots[input.pick(base.spots.len())]);
    if spot.file >= files.len() {
        return;
    }
    let place = spot.at + input.size(if spot.kind == Kind::Body { 2 } else { 1 }) % spot.len;
    let file = &mut files[spot.file].1;
    match way % 12 {
        0 => {
            let mask = input.byte();
            file.get_mut(place).into_iter().for_each(|byte| *byte ^= mask);
        }
        1 => overwrite(file, place, input.take(1)),
        2 => overwrite(file, place, input.take(2)),
        3 => overwrite(file, place, input.take(4)),
        4 => overwrite(file, place, input.take(8)),
        5 => {
            let block = place / BLOCK * BLOCK;
            let blocks = usize::from(input.byte());
            let end = file.len().min(block + blocks * BLOCK);
            if block < end {
                file[block..end].fill(0);
            }
        }
        // A write that went elsewhere, within the file or to another.
        6 => {
            let from = &base.spots[input.pick(base.spots.len())];
            let source = &base.files[from.file].1;
            let start = from.at / BLOCK * BLOCK;
            let block = source[start..source.len().min(start + BLOCK)].to_vec();
            overwrite(file, place / BLOCK * BLOCK, &block);
        }
        7 => file.truncate(place),
        8 => file.resize((file.len() + input.size(2)).min(1 << 20), 0),
        9 => file.clear(),
        // Under another name: number, or META.
        10 if files.len() < MOST_FILES => {
            let bytes = files[spot.file].1.clone();
            let name = match input.byte() {
                0 => "META".to_string(),
                number => format!("{number:020}.seg"),
            };
            files.push((name, bytes));
        }
        // No more of that name.
        11 => files[spot.file].0 = format!("pool/{}.lost", spot.file),
        _ => {}
    }
    if forge {
        base::seal(spot, &mut files[spot.file].1);
    }
}

fn overwrite(file: &mut [u8], at: usize, bytes: &[u8]) {
    let end = file.len().min(at + bytes.len());
    if at < end {
        file[at..end].copy_from_slice(&bytes[..end - at]);
    }
}

/// What was read of a log, and what ended it.
#[derive(Debug)]
struct Read {
    records: BTreeMap<u64, Vec<u8>>,
    failed: Option<ErrorKind>,
    opened: bool,
}

fn look(sim: &Sim) -> Read {
    let mut read = Read { records: BTreeMap::new(), failed: None, opened: false };
    match ReadOnlyWal::open_on(sim.world().disk, DIR) {
        Ok(log) => {
            read.opened = true;
            let metrics = log.last_metrics();
            assert!(metrics.is_none() || metrics == log.last_metrics());
            assert!(log.user_state().len() <= 4096 && !log.stat().last_backend.is_empty());
            if let Err(e) = read_all(&log, &mut read.records) {
                read.failed = Some(e.kind());
            }
        }
        Err(e) => read.failed = Some(e.kind()),
    }
    read
}

fn read_all(log: &ReadOnlyWal, records: &mut BTreeMap<u64, Vec<u8>>) -> Result<()> {
    let Some(first) = log.first_lsn() else { return Ok(()) };
    let (mut reader, mut expected, holes) = (log.reader(first)?, first, log.holes());
    while let Some(record) = reader.next() {
        let record = match record {
            Err(e) if e.kind() == ErrorKind::Lost => {
                let hole = expected..reader.next_lsn();
                assert!(hole.start < hole.end, "a hole of nothing at {expected}");
                let known = |h: &Range<Lsn>| h.start <= hole.start && hole.end <= h.end;
                assert!(holes.iter().any(known), "{hole:?} is lost, {holes:?} are known");
                expected = hole.end;
                continue;
            }
            other => other?,
        };
        assert_eq!(record.lsn, expected, "a gap");
        expected = expected.next();
        let one = log.read(record.lsn)?;
        assert_eq!(one.data[..], record.data[..], "record {} is two", record.lsn);
        records.insert(record.lsn.get(), record.data.to_vec());
        // A forged log can claim more than one wants to wait for.
        if records.len() > 5000 {
            break;
        }
    }
    Ok(())
}

/// Nothing but damage: no wrong record, and verify knows all that a reader stumbles over.
fn check_genuine(base: &Base, sim: &Sim, read: &Read) {
    for (lsn, data) in &read.records {
        assert_eq!(base.records.get(lsn), Some(data), "record {lsn} is another one");
    }
    let mut found: Vec<Finding> = Vec::new();
    let disk = sim.world().disk;
    let outcome =
        ReadOnlyWal::verify_on(&*disk, DIR, &mut |finding| found.push(finding), &mut |_, _| {});
    let Ok(summary) = outcome else {
        assert!(read.failed.is_some(), "verify fails and a reader does not: {outcome:?}");
        return;
    };
    let told = found.iter().filter(|finding| finding.kind != FindingKind::GivenUp).count();
    assert_eq!(summary.damaged + summary.torn, told as u64, "{found:?}");
    if read.failed == Some(ErrorKind::Corrupt) {
        assert!(found.iter().any(Finding::is_damage), "a reader was told of damage, {found:?}");
    }
    if found.is_empty() {
        // Zeros where the last batches stood are the end of a log, unless a watermark knows better.
        let lacking = |lsn: &&u64| !read.records.contains_key(lsn) && **lsn < base.unproven;
        let lack = base.records.keys().find(lacking);
        assert_eq!(lack, None, "nothing is wrong, and a record lacks");
    }
}

/// Opened for writing it is the same log, and goes on.
fn write_on(number: usize, files: &[(String, Vec<u8>)], read: &Read, forged: bool) {
    let sim = base::world(files);
    let before: Vec<(PathBuf, u64)> = sim.files();
    let wal = match Wal::open_in(sim.world(), base::config(number, 0)) {
        Ok(wal) => wal,
        Err(e) => {
            assert!(forged || !read.opened, "it can be read, and not be opened: {e}");
            if e.kind() == ErrorKind::Corrupt {
                assert_eq!(sim.files(), before, "a refused open changed the log");
            }
            return;
        }
    };
    assert!(read.opened || forged, "it can't be read, and was opened");
    let next = wal.next_lsn();
    let appended = wal.append_batch(["written on"]).and_then(|ticket| ticket.wait());
    if forged && appended.is_err() {
        return;
    }
    assert_eq!(appended.unwrap().first(), next);
    assert_eq!(*wal.read(next).unwrap().data, *b"written on");
    let closed = wal.close();
    assert!(forged || closed.is_ok(), "{closed:?}");
    let again = look(&sim);
    if forged {
        return;
    }
    for (lsn, data) in &read.records {
        if Lsn::new(*lsn) < next && read.failed.is_none() {
            assert_eq!(again.records.get(lsn), Some(data), "record {lsn} changed");
        }
    }
    assert!(again.opened, "what was written on can't be opened: {:?}", again.failed);
}

/// Where a log is repaired to.
const NEW: &str = "/new";

/// What a policy or a repair left opens by the default policy, and serves nothing but what was
/// written.
fn mend(way: Mend, number: usize, files: &[(String, Vec<u8>)], forged: bool) {
    let (sim, base) = (base::world(files), base::base(number));
    let before: Vec<(PathBuf, u64)> = sim.files();
    let mut kept = None;
    let mended = match way {
        Mend::By(recovery) => {
            let config = WalConfig { recovery, ..base::config(number, 0) };
            Wal::open_in(sim.world(), config).and_then(Wal::close)
        }
        Mend::InPlace => repair_in(sim.world(), DIR, &mut |_, _| {}).map(|report| {
            kept = Some(report.records_kept);
        }),
        Mend::Elsewhere => {
            let (from, to) = (sim.world(), sim.world());
            repair_to_in(from, DIR, to, NEW, &mut |_, _| {}).map(|report| {
                kept = Some(report.records_kept);
            })
        }
    };
    if let Err(e) = mended {
        if e.kind() == ErrorKind::Corrupt && way != Mend::Elsewhere {
            assert_eq!(sim.files(), before, "{way:?} refused, and changed the log: {e}");
        }
        return;
    }
    let dir = if way == Mend::Elsewhere { NEW } else { DIR };
    let config = WalConfig { log_dir: dir.into(), ..base::config(number, 0) };
    let outcome = Wal::open_in(sim.world(), config).and_then(Wal::close);
    if forged {
        return;
    }
    outcome.unwrap_or_else(|e| panic!("{way:?} worked, and the log does not open: {e}"));
    let log = ReadOnlyWal::open_on(sim.world().disk, dir).unwrap();
    let mut records = BTreeMap::new();
    if let Err(e) = read_all(&log, &mut records) {
        // Sealed segments are not read by that one: what rots in them fails at the record.
        let unread = way == Mend::By(RecoveryPolicy::Strict) && e.kind() == ErrorKind::Corrupt;
        assert!(unread, "{way:?} worked, and then: {e}");
    }
    if let Some(kept) = kept {
        assert_eq!(records.len() as u64, kept, "{way:?} kept another number of records");
    }
    // Without META a repair does not know what was cut, or given up, before.
    let meta = |files: &[(String, Vec<u8>)]| {
        files.iter().rfind(|(name, _)| name == "META").map(|(_, bytes)| bytes.clone())
    };
    if kept.is_none() || meta(files) == meta(&base.files) {
        for (lsn, data) in &records {
            assert_eq!(base.records.get(lsn), Some(data), "{way:?}: record {lsn} is another");
        }
    }
}
