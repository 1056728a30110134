//! One bit flipped, or one block misdirected or stale, anywhere in a cleanly closed log: noticed or
//! harmless, never silent.
//!
//! ```text
//! closed log of 8 segments or more --damage--> verify            a finding, or none
//!     ^                                        read all          the records, or an error
//!     '----------- files put back <----------- open, read, close: the same
//! ```
//!
//! Silent is a record that is another one, or is missing, where no error was given. What falls on
//! padding, on a block that holds nothing, on METRICS or on what another copy replaces is harmless.
//! A misdirected block is one of the log's that stands in another's place. A stale one is what the
//! same file held earlier, under whatever name: the log was cut while it was written, so that
//! segments are used again, and such a block holds frames of this very log.
//! There is a log of each backend that works here, every second one of four lanes. `PRKDB_FLIPS`
//! asks for another number of damages than 400, `PRKDB_FLIP_KIND` for those of one kind alone
//! (`flipped`, `misdirected`, `stale`), `PRKDB_SEED` for those of a certain run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prkdb_core::{
    Backend, Error, ErrorKind, FindingKind, Lsn, ReadOnlyWal, Reader, Wal, WalConfig,
};

mod support;

use support::watchdog::within_reason;
use support::{Random, backends, config, copy, fill, image, record};

/// Records that were appended, in parts, after each of which the files are looked at.
const RECORDS: u64 = 6000;
const PART: u64 = 500;
/// The first one that is kept: the others are cut when this many are there. What stays is enough
/// for eight segments of 1 MiB, three of which are used again.
const FIRST: u64 = 1800;
const CUT_AT: u64 = 2000;
/// The unit of misdirected and stale writes.
const BLOCK: usize = 4096;
/// Nothing here takes a second; what takes so long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// What became of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// A read or an open failed, and said where.
    Refused,
    /// `verify` names it; every record is there.
    Found,
    /// Every record is there, and nothing is said.
    Harmless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Flipped,
    Misdirected,
    Stale,
}

/// Bytes that stand in a file instead of its own.
#[derive(Clone)]
struct Damage {
    kind: Kind,
    file: PathBuf,
    offset: usize,
    bytes: Vec<u8>,
    /// Where they are from.
    from: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, file) = (self.kind, self.file.display());
        write!(f, "{kind:?} at {file} {}: {}", self.offset, self.from)
    }
}

/// A log and what belongs in it.
struct Original {
    dir: PathBuf,
    lanes: usize,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Blocks of these files that were others earlier, and what they held.
    stale: Vec<(PathBuf, usize, Vec<u8>)>,
    /// From `FIRST` on: the bytes, and when, microseconds, they were appended.
    records: Vec<(Vec<u8>, u64)>,
}

impl Original {
    fn new(dir: &Path, backend: Backend, lanes: usize) -> Original {
        let config = WalConfig { num_segments: lanes, ..config(dir, backend) };
        let wal = Wal::open(config).unwrap();
        let mut earlier = Vec::new();
        for part in 0..RECORDS / PART {
            fill(&wal, 1, PART, 25);
            wal.set_user_state(user_state(part)).unwrap();
            earlier.extend(by_inode(dir));
            if (part + 1) * PART == CUT_AT {
                wal.truncate_before(Lsn::new(FIRST)).unwrap();
            }
        }
        wal.close().unwrap();
        assert!(support::segments(dir).len() >= 8, "{:?}", support::segments(dir));
        let relative = |path: &Path| path.strip_prefix(dir).unwrap().to_path_buf();
        let mut stale = BTreeSet::new();
        let files = by_inode(dir).into_iter().filter(|(_, path, _)| !path.ends_with("LOCK"));
        for (inode, path, now) in files {
            for (_, _, then) in earlier.iter().filter(|(other, ..)| *other == inode) {
                let blocks = now.chunks(BLOCK).zip(then.chunks(BLOCK)).enumerate();
                let others = blocks.filter(|(_, (now, then))| now != then);
                stale.extend(others.map(|(at, (now, then))| {
                    (relative(&path), at * BLOCK, then[..then.len().min(now.len())].to_vec())
                }));
            }
        }
        let files = image(dir).into_iter().map(|(path, bytes)| (relative(&path), bytes)).collect();
        let times = ReadOnlyWal::open(dir).unwrap().reader(Lsn::new(FIRST)).unwrap();
        let times = times.map(|found| found.unwrap().time_us);
        let records = (FIRST..=RECORDS).map(|lsn| record(1, lsn)).zip(times).collect();
        let (dir, stale) = (dir.into(), stale.into_iter().collect());
        Original { dir, lanes, files, stale, records }
    }

