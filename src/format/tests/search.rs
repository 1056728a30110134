//! Looking for a header behind damage finds the first one there is, as asking at each byte would.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Asks at each byte.
fn asked_everywhere(block: &[u8], from: usize, id: &SegmentId, block_at: u64) -> Option<usize> {
    let last = block.len().checked_sub(FRAME_HEADER_LEN)?;
    (from..=last).find(|at| {
        let bytes = &block[*at..*at + FRAME_HEADER_LEN];
        match FrameHeader::decode(bytes, id, block_at + *at as u64) {
            Ok(_) => true,
            Err(why) => why.is_unsupported(),
        }
    })
}

/// Numbers and epochs of which some bytes are zero, the first one too.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1u64..300, Just(256), Just(1 << 40), 0..=u64::MAX >> 1]
}

proptest! {
    #[test]
    fn the_first_header_is_found_wherever_it_stands(
        number in numbers(),
        epoch in numbers(),
        nonce: Nonce,
        filler in vec(0usize..19, 0..600),
        places in vec((0usize..600, any::<bool>()), 0..4),
        from in 0usize..610,
    ) {
        let id = SegmentId { number, epoch, nonce };
        // Bytes that headers of this life are made of, and others.
        let life = [number.to_le_bytes(), epoch.to_le_bytes()].concat();
        let mut block: Vec<u8> =
            filler.iter().map(|i| life.get(*i).copied().unwrap_or([0, 1, 255][i % 3])).collect();
        let header = FrameHeader { number, epoch, ..mark() };
        for (at, whole) in places {
            let Some(room) = block.get_mut(at..at + FRAME_HEADER_LEN) else { continue };
            header.encode(&nonce, 4096 + at as u64, room);
            // Else it only looks like one.
            room[68] ^= u8::from(!whole);
        }
        let found = FrameHeader::find(&block, from, &id, 4096);
        prop_assert_eq!(found, asked_everywhere(&block, from, &id, 4096));
    }
}

#[test]
fn a_header_at_the_very_end_is_found_and_a_cut_one_is_not() {
    let header = header_bytes(&mark());
    for before in [0, 1, 15, 63, 64, 65, 127, 200] {
        let at = usize::try_from(OFFSET).unwrap();
        let block = [vec![0; before], header.clone()].concat();
        let start = (at - before) as u64;
        assert_eq!(FrameHeader::find(&block, 0, &SEGMENT, start), Some(before));
        assert_eq!(FrameHeader::find(&block, before, &SEGMENT, start), Some(before));
        assert_eq!(FrameHeader::find(&block, before + 1, &SEGMENT, start), None);
        let cut = &block[..block.len() - 1];
        assert_eq!(FrameHeader::find(cut, 0, &SEGMENT, start), None);
    }
}
