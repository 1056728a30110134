//! One seed: a world, its clients, and what happens to them, life after life.
//!
//! ```text
//! open (may crash inside, again) -> check -> work under faults -> close | drop | crash -> open ...
//!                                                                      at the end: a flipped bit
//! ```
//!
//! Everything is drawn from the seed, so a seed that fails fails again. A broken invariant panics.

use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Rng, Sim};
use prkdb_core::{
    BatchConfig, Durability, Error, ErrorKind, Lsn, ReadOnlyWal, SyncMethod, Wal, WalConfig,
};

use crate::client::{Clients, Habit, Turn};
use crate::damage;
use crate::model::Promises;

pub const DIR: &str = "/log";

/// How the work of one life ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Crashed,
    Poisoned,
    Done,
}

/// A log that is not closed when a check fails: closing would wait for a world that hangs.
struct Held(Option<Wal>);

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Wal;

    fn deref(&self) -> &Wal {
        self.0.as_ref().expect("held until it is dropped")
    }
}

/// The life of one seed.
pub struct Life {
    rng: Rng,
    sim: Sim,
    promises: Promises,
    clients: Clients,
    /// Only processes were killed since the last check, and no sync failed: `Written` holds.
    kills_only: bool,
    forger: bool,
    cycles: u64,
    verbose: bool,
}

macro_rules! say {
    ($life:expr, $($arg:tt)*) => {
        if $life.verbose {
            eprintln!("[{:>5} {:?}] {}", $life.sim.ops(), $life.sim.now(), format_args!($($arg)*));
        }
    };
}

/// Runs one seed; gives how many times a log was crashed, recovered and checked.
pub fn run(seed: u64, verbose: bool) -> u64 {
    let mut rng = Rng::stream(seed, 1);
    let model = Model::draw(&mut rng);
    let sim = Sim::new(seed, model, Faults::default());
    let habit = match rng.below(100) {
        0..40 => Habit::Uniform,
        40..90 => Habit::Mixed,
        _ => Habit::Bulk,
    };
    let forger = rng.chance(100);
    let (promises, clients) = (Promises::new(), Clients::new(habit));
    let mut life =
        Life { rng, sim, promises, clients, kills_only: true, forger, cycles: 0, verbose };
    say!(life, "seed {seed}, {:?}, {habit:?}", life.sim.model());
    life.live();
    life.cycles
}

impl Life {
    fn live(&mut self) {
        let lives = 2 + self.rng.below(3);
        for _ in 0..lives {
            let wal = self.open(2);
            if self.check(&wal) && self.rng.chance(150) {
                self.crash(Some(wal));
                let again = self.open(2);
                self.check(&again);
                self.work_and_end(again);
            } else {
                self.work_and_end(wal);
            }
        }
        let healthy = Faults::default();
        self.sim.set_faults(healthy);
        let wal = self.open(0);
        assert!(self.check(&wal), "a healthy world reads everything");
        if self.rng.chance(300) {
            self.damage(wal);
        } else {
            self.end(wal, End::Done);
        }
    }

    fn draw_faults(&mut self) -> Faults {
        let mut faults = Faults::default();
        if self.rng.chance(600) {
            faults = Faults::draw(&mut self.rng);
            if self.rng.chance(100) {
                faults.sync_eio = self.rng.pick(&[50, 200]);
            }
        }
        if self.rng.chance(700) {
            let most = self.rng.pick(&[30, 100, 300, 1000]);
            faults.crash_at = Some(self.sim.ops() + 1 + self.rng.below(most));
        }
        faults
    }

    fn config(&mut self) -> WalConfig {
        let rng = &mut self.rng;
        let mut config = WalConfig::new(DIR);
        config.segment_bytes = rng.pick(&[1 << 20, 1 << 20, 2 << 20]);
        config.depth = rng.pick(&[1, 2, 8, 32]);
        config.sync_method =
            rng.pick(&[SyncMethod::Auto, SyncMethod::Dsync, SyncMethod::Fdatasync]);
        config.batch_config = BatchConfig {
            linger_ms: rng.pick(&[0, 1, 10]),
            max_batch_size: rng.pick(&[1, 10, 1000]),
            max_buffer_bytes: rng.pick(&[1, 8 << 10, 256 << 10, 1 << 20]),
        };
        config
    }

