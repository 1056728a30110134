//! One seed: a world, its clients, and what happens to them, life after life.
//!
//! ```text
//! open (may crash inside, again) -> check -> work under faults -> close | drop | crash -> open ...
//!                                                                      at the end: a flipped bit
//! ```
//!
//! Everything is drawn from the seed, so a seed that fails fails again. A broken invariant panics.

use std::path::PathBuf;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Rng, Sim};
use prkdb_core::{
    BatchConfig, CompactionPolicy, CompressionConfig, CompressionType, ErrorKind, Lsn, ReadOnlyWal,
    Record, RecordBatch, RecoveryPolicy, SyncMethod, Wal, WalConfig,
};

use crate::client::{Clients, Habit};
use crate::damage;
use crate::model::Promises;
use crate::tally::Tally;
use crate::turns::{self, Slot};

pub const DIR: &str = "/log";

/// How the work of one life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Crashed,
    Poisoned,
    Done,
}

/// Disks that break promises no log can keep without them; at most one of these to a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    None,
    /// Acknowledges syncs and drops them.
    Lying,
    /// Bytes land elsewhere, come from elsewhere, are old, or rot.
    Wrong,
}

/// A log that is not closed when a check fails: closing would wait for a world that hangs.
pub struct Open(pub Option<Wal>);

impl Drop for Open {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

impl std::ops::Deref for Open {
    type Target = Wal;

    fn deref(&self) -> &Wal {
        self.0.as_ref().expect("held until it is dropped")
    }
}

/// The life of one seed.
pub struct Life {
    pub rng: Rng,
    /// Draws codecs, so that all else is drawn as it would be without them.
    codecs: Rng,
    /// Draws `wipe_retired`, likewise.
    wipes: Rng,
    mends: Rng,
    /// Draws failing changes of names and queues that break, likewise.
    names: Rng,
    /// A queue breaks at some operation of this time, or broke.
    pub breaks: bool,
    /// What was in the making when the log had been opened under failing syncs: it may hear of one
    /// later.
    pub begun: Vec<PathBuf>,
    /// Draws the turns of several clients, likewise; only some seeds have them.
    pub more: Option<Rng>,
    /// What the user slot may hold.
    pub slot: Slot,
    /// How often records were cut from the end, or may have been.
    pub cuts: u64,
    pub sim: Sim,
    pub promises: Promises,
    pub clients: Clients,
    /// Only processes were killed since the last check, and no sync failed: `Written` holds.
    pub kills_only: bool,
    pub forger: bool,
    /// Its logs cut old records by themselves.
    pub policies: bool,
    /// What its disk does that can't be survived whole.
    pub hazard: Hazard,
    /// Nothing failed since the log that is open was opened, nor then.
    pub healthy: bool,
    /// Some of its logs wiped what they retired.
    pub wiped: bool,
    /// The log that is open has a cap on its size.
    pub capped: bool,
    /// The size of a full segment in this life.
    pub segment_bytes: u64,
    pub tally: Tally,
    pub verbose: bool,
}

/// Tells what happens, where one seed is looked at.
macro_rules! say {
    ($life:expr, $($arg:tt)*) => {
        if $life.verbose {
            eprintln!("[{:>5} {:?}] {}", $life.sim.ops(), $life.sim.now(), format_args!($($arg)*));
        }
    };
}

pub(crate) use say;

/// Runs one seed; gives what it met.
pub fn run(seed: u64, verbose: bool) -> Tally {
    let life = lived(seed, verbose);
    Tally { seeds: 1, met: life.sim.met(), ..life.tally }
}

/// All that one seed did and left: its cycles, its trace, and the bytes of each file.
pub fn footprint(seed: u64) -> (u64, u64, Vec<(std::path::PathBuf, u32)>) {
    let life = lived(seed, false);
    let files = life.sim.files().into_iter().map(|(path, _)| {
        let bytes = life.sim.peek(&path).expect("listed just now");
        (path, crc32fast::hash(&bytes))
    });
    (life.tally.cycles, life.sim.trace(), files.collect())
}

/// What a seed's disk does that can't be survived whole.
pub fn hazard(seed: u64) -> Hazard {
    match Rng::stream(seed, 3).below(100) {
        0..6 => Hazard::Lying,
        6..20 => Hazard::Wrong,
        _ => Hazard::None,
    }
}

fn lived(seed: u64, verbose: bool) -> Life {
    let mut rng = Rng::stream(seed, 1);
    let mut model = Model::draw(&mut rng);
    let hazard = hazard(seed);
    model.lies = hazard == Hazard::Lying;
    let sim = Sim::new(seed, model, Faults::default());
    let habit = match rng.below(100) {
        0..40 => Habit::Uniform,
        40..90 => Habit::Mixed,
        _ => Habit::Bulk,
    };
    let forger = rng.chance(100);
    let policies = rng.chance(150) && hazard == Hazard::None;
    let (mut promises, clients) = (Promises::new(), Clients::new(habit));
    if policies {
        // A log may start anywhere.
        promises.first_most = u64::MAX;
    }
    let codecs = Rng::stream(seed, 2);
    let mut life = Life {
        rng,
        codecs,
        wipes: Rng::stream(seed, 4),
        mends: Rng::stream(seed, 9),
        names: Rng::stream(seed, 6),
        breaks: false,
        begun: Vec::new(),
        more: turns::draw(seed, hazard),
        slot: Slot::default(),
        cuts: 0,
        sim,
        promises,
        clients,
        kills_only: true,
        forger,
        policies,
        hazard,
        healthy: false,
        wiped: false,
        capped: false,
        segment_bytes: 0,
        tally: Tally::default(),
        verbose,
    };
    say!(life, "seed {seed}, {:?}, {habit:?}", life.sim.model());
    life.live();
    life
}

impl Life {
    fn live(&mut self) {
        let lives = match self.hazard {
            Hazard::None => 2 + self.rng.below(3),
            Hazard::Lying => 0,
            Hazard::Wrong => 1,
        };
        for _ in 0..lives {
            let wal = self.open(2);
            if self.check(&wal) && self.rng.chance(150) {
                self.crash(Some(wal));
                let served = self.promises.promised;
                let again = self.open(2);
                self.check(&again);
                let found = again.recovery().kept_through.get();
                assert_eq!(found, served, "I6: opened twice, and it is another log");
                self.work_and_end(again);
            } else {
                self.work_and_end(wal);
            }
        }
        if self.hazard != Hazard::None {
            return self.doubt();
        }
        self.calm_down();
        let wal = self.open(0);
        assert!(self.check(&wal), "a healthy world reads everything");
        let promised = self.promises.promised;
        let kept = damage::kept_in_padding(&self.sim, &self.promises, promised);
        assert!(kept.is_empty(), "what was in memory is on disk behind {kept:?}");
        // What a policy cuts meanwhile would look like damage that nobody told.
        if !self.policies && self.rng.chance(300) {
            self.damage(wal);
        } else {
            self.end(wal, End::Done);
        }
    }

