//! A door to the private parsers, for `tests/fuzz` and for nothing else (feature `fuzz`).
//!
//! ```text
//! hostile bytes --> decode --> what was read --> encode --> the same bytes, or a bug
//! ```
//!
//! Nothing here is part of the crate's interface; it may change with any commit. Invariant: each
//! function calls the parser that the log itself uses and adds no check of its own.

use std::io;
use std::path::Path;

use crate::format::codec::{self, Decoder};
use crate::format::footer::Footer;
use crate::format::frame::{
    Codec, FRAME_HEADER_LEN, FrameHeader, INDEX_ENTRY_LEN, Tag, body_len, check_records,
    check_stored, decode_body, encode_body, record,
};
use crate::format::meta::{Meta, choose};
use crate::format::segment::SegmentHeader;
use crate::format::{Bad, SegmentId};
use crate::io::{Access, Disk};
use crate::log::Metrics;
use crate::lsn::Lsn;
use crate::segment::{Cursor, Geometry, Step};

/// Where bytes stand: the salt of their checksums.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Of the segment.
    pub nonce: [u8; 16],
    /// Of the segment.
    pub number: u64,
    /// Of the segment.
    pub epoch: u64,
    /// In the file.
    pub offset: u64,
}

impl Place {
    fn id(&self) -> SegmentId {
        SegmentId { number: self.number, epoch: self.epoch, nonce: self.nonce }
    }
}

/// A piece of the format that has one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first bytes of a frame.
    FrameHeader,
    /// The first block of a segment.
    SegmentHeader,
    /// The last block of a segment.
    Footer,
    /// Half of META.
    MetaSlot,
}

/// Decodes, and encodes what was read; none if the bytes were refused.
pub fn reencode(part: Part, bytes: &[u8], place: &Place) -> Option<Vec<u8>> {
    match part {
        Part::FrameHeader => {
            let header = FrameHeader::decode(bytes, &place.id(), place.offset).ok()?;
            let mut out = vec![0; FRAME_HEADER_LEN];
            header.encode(&place.nonce, place.offset, &mut out);
            Some(out)
        }
        Part::SegmentHeader => Some(SegmentHeader::decode(bytes).ok()?.encode()),
        Part::Footer => {
            let footer = Footer::decode(bytes, &place.id(), place.offset).ok()?;
            Some(footer.encode(&place.id(), place.offset, bytes.len()))
        }
        Part::MetaSlot => Meta::decode(bytes).ok()?.encode().ok(),
    }
}

/// The slot that is read of two, encoded anew.
pub fn choose_slot(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    choose(a, b).ok()?.0.encode().ok()
}

/// The metrics in the content of the file METRICS.
pub fn metrics(bytes: &[u8]) -> Option<Metrics> {
    Metrics::from_text(bytes)
}

/// The content of the file METRICS.
pub fn metrics_text(metrics: &Metrics) -> String {
    metrics.to_text()
}

/// The records of the frame that `bytes` start with; none if any check refuses them.
pub fn records(bytes: &[u8], place: &Place) -> Option<Vec<Vec<u8>>> {
    let header = FrameHeader::decode(bytes, &place.id(), place.offset).ok()?;
    let end = usize::try_from(header.frame_len()).ok()?;
    let stored = bytes.get(FRAME_HEADER_LEN..end)?;
    check_stored(&header, stored).ok()?;
    if header.tag == Tag::Mark {
        return Some(Vec::new());
    }
    opened(&header, stored).ok()
}

/// The records in stored bytes whose checksum holds, as a codec and a length are claimed for them.
pub fn decompress(codec: u8, raw_len: u32, count: u32, stored: &[u8]) -> Option<Vec<Vec<u8>>> {
    let codec = codec_of(codec)?;
    if codec == Codec::None && raw_len as usize != stored.len() {
        // No header would say so.
        return None;
    }
    // Of a body that is stored as it is the checksum covers the index alone.
    let index = (count as usize).checked_mul(INDEX_ENTRY_LEN);
    let covered = match codec {
        Codec::None => stored.get(stored.len().checked_sub(index?)?..)?,
        _ => stored,
    };
    let header = FrameHeader {
        codec,
        count,
        raw_len,
        stored_len: u32::try_from(stored.len()).ok()?,
        payload_crc: crc32fast::hash(covered),
        ..blank()
    };
    check_stored(&header, stored).ok()?;
    opened(&header, stored).ok()
}

