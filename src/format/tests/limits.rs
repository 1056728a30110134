//! Lengths and ranges that contradict each other are refused, though their checksum holds.

use super::super::body::check_payload;
use super::super::footer::{Footer, MAX_INDEX_ENTRIES};
use super::super::frame::{check_stored, record};
use super::super::meta::{Cut, META_SLOT_BYTES, Meta, choose};
use super::super::segment::SegmentHeader;
use super::*;
use crate::options::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};

/// A place in a header or block, and the `u64` or `u32` to be written there.
fn set(at: usize, value: impl Into<u64>, len: usize) -> impl Fn(&mut [u8]) {
    let value = value.into().to_le_bytes();
    move |bytes| bytes[at..at + len].copy_from_slice(&value[..len])
}

#[test]
fn a_frame_with_impossible_lengths_is_refused() {
    let bytes = header_bytes(&batch(&RECORDS).0);
    let most = (MAX_BATCH_BYTES + 3 * 8 + 1) as u64;
    let records = MAX_BATCH_RECORDS as u64 + 1;
    let lengths = |stored: u64, raw: u64| {
        move |b: &mut [u8]| {
            set(12, stored, 4)(b);
            set(16, raw, 4)(b);
        }
    };
    let refused = |change: &dyn Fn(&mut [u8])| {
        assert_eq!(decode(&forged_header(&bytes, change)), Err(Bad::Lengths));
    };
    refused(&set(8, 0u32, 4));
    refused(&set(8, 5u32, 4)); // the index alone would be longer than the body
    refused(&set(8, records, 4));
    refused(&lengths(31, 32));
    refused(&lengths(23, 23));
    refused(&lengths(most, most));
    refused(&lengths(u64::MAX, u64::MAX));
    refused(&set(24, 0u64, 8));
    refused(&set(24, u64::MAX - 2, 8));
    refused(&|b| {
        b[1] = 3;
        lengths(0, 32)(b);
    });
    refused(&|b| {
        b[1] = 3;
        lengths(100, u64::MAX)(b);
    });

    let last = forged_header(&bytes, set(24, u64::MAX - 3, 8));
    assert_eq!(decode(&last).unwrap().last_lsn(), Lsn::MAX.prev());
    for (at, len) in [(1, 1), (8, 4), (12, 4), (16, 4), (20, 4), (24, 8)] {
        let forged = forged_header(&header_bytes(&mark()), set(at, 1u32, len));
        assert_eq!(decode(&forged), Err(Bad::Lengths), "mark, byte {at}");
    }
}

#[test]
fn the_largest_batch_is_legal() {
    let len = u32::try_from(body_len(MAX_BATCH_BYTES, MAX_BATCH_RECORDS)).unwrap();
    let count = u32::try_from(MAX_BATCH_RECORDS).unwrap();
    let header = FrameHeader { count, stored_len: len, raw_len: len, ..batch(&RECORDS).0 };
    assert_eq!(decode(&header_bytes(&header)), Ok(header));
}

#[test]
#[should_panic(expected = "no reader would take")]
fn a_header_that_no_reader_would_take_is_never_written() {
    header_bytes(&FrameHeader { count: 0, ..batch(&RECORDS).0 });
}

#[test]
fn an_index_that_is_not_exact_is_refused() {
    let (header, body) = batch(&RECORDS);
    for (entry, end) in [(0, 9u32), (1, 2), (2, 7), (2, 9), (2, u32::MAX)] {
        let mut forged = body.clone();
        set(8 + 8 * entry, end, 4)(&mut forged);
        let header = FrameHeader { payload_crc: crc32fast::hash(&forged[8..]), ..header };
        assert_eq!(
            check_payload(&header, &forged),
            Err(Bad::Lengths),
            "entry {entry} ends at {end}"
        );
    }
    assert_eq!(record(&header, &body, 3), Err(Bad::Record(3)));
    assert_eq!(record(&header, &body, u32::MAX), Err(Bad::Record(u32::MAX)));
    assert_eq!(record(&header, &body[..10], 0), Err(Bad::Short));
}

#[test]
fn a_record_may_be_16_mib_and_no_more() {
    let bytes = vec![7; MAX_RECORD_BYTES + 1];
    let (header, body) = batch(&[&bytes[1..]]);
    assert_eq!(check_stored(&header, &body), Ok(()));
    let (header, body) = batch(&[&bytes]);
    assert_eq!(check_stored(&header, &body), Err(Bad::Lengths));
}

#[test]
#[should_panic(expected = "changed their count")]
fn records_other_than_announced_are_never_written() {
    encode_body([&b"one"[..]].into_iter(), 3, 2, &mut [0; 19]);
}