    /// Any byte of any file.
    fn place(&self, random: &mut Random) -> (&(PathBuf, Vec<u8>), usize) {
        let total: usize = self.files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut offset = usize::try_from(random.below(total as u64)).unwrap();
        for file in &self.files {
            match offset.checked_sub(file.1.len()) {
                Some(beyond) => offset = beyond,
                None => return (file, offset),
            }
        }
        unreachable!("it lies below the sum of all")
    }

    fn draw(&self, random: &mut Random) -> Damage {
        let ((file, bytes), offset) = self.place(random);
        let (file, block) = (file.clone(), offset / BLOCK * BLOCK);
        let kind = match std::env::var("PRKDB_FLIP_KIND").as_deref() {
            Ok("flipped") => 0,
            Ok("misdirected") => 1,
            Ok("stale") => 2,
            Ok(other) => panic!("PRKDB_FLIP_KIND is {other}"),
            Err(_) => random.below(3),
        };
        match kind {
            0 => {
                let bit = random.below(8);
                let (from, bytes) = (format!("bit {bit}"), vec![bytes[offset] ^ 1 << bit]);
                Damage { kind: Kind::Flipped, file, offset, bytes, from }
            }
            1 => {
                let ((other, source), at) = self.place(random);
                let at = at / BLOCK * BLOCK;
                let len = BLOCK.min(source.len() - at).min(bytes.len() - block);
                let (from, bytes) = (format!("{} {at}", other.display()), &source[at..at + len]);
                let bytes = bytes.to_vec();
                Damage { kind: Kind::Misdirected, file, offset: block, bytes, from }
            }
            _ => {
                let which = usize::try_from(random.below(self.stale.len() as u64)).unwrap();
                let (file, offset, bytes) = self.stale[which].clone();
                let zero = bytes.iter().all(|byte| *byte == 0);
                let from = format!("{which}, {}", if zero { "zeros" } else { "used" });
                Damage { kind: Kind::Stale, file, offset, bytes, from }
            }
        }
    }

    /// Makes `dir` what it was, but for the damage.
    fn put(&self, dir: &Path, damage: &Damage) {
        for (path, _) in image(dir) {
            let name = path.strip_prefix(dir).unwrap();
            if !self.files.iter().any(|(file, _)| file == name) {
                fs::remove_file(&path).unwrap();
            }
        }
        for (file, bytes) in &self.files {
            let path = dir.join(file);
            if damage.file == *file {
                let mut bytes = bytes.clone();
                bytes[damage.offset..damage.offset + damage.bytes.len()]
                    .copy_from_slice(&damage.bytes);
                fs::write(path, bytes).unwrap();
            } else if !fs::read(&path).is_ok_and(|found| found == *bytes) {
                fs::write(path, bytes).unwrap();
            }
        }
    }

    /// Whether `reader` gives all records or an error; `Err` is what nobody would have noticed.
    fn read(&self, reader: prkdb_core::Result<Reader>, struck: &Struck) -> Result<Fate, String> {
        let mut expected = self.records.iter();
        let reader = match reader {
            Ok(reader) => reader,
            Err(e) => return struck.refusal(&e),
        };
        for (record, lsn) in reader.zip(FIRST..) {
            match record {
                Err(e) => return struck.refusal(&e),
                Ok(found)
                    if found.lsn.get() == lsn
                        && expected.next() == Some(&(found.data.to_vec(), found.time_us)) => {}
                Ok(found) => return Err(format!("record {lsn} is another one: {found:?}")),
            }
        }
        match expected.len() {
            0 => Ok(Fate::Harmless),
            missing => Err(format!("{missing} records are missing, and nothing is said")),
        }
    }

    /// Whether records that lie apart are themselves or an error.
    fn read_some(&self, log: &ReadOnlyWal, struck: &Struck) -> Result<Fate, String> {
        let mut fate = Fate::Harmless;
        for lsn in (FIRST..=RECORDS).step_by(397) {
            let (expected, time) = &self.records[usize::try_from(lsn - FIRST).unwrap()];
            match log.read(Lsn::new(lsn)) {
                Ok(found) if *found.data == expected[..] && found.time_us == *time => {}
                Ok(found) => return Err(format!("record {lsn} is another one: {found:?}")),
                Err(e) => fate = struck.refusal(&e)?,
            }
        }
        Ok(fate)
    }

