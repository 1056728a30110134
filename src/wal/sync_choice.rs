//! Which way of making a group durable is in use: as configured, or as `Auto` found it.
//!
//! The writer reads it for each group, the maker sets it once both ways were measured
//! (`maker/calibrate`), recovery brings along what META remembers. It says nothing of other memory:
//! a group that still goes the old way is as durable as one that goes the new one.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::options::SyncMethod;

/// META's code for it, so that there is one table.
#[derive(Debug)]
pub(crate) struct SyncChoice(AtomicU8);

const AUTO: u8 = 0;
const DSYNC: u8 = 1;
const FDATASYNC: u8 = 2;
const FOUND_DSYNC: u8 = 3;
const FOUND_FDATASYNC: u8 = 4;

impl SyncChoice {
    pub(crate) fn new(configured: SyncMethod) -> SyncChoice {
        SyncChoice(AtomicU8::new(match configured {
            SyncMethod::Auto => AUTO,
            SyncMethod::Dsync => DSYNC,
            SyncMethod::Fdatasync => FDATASYNC,
        }))
    }

    /// What META says of an earlier life on this backend counts, unless it is known better.
    pub(crate) fn remember(&self, stored: u8) {
        if self.is_due() && matches!(stored, FOUND_DSYNC | FOUND_FDATASYNC) {
            self.0.store(stored, Ordering::Relaxed);
        }
    }

    /// Whether both ways have yet to be measured.
    pub(crate) fn is_due(&self) -> bool {
        self.code() == AUTO
    }

    /// `Auto` found this.
    pub(crate) fn found(&self, method: SyncMethod) {
        let code = if method == SyncMethod::Fdatasync { FOUND_FDATASYNC } else { FOUND_DSYNC };
        self.0.store(code, Ordering::Relaxed);
    }

    /// How the next group is made durable: `Dsync` or `Fdatasync`.
    pub(crate) fn method(&self) -> SyncMethod {
        match self.code() {
            FDATASYNC | FOUND_FDATASYNC => SyncMethod::Fdatasync,
            _ => SyncMethod::Dsync,
        }
    }

    /// What META keeps.
    pub(crate) fn code(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// The name of what META keeps.
    pub(crate) fn name(code: u8) -> &'static str {
        let names = ["auto", "dsync", "fdatasync", "auto: dsync", "auto: fdatasync"];
        names.get(usize::from(code)).copied().unwrap_or("other")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_stays_and_what_was_found_is_remembered() {
        for (configured, stored, code, method) in [
            (SyncMethod::Auto, AUTO, AUTO, SyncMethod::Dsync),
            (SyncMethod::Auto, FDATASYNC, AUTO, SyncMethod::Dsync),
            (SyncMethod::Auto, FOUND_FDATASYNC, FOUND_FDATASYNC, SyncMethod::Fdatasync),
            (SyncMethod::Auto, FOUND_DSYNC, FOUND_DSYNC, SyncMethod::Dsync),
            (SyncMethod::Dsync, FOUND_FDATASYNC, DSYNC, SyncMethod::Dsync),
            (SyncMethod::Fdatasync, FOUND_DSYNC, FDATASYNC, SyncMethod::Fdatasync),
        ] {
            let choice = SyncChoice::new(configured);
            choice.remember(stored);
            assert_eq!((choice.code(), choice.method()), (code, method), "{configured:?} {stored}");
            assert_eq!(choice.is_due(), code == AUTO);
        }
    }
}