fn opened(header: &FrameHeader, stored: &[u8]) -> Result<Vec<Vec<u8>>, Bad> {
    let body = decode_body(&mut Decoder::default(), header, stored)?;
    check_records(header, &body)?;
    (0..header.count).map(|i| record(header, &body, i).map(<[u8]>::to_vec)).collect()
}

/// A frame of these records; none if the codec is missing here or saves too little.
pub fn frame(records: &[Vec<u8>], codec: u8, level: i32, place: &Place) -> Option<Vec<u8>> {
    let codec = codec_of(codec)?;
    let bytes = records.iter().map(Vec::len).sum();
    let mut body = vec![0; body_len(bytes, records.len())];
    let slices = records.iter().map(|record| &record[..]);
    let index_crc = encode_body(slices, bytes, records.len(), &mut body);
    let (stored, payload_crc) = match codec {
        Codec::None => (body.clone(), index_crc),
        codec => {
            let mut out = vec![0; codec::bound(codec, body.len())];
            let len = codec::encoder(codec, level)?(&body, &mut out)?;
            out.truncate(len);
            let crc = crc32fast::hash(&out);
            (out, crc)
        }
    };
    let header = FrameHeader {
        codec,
        count: u32::try_from(records.len()).ok()?,
        raw_len: u32::try_from(body.len()).ok()?,
        stored_len: u32::try_from(stored.len()).ok()?,
        payload_crc,
        number: place.number,
        epoch: place.epoch,
        ..blank()
    };
    let mut frame = vec![0; FRAME_HEADER_LEN];
    header.encode(&place.nonce, place.offset, &mut frame);
    frame.extend(stored);
    Some(frame)
}

fn blank() -> FrameHeader {
    FrameHeader {
        tag: Tag::Batch,
        codec: Codec::None,
        flags: 0,
        stream: 0,
        count: 0,
        stored_len: 0,
        raw_len: 0,
        payload_crc: 0,
        first_lsn: Lsn::FIRST,
        durable_upto: Lsn::NONE,
        time_us: 0,
        number: 0,
        epoch: 0,
    }
}

fn codec_of(codec: u8) -> Option<Codec> {
    [Codec::None, Codec::Lz4, Codec::Snappy, Codec::Zstd].get(usize::from(codec)).copied()
}

/// What a walk over the frames of a segment came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Offset, length, and records' count of each whole frame.
    pub frames: Vec<(u64, u64, u32)>,
    /// Where bytes stand that should be a frame and are not.
    pub bad: Option<u64>,
    /// What lies beyond: the greatest watermark, the greatest LSN, the end of frames.
    pub beyond: (u64, u64, u64),
}

/// Walks the frames of a segment file, `window` bytes at a time, then looks ahead.
///
/// # Errors
/// The file's header is bad; the disk's error.
pub fn walk(disk: &dyn Disk, path: &Path, window: u64) -> io::Result<Walk> {
    let file = disk.open(path, Access::Cached)?;
    let mut block = vec![0; 4096];
    file.read_at(0, &mut block)?;
    let header = SegmentHeader::decode(&block);
    let header =
        header.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad.to_string()))?;
    let geometry = Geometry { size: header.size, block: header.block_size.into() };
    let mut cursor = Cursor::new(file, header.id, geometry, geometry.frames_start(), window);
    let mut walk = Walk::default();
    loop {
        match cursor.step()? {
            Step::End => break,
            Step::Bad { offset, .. } => {
                walk.bad = Some(offset);
                break;
            }
            Step::Frame(frame) => {
                let header = &frame.header;
                walk.frames.push((frame.offset, header.frame_len(), header.count));
            }
        }
    }
    let seen = cursor.look_ahead()?;
    walk.beyond = (seen.durable_upto.get(), seen.last_lsn.get(), seen.frames_end);
    Ok(walk)
}
