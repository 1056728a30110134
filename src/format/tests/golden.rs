//! A released byte keeps its meaning: what version 1 wrote is what it writes, and is read.

use super::super::codec::Decoder;
use super::super::footer::Footer;
use super::super::frame::{FRAME_HEADER_LEN, check_stored, decode_body, record};
use super::super::meta::{META_SLOT_BYTES, Meta, choose};
use super::super::segment::SegmentHeader;
use super::*;

const FRAME: &[u8] = include_bytes!("../../../tests/golden/frame.bin");
const FRAME_LZ4: &[u8] = include_bytes!("../../../tests/golden/frame_lz4.bin");
const FRAME_SNAPPY: &[u8] = include_bytes!("../../../tests/golden/frame_snappy.bin");
const FRAME_ZSTD: &[u8] = include_bytes!("../../../tests/golden/frame_zstd.bin");
const MARK: &[u8] = include_bytes!("../../../tests/golden/mark.bin");
const SEGMENT_HEADER: &[u8] = include_bytes!("../../../tests/golden/segment_header.bin");
const FOOTER: &[u8] = include_bytes!("../../../tests/golden/footer.bin");
const META: &[u8] = include_bytes!("../../../tests/golden/meta.bin");

/// Compares without printing 64 KiB when it fails.
fn assert_same(made: &[u8], released: &[u8]) {
    let differs = made.iter().zip(released).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
    assert_eq!(made.len(), released.len());
}

#[test]
fn a_released_frame_is_written_and_read_the_same() {
    assert_same(&frame_bytes(&RECORDS), FRAME);
    let header = decode(FRAME).unwrap();
    let stored = &FRAME[FRAME_HEADER_LEN..];
    assert_eq!(header, batch(&RECORDS).0);
    assert_eq!(header.frame_len(), FRAME.len() as u64);
    assert_eq!((header.first_lsn, header.last_lsn()), (Lsn::new(7), Lsn::new(9)));
    assert_eq!(check_stored(&header, stored), Ok(()));
    for (i, expected) in (0..).zip(RECORDS) {
        assert_eq!(record(&header, stored, i), Ok(expected));
    }
}

/// What a codec makes of a body may change with its library; what was made stays readable.
#[test]
fn a_released_compressed_frame_is_read_the_same() {
    for (frame, codec) in
        [(FRAME_LZ4, Codec::Lz4), (FRAME_SNAPPY, Codec::Snappy), (FRAME_ZSTD, Codec::Zstd)]
    {
        let header = decode(frame).unwrap();
        let stored = &frame[FRAME_HEADER_LEN..];
        assert_eq!((header.codec, header.frame_len()), (codec, frame.len() as u64));
        assert_eq!(check_stored(&header, stored), Ok(()));
        if !super::codec::built_in().contains(&codec) {
            continue;
        }
        let body = decode_body(&mut Decoder::default(), &header, stored).unwrap();
        assert_eq!(header.count, 20);
        for (i, expected) in (0..).zip(super::codec::lines()) {
            assert_eq!(record(&header, &body, i), Ok(&expected[..]));
        }
    }
}

#[test]
fn a_released_mark_is_written_and_read_the_same() {
    assert_same(&header_bytes(&mark()), MARK);
    let header = decode(MARK).unwrap();
    assert_eq!(header, mark());
    assert_eq!((header.last_lsn(), header.frame_len()), (Lsn::NONE, 72));
    assert_eq!(check_stored(&header, &[]), Ok(()));
}

#[test]
fn a_released_segment_header_is_written_and_read_the_same() {
    assert_same(&segment_header().encode(), SEGMENT_HEADER);
    assert_eq!(SegmentHeader::decode(SEGMENT_HEADER), Ok(segment_header()));
}

#[test]
fn a_released_footer_is_written_and_read_the_same() {
    assert_same(&footer().encode(&SEGMENT, FOOTER_OFFSET, 4096), FOOTER);
    assert_eq!(Footer::decode(FOOTER, &SEGMENT, FOOTER_OFFSET), Ok(footer()));
}

#[test]
fn a_released_meta_is_written_and_read_the_same() {
    assert_same(&meta().encode().unwrap(), META);
    assert_eq!(Meta::decode(META), Ok(meta()));
    assert_eq!(choose(&[0; META_SLOT_BYTES], META), Ok((meta(), Some(0))));
}

#[test]
fn the_example_in_the_specification_is_real() {
    let mut shown = Vec::new();
    for line in include_str!("../FORMAT.md").lines() {
        // "0024: 07 00 .. | first_lsn": offset, bytes, words.
        let Some((at, rest)) = line.split_once(": ") else { continue };
        if at.len() != 4 || !at.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        assert_eq!(at.parse::<usize>().unwrap(), shown.len(), "{line}");
        let bytes = rest.split('|').next().unwrap().split_whitespace();
        shown.extend(bytes.map(|hex| u8::from_str_radix(hex, 16).unwrap()));
    }
    assert_eq!(shown, frame_bytes(&RECORDS));
}