#[test]
fn an_unknown_codec_is_named() {
    let forged = forged_header(&header_bytes(&batch(&RECORDS).0), |b| b[1] = 4);
    assert_eq!(decode(&forged), Err(Bad::Codec(4)));
    assert_eq!(Bad::Codec(4).to_string(), "its codec 4 is not one this build can decode");
    for (codec, name) in [(Codec::Lz4, "lz4"), (Codec::Snappy, "snappy"), (Codec::Zstd, "zstd")] {
        let told = Bad::Codec(codec as u8).to_string();
        assert!(told.contains(&format!("build it with the feature `{name}`")), "{told}");
    }
}

#[test]
fn a_segment_header_with_impossible_sizes_is_refused() {
    let block = segment_header().encode();
    for (at, value, len) in
        [(64, 8192, 8), (64, (1 << 20) + 1, 8), (64, 8 << 30, 8), (72, 8192, 4), (72, 0u64, 4)]
    {
        let forged = forged_block(&block, &[], set(at, value, len));
        assert_eq!(SegmentHeader::decode(&forged), Err(Bad::Lengths), "{value} at {at}");
    }
    let large = SegmentHeader { block_size: 65_536, size: 4 << 30, ..segment_header() };
    assert_eq!(SegmentHeader::decode(&large.encode()), Ok(large));
}

#[test]
fn a_footer_that_contradicts_itself_is_refused() {
    let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
    let second = 88 + 16;
    for (at, value) in [
        (16, 0u64),              // records, but no first LSN
        (16, 1007),              // first after last
        (24, (7 << 61) + 1),     // no record has that LSN
        (72, (7 << 61) + 1),     // nor was it promised
        (32, u64::MAX),          // time runs backwards
        (48, 0),                 // records, but no frame
        (48, 1001),              // more frames than records
        (56, 1001),              // more records than LSNs
        (64, FOOTER_OFFSET + 1), // frames inside the footer
        (80, 129),               // more entries than there may be
        (80, 4),                 // an entry of zeros
        (second, 7),             // LSNs that don't rise
        (second, 1007),          // an LSN that is not here
        (second + 8, 8192),      // offsets that don't rise
        (second + 8, 200_000),   // an offset after the end
    ] {
        let forged = forged_block(&block, &footer_salt(), set(at, value, 8));
        let found = Footer::decode(&forged, &SEGMENT, FOOTER_OFFSET);
        assert_eq!(found, Err(Bad::Lengths), "{value} at {at}");
    }
}

#[test]
fn a_footer_may_be_empty_or_full() {
    let empty = Footer {
        first_lsn: Lsn::NONE,
        last_lsn: Lsn::NONE,
        first_time_us: 0,
        last_time_us: 0,
        frames: 0,
        records: 0,
        end: 4096,
        index: Vec::new(),
        ..footer()
    };
    let entries = (0..MAX_INDEX_ENTRIES as u64)
        .map(|i| IndexEntry { lsn: Lsn::new(7 + i), offset: 4096 + i });
    let full = Footer { index: entries.collect(), ..footer() };
    for footer in [empty, full] {
        let block = footer.encode(&SEGMENT, FOOTER_OFFSET, 4096);
        assert_eq!(Footer::decode(&block, &SEGMENT, FOOTER_OFFSET), Ok(footer));
    }
}

#[test]
fn meta_that_does_not_fit_is_refused_before_it_is_written() {
    let ranges = |n: u64| (0..n).map(|i| (Lsn::new(2 * i + 1), Lsn::new(2 * i + 2))).collect();
    let full = Meta { removed: ranges(3832), user_state: vec![7; 4096], ..meta() };
    let slot = full.encode().unwrap();
    assert_eq!(slot.len(), META_SLOT_BYTES);
    assert_eq!(Meta::decode(&slot), Ok(full));

    let beside = Meta { cuts: cuts(&[(5, 1), (6, 2)]), removed: ranges(3831), ..meta() };
    assert_eq!(Meta::decode(&beside.encode().unwrap()), Ok(beside));

    let lsns = |pairs: &[(u64, u64)]| {
        let pairs = pairs.iter().map(|&(from, to)| (Lsn::new(from), Lsn::new(to)));
        Meta { removed: pairs.collect(), ..meta() }
    };
    for bad in [
        Meta { removed: ranges(3833), ..meta() },
        Meta { cuts: vec![Cut { lsn: Lsn::NONE, epoch: 2 }], ..meta() },
        Meta { cuts: vec![Cut { lsn: Lsn::FIRST, epoch: 0 }], ..meta() },
        Meta { cuts: vec![Cut { lsn: Lsn::FIRST, epoch: 3 }], ..meta() },
        Meta { cuts: cuts(&[(5, 1), (5, 2)]), ..meta() },
        Meta { cuts: cuts(&[(5, 2), (6, 1)]), ..meta() },
        Meta { cuts: cuts(&[(5, 1), (6, 2)]), removed: ranges(3832), ..meta() },
        Meta { user_state: vec![7; 4097], ..meta() },
        Meta { block_size: 0, ..meta() },
        Meta { block_size: 12_288, ..meta() },
        Meta { segment_bytes: (1 << 20) - 4096, ..meta() },
        Meta { growth_bytes: (1 << 20) + 1, ..meta() },
        Meta { first_lsn: Lsn::NONE, ..meta() },
        lsns(&[(0, 3)]),
        lsns(&[(3, 3)]),
        lsns(&[(1, 3), (3, 5)]),
        lsns(&[(4, 6), (1, 2)]),
    ] {
        assert_eq!(bad.encode(), Err(Bad::Lengths));
    }
}

