//! One bit flipped anywhere in any file of a cleanly closed log: noticed or harmless, never silent.
//!
//! ```text
//! closed log of 8 segments or more --flip one bit--> verify     a finding, or none
//!     ^                                              read all   the records, or an error
//!     '------------- files put back <--------------- open, read all, close: the same
//! ```
//!
//! Silent is a record that is another one, or is missing, where no error was given. A flip in
//! padding, in a block that holds nothing, in METRICS or in what another copy replaces is harmless.
//! `PRKDB_FLIPS` asks for another number of flips than 400, `PRKDB_SEED` for those of a certain
//! run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use prkdb_core::{Backend, Error, ErrorKind, FindingKind, Lsn, ReadOnlyWal, Reader, Wal};

mod support;

use support::{Random, backends, config, copy, fill, image, record};

/// Records in the log: enough for nine sealed segments of 1 MiB.
const RECORDS: u64 = 5000;
/// Nothing here takes a second; what takes so long hangs.
const HANG: Duration = Duration::from_secs(120);

/// What became of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// A read or an open failed, and said where.
    Refused,
    /// `verify` names it; every record is there.
    Found,
    /// Every record is there, and nothing is said.
    Harmless,
}

/// A bit of a file.
#[derive(Clone, Debug)]
struct Flip {
    file: PathBuf,
    offset: usize,
    bit: u32,
}

/// A log and what belongs in it.
struct Original {
    files: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Vec<u8>>,
}

impl Original {
    fn new(dir: &Path) -> Original {
        let wal = Wal::open(config(dir, Backend::Auto)).unwrap();
        fill(&wal, 1, RECORDS, 25);
        wal.set_user_state(b"beside the records").unwrap();
        wal.close().unwrap();
        assert!(support::segments(dir).len() >= 8, "{:?}", support::segments(dir));
        let relative =
            |(path, bytes): (PathBuf, _)| (path.strip_prefix(dir).unwrap().into(), bytes);
        let files = image(dir).into_iter().map(relative).collect();
        Original { files, records: (1..=RECORDS).map(|lsn| record(1, lsn)).collect() }
    }

    /// Any bit of any file.
    fn draw(&self, random: &mut Random) -> Flip {
        let total: usize = self.files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut offset = usize::try_from(random.below(total as u64)).unwrap();
        let bit = u32::try_from(random.below(8)).unwrap();
        for (file, bytes) in &self.files {
            match offset.checked_sub(bytes.len()) {
                Some(beyond) => offset = beyond,
                None => return Flip { file: file.clone(), offset, bit },
            }
        }
        unreachable!("it lies below the sum of all")
    }

    /// Makes `dir` what it was, but for the bit.
    fn put(&self, dir: &Path, flip: Option<&Flip>) {
        for (path, _) in image(dir) {
            let name = path.strip_prefix(dir).unwrap();
            if !self.files.iter().any(|(file, _)| file == name) {
                fs::remove_file(&path).unwrap();
            }
        }
        for (file, bytes) in &self.files {
            let path = dir.join(file);
            match flip {
                Some(flip) if flip.file == *file => {
                    let mut bytes = bytes.clone();
                    bytes[flip.offset] ^= 1 << flip.bit;
                    fs::write(path, bytes).unwrap();
                }
                _ if fs::read(&path).is_ok_and(|found| found == *bytes) => {}
                _ => fs::write(path, bytes).unwrap(),
            }
        }
    }

    /// Whether `reader` gives all records or an error; `Err` is what nobody would have noticed.
    fn read(&self, reader: prkdb_core::Result<Reader>) -> Result<Fate, String> {
        let mut expected = self.records.iter();
        let reader = match reader {
            Ok(reader) => reader,
            Err(e) => return refusal(&e),
        };
        for (record, lsn) in reader.zip(1..) {
            match record {
                Err(e) => return refusal(&e),
                Ok(found)
                    if found.lsn.get() == lsn && expected.next() == Some(&found.data.to_vec()) => {}
                Ok(found) => return Err(format!("record {lsn} is another one: {found:?}")),
            }
        }
        match expected.len() {
            0 => Ok(Fate::Harmless),
            missing => Err(format!("{missing} records are missing, and nothing is said")),
        }
    }

    /// Whether records that lie apart are themselves or an error.
    fn read_some(&self, log: &ReadOnlyWal) -> Result<Fate, String> {
        let mut fate = Fate::Harmless;
        for lsn in (1..=RECORDS).step_by(397) {
            let expected = &self.records[usize::try_from(lsn - 1).unwrap()];
            match log.read(Lsn::new(lsn)) {
                Ok(found) if *found.data == expected[..] => {}
                Ok(found) => return Err(format!("record {lsn} is another one: {found:?}")),
                Err(e) => fate = refusal(&e)?,
            }
        }
        Ok(fate)
    }