    /// Nothing goes wrong from now on.
    pub fn calm_down(&mut self) {
        self.breaks = false;
        self.sim.set_faults(Faults::default());
    }

    pub fn draw_faults(&mut self) -> Faults {
        let mut faults = Faults::default();
        if self.rng.chance(600) {
            faults = Faults::draw(&mut self.rng);
            if self.rng.chance(100) {
                faults.sync_eio = self.rng.pick(&[50, 200]);
            }
        }
        if self.rng.chance(100) {
            faults.fail_nth = Some(self.sim.ops() + 1 + self.rng.below(100));
            faults.fail_on = self.rng.chance(200);
        }
        if self.rng.chance(700) {
            let most = self.rng.pick(&[30, 100, 300, 1000]);
            faults.crash_at = Some(self.sim.ops() + 1 + self.rng.below(most));
        }
        if self.names.chance(100) {
            faults.names_eio = self.names.pick(&[10, 50, 200]);
        }
        self.breaks = self.names.chance(50);
        if self.breaks {
            faults.break_at = Some(self.sim.ops() + 1 + self.names.below(200));
        }
        faults
    }

    pub fn config(&mut self) -> WalConfig {
        let rng = &mut self.rng;
        let segment_bytes = rng.pick(&[1 << 20, 1 << 20, 2 << 20]);
        self.segment_bytes = segment_bytes;
        let mut config = WalConfig { segment_bytes, ..WalConfig::new(DIR) };
        config.num_segments = rng.pick(&[1, 1, 2, 4, 8]);
        config.depth = rng.pick(&[1, 2, 8, 32]);
        config.sync_method =
            rng.pick(&[SyncMethod::Auto, SyncMethod::Dsync, SyncMethod::Fdatasync]);
        config.batch_config = BatchConfig {
            linger_ms: rng.pick(&[0, 1, 10]),
            max_batch_size: rng.pick(&[1, 10, 1000]),
            max_buffer_bytes: rng.pick(&[1, 8 << 10, 256 << 10, 1 << 20]),
            compression: None,
        };
        let kind = self.codecs.pick(&CompressionType::ALL);
        config.compression = CompressionConfig {
            compression_type: if kind.is_built_in() { kind } else { CompressionType::None },
            min_compress_bytes: self.codecs.pick(&[0, 256]),
            ..CompressionConfig::throughput_optimized()
        };
        let least = (config.num_segments as u64 + 1) * config.segment_bytes + (2 << 20);
        self.capped = rng.chance(100);
        config.max_disk_bytes = self.capped.then_some(least + segment_bytes);
        if self.policies && rng.chance(500) {
            config.compaction = CompactionPolicy::SizeWindow(least);
        }
        if self.policies && rng.chance(300) {
            config.retention_ms = Some(rng.pick(&[1, 100, 2000]));
        }
        config.wipe_retired = self.wipes.chance(250);
        self.wiped |= config.wipe_retired;
        config
    }

