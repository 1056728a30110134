//! Disks that can't be trusted: they drop what they acknowledged, or give and keep wrong bytes.
//!
//! ```text
//! rounds of: open, read all, append, wait, crash | close        under one hazard
//!            refused as damaged: open once more in a healthy world, and go on with what opens
//! ```
//!
//! Waived, once something was wrong or the disk lies: I1 and I5, and that a log opens. What is
//! left, and checked here: every call returns and none panics; each record that is served is one
//! that was submitted for that LSN (I4, I7), without a gap (I2), in whole batches (I3); a poisoned
//! log says `Ok` to nothing (I8); opened once more in a healthy world it is the same log (I6); and
//! nothing is cut that a watermark proves which was there to be read (I7). The test finds that
//! watermark on the device by itself: the greatest in any valid frame header that starts a block;
//! where one read was wrong, the greatest but one, for a read can hide no more than one block.

use prkdb_core::io::sim::{CrashKind, Faults};
use prkdb_core::{Error, ErrorKind, Finding, Lsn, ReadOnlyWal, Wal};

use crate::damage;
use crate::life::{DIR, Hazard, Life, Open, say};
use crate::model::Promises;

/// What one look at a whole log gave: a checksum a record, and the error that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    first: u64,
    records: Vec<u32>,
    error: Option<ErrorKind>,
}

impl Life {
    /// Lives a few more lives on such a disk.
    pub fn doubt(&mut self) {
        // Until records are lost for the first time, all that is proved has to be there.
        let mut sound = true;
        for _ in 0..2 + self.rng.below(3) {
            let faults = self.draw_hazard();
            self.calm_down();
            self.sim.set_faults(faults);
            let Some(wal) = self.open_in_doubt(&mut sound) else { return };
            self.read_in_doubt(&wal);
            self.work_in_doubt(&wal);
            self.end_in_doubt(wal);
            self.tally.cycles += 1;
        }
        self.calm_down();
        if let Some(wal) = self.open_in_doubt(&mut sound) {
            let seen = self.read_in_doubt(&wal);
            self.open_once_more(wal, &seen);
            self.tally.cycles += 1;
        }
    }

    /// I6: in a healthy world, without a power cut that a lying disk would use, it is the same log.
    fn open_once_more(&mut self, mut wal: Open, seen: &Seen) {
        let (next, closes) = (wal.next_lsn(), self.rng.chance(500));
        if closes {
            wal.close_healthy();
        } else {
            self.sim.crash(CrashKind::Kill);
            drop(wal.0.take());
        }
        self.clients.wait_all(&mut self.promises);
        let config = self.config();
        let again = Wal::open_in(self.sim.world(), config);
        let again = Open(Some(again.unwrap_or_else(|e| panic!("I6: opened once, and now {e}"))));
        say!(self, "opened once more, closed {closes}: {:?}", again.recovery());
        assert_eq!(again.next_lsn(), next, "I6: opened twice, and it ends elsewhere");
        let found = self.read_in_doubt(&again);
        assert!(found == *seen, "I6: opened twice, and it is another log");
        self.end_in_doubt(again);
    }

    fn draw_hazard(&mut self) -> Faults {
        let mut faults = match self.hazard {
            Hazard::Wrong => Faults::draw_wrong(&mut self.rng),
            Hazard::Lying | Hazard::None => Faults::draw(&mut self.rng),
        };
        if self.rng.chance(500) {
            faults.crash_at = Some(self.sim.ops() + 1 + self.rng.below(300));
        }
        faults
    }

