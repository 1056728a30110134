//! What went wrong in a simulated world and made a difference, by class.
//!
//! A rate says what may happen. A fault that was drawn and changed nothing, as where a power cut
//! found everything durable, shows nothing of the engine: it is not counted here.

use std::ops::AddAssign;

use super::faults::Failure;

/// A class of faults, as the module's table numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// The world ended while something was running in it.
    Crash,
    /// A power cut took all of a write that was not durable.
    Lost,
    /// A power cut took a part of a write, and kept another.
    Torn,
    /// A power cut kept of a write what it took of an earlier one in the same file.
    Reordered,
    /// A power cut took a size or a directory entry that was not durable.
    NameLost,
    /// A sync failed, of a file or a directory.
    SyncFailed,
    /// A write, or a call on a directory, failed as EIO.
    WriteFailed,
    /// A creation or a write failed as ENOSPC, EDQUOT or EFBIG.
    NoSpace,
    /// A write wrote fewer bytes than it was given.
    ShortWrite,
    /// A request ended as EINTR, EAGAIN or ECANCELED.
    Passing,
    /// A request completed before one of its queue that was submitted earlier, or late.
    Late,
    /// A bit of what was durable turned over.
    Rot,
    /// A write landed, or a read came from, elsewhere.
    Misdirected,
    /// A read gave what was there before.
    Stale,
}

impl FaultClass {
    /// Every one there is.
    pub const ALL: [FaultClass; 14] = [
        FaultClass::Crash,
        FaultClass::Lost,
        FaultClass::Torn,
        FaultClass::Reordered,
        FaultClass::NameLost,
        FaultClass::SyncFailed,
        FaultClass::WriteFailed,
        FaultClass::NoSpace,
        FaultClass::ShortWrite,
        FaultClass::Passing,
        FaultClass::Late,
        FaultClass::Rot,
        FaultClass::Misdirected,
        FaultClass::Stale,
    ];

    /// The class of a failed request, that of a device's error for want of another.
    pub(super) fn of(failure: Failure) -> FaultClass {
        match failure {
            Failure::Device => FaultClass::WriteFailed,
            Failure::Full | Failure::Quota | Failure::TooLarge => FaultClass::NoSpace,
            Failure::Canceled | Failure::Interrupted | Failure::Again => FaultClass::Passing,
            Failure::Short => FaultClass::ShortWrite,
        }
    }
}

/// How often each class of faults made a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met([u64; FaultClass::ALL.len()]);

impl Met {
    /// How often a fault of this class made a difference.
    pub fn count(&self, class: FaultClass) -> u64 {
        self.0[class as usize]
    }

    /// How often any did.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn note(&mut self, class: FaultClass) {
        self.0[class as usize] += 1;
    }

    pub(super) fn note_if(&mut self, class: FaultClass, is_met: bool) {
        self.0[class as usize] += u64::from(is_met);
    }
}

impl AddAssign for Met {
    fn add_assign(&mut self, other: Met) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

/// What a power cut did to the writes of one file that were not durable: which of them lost or
/// kept sectors that make a difference, by the order in which they landed.
#[derive(Default)]
pub(super) struct Cut {
    first_lost: Option<u64>,
    last_kept: Option<u64>,
    lost: u64,
    torn: u64,
}

impl Cut {
    /// Write `write` kept some of its sectors, or lost some, or both.
    pub(super) fn note(&mut self, write: u64, kept: bool, lost: bool) {
        if kept {
            self.last_kept = self.last_kept.max(Some(write));
        }
        if lost {
            self.first_lost = Some(self.first_lost.map_or(write, |first| first.min(write)));
        }
        self.lost += u64::from(lost && !kept);
        self.torn += u64::from(lost && kept);
    }

    pub(super) fn add_to(&self, met: &mut Met) {
        met.0[FaultClass::Lost as usize] += self.lost;
        met.0[FaultClass::Torn as usize] += self.torn;
        let reordered = self.first_lost.is_some_and(|first| self.last_kept > Some(first));
        met.note_if(FaultClass::Reordered, reordered);
    }
}
