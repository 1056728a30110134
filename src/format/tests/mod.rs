//! Tests of the format: released bytes, damage, round trips.

mod codec;
mod damage;
mod golden;
mod limits;
mod round_trip;
mod search;

use super::footer::{Footer, IndexEntry};
use super::frame::{Codec, FRAME_HEADER_LEN, FrameHeader, Tag, body_len, encode_body};
use super::meta::Meta;
use super::segment::SegmentHeader;
use super::{Bad, LogId, Nonce, SegmentId};
use crate::lsn::Lsn;

const NONCE: Nonce = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const LOG_ID: LogId = *b"the id of a log.";
const SEGMENT: SegmentId = SegmentId { number: 3, epoch: 2, nonce: NONCE };
const OFFSET: u64 = 8192;
const FOOTER_OFFSET: u64 = (1 << 20) - 4096;
const RECORDS: [&[u8]; 3] = [b"one", b"", b"three"];

/// A body and the header that belongs to it.
fn batch(records: &[&[u8]]) -> (FrameHeader, Vec<u8>) {
    let bytes = records.iter().map(|r| r.len()).sum();
    let mut body = vec![0xee; body_len(bytes, records.len())];
    let payload_crc = encode_body(records.iter().copied(), bytes, records.len(), &mut body);
    let len = u32::try_from(body.len()).unwrap();
    let header = FrameHeader {
        tag: Tag::Batch,
        codec: Codec::None,
        flags: 0,
        stream: 0,
        count: u32::try_from(records.len()).unwrap(),
        stored_len: len,
        raw_len: len,
        payload_crc,
        first_lsn: Lsn::new(7),
        durable_upto: Lsn::new(5),
        time_us: 1_600_000_000_000_000,
        number: SEGMENT.number,
        epoch: SEGMENT.epoch,
    };
    (header, body)
}

fn mark() -> FrameHeader {
    let (header, _) = batch(&RECORDS);
    FrameHeader {
        tag: Tag::Mark,
        count: 0,
        stored_len: 0,
        raw_len: 0,
        payload_crc: 0,
        first_lsn: Lsn::NONE,
        ..header
    }
}

fn header_bytes(header: &FrameHeader) -> Vec<u8> {
    let mut out = vec![0xee; FRAME_HEADER_LEN];
    header.encode(&NONCE, OFFSET, &mut out);
    out
}

fn frame_bytes(records: &[&[u8]]) -> Vec<u8> {
    let (header, body) = batch(records);
    [header_bytes(&header), body].concat()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { log_id: LOG_ID, id: SEGMENT, size: 1 << 20, block_size: 4096, zeroed: true }
}

fn footer() -> Footer {
    let entry = |lsn, offset| IndexEntry { lsn: Lsn::new(lsn), offset };
    Footer {
        first_lsn: Lsn::new(7),
        last_lsn: Lsn::new(1006),
        first_time_us: 1_600_000_000_000_000,
        last_time_us: 1_600_000_001_000_000,
        frames: 20,
        records: 1000,
        end: 200_000,
        durable_upto: Lsn::new(1006),
        index: vec![entry(7, 8192), entry(300, 73_728), entry(700, 139_264)],
    }
}

fn meta() -> Meta {
    Meta {
        sequence: 8,
        log_id: LOG_ID,
        block_size: 4096,
        segment_bytes: 64 << 20,
        growth_bytes: 4 << 20,
        sync_method: 1,
        last_backend: 2,
        next_epoch: 3,
        clean: true,
        mending: false,
        durable_upto: Lsn::new(1006),
        first_lsn: Lsn::new(7),
        highest_number: 3,
        removed: vec![(Lsn::new(1), Lsn::new(7)), (Lsn::new(1007), Lsn::new(1010))],
        cuts: Vec::new(),
        user_state: b"term 4".to_vec(),
    }
}

fn decode(bytes: &[u8]) -> Result<FrameHeader, Bad> {
    FrameHeader::decode(bytes, &SEGMENT, OFFSET)
}

/// Bytes of a header after `change`, under a checksum that holds: what only a writer can make.
fn forged_header(header: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = header[..FRAME_HEADER_LEN].to_vec();
    change(&mut bytes);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&NONCE);
    crc.update(&OFFSET.to_le_bytes());
    crc.update(&bytes[..68]);
    bytes[68..].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

/// The same for a block or slot.
fn forged_block(block: &[u8], salt: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = block.to_vec();
    change(&mut bytes);
    let mut crc = crc32fast::Hasher::new();
    crc.update(salt);
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

fn footer_salt() -> Vec<u8> {
    [&NONCE[..], &SEGMENT.number.to_le_bytes(), &FOOTER_OFFSET.to_le_bytes()].concat()
}
