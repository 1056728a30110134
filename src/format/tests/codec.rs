//! Compressed bodies: what goes in comes out, and no stored bytes at all do harm.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::codec::{Decoder, bound, encoder, holds, may_hold, worth};
use super::super::frame::{Body, check_records, check_stored, decode_body, record};
use super::*;
use crate::options::{CompressionType, MAX_BATCH_BYTES};

#[path = "../../../tests/support/zeros.rs"]
mod zeros;

/// The longest body that a header of one record can announce.
const MOST: usize = MAX_BATCH_BYTES + 8;

/// The codecs of this build.
pub(super) fn built_in() -> Vec<Codec> {
    let kinds = CompressionType::ALL.into_iter().skip(1);
    kinds.filter(CompressionType::is_built_in).map(Codec::from).collect()
}

/// Records that any codec makes shorter.
pub(super) fn lines() -> Vec<Vec<u8>> {
    (0..20).map(|i| format!("line {i} of a batch that was compressed").into_bytes()).collect()
}

/// What a codec makes of bytes, worth it or not.
fn compressed(codec: Codec, body: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0xee; bound(codec, body.len())];
    let len = encoder(codec, 3).unwrap()(body, &mut out)?;
    out.truncate(len);
    Some(out)
}

/// The header of these stored bytes, under a checksum that holds.
fn header(codec: Codec, stored: &[u8], raw_len: usize) -> FrameHeader {
    FrameHeader {
        codec,
        count: 1,
        stored_len: u32::try_from(stored.len()).unwrap(),
        raw_len: u32::try_from(raw_len).unwrap(),
        payload_crc: crc32fast::hash(stored),
        ..batch(&RECORDS).0
    }
}