    /// What becomes of the log in `dir`, whose files differ from these in one place.
    fn judge(&self, dir: &Path, backend: Backend, damage: &Damage) -> Result<Fate, String> {
        let struck = &Struck { dir, damage, lanes: self.lanes };
        let mut finds = false;
        let verified = ReadOnlyWal::verify(
            dir,
            &mut |finding| finds |= finding.is_damage() || finding.kind == FindingKind::Meta,
            &mut |_, _| {},
        );
        let found = match verified {
            Ok(_) if finds => Fate::Found,
            Ok(_) => Fate::Harmless,
            Err(e) => struck.refusal(&e)?,
        };
        let beside = match ReadOnlyWal::open(dir) {
            Ok(log) => {
                std::hint::black_box(log.last_metrics());
                if log.first_lsn() != Some(Lsn::new(FIRST)) {
                    return Err(format!("the log begins at {:?}", log.first_lsn()));
                }
                expect_last_state(&log.user_state())?;
                self.read_some(&log, struck)?.min(self.read(log.reader(Lsn::new(FIRST)), struck)?)
            }
            Err(e) => struck.refusal(&e)?,
        };
        if beside == Fate::Refused && found == Fate::Harmless {
            return Err("a read fails, and verify finds nothing".into());
        }
        let opened = match Wal::open(config(dir, backend)) {
            Ok(wal) => {
                let fate = self.read(wal.reader(Lsn::new(FIRST)), struck)?;
                expect_last_state(&wal.user_state())?;
                if wal.next_lsn().get() != RECORDS + 1 {
                    return Err(format!("the log goes on at {}", wal.next_lsn()));
                }
                wal.close().map_err(|e| format!("close: {e}"))?;
                fate
            }
            Err(e) => struck.refusal(&e)?,
        };
        if opened == Fate::Refused && found == Fate::Harmless {
            return Err("the log is refused, and verify finds nothing".into());
        }
        Ok(found.min(beside).min(opened))
    }
}

/// What is set after that part.
fn user_state(part: u64) -> Vec<u8> {
    vec![u8::try_from(part).unwrap(); 4096]
}

/// Both slots of META hold it.
fn expect_last_state(found: &[u8]) -> Result<(), String> {
    let last = user_state(RECORDS / PART - 1);
    if found == last { Ok(()) } else { Err(format!("another user state: {:?}", found.first())) }
}

/// The files below `dir`, and which they are under any name; those of a log that is open may go
/// away meanwhile.
fn by_inode(dir: &Path) -> Vec<(u64, PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match File::open(&path) {
            Ok(_) if path.is_dir() => all.extend(by_inode(&path)),
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                all.push((file.metadata().unwrap().ino(), path, bytes));
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::NotFound, "{}", path.display()),
        }
    }
    all
}

/// A log with its damage.
struct Struck<'a> {
    dir: &'a Path,
    damage: &'a Damage,
    lanes: usize,
}

