//! What happens while a log is open: appends, waits, reads, truncations, a full disk, poison.
//!
//! Each step is drawn by seed; each says whether the log was seen to be poisoned.

use std::time::Duration;

use prkdb_core::io::sim::Faults;
use prkdb_core::{Durability, ErrorKind, Lsn, ReadLevel, Wal};

use crate::client::{Turn, Way};
use crate::damage;
use crate::life::{End, Hazard, Life, say};
use crate::turns::Turns;

impl Life {
    /// Works until the script ends, the world does, or the log stays poisoned.
    pub fn work(&mut self, wal: &Wal) -> End {
        let mut turns = Turns::new(self.more.take());
        let end = self.steps(wal, &mut turns);
        self.more = self.leave(turns);
        end
    }

    fn steps<'w>(&mut self, wal: &'w Wal, turns: &mut Turns<'w>) -> End {
        let steps = self.rng.pick(&[5, 15, 40]);
        for _ in 0..steps {
            let dead = self.turn(wal, turns) || self.sim.crashed();
            let poisoned = dead || self.step(wal, turns);
            if self.sim.crashed() {
                return End::Crashed;
            }
            if poisoned {
                say!(self, "poisoned");
                self.tally.broken += u64::from(self.breaks);
                self.refused_in_line(turns);
                self.clients.poisoned(wal, &mut self.promises);
                if !self.resume(wal) {
                    return if self.sim.crashed() { End::Crashed } else { End::Poisoned };
                }
            }
        }
        End::Done
    }

    fn step(&mut self, wal: &Wal, turns: &mut Turns<'_>) -> bool {
        match self.rng.below(100) {
            0..55 => self.append(wal),
            55..72 => {
                let micros = self.rng.pick(&[50, 500, 5000, 1_500_000]);
                self.sim.pass(Duration::from_micros(micros));
                false
            }
            72..80 => {
                self.clients.poll(&mut self.promises);
                false
            }
            80..86 => self.wait(wal),
            86..89 => self.wait_durable(wal),
            89..94 => self.read_some(wal),
            94..96 => self.truncate(wal),
            96 if self.hazard == Hazard::None => self.truncate_after(wal),
            99 if self.hazard == Hazard::None && self.rng.chance(500) => self.reset(wal),
            97 if self.forger => self.forge(wal),
            98 => self.empty_line(turns) || self.fill_disk(wal),
            _ => false,
        }
    }

    pub fn append(&mut self, wal: &Wal) -> bool {
        let turn = self.clients.append(wal, &mut self.promises, &mut self.rng);
        say!(self, "append: {turn:?}, next {}", wal.next_lsn());
        match turn {
            Turn::Queued | Turn::Busy => false,
            Turn::Failed(ErrorKind::Poisoned) => true,
            Turn::Failed(kind) => panic!("an append was refused as {kind:?}"),
        }
    }

    fn wait(&mut self, wal: &Wal) -> bool {
        let answer = self.clients.wait_one(&mut self.promises, &mut self.rng);
        say!(self, "wait: {answer:?}, durable {}", wal.durable_lsn());
        let kind = answer.and_then(Result::err).map(|e| e.kind());
        matches!(kind, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed))
    }

    fn wait_durable(&mut self, wal: &Wal) -> bool {
        let lsn = Lsn::new(self.rng.below(wal.next_lsn().get()));
        let answer = wal.wait_durable(lsn).and_then(|ticket| ticket.wait());
        say!(self, "wait durable {lsn}: {answer:?}");
        match answer {
            Ok(durable) => {
                assert!(durable >= lsn, "{lsn} was waited for, {durable} came");
                self.promises.promised = self.promises.promised.max(durable.get());
                false
            }
            Err(e) => {
                let dead = self.sim.crashed();
                assert!(e.kind() == ErrorKind::Poisoned || dead, "wait_durable: {e}");
                true
            }
        }
    }

    fn read_some(&mut self, wal: &Wal) -> bool {
        let (first, known) = (wal.first_lsn().get(), self.promises.known_last());
        let from = first + self.rng.below((known + 2).saturating_sub(first).max(1));
        let count = 1 + self.rng.below(50);
        self.read(wal, Lsn::new(from), count);
        self.read_written(wal);
        false
    }

    /// What is only written may go, but it is nothing else than what was submitted.
    fn read_written(&mut self, wal: &Wal) {
        let from = wal.first_lsn().max(Lsn::new(self.promises.known_last() + 1));
        let reader = wal.reader_at(from, ReadLevel::Written).expect("it starts within the log");
        say!(self, "read written: {from} to {}, durable {}", wal.written_lsn(), wal.durable_lsn());
        let mut batch = None;
        self.tally.reads += 1;
        for record in reader.take(20) {
            match record {
                Ok(record) => batch = Some(self.promises.foresee(batch, record.lsn, &record.data)),
                Err(e) => {
                    // A failed sync may have dropped it from the device; soon that is known.
                    self.sim.pass(Duration::from_millis(1));
                    if wal.wait_durable(Lsn::NONE).is_ok() {
                        self.expect_read_io(&e);
                        self.tally.unread += u64::from(!self.sim.crashed());
                    }
                    return;
                }
            }
        }
    }

    fn truncate(&mut self, wal: &Wal) -> bool {
        let (first, known) = (wal.first_lsn().get(), self.promises.known_last());
        if !self.read(wal, Lsn::new(first.max(known + 1)), u64::MAX) {
            return false;
        }
        let known = self.promises.known_last();
        let to = first + self.rng.below((known + 2).saturating_sub(first).max(1));
        self.promises.first_most = self.promises.first_most.max(to);
        let outcome = wal.truncate_before(Lsn::new(to));
        say!(self, "truncate before {to}: {outcome:?}");
        match outcome {
            Ok(()) => {
                self.promises.first_least = self.promises.first_least.max(to);
                false
            }
            Err(e) if e.kind() == ErrorKind::Poisoned => true,
            Err(e) => {
                self.expect_io(&e);
                !self.sim.crashed()
            }
        }
    }

    /// Cuts the log at any record that is there.
    fn truncate_after(&mut self, wal: &Wal) -> bool {
        let failed = self.clients.wait_all(&mut self.promises);
        if matches!(failed, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) {
            return true;
        }
        let first = wal.first_lsn().get();
        let keep = first - 1 + self.rng.below(wal.next_lsn().get() + 1 - first);
        if !self.read(wal, Lsn::new(first), u64::MAX) {
            return false;
        }
        self.promises.cut = Some(keep);
        self.cuts += 1;
        let outcome = wal.truncate_after(Lsn::new(keep));
        say!(self, "truncate after {keep}: {outcome:?}");
        match outcome {
            Ok(()) => {
                self.promises.cut_after(keep);
                assert_eq!(wal.next_lsn().get(), keep + 1, "it goes on elsewhere");
                false
            }
            Err(e) if e.kind() == ErrorKind::Invalid => {
                self.promises.cut = None;
                assert!(keep + 1 < wal.first_lsn().get(), "{e}");
                false
            }
            // Certainly not cut.
            Err(e) if e.kind() == ErrorKind::Poisoned => {
                self.promises.cut = None;
                true
            }
            Err(e) if e.kind() == ErrorKind::NotConfirmed => true,
            Err(e) => {
                self.expect_io(&e);
                !self.sim.crashed()
            }
        }
    }

    /// Empties the log and lets it go on at any LSN.
    fn reset(&mut self, wal: &Wal) -> bool {
        let failed = self.clients.wait_all(&mut self.promises);
        if matches!(failed, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) {
            return true;
        }
        let next = 1 + self.rng.below(wal.next_lsn().get() + 50);
        self.promises.reset = Some(next);
        self.cuts += 1;
        let outcome = wal.reset_to(Lsn::new(next));
        say!(self, "reset to {next}: {outcome:?}");
        match outcome {
            Ok(()) => {
                self.promises.reset_to(next);
                assert_eq!(wal.next_lsn().get(), next, "it goes on elsewhere");
                assert_eq!(wal.first_lsn().get(), next, "it starts elsewhere");
                false
            }
            // Certainly not done.
            Err(e) if e.kind() == ErrorKind::Poisoned => {
                self.promises.reset = None;
                true
            }
            Err(e) if e.kind() == ErrorKind::NotConfirmed => true,
            Err(e) => {
                self.expect_io(&e);
                !self.sim.crashed()
            }
        }
    }

    /// Appends a payload that looks like frames, and lets the world end while it is written.
    fn forge(&mut self, wal: &Wal) -> bool {
        self.clients.wait_all(&mut self.promises);
        let Some(tail) = damage::tail(&self.sim) else { return false };
        let record = damage::forged(&tail, 20);
        if tail.left < record.len() as u64 + 4096 {
            return false;
        }
        let mut faults = self.sim.faults();
        faults.crash_at = Some(self.sim.ops() + 2 + self.rng.below(4));
        self.sim.set_faults(faults);
        let records = vec![record];
        let sync = Durability::Sync;
        self.clients.submit(wal, &mut self.promises, records, sync, Way::Try);
        self.clients.wait_all(&mut self.promises);
        false
    }

    /// Takes all space away, appends until that is noticed, gives it back: appends work again.
    fn fill_disk(&mut self, wal: &Wal) -> bool {
        let before = self.sim.faults();
        let earlier = self.clients.wait_all(&mut self.promises);
        if matches!(earlier, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) {
            return true;
        }
        let used = self.sim.files().iter().map(|(_, size)| size).sum();
        let (capacity, crash_at) = (Some(used), before.crash_at);
        self.sim.set_faults(Faults { capacity, crash_at, ..Faults::default() });
        for _ in 0..12 {
            let records = vec![vec![7; 200_000]];
            let level = Durability::Sync;
            let turn = self.clients.submit(wal, &mut self.promises, records, level, Way::Block);
            let failed = self.clients.wait_all(&mut self.promises);
            say!(self, "append to a full disk: {turn:?}, {failed:?}");
            if self.sim.crashed() {
                return false;
            }
            match (turn, failed) {
                (Turn::Queued, None) => {}
                (Turn::Queued, Some(ErrorKind::StorageFull)) => {
                    self.tally.full += 1;
                    break;
                }
                // Of what failed before some may be heard only now.
                (Turn::Queued, Some(ErrorKind::Io)) if self.may_fail(&before) => break,
                (Turn::Failed(ErrorKind::Poisoned), _)
                | (_, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) => {
                    let excused = self.may_fail(&before) || self.failed_since_open(wal);
                    assert!(excused, "I9: a full disk poisoned: {turn:?}, {failed:?}");
                    return true;
                }
                other => panic!("a full disk was called {other:?}"),
            }
        }
        self.expect_service(wal, &before);
        false
    }

    /// I9: without faults, whatever was `before`, an append works.
    fn expect_service(&mut self, wal: &Wal, before: &Faults) {
        let crash_at = self.sim.faults().crash_at;
        self.sim.set_faults(Faults { crash_at, ..Faults::default() });
        // A segment that is being made may fail yet of the old faults, and those who want it.
        let mut failed = None;
        for _ in 0..3 {
            self.clients.wait_all(&mut self.promises);
            let len = self.rng.pick(&[0, 100, 200_000]);
            let level = Durability::Sync;
            self.clients.submit(wal, &mut self.promises, vec![vec![8; len]], level, Way::Block);
            failed = self.clients.wait_all(&mut self.promises);
            if failed == Some(ErrorKind::StorageFull) && self.capped {
                // The log itself is in the way.
                match self.truncate_all(wal) {
                    Ok(()) => continue,
                    Err(e) => return assert!(self.sim.crashed(), "a healthy world truncates: {e}"),
                }
            }
            if failed != Some(ErrorKind::Io) {
                break;
            }
        }
        // The maker's queue may have broken just after a `resume`, before the faults were gone.
        let poisoned = matches!(failed, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed));
        let works = failed.is_none() || self.sim.crashed() || poisoned && self.breaks;
        if !works && poisoned && (self.may_fail(before) || self.failed_since_open(wal)) {
            // Or a sync of the segment that is being made failed then.
            return self.expect_resumed(wal);
        }
        assert!(works, "I9: nothing is in the way, but {failed:?}");
    }

    /// I9: a poisoned log comes back in a healthy world.
    fn expect_resumed(&mut self, wal: &Wal) {
        (self.kills_only, self.cuts) = (false, self.cuts + 1);
        match wal.resume() {
            Ok(()) if self.check(wal) => self.expect_service(wal, &Faults::default()),
            Err(e) if !self.sim.crashed() => panic!("I9: a healthy world resumes: {e}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Gives all space back that the log can do without, in a healthy world.
    fn truncate_all(&mut self, wal: &Wal) -> prkdb_core::Result<()> {
        let (first, known, next) =
            (wal.first_lsn().get(), self.promises.known_last(), wal.next_lsn());
        // Of those whose tickets were dropped too: what is cut must have been read.
        wal.wait_durable(next.prev())?.wait()?;
        self.read(wal, Lsn::new(first.max(known + 1)), u64::MAX);
        self.promises.first_most = self.promises.first_most.max(next.get());
        wal.truncate_before(next)?;
        self.promises.first_least = self.promises.first_least.max(next.get());
        Ok(())
    }

    /// Tries to recover in the process.
    fn resume(&mut self, wal: &Wal) -> bool {
        self.kills_only = false;
        self.cuts += 1;
        for _ in 0..self.rng.below(3) {
            match wal.resume() {
                Ok(()) if self.sim.crashed() => return false,
                Ok(()) => {
                    say!(self, "resumed: {:?}", wal.recovery());
                    if self.check(wal) && self.rng.chance(500) {
                        let before = self.sim.faults();
                        self.expect_service(wal, &before);
                    }
                    return !self.sim.crashed();
                }
                Err(e) => {
                    say!(self, "not resumed: {e}");
                    self.expect_io(&e);
                }
            }
            if self.sim.crashed() {
                return false;
            }
        }
        false
    }
}