    /// Opens the log, through what the faults of the day bring and, at most `again` times, others.
    pub fn open(&mut self, again: u32) -> Open {
        for attempt in 0.. {
            if attempt > 0 {
                self.calm_down();
                if attempt <= again {
                    let faults = self.draw_faults();
                    self.sim.set_faults(faults);
                }
            }
            let mut config = self.config();
            if self.hazard == Hazard::None && self.mends.chance(150) {
                // Where nothing is damaged they find what the others find.
                let policies = [RecoveryPolicy::PointInTime, RecoveryPolicy::Salvage];
                config.recovery = self.mends.pick(&policies);
            }
            let preview = if self.rng.chance(300) { self.preview() } else { None };
            say!(self, "open, {:?}", self.sim.faults());
            match Wal::open_in(self.sim.world(), config) {
                Ok(wal) => {
                    if let Some(preview) = preview.filter(|_| !self.sim.crashed()) {
                        let found = wal.recovery();
                        assert_eq!(preview, found, "open_read_only foretold something else");
                    }
                    self.promises.opened();
                    self.healthy = self.is_healthy();
                    say!(self, "opened: {:?}", wal.recovery());
                    return Open(Some(wal));
                }
                Err(e) if self.sim.crashed() => {
                    say!(self, "crashed in recovery: {e}");
                    self.tally.recovery_crashes += 1;
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
                self.expect_read_io(&e);
                None
            }
        }
    }

    /// I1 to I5 on what recovery serves; false if a fault kept it from reading everything.
    pub fn check(&mut self, wal: &Wal) -> bool {
        let (first, next) = (wal.first_lsn().get(), wal.next_lsn().get());
        self.slot.check(wal);
        let promises = &mut self.promises;
        if let Some(keep) = promises.cut.take()
            && next == keep + 1
        {
            promises.cut_after(keep);
        }
        if let Some(reset) = promises.reset.take()
            && (first, next) == (reset, reset)
        {
            promises.reset_to(reset);
        }
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
        let faults = self.sim.faults();
        self.kills_only = faults.sync_eio == 0 && faults.fail_nth.is_none();
        self.tally.cycles += 1;
        true
    }

    /// Reads `count` records at most; false if a fault came between.
    pub fn read(&mut self, wal: &Wal, from: Lsn, count: u64) -> bool {
        let mut reader = match wal.reader(from) {
            Ok(reader) => reader,
            Err(e) => panic!("no reader at {from}: {e}"),
        };
        self.tally.reads += 1;
        let mut next = from.get();
        while next - from.get() < count {
            // Who reads to the end takes what is left of a batch at once, every other time.
            let given = match count == u64::MAX && next % 2 == 1 {
                true => reader.next_batch().map(|given| given.map(all_of)),
                false => reader.next().map(|given| given.map(one_of)),
            };
            let Some(given) = given else { return true };
            match given {
                Ok((first, records)) => {
                    assert_eq!(first, next, "I2: a gap in reading");
                    for data in records {
                        self.promises.learn(next, &data);
                        next += 1;
                    }
                }
                Err(e) => {
                    self.expect_read_io(&e);
                    self.tally.unread += u64::from(!self.sim.crashed());
                    return false;
                }
            }
        }
        true
    }

    fn work_and_end(&mut self, wal: Open) {
        // One that broke while the log was opened may be noticed only now.
        let broke = self.breaks && self.sim.faults().break_at.is_none();
        let making = |path: &PathBuf| path.extension() == Some("making".as_ref());
        let begun = self.sim.files().into_iter().map(|(path, _)| path).filter(making);
        self.begun = begun.filter(|_| self.sim.faults().sync_eio > 0).collect();
        let faults = self.draw_faults();
        self.breaks |= broke;
        say!(self, "work, {faults:?}");
        self.kills_only &= faults.sync_eio == 0 && faults.fail_nth.is_none();
        self.sim.set_faults(faults);
        self.healthy &= self.is_healthy();
        let end = self.work(&wal);
        self.end(wal, end);
    }

    fn end(&mut self, mut wal: Open, end: End) {
        if end == End::Crashed || self.rng.chance(600) {
            return self.crash(Some(wal));
        }
        if self.rng.chance(300) {
            drop(wal.0.take());
            self.clients.wait_all(&mut self.promises);
            self.expect_nothing_held();
            return;
        }
        let outcome = wal.0.take().expect("held").close();
        say!(self, "closed: {outcome:?}");
        let failed = self.clients.wait_all(&mut self.promises);
        self.expect_nothing_held();
        match outcome {
            Ok(()) => {
                assert!(end != End::Poisoned, "a poisoned log was closed as if whole");
                let space = matches!(failed, None | Some(ErrorKind::StorageFull | ErrorKind::Io));
                assert!(space, "closed whole, and {failed:?}");
                self.expect_only_a_log();
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
    pub fn crash(&mut self, wal: Option<Open>) {
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
}

impl Open {
    pub fn close_healthy(mut self) {
        let wal = self.0.take().expect("held until it is dropped");
        wal.close().expect("a healthy world closes");
    }
}

/// The first LSN of what was read, and the records.
fn one_of(record: Record) -> (u64, Vec<Vec<u8>>) {
    (record.lsn.get(), vec![record.data.to_vec()])
}

fn all_of(batch: RecordBatch) -> (u64, Vec<Vec<u8>>) {
    (batch.lsns().first().get(), batch.iter().map(<[u8]>::to_vec).collect())
}
