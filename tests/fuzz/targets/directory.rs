//! A whole log, damaged: opened for reading, read, verified; opened for writing, written on.
//!
//! Where no checksum was forged, whatever is read is what was written, in every case.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prkdb_core::io::sim::Sim;
use prkdb_core::{ErrorKind, Finding, Lsn, ReadOnlyWal, Result, Wal};

use super::base::{self, Base, DIR, Kind};
use super::input::Input;
use super::layout::BLOCK;

/// Bits of the second byte: forge checksums; write on.
const FORGE: u8 = 1;
const WRITE: u8 = 2;
/// A log has no more files than that, here.
const MOST_FILES: usize = 12;

/// Input: which log, what to do; then edits of its files: a way, a spot, a place in it, operands.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (number, mode) = (input.pick(base::COUNT), input.byte());
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
    for (expected, record) in (first.get()..).zip(log.reader(first)?) {
        let record = record?;
        assert_eq!(record.lsn.get(), expected, "a gap");
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
    assert_eq!(summary.damaged + summary.torn, found.len() as u64, "{found:?}");
    if read.failed == Some(ErrorKind::Corrupt) {
        assert!(found.iter().any(Finding::is_damage), "a reader was told of damage, {found:?}");
    }
    if found.is_empty() {
        assert_eq!(read.records.len(), base.records.len(), "nothing is wrong, and records lack");
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
