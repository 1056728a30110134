//! A short script of calls, run again and again with the world crashed one operation later each
//! time, until it runs through: no crash point of it is left out.
//!
//! ```text
//! for n in 1..: fresh world -> script (crash at its n-th operation) -> power off or kill
//!                           -> recovery, crashed once itself -> recovery -> check
//! ```

use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{CompactionPolicy, Error, ErrorKind, Lsn, Result, SyncMethod, Wal, WalConfig};

use crate::{WAYS, Way};

const DIR: &str = "/log";

pub fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(DIR) }
}

fn sim_of(seed: u64) -> Sim {
    Sim::new(seed, Model::weak(true), Faults::default())
}

/// How the log of a script is set up: its sync method, its lanes, and whether the file that is
/// written is read through the page cache, as where it is mapped.
type Setup = (SyncMethod, usize, bool);

const SETUPS: [Setup; 4] = [
    (SyncMethod::Auto, 1, false),
    (SyncMethod::Fdatasync, 1, true),
    (SyncMethod::Fdatasync, 2, false),
    (SyncMethod::Dsync, 2, true),
];

/// Runs `script` crashed at each of its operations; `check` gets the log as it was recovered and
/// what the script had noted by then. Gives how many crash points there were.
fn at_every_operation<N: Default>(
    prepare: fn(&Wal),
    script: fn(&Wal, &mut N) -> Result<()>,
    check: fn(&Wal, &N, u64),
) -> u64 {
    let mut points = 0;
    for (setup, way) in SETUPS.into_iter().flat_map(|setup| WAYS.map(|way| (setup, way))) {
        let crash = |n: &u64| crash_at(setup, way, *n, prepare, script, check);
        points += (1..).take_while(crash).count() as u64;
    }
    points
}

/// Crashes it at operation `n`; false if it ended before.
fn crash_at<N: Default>(
    (sync_method, num_segments, mapped): Setup,
    (seed, direct, kind): Way,
    n: u64,
    prepare: fn(&Wal),
    script: fn(&Wal, &mut N) -> Result<()>,
    check: fn(&Wal, &N, u64),
) -> bool {
    let config = || WalConfig { sync_method, num_segments, ..config() };
    let model = Model { mapped, ..Model::weak(direct) };
    let sim = Sim::new(seed, model, Faults::default());
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    prepare(&wal);
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let mut noted = N::default();
    let ran = script(&wal, &mut noted);
    let crashed = sim.crashed();
    assert!(crashed || ran.is_ok(), "operation {n}: {ran:?}");
    sim.crash(kind);
    drop(wal);
    // The recovery is crashed as well, somewhere.
    sim.set_faults(Faults { crash_at: Some(sim.ops() + 1 + n % 40), ..Faults::default() });
    if let Ok(wal) = Wal::open_in(sim.world(), config())
        && !sim.crashed()
    {
        sim.set_faults(Faults::default());
        check(&wal, &noted, n);
    }
    sim.crash(CrashKind::Power);
    sim.set_faults(Faults::default());
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    check(&wal, &noted, n);
    // What was cut must not come back behind what is written now.
    let (next, after) = (wal.next_lsn(), format!("after {n}"));
    wal.append_batch([&after]).expect("room").wait().expect("a healthy world writes");
    sim.crash(CrashKind::Power);
    drop(wal);
    let wal = Wal::open_in(sim.world(), config()).expect("a healthy world opens");
    assert_eq!(wal.durable_lsn(), next, "operation {n}: more or less than was appended");
    assert_eq!(*wal.read(next).expect("it is there").data, *after.as_bytes());
    wal.truncate_after(next.prev()).expect("a healthy world truncates");
    check(&wal, &noted, n);
    wal.close().expect("a healthy world closes");
    crashed
}

/// What a script knows of the user slot: the last state that was confirmed, and the one under way.
#[derive(Default)]
struct Slot {
    confirmed: Vec<u8>,
    asked: Vec<u8>,
}

#[test]
pub fn the_user_slot_is_the_old_one_or_the_new_one_at_every_crash() {
    let points = at_every_operation::<Slot>(
        |wal| {
            wal.append_batch(["a record"]).unwrap().wait().unwrap();
        },
        |wal, slot| {
            for state in [&b"term 1"[..], &[7; 4096], b"", b"term 2"] {
                slot.asked = state.to_vec();
                wal.set_user_state(state)?;
                slot.confirmed = state.to_vec();
                assert_eq!(wal.user_state(), state);
            }
            Ok(())
        },
        |wal, slot, n| {
            let found = wal.user_state();
            let known = found == slot.confirmed || found == slot.asked;
            assert!(known, "operation {n}: {} bytes that were not asked for", found.len());
            assert_eq!(*wal.read(Lsn::FIRST).unwrap().data, *b"a record");
        },
    );
    assert!(points > 256, "four updates are two forced writes each; {points} crash points");
}