impl Struck<'_> {
    /// An error is right if it says that something is damaged, and where: the file, and a place
    /// in it from which on something is wrong, or what stands just behind zeros, as padding is.
    /// What META says all else is compared with, so that its damage may show anywhere in the log.
    /// Of a frame of which a whole block is another nothing is left to tell by which of several
    /// lanes had it: any of those that end before it may be named.
    fn refusal(&self, e: &Error) -> Result<Fate, String> {
        let Struck { dir, damage, lanes } = self;
        let end = (damage.offset + damage.bytes.len()) as u64;
        let in_doubt = *lanes > 1 && damage.kind != Kind::Flipped;
        let is_there = |path: &Path| match damage.file.to_str() {
            Some("META") => path.starts_with(dir),
            _ if in_doubt => path.starts_with(dir) && e.offset().is_some(),
            _ => path == dir.join(&damage.file) && e.offset().is_some_and(|offset| offset <= end),
        };
        match e.kind() {
            ErrorKind::Corrupt | ErrorKind::Unsupported if e.path().is_some_and(is_there) => {
                Ok(Fate::Refused)
            }
            kind => Err(format!("not an error that names this damage: {kind:?}: {e}")),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

/// What is told apart in the tally: kind and file of a damage, and what became of it.
type Fates = BTreeMap<(Kind, String, Fate), u64>;

/// Puts the damages of these numbers on copies of `originals` below `root` and judges each.
fn suffer(
    root: &Path,
    originals: &[Original],
    numbers: impl Iterator<Item = u64>,
    seed: u64,
    fates: &Mutex<Fates>,
) {
    let backends = backends(root);
    let dirs: Vec<_> = (0..originals.len()).map(|log| root.join(log.to_string())).collect();
    for (original, dir) in originals.iter().zip(&dirs) {
        copy(&original.dir, dir);
    }
    for number in numbers {
        let mut random = Random(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
        random.next();
        let log = usize::try_from(random.below(originals.len() as u64)).unwrap();
        let (original, dir) = (&originals[log], &dirs[log]);
        let damage = original.draw(&mut random);
        let backend = backends[usize::try_from(number).unwrap() % backends.len()];
        original.put(dir, &damage);
        let what = format!("damage {number} of seed {seed}, log {log}, {damage}, on {backend}");
        let judged = within_reason(&what, HANGS, || {
            catch_unwind(AssertUnwindSafe(|| original.judge(dir, backend, &damage)))
        });
        let fate = judged.unwrap_or_else(|_| Err("a panic".into()));
        let fate = fate.unwrap_or_else(|why| panic!("{what}: {why}"));
        let file = damage.file.extension().unwrap_or(damage.file.as_os_str());
        let key = (damage.kind, file.to_string_lossy().into_owned(), fate);
        *fates.lock().unwrap().entry(key).or_default() += 1;
    }
}

#[test]
fn no_flipped_bit_and_no_misdirected_or_stale_block_is_silent() {
    let damages = number("PRKDB_FLIPS").unwrap_or(400);
    let seed = support::seed();
    println!("seed {seed}");
    let root = tempfile::tempdir().unwrap();
    let mut originals = Vec::new();
    for backend in backends(root.path()) {
        let lanes = if originals.len() % 2 == 1 { 4 } else { 1 };
        let original = Original::new(&root.path().join(backend.to_string()), backend, lanes);
        let used = original.stale.iter().filter(|(.., bytes)| bytes.iter().any(|b| *b != 0));
        let (stale, used) = (original.stale.len(), used.count());
        println!("log {} by {backend}: {stale} stale blocks, {used} used", originals.len());
        assert!(used >= 100, "no segment was used again");
        originals.push(original);
    }
    let (fates, next) = (Mutex::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let below = root.path().join(format!("thread-{thread}"));
            let (originals, fates, next) = (&originals, &fates, &next);
            let numbers = std::iter::repeat_with(move || next.fetch_add(1, Ordering::Relaxed));
            let numbers = numbers.take_while(move |number| *number < damages);
            scope.spawn(move || suffer(&below, originals, numbers, seed, fates));
        }
    });
    let fates: Fates = fates.into_inner().unwrap();
    println!("{damages} damages: 0 silent, 0 panics, 0 hangs; {fates:?}");
    for kind in fates.keys().map(|(kind, ..)| *kind).collect::<BTreeSet<_>>() {
        let of = |which: fn(Fate) -> bool| -> u64 {
            let those = fates.iter().filter(|((other, _, fate), _)| *other == kind && which(*fate));
            those.map(|(_, count)| count).sum()
        };
        let (noticed, all) = (of(|fate| fate != Fate::Harmless), of(|_| true));
        println!("{kind:?}: {noticed} of {all} noticed");
        let suite = match kind {
            Kind::Flipped => "flips",
            Kind::Misdirected => "misdirected blocks",
            Kind::Stale => "stale blocks",
        };
        support::tally(suite, all, noticed);
        assert!(noticed * 2 > all, "{kind:?}: {noticed} of {all}: this log is mostly empty");
    }
}

/// The harness can tell.
#[test]
fn a_record_less_and_another_record_are_called_silent() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut original = Original::new(&dir, Backend::Auto, 1);
    let (kind, file, bytes, from) = (Kind::Flipped, "METRICS".into(), Vec::new(), String::new());
    let nothing = Damage { kind, file, offset: 0, bytes, from };
    let judge = |original: &Original| original.judge(&dir, Backend::Auto, &nothing);
    assert_eq!(judge(&original), Ok(Fate::Harmless));
    original.records.push((b"one more".to_vec(), 0));
    assert!(judge(&original).unwrap_err().contains("missing"));
    original.records.pop();
    original.records[2000].0[0] ^= 1;
    assert!(judge(&original).unwrap_err().contains("another one"));
    original.records[2000].0[0] ^= 1;
    original.records[2000].1 += 1;
    assert!(judge(&original).unwrap_err().contains("another one"));
    original.records[2000].1 -= 1;
    assert_eq!(judge(&original), Ok(Fate::Harmless));
}
