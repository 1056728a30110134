//! Little-endian fields at fixed places, as the tables of FORMAT.md give them.
//!
//! Callers have checked the length of what they pass; places are constants inside it.

/// The `N` bytes from `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller checked the length")
}

/// The `u32` at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The `u64` at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// Writes `value` at `at`.
pub(super) fn put_u32(out: &mut [u8], at: usize, value: u32) {
    put(out, at, &value.to_le_bytes());
}

/// Writes `value` at `at`.
pub(super) fn put_u64(out: &mut [u8], at: usize, value: u64) {
    put(out, at, &value.to_le_bytes());
}

/// Copies `bytes` to `at`.
pub(super) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
