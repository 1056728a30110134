//! What seeds met, summed: a check that is never reached, or a fault that never bites, shows
//! nothing, however many seeds pass.

use std::ops::AddAssign;

use prkdb_core::io::sim::{FaultClass, Met};

/// So many seeds meet everything that is counted here; fewer need not.
const ENOUGH: u64 = 2_000;

/// What one seed met, or many did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    /// Crashes and closes, each with a recovery and a check.
    pub cycles: u64,
    /// How often each class of faults made a difference.
    pub met: Met,
    /// Disks that were filled until an append was told so.
    pub full: u64,
    /// Logs that were poisoned while a queue was to break.
    pub broken: u64,
    /// Crashes inside a recovery.
    pub recovery_crashes: u64,
    /// Bits that were flipped in a promised frame, and anywhere in a closed log.
    pub flips: u64,
    pub flips_anywhere: u64,
    /// Of the latter those that were told, not survived.
    pub told: u64,
    /// Logs that were to be damaged and held no promised frame that can be compared.
    pub spotless: u64,
    /// Reads of a log, and those that a failed read of the disk kept from their end.
    pub reads: u64,
    pub unread: u64,
    /// Recoveries on a disk that can't be trusted of which a watermark told the least they keep,
    /// and those that met nothing wrong yet.
    pub proofs: u64,
    pub sound: u64,
    /// Logs that were refused as damaged, and looked at with nothing going wrong meanwhile.
    pub looks: u64,
}

impl Tally {
    /// Everything that can be met was: in no fewer seeds than that takes.
    pub fn expect_all_met(&self) {
        if self.seeds < ENOUGH {
            return;
        }
        for class in FaultClass::ALL {
            assert!(self.met.count(class) > 0, "{class:?} never made a difference: {self:?}");
        }
        assert!(self.broken > 0, "no queue broke: {self:?}");
        assert!(self.full > 0, "no full disk was noticed: {self:?}");
        assert!(self.recovery_crashes > 0, "no recovery was crashed: {self:?}");
        assert!(self.flips > 0 && self.flips_anywhere > 0, "nothing was damaged: {self:?}");
        assert!(self.told > 0, "no damage of a closed log was told: {self:?}");
        let (least, few) = (self.seeds / 100, self.unread * 50 < self.reads);
        assert!(few, "too many reads are cut short: {self:?}");
        assert!(self.proofs > least && self.sound > least, "too few were in doubt: {self:?}");
        assert!(self.looks > 0, "no damaged log was looked at: {self:?}");
        assert!(self.spotless * 4 < self.flips, "most logs can't be damaged: {self:?}");
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.seeds += other.seeds;
        self.cycles += other.cycles;
        self.met += other.met;
        self.full += other.full;
        self.broken += other.broken;
        self.recovery_crashes += other.recovery_crashes;
        self.flips += other.flips;
        self.flips_anywhere += other.flips_anywhere;
        self.told += other.told;
        self.spotless += other.spotless;
        self.reads += other.reads;
        self.unread += other.unread;
        self.proofs += other.proofs;
        self.sound += other.sound;
        self.looks += other.looks;
    }
}
