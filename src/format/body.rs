//! The body of a batch: its records, then an index of their ends and checksums.
//!
//! ```text
//! +---------+---------+-- - --+-----------------+-- - -+
//! | record  | record  |       | end u32 crc u32 |      |  body, raw_len bytes
//! +---------+---------+-- - --+-----------------+-- - -+
//!           ^ end of the first                  payload_crc covers the index
//!
//! stored bytes: the body; or what a codec made of it, and then payload_crc covers all of that
//! ```
//!
//! Invariants: no byte of a record is handed out before its checksum held; nothing is decompressed
//! before the checksum of what is stored held. Bytes: FORMAT.md, "Body".

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::options::MAX_RECORD_BYTES;

use super::codec::{self, Decoder};
use super::frame::{Codec, FrameHeader, INDEX_ENTRY_LEN};
use super::{Bad, le};

/// Bytes of a body of `count` records with `record_bytes` in all.
pub(crate) fn body_len(record_bytes: usize, count: usize) -> usize {
    record_bytes + count * INDEX_ENTRY_LEN
}

/// Checksums of one short record after another: what this processor can do is asked once for all.
struct Checksums(crc32fast::Hasher);

impl Checksums {
    fn new() -> Checksums {
        Checksums(crc32fast::Hasher::new())
    }

    fn of(&mut self, bytes: &[u8]) -> u32 {
        self.0.reset();
        self.0.update(bytes);
        self.0.clone().finalize()
    }
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
    let (mut end, mut at, mut checksums) = (0, 0, Checksums::new());
    for record in records {
        bytes[end..end + record.len()].copy_from_slice(record);
        end += record.len();
        le::put_u32(index, at, u32::try_from(end).expect("a batch is below 4 GiB"));
        le::put_u32(index, at + 4, checksums.of(record));
        at += INDEX_ENTRY_LEN;
    }
    assert_eq!(end, record_bytes, "the records changed their length");
    assert_eq!(at, index.len(), "the records changed their count");
    crc32fast::hash(index)
}

/// Checks the payload CRC and, of a body that is stored as it is, that the index is exact; the
/// records' own checksums not yet.
pub(super) fn check_payload(header: &FrameHeader, stored: &[u8]) -> Result<(), Bad> {
    if stored.len() as u64 != u64::from(header.stored_len) {
        return Err(Bad::Short);
    }
    if header.codec != Codec::None {
        let intact = crc32fast::hash(stored) == header.payload_crc;
        return if intact { Ok(()) } else { Err(Bad::Payload) };
    }
    let (_, index) = split(header, stored)?;
    if crc32fast::hash(index) != header.payload_crc {
        return Err(Bad::Payload);
    }
    check_index(header, stored)
}

/// Checks stored bytes as far as that goes without a codec: the payload CRC, and of a body that is
/// stored as it is the rest too, the checksum of each record included.
pub(crate) fn check_stored(header: &FrameHeader, stored: &[u8]) -> Result<(), Bad> {
    check_payload(header, stored)?;
    if header.codec == Codec::None { check_records(header, stored) } else { Ok(()) }
}

/// A body in memory, shared by the records that are given from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    bytes: Arc<[u8]>,
    /// The checksum of each record held already.
    proven: bool,
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    /// Where record `i` stands, once its own checksum held.
    pub(crate) fn range(&self, header: &FrameHeader, i: u32) -> Result<Range<usize>, Bad> {
        let (bytes, start, entry) = find(header, self, i)?;
        if !self.proven {
            take(&mut Checksums::new(), bytes, start, entry, i)?;
        }
        Ok(start as usize..le::u32_at(entry, 0) as usize)
    }

    /// Checks the checksum of each record, once.
    pub(crate) fn prove(&mut self, header: &FrameHeader) -> Result<(), Bad> {
        if !self.proven {
            check_records(header, self)?;
            self.proven = true;
        }
        Ok(())
    }

    /// `count` records from number `from` on, each of which was proven or asked for by `range`.
    pub(crate) fn records(
        &self,
        header: &FrameHeader,
        from: u32,
        count: u32,
    ) -> impl ExactSizeIterator<Item = &[u8]> {
        let (bytes, index) = split(header, self).expect("checked when it was decoded");
        let end = |entry: &[u8]| le::u32_at(entry, 0) as usize;
        let mut entries = index.chunks_exact(INDEX_ENTRY_LEN).skip(from as usize);
        let before = from.checked_sub(1).map(|i| &index[i as usize * INDEX_ENTRY_LEN..]);
        let mut start = before.map_or(0, end);
        (0..count).map(move |_| {
            let to = end(entries.next().expect("no more than the batch has"));
            &bytes[std::mem::replace(&mut start, to)..to]
        })
    }

    /// A share of it.
    pub(crate) fn share(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }
}