#[test]
fn append_at_places_a_batch_where_it_was_wanted_or_not_at_all() {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    // Both are queued before either is placed: the second finds its place taken.
    let (a, b) = (wal.append_at(Lsn::FIRST, ["a"]), wal.append_at(Lsn::FIRST, ["b"]));
    assert_eq!(a.unwrap().wait().unwrap().first(), Lsn::FIRST);
    let refused: Error = b.unwrap().wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("the next record is 2"), "{refused}");
    assert_eq!(wal.append_at(Lsn::new(2), ["c"]).unwrap().wait().unwrap().last(), Lsn::new(2));
    let all: Vec<_> = wal.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap().data).collect();
    assert_eq!(all.iter().map(|data| &**data).collect::<Vec<_>>(), [b"a", b"c"]);
    wal.close().unwrap();
}

/// What a script knows of the log: its content when the last call was confirmed, and the content
/// it has if the call under way is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    first: u64,
    records: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Known {
    confirmed: Content,
    asked: Content,
}

impl Content {
    fn of(wal: &Wal) -> Content {
        let first = wal.first_lsn();
        let texts = wal.reader(first).expect("the log starts there").map(|record| {
            let record = record.expect("a healthy world reads");
            let len = record.data.iter().position(|b| *b == 0).unwrap_or(record.data.len());
            String::from_utf8_lossy(&record.data[..len]).into_owned()
        });
        let content = Content { first: first.get(), records: texts.collect() };
        assert_eq!(wal.next_lsn().get(), content.first + content.records.len() as u64);
        content
    }
}

impl Known {
    /// Of a log that `prepare` filled.
    pub fn prepared() -> Known {
        Known { confirmed: prepared(), asked: prepared() }
    }

    pub fn first(&self) -> u64 {
        self.confirmed.first
    }

    pub fn last(&self) -> u64 {
        self.confirmed.first + self.confirmed.records.len() as u64 - 1
    }

    /// After a call that failed: what is found is what it came to.
    pub fn settle(&mut self, wal: &Wal, n: u64) {
        self.check(wal, n);
        self.confirmed = Content::of(wal);
        self.asked = self.confirmed.clone();
    }

    /// Says what the log holds once `call` is done, calls, and notes that it is.
    fn call(
        &mut self,
        change: impl FnOnce(&mut Content),
        call: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.confirmed.first == 0 {
            self.confirmed = prepared();
        }
        self.asked = self.confirmed.clone();
        change(&mut self.asked);
        call()?;
        self.confirmed = self.asked.clone();
        Ok(())
    }

    /// Appends a batch of three records, which fill a segment in six batches or so.
    pub fn append(&mut self, wal: &Wal, text: &str) -> Result<()> {
        let batch: Vec<String> = (0..3).map(|i| format!("{text} {i}")).collect();
        let padded: Vec<_> = batch.iter().map(|text| padded(text)).collect();
        self.call(|log| log.records.extend(batch), || wal.append_batch(padded)?.wait().map(drop))
    }

    pub fn truncate_after(&mut self, wal: &Wal, keep: u64) -> Result<()> {
        let keeps = |log: &mut Content| {
            log.records.truncate(usize::try_from(keep + 1 - log.first).expect("a small log"));
        };
        self.call(keeps, || wal.truncate_after(Lsn::new(keep)))
    }

    pub fn truncate_before(&mut self, wal: &Wal, first: u64) -> Result<()> {
        let drops = |log: &mut Content| {
            log.records.drain(..usize::try_from(first - log.first).expect("a small log"));
            log.first = first;
        };
        self.call(drops, || wal.truncate_before(Lsn::new(first)))
    }

    pub fn reset_to(&mut self, wal: &Wal, next: u64) -> Result<()> {
        let empties = |log: &mut Content| *log = Content { first: next, records: Vec::new() };
        self.call(empties, || wal.reset_to(Lsn::new(next)))
    }

    /// What was confirmed is there, or what was asked for, and it stays when the log goes on.
    pub fn check(&self, wal: &Wal, n: u64) {
        let found = Content::of(wal);
        let confirmed = if self.confirmed.first == 0 { prepared() } else { self.confirmed.clone() };
        let known = found == confirmed || found == self.asked;
        assert!(
            known,
            "operation {n}: found {found:?}\nconfirmed {confirmed:?}\nasked {:?}",
            self.asked
        );
    }
}

