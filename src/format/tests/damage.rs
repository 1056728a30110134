//! Damage is found (assumption 4 of FORMAT.md), and told from nothing and from newer versions.

use super::super::FORMAT_VERSION;
use super::super::body::check_payload;
use super::super::footer::Footer;
use super::super::frame::{check_stored, record};
use super::super::meta::{META_SLOT_BYTES, Meta, choose};
use super::super::segment::SegmentHeader;
use super::*;

const NEWER: Bad = Bad::Version(FORMAT_VERSION + 1);
const UNKNOWN_PART: Bad = Bad::Version(FORMAT_VERSION);

/// Calls `check` with each byte of `bytes` changed by each of `masks`.
fn each_change(
    bytes: &[u8],
    masks: impl Iterator<Item = u8> + Clone,
    check: impl Fn(&[u8], usize),
) {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        for mask in masks.clone() {
            bytes[at] ^= mask;
            check(&bytes, at);
            bytes[at] ^= mask;
        }
    }
}

#[test]
fn any_changed_byte_of_a_frame_header_is_found() {
    for header in [batch(&RECORDS).0, mark()] {
        each_change(&header_bytes(&header), 1..=255, |bytes, at| {
            let found = decode(bytes).unwrap_err();
            let zeroed_tag = at == 0 && bytes[0] == 0;
            assert_eq!(found, if zeroed_tag { Bad::Nothing } else { Bad::Checksum }, "byte {at}");
        });
    }
}

#[test]
fn any_changed_byte_of_a_body_is_found_and_never_served() {
    let (header, body) = batch(&RECORDS);
    each_change(&body, 1..=255, |bytes, at| {
        assert!(check_stored(&header, bytes).is_err(), "byte {at}");
        for (i, real) in (0..).zip(RECORDS) {
            if let Ok(served) = record(&header, bytes, i) {
                assert_eq!(served, real, "record {i} after a change at {at}");
            }
        }
        let in_index = at >= 8;
        assert_eq!(check_payload(&header, bytes).is_err(), in_index, "byte {at}");
    });
}

#[test]
fn any_changed_byte_of_a_segment_header_is_found() {
    each_change(&segment_header().encode(), [1, 128, 255].into_iter(), |bytes, at| {
        let expected = if at < 8 { Bad::Magic } else { Bad::Checksum };
        assert_eq!(SegmentHeader::decode(bytes), Err(expected), "byte {at}");
    });
}

#[test]
fn any_changed_byte_of_a_footer_is_found() {
    let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
    each_change(&block, [1, 128, 255].into_iter(), |bytes, at| {
        let expected = if at < 8 { Bad::Magic } else { Bad::Checksum };
        assert_eq!(Footer::decode(bytes, &SEGMENT, FOOTER_OFFSET), Err(expected), "byte {at}");
    });
}

#[test]
fn any_changed_byte_of_meta_is_found() {
    each_change(&meta().encode().unwrap(), [16].into_iter(), |bytes, at| {
        let expected = if at < 8 { Bad::Magic } else { Bad::Checksum };
        assert_eq!(Meta::decode(bytes), Err(expected), "byte {at}");
    });
}

#[test]
fn a_change_of_up_to_32_bits_in_a_row_is_found() {
    let bytes = header_bytes(&batch(&RECORDS).0);
    for at in 1..=bytes.len() - 4 {
        for filler in [[0, 0, 0, 0], [0xff; 4], *b"text"] {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&filler);
            if damaged != bytes {
                assert_eq!(decode(&damaged), Err(Bad::Checksum), "at {at}");
            }
        }
    }
}

#[test]
fn a_frame_of_another_place_or_life_is_refused() {
    let bytes = header_bytes(&batch(&RECORDS).0);
    let other = |id: SegmentId, offset| FrameHeader::decode(&bytes, &id, offset);
    assert_eq!(other(SEGMENT, OFFSET + 4096), Err(Bad::Checksum));
    assert_eq!(other(SegmentId { nonce: [9; 16], ..SEGMENT }, OFFSET), Err(Bad::Checksum));
    assert_eq!(other(SegmentId { number: 4, ..SEGMENT }, OFFSET), Err(Bad::Foreign));
    assert_eq!(other(SegmentId { epoch: 1, ..SEGMENT }, OFFSET), Err(Bad::Foreign));
}

#[test]
fn a_frame_inside_a_payload_is_no_frame() {
    // Whoever appends records knows number, epoch and offset, but not the nonce.
    let (header, _) = batch(&RECORDS);
    let mut forged = [0; FRAME_HEADER_LEN];
    header.encode(&[0; 16], OFFSET + FRAME_HEADER_LEN as u64, &mut forged);
    let frame = frame_bytes(&[&forged]);
    let inside = &frame[FRAME_HEADER_LEN..];
    let found = FrameHeader::decode(inside, &SEGMENT, OFFSET + FRAME_HEADER_LEN as u64);
    assert_eq!(found, Err(Bad::Checksum));
}

