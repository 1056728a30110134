//! The frame header: what a batch is, where it stands, and what was promised when it was placed.
//!
//! ```text
//! nonce, offset --+
//!                 v
//! fields --> 68 bytes + CRC --> disk --> CRC --> version --> number, epoch --> limits --> fields
//! ```
//!
//! Invariant: a header that decodes was encoded for this segment and this offset, and its lengths
//! are within the limits, so a reader may act on them. Bytes: FORMAT.md, "Frame header".

use crate::bugs::{self, Bug};
use crate::lsn::Lsn;
use crate::options::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};

use super::{Bad, FORMAT_VERSION, Nonce, SegmentId, le};

pub(crate) use super::body::{
    Body, body_len, check_records, check_stored, decode_body, encode_body, record,
};

/// Bytes of a frame header.
pub(crate) const FRAME_HEADER_LEN: usize = 72;
/// Bytes of index per record.
pub(crate) const INDEX_ENTRY_LEN: usize = 8;

/// The most bytes a body can have.
const MAX_BODY_BYTES: u64 = (MAX_BATCH_BYTES + INDEX_ENTRY_LEN * MAX_BATCH_RECORDS) as u64;
const _: () = assert!(MAX_BODY_BYTES <= u32::MAX as u64, "lengths are u32 on disk");

const FLAGS: usize = 2;
const STREAM: usize = 4;
const COUNT: usize = 8;
const STORED_LEN: usize = 12;
const RAW_LEN: usize = 16;
const PAYLOAD_CRC: usize = 20;
const FIRST_LSN: usize = 24;
const DURABLE_UPTO: usize = 32;
const TIME: usize = 40;
const NUMBER: usize = 48;
const EPOCH: usize = 56;
const VERSION: usize = 64;
const HEADER_CRC: usize = 68;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// One batch of records.
    Batch = 1,
    /// A watermark without records.
    Mark = 2,
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None = 0,
    Lz4 = 1,
    Snappy = 2,
    Zstd = 3,
}

/// The fields of a frame header that are not the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) tag: Tag,
    pub(crate) codec: Codec,
    /// All reserved, so 0.
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) count: u32,
    /// Bytes after the header, as stored.
    pub(crate) stored_len: u32,
    /// Bytes of the body, uncompressed.
    pub(crate) raw_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) first_lsn: Lsn,
    /// The greatest LSN known durable when the frame was placed.
    pub(crate) durable_upto: Lsn,
    pub(crate) time_us: u64,
    pub(crate) number: u64,
    pub(crate) epoch: u64,
}

impl FrameHeader {
    /// Writes the header of the frame at `offset` to the first `FRAME_HEADER_LEN` bytes of `out`.
    pub(crate) fn encode(&self, nonce: &Nonce, offset: u64, out: &mut [u8]) {
        assert_eq!(self.check(), Ok(()), "no reader would take {self:?}");
        let out = &mut out[..FRAME_HEADER_LEN];
        put_fields(self, out);
        let crc = header_crc(nonce, offset, out);
        le::put_u32(out, HEADER_CRC, crc);
    }

    /// The header of the frame at `offset` of `segment`, from the bytes that start there.
    pub(crate) fn decode(
        bytes: &[u8],
        segment: &SegmentId,
        offset: u64,
    ) -> Result<FrameHeader, Bad> {
        if bytes.first() == Some(&0) {
            return Err(Bad::Nothing);
        }
        let bytes = bytes.get(..FRAME_HEADER_LEN).ok_or(Bad::Short)?;
        if le::u32_at(bytes, HEADER_CRC) != header_crc(&segment.nonce, offset, bytes) {
            return Err(Bad::Checksum);
        }
        match le::u32_at(bytes, VERSION) {
            FORMAT_VERSION => {}
            version => return Err(Bad::Version(version)),
        }
        if (le::u64_at(bytes, NUMBER), le::u64_at(bytes, EPOCH)) != (segment.number, segment.epoch)
        {
            return Err(Bad::Foreign);
        }
        let header = fields(bytes)?;
        header.check()?;
        Ok(header)
    }

    /// The first header in the block at `block_at`, from `from` on: where damage hides how long the
    /// frames before it are. Number and epoch are looked for first; the salt proves the rest.
    pub(crate) fn find(
        block: &[u8],
        mut from: usize,
        segment: &SegmentId,
        block_at: u64,
    ) -> Option<usize> {
        let mut life = [0; VERSION - NUMBER];
        le::put_u64(&mut life, 0, segment.number);
        le::put_u64(&mut life, EPOCH - NUMBER, segment.epoch);
        while let Some(at) = place_of(&life, block.get(from + NUMBER..)?).map(|at| from + at) {
            let bytes = block.get(at..at + FRAME_HEADER_LEN)?;
            match FrameHeader::decode(bytes, segment, block_at + at as u64) {
                Ok(_) => return Some(at),
                // Behind damage too a newer version's frames are whole.
                Err(why) if why.is_unsupported() => return Some(at),
                Err(_) => from = at + 1,
            }
        }
        None
    }

    /// Whether the bytes, where a header has its segment's number, have this one's.
    pub(crate) fn names(bytes: &[u8], segment: &SegmentId) -> bool {
        bytes.get(NUMBER..EPOCH).is_some_and(|bytes| le::u64_at(bytes, 0) == segment.number)
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + u64::from(self.stored_len)
    }

