//! The body of a batch: its records, then an index of their ends and checksums.
//!
//! ```text
//! +---------+---------+-- - --+-----------------+-- - -+
//! | record  | record  |       | end u32 crc u32 |      |
//! +---------+---------+-- - --+-----------------+-- - -+
//!           ^ end of the first                  payload_crc covers the index
//! ```
//!
//! Invariant: no byte of a record is handed out before its checksum held. Bytes: FORMAT.md, "Body".

use crate::options::MAX_RECORD_BYTES;

use super::frame::{Codec, FrameHeader, INDEX_ENTRY_LEN};
use super::{Bad, le};

/// Bytes of a body of `count` records with `record_bytes` in all.
pub(crate) fn body_len(record_bytes: usize, count: usize) -> usize {
    record_bytes + count * INDEX_ENTRY_LEN
}

/// Writes a body, uncompressed, and returns its payload CRC.
///
/// - Shape: `count` records with `record_bytes` in all; `out` has the length `body_len` of that.
///
/// Panics if the records are not what was announced: a record's `as_ref` may change its mind
/// between the pass that counts and this one, and a lie must not reach the disk.
pub(crate) fn encode_body<'a>(
    records: impl Iterator<Item = &'a [u8]>,
    record_bytes: usize,
    count: usize,
    out: &mut [u8],
) -> u32 {
    assert_eq!(out.len(), body_len(record_bytes, count), "the body's length");
    let (bytes, index) = out.split_at_mut(record_bytes);
    let (mut end, mut at) = (0, 0);
    for record in records {
        bytes[end..end + record.len()].copy_from_slice(record);
        end += record.len();
        le::put_u32(index, at, u32::try_from(end).expect("a batch is below 4 GiB"));
        le::put_u32(index, at + 4, crc32fast::hash(record));
        at += INDEX_ENTRY_LEN;
    }
    assert_eq!(end, record_bytes, "the records changed their length");
    assert_eq!(at, index.len(), "the records changed their count");
    crc32fast::hash(index)
}

/// Checks the payload CRC and that the index is exact; the records' own checksums not yet.
pub(super) fn check_body(header: &FrameHeader, stored: &[u8]) -> Result<(), Bad> {
    if stored.len() as u64 != u64::from(header.stored_len) {
        return Err(Bad::Short);
    }
    if header.codec != Codec::None {
        let intact = crc32fast::hash(stored) == header.payload_crc;
        return if intact { Ok(()) } else { Err(Bad::Payload) };
    }
    let (bytes, index) = split(header, stored)?;
    if crc32fast::hash(index) != header.payload_crc {
        return Err(Bad::Payload);
    }
    let mut start = 0;
    for entry in index.chunks_exact(INDEX_ENTRY_LEN) {
        let end = le::u32_at(entry, 0) as usize;
        if end < start || end - start > MAX_RECORD_BYTES {
            return Err(Bad::Lengths);
        }
        start = end;
    }
    if start == bytes.len() { Ok(()) } else { Err(Bad::Lengths) }
}

/// Record `i` of a body that `check_body` took; its own checksum is checked here.
pub(crate) fn record<'a>(header: &FrameHeader, stored: &'a [u8], i: u32) -> Result<&'a [u8], Bad> {
    let (bytes, index) = split(header, stored)?;
    if i >= header.count {
        return Err(Bad::Record(i));
    }
    let at = i as usize * INDEX_ENTRY_LEN;
    let start = if i == 0 { 0 } else { le::u32_at(index, at - INDEX_ENTRY_LEN) };
    take(bytes, start, &index[at..at + INDEX_ENTRY_LEN], i)
}

/// Checks all of a body: payload CRC, index, and the checksum of each record.
pub(crate) fn check_records(header: &FrameHeader, stored: &[u8]) -> Result<(), Bad> {
    check_body(header, stored)?;
    let (bytes, index) = split(header, stored)?;
    let mut start = 0;
    for (i, entry) in (0..header.count).zip(index.chunks_exact(INDEX_ENTRY_LEN)) {
        take(bytes, start, entry, i)?;
        start = le::u32_at(entry, 0);
    }
    Ok(())
}

/// Records and index of an uncompressed body.
fn split<'a>(header: &FrameHeader, stored: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Bad> {
    if header.codec != Codec::None {
        return Err(Bad::Codec(header.codec as u8));
    }
    let index = header.count as usize * INDEX_ENTRY_LEN;
    stored.len().checked_sub(index).map(|at| stored.split_at(at)).ok_or(Bad::Short)
}

/// The record that starts at `start` and has this index entry.
fn take<'a>(bytes: &'a [u8], start: u32, entry: &[u8], i: u32) -> Result<&'a [u8], Bad> {
    let (start, end) = (start as usize, le::u32_at(entry, 0) as usize);
    let record = bytes.get(start..end).ok_or(Bad::Lengths)?;
    let intact = crc32fast::hash(record) == le::u32_at(entry, 4);
    if intact { Ok(record) } else { Err(Bad::Record(i)) }
}