    /// Opens the log, through what the faults of the day bring and, at most `again` times, others.
    fn open(&mut self, again: u32) -> Held {
        for attempt in 0.. {
            if attempt > 0 {
                let faults = if attempt <= again { self.draw_faults() } else { Faults::default() };
                self.sim.set_faults(faults);
            }
            let config = self.config();
            let preview = if self.rng.chance(300) { self.preview() } else { None };
            say!(self, "open, {:?}", self.sim.faults());
            match Wal::open_in(self.sim.world(), config) {
                Ok(wal) => {
                    if let Some(preview) = preview.filter(|_| !self.sim.crashed()) {
                        let found = wal.recovery();
                        assert_eq!(preview, found, "open_read_only foretold something else");
                    }
                    say!(self, "opened: {:?}", wal.recovery());
                    return Held(Some(wal));
                }
                Err(e) if self.sim.crashed() => {
                    say!(self, "crashed in recovery: {e}");
                    self.crash(None);
                }
                Err(e) => {
                    say!(self, "not opened: {e}");
                    self.kills_only = false;
                    self.expect_io(&e);
                }
            }
        }
        unreachable!("a healthy world opens")
    }

    fn preview(&mut self) -> Option<prkdb_core::RecoveryReport> {
        let files = self.sim.files();
        let made = files.iter().any(|(path, _)| path.ends_with("META"));
        if !made || self.sim.faults().capacity.is_some() {
            return None;
        }
        match ReadOnlyWal::open_on(self.sim.world().disk, DIR) {
            Ok(log) => Some(log.recovery()),
            Err(e) => {
                self.expect_io(&e);
                None
            }
        }
    }

    /// An error that only injected faults explain.
    fn expect_io(&self, e: &Error) {
        let faults = self.sim.faults();
        let faulty = faults != Faults { crash_at: faults.crash_at, ..Faults::default() };
        let passing = matches!(e.kind(), ErrorKind::Io | ErrorKind::StorageFull) && faulty;
        assert!(passing || self.sim.crashed(), "no fault explains: {e}");
    }

    /// I1 to I5 on what recovery serves; false if a fault kept it from reading everything.
    fn check(&mut self, wal: &Wal) -> bool {
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        let promises = &mut self.promises;
        let starts = promises.first_least..=promises.first_most;
        assert!(starts.contains(&first), "the log starts at {first}, not in {starts:?}");
        assert!(next > promises.promised, "I1, I5: {} is gone, ends at {next}", promises.promised);
        if self.kills_only {
            assert!(next > promises.written, "written {} is gone", promises.written);
        }
        assert_eq!(wal.durable_lsn().get(), next - 1, "what is served is promised");
        promises.promised = next - 1;
        if !self.read(wal, Lsn::new(first), u64::MAX) {
            return false;
        }
        self.promises.settle(first, next, self.kills_only);
        self.promises.written = next - 1;
        self.kills_only = true;
        self.cycles += 1;
        true
    }