fn padded(text: &str) -> Vec<u8> {
    let mut record = text.as_bytes().to_vec();
    record.resize(60_000, 0);
    record
}

pub fn prepare(wal: &Wal) {
    for batch in 0..10 {
        let batch: Vec<_> = (0..3).map(|i| padded(&format!("old {batch} {i}"))).collect();
        wal.append_batch(batch).expect("room").wait().expect("a healthy world writes");
    }
}

fn prepared() -> Content {
    let all = (0..10).flat_map(|batch| (0..3).map(move |i| format!("old {batch} {i}")));
    Content { first: 1, records: all.collect() }
}

#[test]
fn what_truncate_after_cut_never_comes_back() {
    let points = at_every_operation::<Known>(
        prepare,
        |wal, log| {
            // In the middle of a batch, in a sealed segment; then in what came after it.
            log.truncate_after(wal, 14)?;
            log.append(wal, "new")?;
            log.append(wal, "more")?;
            log.truncate_after(wal, 16)?;
            log.append(wal, "third")
        },
        |wal, log, n| log.check(wal, n),
    );
    assert!(points > 400, "{points} crash points");
}

#[test]
fn cuts_from_both_ends_leave_what_is_between() {
    let points = at_every_operation::<Known>(
        prepare,
        |wal, log| {
            log.truncate_before(wal, 8)?;
            log.truncate_after(wal, 20)?;
            log.append(wal, "new")?;
            log.truncate_after(wal, 11)?;
            log.truncate_after(wal, 11)?;
            log.append(wal, "more")?;
            log.truncate_before(wal, 12)?;
            log.truncate_after(wal, 11)?;
            log.append(wal, "last")
        },
        |wal, log, n| log.check(wal, n),
    );
    assert!(points > 800, "{points} crash points");
}

#[test]
fn a_log_that_was_reset_starts_where_it_was_told() {
    let points = at_every_operation::<Known>(
        prepare,
        |wal, log| {
            log.reset_to(wal, 1000)?;
            log.append(wal, "snapshot")?;
            log.reset_to(wal, 5)?;
            log.append(wal, "back")?;
            log.truncate_after(wal, 6)?;
            log.reset_to(wal, 7)?;
            log.append(wal, "again")
        },
        |wal, log, n| log.check(wal, n),
    );
    assert!(points > 800, "{points} crash points");
}

/// Every file of the log, pool included.
fn used(sim: &Sim) -> u64 {
    sim.files().iter().map(|(_, size)| size).sum()
}

fn append_padded(wal: &Wal, numbers: std::ops::Range<u64>) -> Result<()> {
    for number in numbers {
        wal.append_batch([padded(&format!("number {number}"))])?.wait()?;
    }
    Ok(())
}

/// Record `lsn` is `number lsn`, from the log's first on; gives how many there are.
fn check_numbers(wal: &Wal) -> usize {
    let found = Content::of(wal);
    for (lsn, text) in (found.first..).zip(&found.records) {
        assert_eq!(*text, format!("number {lsn}"));
    }
    found.records.len()
}

#[test]
fn a_size_window_is_kept_at_every_crash() {
    let window = 4 << 20;
    let config = || WalConfig { compaction: CompactionPolicy::SizeWindow(window), ..config() };
    let mut cut = 0;
    for direct in [true, false] {
        for n in 1.. {
            let (done, first) = crash_in_a_window(direct, n, window, config());
            cut = cut.max(first);
            if done {
                break;
            }
        }
    }
    assert!(cut > 40, "only {cut} records were ever cut");
}

/// Whether it came to its end before operation `n`, and where the log starts then.
fn crash_in_a_window(direct: bool, n: u64, window: u64, config: WalConfig) -> (bool, u64) {
    let sim = Sim::new(7, Model::weak(direct), Faults::default());
    let wal = Wal::open_in(sim.world(), config.clone()).expect("a healthy world");
    append_padded(&wal, 1..61).expect("a healthy world");
    assert!(used(&sim) <= window + (1 << 20), "{} bytes", used(&sim));
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let outcome = append_padded(&wal, 61..110);
    let (first, durable, done) = (wal.first_lsn(), wal.durable_lsn(), outcome.is_ok());
    assert!(done || sim.crashed(), "{outcome:?}");
    assert!(used(&sim) <= window + (1 << 20), "{} bytes before crash {n}", used(&sim));
    sim.crash(CrashKind::Power);
    drop(wal);
    sim.set_faults(Faults::default());
    let wal = Wal::open_in(sim.world(), config).expect("a healthy world");
    assert!(wal.first_lsn() >= first && wal.durable_lsn() >= durable, "crash {n}");
    check_numbers(&wal);
    let first = wal.first_lsn().get();
    // Recovery may have copied the tail; what is too much then goes in the background.
    sim.pass(Duration::from_millis(100));
    assert!(used(&sim) <= window + (1 << 20), "{} bytes after recovery {n}", used(&sim));
    wal.close().expect("a healthy world");
    (done, first)
}