#[test]
fn the_footer_of_a_last_life_is_refused() {
    let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
    let other = |id: SegmentId, offset| Footer::decode(&block, &id, offset);
    assert_eq!(other(SegmentId { nonce: [9; 16], ..SEGMENT }, FOOTER_OFFSET), Err(Bad::Checksum));
    assert_eq!(other(SegmentId { number: 4, ..SEGMENT }, FOOTER_OFFSET), Err(Bad::Checksum));
    assert_eq!(other(SEGMENT, FOOTER_OFFSET + 4096), Err(Bad::Checksum));
}

#[test]
fn zeros_are_nothing_and_a_cut_is_found_at_any_length() {
    assert_eq!(decode(&[0; FRAME_HEADER_LEN]), Err(Bad::Nothing));
    assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(Bad::Nothing));
    assert_eq!(Footer::decode(&[0; 4096], &SEGMENT, FOOTER_OFFSET), Err(Bad::Nothing));
    assert_eq!(Meta::decode(&[0; META_SLOT_BYTES]), Err(Bad::Nothing));

    let frame = frame_bytes(&RECORDS);
    let (header, body) = batch(&RECORDS);
    for len in 0..FRAME_HEADER_LEN {
        assert_eq!(decode(&frame[..len]), Err(Bad::Short));
    }
    for len in 0..body.len() {
        assert_eq!(check_stored(&header, &body[..len]), Err(Bad::Short));
    }
    let block = segment_header().encode();
    let slot = meta().encode().unwrap();
    for len in 0..block.len() {
        assert!(SegmentHeader::decode(&block[..len]).is_err());
        assert!(Footer::decode(&block[..len], &SEGMENT, FOOTER_OFFSET).is_err());
        assert!(Meta::decode(&slot[..len]).is_err());
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let newer = |at: usize| move |b: &mut [u8]| b[at] += 1;
    let bytes = header_bytes(&batch(&RECORDS).0);
    assert_eq!(decode(&forged_header(&bytes, newer(64))), Err(NEWER));
    let block = forged_block(&segment_header().encode(), &[], newer(8));
    assert_eq!(SegmentHeader::decode(&block), Err(NEWER));
    let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
    let block = forged_block(&block, &footer_salt(), newer(8));
    assert_eq!(Footer::decode(&block, &SEGMENT, FOOTER_OFFSET), Err(NEWER));
    let slot = meta().encode().unwrap();
    let newer = forged_block(&slot, &[], newer(8));
    assert_eq!(Meta::decode(&newer), Err(NEWER));
    assert_eq!(choose(&newer, &slot), Err(NEWER));
    assert_eq!(choose(&slot, &newer), Err(NEWER));
}

#[test]
fn a_reserved_part_in_use_is_refused_as_newer() {
    let bytes = header_bytes(&batch(&RECORDS).0);
    for (at, value) in [(0, 3), (2, 1), (2, 128), (3, 1)] {
        let forged = forged_header(&bytes, |b| b[at] = value);
        assert_eq!(decode(&forged), Err(UNKNOWN_PART), "byte {at}");
    }
    for (at, value) in [(76, 2), (77, 1), (4095, 1)] {
        let forged = forged_block(&segment_header().encode(), &[], |b| b[at] = value);
        assert_eq!(SegmentHeader::decode(&forged), Err(UNKNOWN_PART), "byte {at}");
    }
    let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
    for at in [84, 88 + 3 * 16, 4095] {
        let forged = forged_block(&block, &footer_salt(), |b| b[at] = 1);
        let found = Footer::decode(&forged, &SEGMENT, FOOTER_OFFSET);
        assert_eq!(found, Err(UNKNOWN_PART), "byte {at}");
    }
    for (at, value) in [(92, 5), (94, 2), (95, 2), (104 + 2 * 16, 1), (61_440 + 6, 1), (65_535, 1)]
    {
        let forged = forged_block(&meta().encode().unwrap(), &[], |b| b[at] = value);
        assert_eq!(Meta::decode(&forged), Err(UNKNOWN_PART), "byte {at}");
    }
}

#[cfg(feature = "bugs")]
#[test]
fn a_planted_bug_lets_its_damage_pass() {
    use crate::bugs::{Bug, plant};

    let shorter = |mut bytes: Vec<u8>| {
        bytes[8] -= 1;
        bytes
    };
    let elsewhere = SegmentId { nonce: [9; 16], ..SEGMENT };
    let header = batch(&RECORDS).0;
    plant(Some(Bug::ChecksumNotOverLength));
    let passed = decode(&shorter(header_bytes(&header)));
    plant(Some(Bug::NoNonce));
    let served = FrameHeader::decode(&header_bytes(&header), &elsewhere, OFFSET);
    plant(None);
    assert_eq!(passed.map(|h| h.count), Ok(2));
    assert_eq!(served, Ok(header));
    assert_eq!(decode(&shorter(header_bytes(&header))), Err(Bad::Checksum));
}