    /// What becomes of the log in `dir`, whose files differ from these in one bit.
    fn judge(&self, dir: &Path, backend: Backend) -> Result<Fate, String> {
        let mut damage = false;
        let verified = ReadOnlyWal::verify(
            dir,
            &mut |finding| damage |= finding.is_damage() || finding.kind == FindingKind::Meta,
            &mut |_, _| {},
        );
        let found = match verified {
            Ok(_) if damage => Fate::Found,
            Ok(_) => Fate::Harmless,
            Err(e) => refusal(&e)?,
        };
        let beside = match ReadOnlyWal::open(dir) {
            Ok(log) => {
                std::hint::black_box(log.last_metrics());
                self.read_some(&log)?.min(self.read(log.reader(Lsn::FIRST))?)
            }
            Err(e) => refusal(&e)?,
        };
        if beside == Fate::Refused && found == Fate::Harmless {
            return Err("a read fails, and verify finds nothing".into());
        }
        let opened = match Wal::open(config(dir, backend)) {
            Ok(wal) => {
                let fate = self.read(wal.reader(Lsn::FIRST))?;
                if wal.next_lsn().get() != RECORDS + 1 {
                    return Err(format!("the log goes on at {}", wal.next_lsn()));
                }
                wal.close().map_err(|e| format!("close: {e}"))?;
                fate
            }
            Err(e) => refusal(&e)?,
        };
        Ok(found.min(beside).min(opened))
    }
}

/// An error is right if it says that something is damaged, and where.
fn refusal(e: &Error) -> Result<Fate, String> {
    match (e.kind(), e.path()) {
        (ErrorKind::Corrupt | ErrorKind::Unsupported, Some(_)) => Ok(Fate::Refused),
        _ => Err(format!("not an error that names damage: {:?}: {e}", e.kind())),
    }
}

/// Runs what must end.
fn within_reason<T: Send>(what: &str, run: impl FnOnce() -> T + Send) -> T {
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what} hangs");
                std::process::abort();
            }
        });
        let outcome = run();
        drop(done);
        outcome
    })
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

#[test]
fn no_flipped_bit_is_silent() {
    let flips = number("PRKDB_FLIPS").unwrap_or(400);
    let seed = support::seed();
    println!("seed {seed}");
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log");
    let original = Original::new(&log);
    let backends = backends(root.path());
    let fates = std::sync::Mutex::new(BTreeMap::<(String, Fate), u64>::new());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let dir = root.path().join(format!("log-{thread}"));
            copy(&log, &dir);
            let (original, backends, fates, next) = (&original, &backends, &fates, &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= flips {
                        return;
                    }
                    let mut random = Random(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
                    random.next();
                    let flip = original.draw(&mut random);
                    let backend = backends[usize::try_from(number).unwrap() % backends.len()];
                    original.put(&dir, Some(&flip));
                    let what = format!("flip {number} of seed {seed}, {flip:?}, on {backend}");
                    let judged = within_reason(&what, || {
                        catch_unwind(AssertUnwindSafe(|| original.judge(&dir, backend)))
                    });
                    let fate = judged.unwrap_or_else(|_| Err("a panic".into()));
                    let fate = fate.unwrap_or_else(|why| panic!("{what}: {why}"));
                    let kind = flip.file.extension().unwrap_or(flip.file.as_os_str());
                    let kind = kind.to_string_lossy().into_owned();
                    *fates.lock().unwrap().entry((kind, fate)).or_default() += 1;
                }
            });
        }
    });
    let fates = fates.into_inner().unwrap();
    println!("{flips} flips: 0 silent, 0 panics, 0 hangs; {fates:?}");
    support::tally("flips", flips, flips);
    let noticed: u64 =
        fates.iter().filter(|((_, fate), _)| *fate != Fate::Harmless).map(|f| f.1).sum();
    assert!(noticed * 2 > flips, "{noticed} of {flips} were noticed: this log is mostly empty");
}

/// The harness can tell.
#[test]
fn a_record_less_and_another_record_are_called_silent() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut original = Original::new(&dir);
    assert_eq!(original.judge(&dir, Backend::Auto), Ok(Fate::Harmless));
    original.records.push(b"one more".to_vec());
    assert!(original.judge(&dir, Backend::Auto).unwrap_err().contains("missing"));
    original.records.pop();
    original.records[2000][0] ^= 1;
    assert!(original.judge(&dir, Backend::Auto).unwrap_err().contains("another one"));
}