#[test]
fn old_segments_go_and_young_ones_stay() {
    let second = Duration::from_secs(1);
    for (retention_ms, compaction) in [
        (Some(60_000), CompactionPolicy::None),
        (None, CompactionPolicy::TimeWindow(60_000)),
        (Some(600_000), CompactionPolicy::TimeWindow(60_000)),
    ] {
        let sim = sim_of(7);
        let config = WalConfig { retention_ms, compaction, ..config() };
        let wal = Wal::open_in(sim.world(), config.clone()).unwrap();
        append_padded(&wal, 1..41).unwrap();
        sim.pass(40 * second);
        append_padded(&wal, 41..61).unwrap();
        assert_eq!(wal.compact().unwrap(), Lsn::FIRST, "nothing is that old");
        // Nobody calls: it goes by itself, but for the segment that holds younger records too.
        sim.pass(25 * second);
        let kept = check_numbers(&wal);
        assert!((20..40).contains(&kept), "{kept} records were kept");
        drop(wal);
        let wal = Wal::open_in(sim.world(), config).unwrap();
        assert_eq!(check_numbers(&wal), kept);
        sim.pass(100 * second);
        assert_eq!(check_numbers(&wal), 0);
        assert_eq!(wal.next_lsn(), Lsn::new(61));
        append_padded(&wal, 61..62).unwrap();
        assert_eq!(check_numbers(&wal), 1);
        wal.close().unwrap();
    }
}

/// A checkpoint links sealed segments; the log then retires them and makes new ones.
#[test]
pub fn a_segment_that_a_checkpoint_links_is_never_written_again() {
    let sim = sim_of(7);
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    append_padded(&wal, 1..61).unwrap();
    let segments: Vec<_> = crate::damage::segments(&sim);
    let linked: Vec<_> = segments.iter().map(|(path, bytes)| (path.clone(), bytes)).collect();
    for (path, _) in &linked[..2] {
        sim.link(path, std::path::Path::new("/checkpoint").join(path.file_name().unwrap()))
            .unwrap();
    }
    wal.truncate_before(Lsn::new(50)).unwrap();
    append_padded(&wal, 61..120).unwrap();
    for (path, bytes) in &linked[..2] {
        let copy = std::path::Path::new("/checkpoint").join(path.file_name().unwrap());
        assert!(sim.peek(copy).unwrap() == **bytes, "{} was written again", path.display());
    }
    wal.close().unwrap();
}

#[test]
fn without_a_policy_nothing_goes() {
    let sim = sim_of(7);
    let wal = Wal::open_in(sim.world(), config()).unwrap();
    append_padded(&wal, 1..101).unwrap();
    sim.pass(Duration::from_secs(1_000_000));
    assert_eq!(wal.compact().unwrap(), Lsn::FIRST);
    assert_eq!(check_numbers(&wal), 100);
    wal.close().unwrap();
}

#[test]
fn a_capped_log_is_full_until_it_is_truncated() {
    let cap = 6 << 20;
    let sim = sim_of(7);
    let config = WalConfig { max_disk_bytes: Some(cap), ..config() };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    let full = append_padded(&wal, 1..200).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    assert!(full.to_string().contains("max_disk_bytes"), "{full}");
    assert!(used(&sim) <= cap, "{} bytes", used(&sim));
    let next = wal.next_lsn().get();
    assert!(next > 40, "{next} records filled it");
    let full = append_padded(&wal, next..next + 1).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull, "it is still full: {full}");
    wal.truncate_before(Lsn::new(40)).unwrap();
    append_padded(&wal, next..next + 10).unwrap();
    assert!(check_numbers(&wal) > 10);
    wal.truncate_after(Lsn::new(45)).unwrap();
    append_padded(&wal, 46..80).unwrap();
    assert!(used(&sim) <= cap, "{} bytes", used(&sim));
    wal.close().unwrap();
}