    /// Opens the log; none if it is refused in a healthy world too.
    fn open_in_doubt(&mut self, sound: &mut bool) -> Option<Open> {
        for attempt in 0..4 {
            if attempt > 0 {
                self.calm_down();
            }
            let (proved, before) = (damage::watermarks(&self.sim), self.sim.corruptions());
            let config = self.config();
            say!(self, "open in doubt, {:?}, proved {:?}", self.sim.faults(), proved.last());
            match Wal::open_in(self.sim.world(), config) {
                Ok(wal) => {
                    let wrong = self.sim.corruptions() - before;
                    self.expect_proved(&wal, &proved, wrong, sound);
                    return Some(Open(Some(wal)));
                }
                Err(e) if self.sim.crashed() => {
                    say!(self, "crashed in recovery: {e}");
                    self.tally.recovery_crashes += 1;
                    self.crash(None);
                }
                Err(e) => {
                    say!(self, "not opened: {e}");
                    self.expect_damage_or_fault(&e);
                    self.look_at_damage(&e, before);
                }
            }
        }
        None
    }

    /// I7: what a watermark proves that could be read is not cut in silence.
    fn expect_proved(&mut self, wal: &Wal, proved: &[u64], wrong: u64, sound: &mut bool) {
        let next = wal.next_lsn().get();
        say!(self, "opened at {next}, {wrong} wrong: {:?}", wal.recovery());
        let wrong = usize::try_from(wrong).expect("few are wrong at a time");
        let shown = proved.len().checked_sub(1 + wrong).filter(|_| wrong < 2);
        let least = shown.map_or(0, |i| proved[i]);
        assert!(!*sound || next > least, "I7: cut at {next}, and {least} was proved");
        self.tally.proofs += u64::from(*sound && least > 0);
        if !self.sim.model().lies && self.sim.corruptions() == 0 {
            // Nothing was wrong yet: it is as good as any disk.
            let promised = self.promises.promised;
            assert!(next > promised, "I1, I5: {promised} is gone, ends at {next}");
            self.tally.sound += 1;
        }
        *sound &= next > self.promises.promised;
        self.promises.promised = self.promises.promised.max(next - 1);
        self.promises.opened();
    }

    fn expect_damage_or_fault(&self, e: &Error) {
        if !self.is_damage(e) {
            self.expect_io(e);
        }
    }