/// The body whose stored bytes `check_stored` took. Of one that was compressed the records'
/// checksums are not checked yet.
///
/// Takes memory for the body, once, and only after the stored bytes were asked what they hold.
pub(crate) fn decode_body(
    decoder: &mut Decoder,
    header: &FrameHeader,
    stored: &[u8],
) -> Result<Body, Bad> {
    if header.codec == Codec::None {
        debug_assert_eq!(check_stored(header, stored), Ok(()));
        return Ok(Body { bytes: Arc::from(stored), proven: true });
    }
    let raw_len = header.raw_len as usize;
    codec::may_hold(header.codec, stored, raw_len)?;
    let mut body: Arc<[u8]> = std::iter::repeat_n(0, raw_len).collect();
    decoder.decode(header.codec, stored, Arc::get_mut(&mut body).expect("made just now"))?;
    check_index(header, &body)?;
    Ok(Body { bytes: body, proven: false })
}

/// Record `i` of a body; its own checksum is checked here.
pub(crate) fn record<'a>(header: &FrameHeader, body: &'a [u8], i: u32) -> Result<&'a [u8], Bad> {
    let (bytes, start, entry) = find(header, body, i)?;
    take(&mut Checksums::new(), bytes, start, entry, i)
}

/// Checks the checksum of each record of a body.
pub(crate) fn check_records(header: &FrameHeader, body: &[u8]) -> Result<(), Bad> {
    let (bytes, index) = split(header, body)?;
    let (mut start, mut checksums) = (0, Checksums::new());
    for (i, entry) in (0..header.count).zip(index.chunks_exact(INDEX_ENTRY_LEN)) {
        take(&mut checksums, bytes, start, entry, i)?;
        start = le::u32_at(entry, 0);
    }
    Ok(())
}

/// Checks that the index is exact: ends never fall, and the last is where the index starts.
fn check_index(header: &FrameHeader, body: &[u8]) -> Result<(), Bad> {
    let (bytes, index) = split(header, body)?;
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

/// Records and index of a body.
fn split<'a>(header: &FrameHeader, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Bad> {
    let index = header.count as usize * INDEX_ENTRY_LEN;
    body.len().checked_sub(index).map(|at| body.split_at(at)).ok_or(Bad::Short)
}

/// The bytes of all records, where in them record `i` starts, and its index entry.
fn find<'a>(
    header: &FrameHeader,
    body: &'a [u8],
    i: u32,
) -> Result<(&'a [u8], u32, &'a [u8]), Bad> {
    let (bytes, index) = split(header, body)?;
    if i >= header.count {
        return Err(Bad::Record(i));
    }
    let at = i as usize * INDEX_ENTRY_LEN;
    let start = if i == 0 { 0 } else { le::u32_at(index, at - INDEX_ENTRY_LEN) };
    Ok((bytes, start, &index[at..at + INDEX_ENTRY_LEN]))
}

/// The record that starts at `start` and has this index entry.
fn take<'a>(
    checksums: &mut Checksums,
    bytes: &'a [u8],
    start: u32,
    entry: &[u8],
    i: u32,
) -> Result<&'a [u8], Bad> {
    let (start, end) = (start as usize, le::u32_at(entry, 0) as usize);
    let record = bytes.get(start..end).ok_or(Bad::Lengths)?;
    let intact = checksums.of(record) == le::u32_at(entry, 4);
    if intact || bugs::on(Bug::RecordUnchecked) { Ok(record) } else { Err(Bad::Record(i)) }
}
