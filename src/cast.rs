//! Conversions between file offsets (`u64`) and memory lengths (`usize`) that lose no bits.
//!
//! The crate needs 64-bit addresses: a segment may be 4 GiB, a mapping of it no less.

use std::time::Duration;

const _: () = assert!(usize::BITS == 64, "prkdb-core needs a 64-bit target");

/// A byte count or offset as a memory length.
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, asserted above")]
pub(crate) const fn len(bytes: u64) -> usize {
    bytes as usize
}

/// A time as nanoseconds: 584 years fit.
pub(crate) const fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64)
}

/// `value` rounded up to a multiple of `unit`, a power of two.
pub(crate) const fn round_up(value: u64, unit: u64) -> u64 {
    debug_assert!(unit.is_power_of_two());
    (value + unit - 1) & !(unit - 1)
}

/// `value` rounded down to a multiple of `unit`, a power of two.
pub(crate) const fn round_down(value: u64, unit: u64) -> u64 {
    debug_assert!(unit.is_power_of_two());
    value & !(unit - 1)
}