    fn is_damage(&self, e: &Error) -> bool {
        // A header that is another segment's can't be told from a file that was used again.
        let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Truncated];
        let damage = kinds.contains(&e.kind());
        damage && (self.sim.model().lies || self.sim.corruptions() > 0)
    }

    /// Whatever is wrong with a log, it can be looked at, and what keeps it shut is told, unless a
    /// read went wrong since `corruptions` were counted.
    fn look_at_damage(&mut self, refused: &Error, corruptions: u64) {
        let (disk, mut damaged) = (self.sim.world().disk, false);
        let tell = &mut |finding: Finding| damaged |= finding.is_damage();
        let told = ReadOnlyWal::verify_on(&*disk, DIR, tell, &mut |_, _| {});
        say!(self, "verify: {:?}", told.as_ref().map(|summary| format!("{summary:?}")));
        let same = self.sim.corruptions() == corruptions;
        // It may also meet a fault itself, or what only a newer version reads.
        let ended = told.map_or_else(|e| e.kind() == ErrorKind::Corrupt, |_| true);
        let sound = ended && !damaged;
        self.tally.looks += u64::from(same && self.is_damage(refused));
        assert!(!(same && sound && self.is_damage(refused)), "I7: verify finds nothing: {refused}");
    }

    /// I2, I3, I4, I7: right records without a gap, in whole batches, up to the end or to an error.
    fn read_in_doubt(&mut self, wal: &Wal) -> Seen {
        let (first, durable) = (wal.first_lsn().get(), wal.durable_lsn().get());
        let mut seen = Seen { first, records: Vec::new(), error: None };
        let mut batch = None;
        let reader = wal.reader(Lsn::new(first)).expect("the log has a start");
        for (lsn, record) in (first..).zip(reader) {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), lsn, "I2: a gap in reading");
                    batch = self.promises.recognize(batch, lsn, &record.data);
                    seen.records.push(crc32fast::hash(&record.data));
                }
                Err(e) => {
                    say!(self, "read until {lsn}: {e}");
                    if !self.is_damage(&e) {
                        self.expect_read_io(&e);
                    }
                    seen.error = Some(e.kind());
                    return seen;
                }
            }
        }
        let end = first + seen.records.len() as u64;
        assert!(end > durable, "I7: of {durable} durable records reading ends at {end}");
        if let Some(part) = batch {
            assert!(self.promises.is_end(part), "I3: {part:?} is the last, its batch goes on");
        }
        seen
    }

    fn work_in_doubt(&mut self, wal: &Wal) {
        for _ in 0..self.rng.pick(&[3, 10, 25]) {
            let failed = match self.rng.below(10) {
                0..6 => self.append(wal).then_some(ErrorKind::Poisoned),
                6 => {
                    let answer = self.clients.wait_one(&mut self.promises, &mut self.rng);
                    answer.and_then(Result::err).map(|e| e.kind())
                }
                7 => {
                    self.sim.pass(std::time::Duration::from_millis(400));
                    None
                }
                8 => {
                    self.read_in_doubt(wal);
                    None
                }
                _ => {
                    self.clients.poll(&mut self.promises);
                    None
                }
            };
            if self.sim.crashed() {
                return;
            }
            match failed {
                None => {}
                Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed) => {
                    return self.poisoned_in_doubt(wal);
                }
                Some(_) => return,
            }
        }
    }

    /// I8: every ticket is answered, and nothing is `Ok` any more.
    fn poisoned_in_doubt(&mut self, wal: &Wal) {
        say!(self, "poisoned");
        self.clients.poisoned(wal, &mut self.promises);
        assert!(wal.try_append_batch(["late"]).is_err(), "I8: a poisoned log takes appends");
        assert!(wal.wait_durable(Lsn::NONE).is_err(), "I8: a poisoned log waits for durability");
    }

    fn end_in_doubt(&mut self, mut wal: Open) {
        if self.sim.crashed() || self.rng.chance(600) {
            let kind = self.rng.pick(&[CrashKind::Kill, CrashKind::Power]);
            let durable = wal.durable_lsn().get();
            self.promises.promised = self.promises.promised.max(durable);
            self.sim.crash(kind);
            drop(wal.0.take());
            self.clients.wait_all(&mut self.promises);
            return;
        }
        let outcome = wal.0.take().expect("held").close();
        say!(self, "closed: {outcome:?}");
        self.clients.wait_all(&mut self.promises);
        self.expect_nothing_held();
        if self.rng.chance(500) {
            self.sim.crash(CrashKind::Power);
        }
    }
}

/// The check itself: a batch that was appended as 2 records, and read as `read` from LSN 1 on.
fn recognized(read: &[&[u8]]) -> bool {
    let mut promises = Promises::new();
    promises.submit(vec![b"first".to_vec(), b"second".to_vec()]);
    promises.submit(vec![b"other".to_vec()]);
    let starts = [0, 1].map(|number: usize| promises.batch(number).records[0].clone());
    let mut last = None;
    for (lsn, data) in (1..).zip(read) {
        let data = match *data {
            b"first" => &starts[0],
            b"other" => &starts[1],
            other => other,
        };
        last = promises.recognize(last, lsn, data);
    }
    promises.is_end(last.expect("each record says where it is from"))
}

#[test]
fn a_batch_that_is_there_in_part_is_noticed() {
    let part = |read: &[&[u8]]| crate::expecting(|| recognized(read), false);
    assert_eq!(part(&[b"first", b"second", b"other"]), Ok(true));
    assert_eq!(part(&[b"second", b"other"]), Ok(true), "a log may start inside a batch");
    assert_eq!(part(&[b"other", b"first"]), Ok(false), "it ends inside a batch");
    for wrong in [&[&b"first"[..], b"other"][..], &[b"other", b"second"], &[b"first", b"third"]] {
        assert!(part(wrong).is_err_and(|why| why.contains("I3")), "{wrong:?}");
    }
}