fn batch_of_lines() -> (FrameHeader, Vec<u8>) {
    let lines = lines();
    batch(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// A batch of `lines`, compressed.
fn compressed_lines(codec: Codec) -> (FrameHeader, Vec<u8>) {
    let (raw, body) = batch_of_lines();
    let stored = compressed(codec, &body).unwrap();
    let header = FrameHeader { count: raw.count, ..header(codec, &stored, body.len()) };
    (header, stored)
}

fn decoded(header: &FrameHeader, stored: &[u8]) -> Result<Body, Bad> {
    assert_eq!(check_stored(header, stored), Ok(()), "else nobody would look inside");
    decode_body(&mut Decoder::default(), header, stored)
}

#[test]
fn a_compressed_batch_comes_back() {
    for codec in built_in() {
        let (header, stored) = compressed_lines(codec);
        assert!(stored.len() <= worth(header.raw_len as usize));
        assert_eq!(decode(&header_bytes(&header)), Ok(header));
        let body = decoded(&header, &stored).unwrap();
        assert_eq!(body[..], batch_of_lines().1);
        assert_eq!(check_records(&header, &body), Ok(()));
        for (i, line) in (0..).zip(lines()) {
            assert_eq!(record(&header, &body, i), Ok(&line[..]));
        }
    }
}

#[test]
fn a_changed_byte_is_found_before_anything_is_decompressed() {
    for codec in built_in() {
        let (header, stored) = compressed_lines(codec);
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert_eq!(check_stored(&header, &changed), Err(Bad::Payload), "byte {at}");
        }
        assert_eq!(check_stored(&header, &stored[1..]), Err(Bad::Short));
    }
}

#[test]
fn a_length_that_is_a_lie_is_damage_either_way() {
    for codec in built_in() {
        let (honest, stored) = compressed_lines(codec);
        let raw_len = honest.raw_len as usize;
        let least = 8 * lines().len();
        for lie in [raw_len - 1, raw_len + 1, least, 2 * raw_len, 10 * raw_len, MOST] {
            let header = FrameHeader { count: honest.count, ..header(codec, &stored, lie) };
            assert_eq!(decode(&header_bytes(&header)), Ok(header), "a header may say so");
            assert_eq!(decoded(&header, &stored), Err(Bad::Compressed), "{codec:?} {lie}");
        }
    }
}

#[test]
fn stored_bytes_that_are_cut_or_go_on_are_damage() {
    for codec in built_in() {
        let (honest, stored) = compressed_lines(codec);
        let (raw_len, count) = (honest.raw_len as usize, honest.count);
        for len in 1..stored.len() {
            let cut = &stored[..len];
            let header = FrameHeader { count, ..header(codec, cut, raw_len) };
            assert_eq!(decoded(&header, cut), Err(Bad::Compressed), "{codec:?} cut at {len}");
        }
        let mut more = vec![vec![0], vec![0; 3], vec![0; 4096], vec![255; 9], stored.clone()];
        // An empty frame, and one to be skipped, which a decompressor may step over.
        more.push(vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0]);
        more.push(vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
        for more in more {
            let longer = [&stored[..], &more].concat();
            let header = FrameHeader { count, ..header(codec, &longer, raw_len) };
            let found = decoded(&header, &longer);
            assert_eq!(found, Err(Bad::Compressed), "{codec:?} and {more:?}");
        }
    }
}

#[test]
fn a_body_that_is_wrong_inside_is_found_after_decompressing() {
    let (raw, body) = batch_of_lines();
    let index = body.len() - 8 * raw.count as usize;
    for codec in built_in() {
        let forge = |at: usize| {
            let mut body = body.clone();
            body[at] ^= 1;
            let stored = compressed(codec, &body).unwrap();
            let header = FrameHeader { count: raw.count, ..header(codec, &stored, body.len()) };
            (header, stored)
        };
        let (header, stored) = forge(3);
        let wrong_record = decoded(&header, &stored).unwrap();
        assert_eq!(check_records(&header, &wrong_record), Err(Bad::Record(0)));
        assert_eq!(record(&header, &wrong_record, 0), Err(Bad::Record(0)));
        assert_eq!(record(&header, &wrong_record, 1), Ok(&lines()[1][..]));
        let (header, stored) = forge(index + 4);
        let wrong_checksum = decoded(&header, &stored).unwrap();
        assert_eq!(check_records(&header, &wrong_checksum), Err(Bad::Record(0)));
        let (header, stored) = forge(index + 8 * 19);
        assert_eq!(decoded(&header, &stored), Err(Bad::Lengths), "the last end is not the index");
    }
}

// ---- bombs, made by hand ----------------------------------------------------------------------

/// Zeros under each codec that claims they are `said` bytes, as far as it claims anything.
fn all_zeros(len: usize, said: usize) -> Vec<(Codec, Vec<u8>)> {
    let all = [
        (Codec::Lz4, zeros::lz4(len)),
        (Codec::Snappy, zeros::snappy(len, said)),
        (Codec::Zstd, zeros::zstd(len, said)),
    ];
    all.into_iter().filter(|(codec, _)| built_in().contains(codec)).collect()
}

#[test]
fn zeros_made_by_hand_are_read() {
    for len in [1000, 200_000, MOST] {
        for (codec, stored) in all_zeros(len, len) {
            assert!(holds(codec, &stored, &vec![0; len]), "{codec:?} {len}");
        }
    }
}

#[test]
fn a_bomb_ends_where_the_header_says() {
    const BOMB: usize = 256 << 20;
    for said in [BOMB, 1000, MOST] {
        for (codec, stored) in all_zeros(BOMB, said) {
            for raw_len in [1000, MOST] {
                let header = header(codec, &stored, raw_len);
                assert_eq!(decode(&header_bytes(&header)), Ok(header));
                let found = decoded(&header, &stored);
                assert_eq!(found, Err(Bad::Compressed), "{codec:?}, {said} in {raw_len}");
            }
        }
    }
}

#[test]
fn what_stored_bytes_say_of_themselves_is_asked_before_memory_is_taken() {
    for (codec, stored) in all_zeros(1000, 1000) {
        assert_eq!(may_hold(codec, &stored, 1000), Ok(()));
        assert_eq!(may_hold(codec, &stored, MOST), Err(Bad::Compressed), "{codec:?}");
    }
    for (codec, stored) in all_zeros(1000, MOST) {
        let told = if codec == Codec::Lz4 { Err(Bad::Compressed) } else { Ok(()) };
        assert_eq!(may_hold(codec, &stored, MOST), told, "a lie of its own: {codec:?}");
    }
}

proptest! {
    #[test]
    fn any_body_comes_back_from_any_codec(
        words in vec(vec(any::<u8>(), 0..12), 1..6),
        order in vec(any::<prop::sample::Index>(), 1..2000),
    ) {
        let body: Vec<u8> = order.iter().flat_map(|i| i.get(&words).clone()).collect();
        for codec in built_in() {
            if let Some(stored) = compressed(codec, &body) {
                prop_assert!(stored.len() <= worth(body.len()));
                prop_assert!(holds(codec, &stored, &body));
            }
        }
    }

    #[test]
    fn no_stored_bytes_make_a_decoder_panic_or_write_elsewhere(
        noise in vec(any::<u8>(), 1..300),
        at in 0usize..400,
        raw_len in 8usize..5000,
    ) {
        for codec in built_in() {
            let (honest, mut stored) = compressed_lines(codec);
            let at = at.min(stored.len());
            let len = noise.len().min(stored.len() - at);
            stored[at..at + len].copy_from_slice(&noise[..len]);
            let mut decoder = Decoder::default();
            for (stored, raw_len) in
                [(&stored, honest.raw_len as usize), (&stored, raw_len), (&noise, raw_len)]
            {
                let header = header(codec, stored, raw_len);
                if let Ok(body) = decode_body(&mut decoder, &header, stored) {
                    prop_assert_eq!(body.len(), raw_len);
                }
                // Also what `may_hold` would have kept from it.
                let mut body = vec![0; raw_len];
                if decoder.decode(codec, stored, &mut body).is_ok() {
                    prop_assert!(!stored.is_empty());
                }
            }
            // And it works as before.
            let (header, stored) = compressed_lines(codec);
            prop_assert!(decode_body(&mut decoder, &header, &stored).is_ok());
        }
    }
}