#[test]
fn meta_with_impossible_lengths_is_refused() {
    let slot = meta().encode().unwrap();
    for (at, value, len) in
        [(96, 4097u64, 4), (100, 3834, 4), (100, u64::MAX, 4), (104, 0, 8), (72, 0, 8), (88, 0, 4)]
    {
        let forged = forged_block(&slot, &[], set(at, value, len));
        assert_eq!(Meta::decode(&forged), Err(Bad::Lengths), "{value} at {at}");
    }
}

fn cuts(pairs: &[(u64, u64)]) -> Vec<Cut> {
    pairs.iter().map(|&(lsn, epoch)| Cut { lsn: Lsn::new(lsn), epoch }).collect()
}

#[test]
fn a_cut_covers_those_that_do_not_lie_lower_and_the_first_above_an_epoch_counts() {
    let mut meta = Meta { next_epoch: 2000, ..meta() };
    for cut in cuts(&[(50, 2), (30, 4), (40, 6), (40, 7), (90, 9)]) {
        meta.add_cut(cut);
    }
    assert_eq!(meta.cuts, cuts(&[(30, 4), (40, 7), (90, 9)]));
    let of = |epoch| meta.cut_of(epoch).map(Lsn::get);
    assert_eq!([3, 4, 6, 7, 9].map(of), [Some(30), Some(40), Some(40), Some(90), None]);
    for i in 11..=610 {
        meta.add_cut(Cut { lsn: Lsn::new(100 + i), epoch: i });
    }
    assert_eq!((meta.cuts.len(), meta.cuts[0].epoch), (512, 99), "the oldest are forgotten");
    assert_eq!(Meta::decode(&meta.encode().unwrap()), Ok(meta.clone()));
    meta.removed = (1..=3800).map(|i| (Lsn::new(2 * i), Lsn::new(2 * i + 1))).collect();
    meta.forget_cuts();
    assert_eq!(meta.cuts.len(), 33, "what is removed has precedence");
    assert!(meta.encode().is_ok());
}

#[test]
fn of_more_cuts_than_there_is_room_for_the_first_record_of_all_is_told() {
    let mut meta = Meta { next_epoch: 10, cuts: Vec::new(), removed: Vec::new(), ..meta() };
    // The lowest is forgotten; then one below most of the others takes those out.
    for i in 0..600 {
        meta.add_cut(Cut { lsn: Lsn::new(1000 + i), epoch: meta.next_epoch });
        meta.next_epoch += 1;
    }
    meta.add_cut(Cut { lsn: Lsn::new(1100), epoch: meta.next_epoch });
    meta.next_epoch += 1;
    assert!(meta.cuts.len() < 100, "{}", meta.cuts.len());
    assert_eq!(meta.cut_since(10), Some(Lsn::FIRST));
    assert_eq!(meta.cut_since(meta.next_epoch - 1), Some(Lsn::new(1100)));
    assert_eq!(meta.cut_since(meta.next_epoch), None);
}

#[test]
fn the_newer_whole_slot_of_meta_is_read() {
    let slot = |meta: &Meta| meta.encode().unwrap();
    let (old, new) = (meta(), Meta { sequence: 9, ..meta() });
    let nothing = vec![0; META_SLOT_BYTES];
    let torn = [&slot(&new)[..512], &nothing[512..]].concat();
    let text = vec![b'x'; META_SLOT_BYTES];
    let alien = Meta { log_id: [1; 16], ..new.clone() };
    let twin = Meta { clean: false, ..old.clone() };

    assert_eq!(choose(&slot(&old), &slot(&new)), Ok((new.clone(), None)));
    assert_eq!(choose(&slot(&new), &slot(&old)), Ok((new.clone(), None)));
    assert_eq!(choose(&slot(&new), &slot(&new)), Ok((new, None)));
    assert_eq!(choose(&torn, &slot(&old)), Ok((old.clone(), Some(0))));
    assert_eq!(choose(&slot(&old), &torn), Ok((old.clone(), Some(1))));
    assert_eq!(choose(&slot(&old), &slot(&alien)), Err(Bad::Foreign));
    assert_eq!(choose(&slot(&old), &slot(&twin)), Err(Bad::Foreign));
    assert_eq!(choose(&nothing, &nothing), Err(Bad::Nothing));
    assert_eq!(choose(&nothing, &torn), Err(Bad::Checksum));
    assert_eq!(choose(&text, &nothing), Err(Bad::Magic));
}
