//! What goes in comes out, and no bytes at all make a decoder panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::body::check_payload;
use super::super::footer::Footer;
use super::super::frame::{check_stored, record};
use super::super::meta::{Cut, META_SLOT_BYTES, Meta, choose};
use super::super::segment::SegmentHeader;
use super::*;

prop_compose! {
    fn segments()(number in 0..1u64 << 63, epoch in 0..1u64 << 63, nonce: Nonce) -> SegmentId {
        SegmentId { number, epoch, nonce }
    }
}

prop_compose! {
    fn footers()(
        first in 1u64..u64::MAX / 2,
        steps in vec((1u64..1000, 1u64..100_000), 1..128),
        time: u64,
        durable_upto in 0u64..=7 << 61,
    ) -> Footer {
        // Behind a block of any size.
        let mut at = IndexEntry { lsn: Lsn::new(first), offset: 1 << 20 };
        let mut index = vec![at];
        for (lsns, bytes) in steps {
            at = IndexEntry { lsn: at.lsn.plus(lsns), offset: at.offset + bytes };
            index.push(at);
        }
        Footer {
            first_lsn: Lsn::new(first),
            last_lsn: at.lsn,
            first_time_us: time / 2,
            last_time_us: time,
            frames: index.len() as u64,
            records: at.lsn.get() - first + 1,
            end: at.offset + 1,
            durable_upto: Lsn::new(durable_upto),
            index,
        }
    }
}

prop_compose! {
    fn metas()(
        steps in vec((1u64..1000, 1u64..1000), 0..100),
        user_state in vec(any::<u8>(), 0..4096),
        numbers in (0..1u64 << 63, 0..1u64 << 63, any::<u64>(), 0..1u64 << 63),
        log_id: LogId,
        clean: bool,
        mending: bool,
        sizes in (1u64..4096, 1u64..4096),
        block in 12u32..=16,
        methods in (0u8..5, any::<u8>()),
        first_lsn in 1u64..=3 << 62,
    ) -> Meta {
        let mut at = 0;
        let removed = steps.iter().map(|(gap, len)| {
            let from = at + gap;
            at = from + len;
            (Lsn::new(from), Lsn::new(at))
        });
        Meta {
            removed: removed.collect(),
            sequence: numbers.0,
            log_id,
            block_size: 1 << block,
            segment_bytes: sizes.0 << 20,
            growth_bytes: sizes.1 << 20,
            sync_method: methods.0,
            last_backend: methods.1,
            // Below the next epoch, as each cut is.
            cuts: (1..numbers.1)
                .take(usize::from(methods.1 % 4))
                .map(|i| Cut { lsn: Lsn::new(3 * i), epoch: i })
                .collect(),
            next_epoch: numbers.1,
            clean,
            mending,
            durable_upto: Lsn::new(numbers.2),
            first_lsn: Lsn::new(first_lsn),
            highest_number: numbers.3,
            user_state,
        }
    }
}

proptest! {
    #[test]
    fn a_frame_comes_back_byte_for_byte(
        records in vec(vec(any::<u8>(), 0..200), 1..50),
        id in segments(),
        offset: u64,
        first in 1u64..u64::MAX - 50,
        durable_upto: u64,
        time_us: u64,
        stream: u32,
    ) {
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let (header, body) = batch(&records);
        let header = FrameHeader {
            first_lsn: Lsn::new(first),
            durable_upto: Lsn::new(durable_upto),
            number: id.number,
            epoch: id.epoch,
            time_us,
            stream,
            ..header
        };
        let mut bytes = [0xee; FRAME_HEADER_LEN];
        header.encode(&id.nonce, offset, &mut bytes);
        prop_assert_eq!(FrameHeader::decode(&bytes, &id, offset), Ok(header));
        prop_assert_eq!(header.frame_len(), (FRAME_HEADER_LEN + body.len()) as u64);
        prop_assert_eq!(check_stored(&header, &body), Ok(()));
        for (i, &real) in (0..).zip(&records) {
            prop_assert_eq!(record(&header, &body, i), Ok(real));
        }
    }

    #[test]
    fn a_segment_header_comes_back(
        log_id: LogId,
        id in segments(),
        blocks in 3u64..65_536,
        block in 12u32..=16,
        zeroed: bool,
    ) {
        let (block_size, size) = (1 << block, blocks << block);
        let header = SegmentHeader { log_id, id, size, block_size, zeroed };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_footer_comes_back(footer in footers(), id in segments(), block in 12u32..=16) {
        let bytes = footer.encode(&id, 1 << 30, 1 << block);
        prop_assert_eq!(Footer::decode(&bytes, &id, 1 << 30), Ok(footer));
    }

    #[test]
    fn meta_comes_back(meta in metas()) {
        let slot = meta.encode().unwrap();
        prop_assert_eq!(choose(&slot, &slot), Ok((meta, None)));
    }

    /// The bytes stand under a checksum that holds, or all would end there.
    #[test]
    fn no_bytes_make_a_decoder_panic(
        noise in vec(any::<u8>(), 0..200),
        at in 0usize..200,
        stored in vec(any::<u8>(), 0..200),
        i: u32,
    ) {
        let put = |bytes: &mut [u8]| {
            let at = at.min(bytes.len());
            let len = noise.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&noise[..len]);
        };
        let header = forged_header(&header_bytes(&batch(&RECORDS).0), put);
        let header = decode(&header).unwrap_or(batch(&RECORDS).0);
        for stored in [&stored[..], &noise[..]] {
            let proven = FrameHeader {
                stored_len: u32::try_from(stored.len()).unwrap(),
                payload_crc: crc32fast::hash(&stored[stored.len().saturating_sub(24)..]),
                ..header
            };
            let whole = check_stored(&proven, stored).is_ok();
            prop_assert!(!whole || check_payload(&proven, stored).is_ok());
            prop_assert!(record(&proven, stored, i % 4).is_ok() || !whole || i % 4 >= proven.count);
        }
        // Whatever is taken is written back as it was found: nothing is read in two ways.
        let block = forged_block(&segment_header().encode(), &[], put);
        if let Ok(header) = SegmentHeader::decode(&block) {
            prop_assert_eq!(header.encode(), block);
        }
        let block = footer().encode(&SEGMENT, FOOTER_OFFSET, 4096);
        let block = forged_block(&block, &footer_salt(), put);
        if let Ok(footer) = Footer::decode(&block, &SEGMENT, FOOTER_OFFSET) {
            prop_assert_eq!(footer.encode(&SEGMENT, FOOTER_OFFSET, 4096), block);
        }
        let slot = forged_block(&meta().encode().unwrap(), &[], put);
        if let Ok(meta) = Meta::decode(&slot) {
            prop_assert_eq!(meta.encode(), Ok(slot.clone()));
        }
        prop_assert!(Meta::decode(&[&noise[..], &[0; META_SLOT_BYTES]].concat()).is_err());
    }
}