    /// The LSN of the last record; `NONE` for a mark.
    pub(crate) fn last_lsn(&self) -> Lsn {
        match self.tag {
            Tag::Batch => self.first_lsn.plus(u64::from(self.count) - 1),
            Tag::Mark => Lsn::NONE,
        }
    }

    fn check(&self) -> Result<(), Bad> {
        if self.flags != 0 {
            return Err(Bad::Version(FORMAT_VERSION));
        }
        let fits = match self.tag {
            Tag::Batch => self.is_batch(),
            Tag::Mark => {
                let lengths = [self.count, self.stored_len, self.raw_len, self.payload_crc];
                lengths == [0; 4] && self.first_lsn == Lsn::NONE && self.codec == Codec::None
            }
        };
        if fits { Ok(()) } else { Err(Bad::Lengths) }
    }

    fn is_batch(&self) -> bool {
        let (count, stored) = (u64::from(self.count), u64::from(self.stored_len));
        let index = count * INDEX_ENTRY_LEN as u64;
        let counted = (1..=MAX_BATCH_RECORDS as u64).contains(&count);
        let raw = (index..=index + MAX_BATCH_BYTES as u64).contains(&u64::from(self.raw_len));
        let stored = match self.codec {
            Codec::None => self.stored_len == self.raw_len,
            Codec::Lz4 | Codec::Snappy | Codec::Zstd => (1..=MAX_BODY_BYTES).contains(&stored),
        };
        let first = self.first_lsn.get();
        let numbered = first > 0 && first.checked_add(count).is_some();
        counted && raw && stored && numbered
    }
}

/// Where a frame stands that follows one which ends at `end` in the same group: its header does not
/// cross the boundary of a block.
pub(crate) fn place_after(end: u64, block: u64) -> u64 {
    let left = block - end % block;
    if left < FRAME_HEADER_LEN as u64 { end + left } else { end }
}

/// Where `life` stands first in `bytes`. Most of what is looked through is zeros, or a body that
/// seldom has one chosen byte of it: what has not is passed by many bytes at a time.
fn place_of(life: &[u8; VERSION - NUMBER], bytes: &[u8]) -> Option<usize> {
    const STRIDE: usize = 64;
    let mark = life.iter().position(|b| *b != 0).unwrap_or(0);
    let places = bytes.len().checked_sub(life.len() - 1)?;
    (0..places).step_by(STRIDE).find_map(|at| {
        let upto = (at + STRIDE).min(places);
        if !bytes[at + mark..upto + mark].contains(&life[mark]) {
            return None;
        }
        (at..upto).find(|at| bytes[*at..].starts_with(life))
    })
}

fn put_fields(header: &FrameHeader, out: &mut [u8]) {
    out[..STREAM].copy_from_slice(&[header.tag as u8, header.codec as u8, header.flags, 0]);
    le::put_u32(out, STREAM, header.stream);
    le::put_u32(out, COUNT, header.count);
    le::put_u32(out, STORED_LEN, header.stored_len);
    le::put_u32(out, RAW_LEN, header.raw_len);
    le::put_u32(out, PAYLOAD_CRC, header.payload_crc);
    le::put_u64(out, FIRST_LSN, header.first_lsn.get());
    le::put_u64(out, DURABLE_UPTO, header.durable_upto.get());
    le::put_u64(out, TIME, header.time_us);
    le::put_u64(out, NUMBER, header.number);
    le::put_u64(out, EPOCH, header.epoch);
    le::put_u32(out, VERSION, FORMAT_VERSION);
}

fn fields(bytes: &[u8]) -> Result<FrameHeader, Bad> {
    let tag = match bytes[0] {
        1 => Tag::Batch,
        2 => Tag::Mark,
        _ => return Err(Bad::Version(FORMAT_VERSION)),
    };
    let codec = match bytes[1] {
        0 => Codec::None,
        1 => Codec::Lz4,
        2 => Codec::Snappy,
        3 => Codec::Zstd,
        unknown => return Err(Bad::Codec(unknown)),
    };
    if bytes[FLAGS + 1] != 0 {
        return Err(Bad::Version(FORMAT_VERSION));
    }
    Ok(FrameHeader {
        tag,
        codec,
        flags: bytes[FLAGS],
        stream: le::u32_at(bytes, STREAM),
        count: le::u32_at(bytes, COUNT),
        stored_len: le::u32_at(bytes, STORED_LEN),
        raw_len: le::u32_at(bytes, RAW_LEN),
        payload_crc: le::u32_at(bytes, PAYLOAD_CRC),
        first_lsn: Lsn::new(le::u64_at(bytes, FIRST_LSN)),
        durable_upto: Lsn::new(le::u64_at(bytes, DURABLE_UPTO)),
        time_us: le::u64_at(bytes, TIME),
        number: le::u64_at(bytes, NUMBER),
        epoch: le::u64_at(bytes, EPOCH),
    })
}

fn header_crc(nonce: &Nonce, offset: u64, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(if bugs::on(Bug::NoNonce) { &[0; 16] } else { nonce });
    crc.update(&offset.to_le_bytes());
    if bugs::on(Bug::ChecksumNotOverLength) {
        crc.update(&header[..COUNT]);
        crc.update(&header[PAYLOAD_CRC..HEADER_CRC]);
    } else {
        crc.update(&header[..HEADER_CRC]);
    }
    crc.finalize()
}