    /// Reads `count` records at most; false if a fault came between.
    fn read(&mut self, wal: &Wal, from: Lsn, count: u64) -> bool {
        let reader = match wal.reader(from) {
            Ok(reader) => reader,
            Err(e) => panic!("no reader at {from}: {e}"),
        };
        for (i, record) in reader.enumerate() {
            if i as u64 == count {
                return true;
            }
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), from.get() + i as u64, "I2: a gap in reading");
                    self.promises.learn(record.lsn.get(), &record.data);
                }
                Err(e) => {
                    self.expect_io(&e);
                    return false;
                }
            }
        }
        true
    }

    fn work_and_end(&mut self, wal: Held) {
        let faults = self.draw_faults();
        say!(self, "work, {faults:?}");
        self.kills_only &= faults.sync_eio == 0;
        self.sim.set_faults(faults);
        let end = self.work(&wal);
        self.end(wal, end);
    }

    fn work(&mut self, wal: &Wal) -> End {
        let steps = self.rng.pick(&[5, 15, 40]);
        for _ in 0..steps {
            let poisoned = match self.rng.below(100) {
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
                94..97 => self.truncate(wal),
                97 if self.forger => self.forge(wal),
                98 => self.fill_disk(wal),
                _ => false,
            };
            if self.sim.crashed() {
                return End::Crashed;
            }
            if poisoned {
                say!(self, "poisoned");
                self.clients.poisoned(&mut self.promises);
                if !self.resume(wal) {
                    return if self.sim.crashed() { End::Crashed } else { End::Poisoned };
                }
            }
        }
        End::Done
    }

    fn append(&mut self, wal: &Wal) -> bool {
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
        let from = first + self.rng.below((known + 2).saturating_sub(first));
        let count = 1 + self.rng.below(50);
        self.read(wal, Lsn::new(from), count);
        false
    }

    fn truncate(&mut self, wal: &Wal) -> bool {
        let (first, known) = (wal.first_lsn().get(), self.promises.known_last());
        if !self.read(wal, Lsn::new(known + 1), u64::MAX) {
            return false;
        }
        let known = self.promises.known_last();
        let to = first + self.rng.below(known + 2 - first);
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
        self.clients.submit(wal, &mut self.promises, records, sync, false);
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
            let turn = self.clients.submit(wal, &mut self.promises, records, level, true);
            let failed = self.clients.wait_all(&mut self.promises);
            say!(self, "append to a full disk: {turn:?}, {failed:?}");
            if self.sim.crashed() {
                return false;
            }
            match (turn, failed) {
                (Turn::Queued, None) => {}
                (Turn::Queued, Some(ErrorKind::StorageFull)) => break,
                (Turn::Failed(ErrorKind::Poisoned), _) => return true,
                (_, Some(ErrorKind::Poisoned | ErrorKind::NotConfirmed)) => return true,
                other => panic!("a full disk was called {other:?}"),
            }
        }
        self.expect_service(wal);
        false
    }

    /// I9: without faults, whatever was before, an append works.
    fn expect_service(&mut self, wal: &Wal) {
        let crash_at = self.sim.faults().crash_at;
        self.sim.set_faults(Faults { crash_at, ..Faults::default() });
        // What was asked for under the old faults may fail yet.
        self.clients.wait_all(&mut self.promises);
        let len = self.rng.pick(&[0, 100, 200_000]);
        let level = Durability::Sync;
        self.clients.submit(wal, &mut self.promises, vec![vec![8; len]], level, true);
        let failed = self.clients.wait_all(&mut self.promises);
        let works = failed.is_none() || self.sim.crashed();
        assert!(works, "I9: nothing is in the way, but {failed:?}");
    }

    /// Tries to recover in the process.
    fn resume(&mut self, wal: &Wal) -> bool {
        self.kills_only = false;
        for _ in 0..self.rng.below(3) {
            match wal.resume() {
                Ok(()) if self.sim.crashed() => return false,
                Ok(()) => {
                    say!(self, "resumed: {:?}", wal.recovery());
                    if self.check(wal) && self.rng.chance(500) {
                        self.expect_service(wal);
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

    fn end(&mut self, mut wal: Held, end: End) {
        if end == End::Crashed || self.rng.chance(600) {
            return self.crash(Some(wal));
        }
        if self.rng.chance(300) {
            drop(wal.0.take());
            self.clients.wait_all(&mut self.promises);
            return;
        }
        let outcome = wal.0.take().expect("held").close();
        say!(self, "closed: {outcome:?}");
        let failed = self.clients.wait_all(&mut self.promises);
        match outcome {
            Ok(()) => {
                assert!(end != End::Poisoned, "a poisoned log was closed as if whole");
                let space = matches!(failed, None | Some(ErrorKind::StorageFull | ErrorKind::Io));
                assert!(space, "closed whole, and {failed:?}");
                self.promises.closed();
            }
            Err(e) if e.kind() == ErrorKind::Poisoned => self.kills_only = false,
            Err(e) => self.expect_io(&e),
        }
        if self.rng.chance(500) {
            self.crash(None);
        }
    }

    /// Ends this life of the world, the process before it or with it.
    fn crash(&mut self, wal: Option<Held>) {
        let kind = self.rng.pick(&[CrashKind::Kill, CrashKind::Power]);
        self.kills_only &= kind == CrashKind::Kill;
        if let Some(wal) = &wal {
            self.promises.promised = self.promises.promised.max(wal.durable_lsn().get());
            self.promises.written = self.promises.written.max(wal.written_lsn().get());
        }
        say!(self, "crash: {kind:?}, promised {}", self.promises.promised);
        let (before, after) =
            if self.sim.crashed() && self.rng.chance(500) { (wal, None) } else { (None, wal) };
        drop(before.map(|mut wal| wal.0.take()));
        self.sim.crash(kind);
        drop(after.map(|mut wal| wal.0.take()));
        self.clients.wait_all(&mut self.promises);
    }

    /// I7: one flipped bit in a promised frame is found where it is, or nothing wrong is served.
    fn damage(&mut self, wal: Held) {
        let promised = wal.durable_lsn().get();
        self.sim.set_faults(Faults::default());
        if self.rng.chance(500) {
            self.append(&wal);
            self.crash(Some(wal));
        } else {
            wal.close_healthy();
        }
        let spots = damage::promised_frames(&self.sim, &self.promises, promised);
        if spots.is_empty() {
            return;
        }
        let spot = &spots[self.rng.index(spots.len())];
        let header = self.rng.chance(300);
        let within = if header { damage::HEADER_LEN as u64 } else { spot.len };
        let at = self.rng.below(within);
        let bit = 1 << self.rng.below(8);
        self.sim.flip(&spot.path, spot.offset + at, bit).expect("it is inside");
        say!(self, "flipped byte {at}, bits {bit:#x} of {spot:?}");
        // A tag that became zero looks like padding: the damage is noticed at the next frame.
        let exact = at > 0 || bit != 1;
        let config = self.config();
        match Wal::open_in(self.sim.world(), config) {
            Err(e) => self.expect_damage(&e, spot, at, exact),
            Ok(wal) => {
                let wal = Held(Some(wal));
                self.read_damaged(&wal, spot, at, exact);
            }
        }
        self.cycles += 1;
    }

    fn read_damaged(&mut self, wal: &Wal, spot: &damage::Spot, at: u64, exact: bool) {
        let reader = wal.reader(wal.first_lsn()).expect("the log has a start");
        for (lsn, record) in (wal.first_lsn().get()..).zip(reader) {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), lsn, "I7: records are missing");
                    assert!(!(spot.first..=spot.last).contains(&lsn), "I7: damage was served");
                    self.promises.learn(lsn, &record.data);
                }
                Err(e) => {
                    assert!((spot.first..=spot.last).contains(&lsn), "I7: at {lsn}: {e}");
                    return self.expect_damage(&e, spot, at, exact);
                }
            }
        }
        panic!("I7: record {} ended in silence", spot.first);
    }

    fn expect_damage(&self, e: &Error, spot: &damage::Spot, at: u64, exact: bool) {
        assert_eq!(e.kind(), ErrorKind::Corrupt, "I7: {e}");
        if !exact {
            return;
        }
        let place = (e.path(), e.offset());
        assert_eq!(place, (Some(&*spot.path), Some(spot.offset)), "I7: another place: {e}");
        let told = e.to_string().contains("its checksum does not match");
        assert!(told || at >= damage::HEADER_LEN as u64, "I7: a header's bit passed: {e}");
    }
}

impl Held {
    fn close_healthy(mut self) {
        let wal = self.0.take().expect("held until it is dropped");
        wal.close().expect("a healthy world closes");
    }
}
