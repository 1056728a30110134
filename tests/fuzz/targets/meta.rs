//! Segment header, footer, META slots and the file METRICS: refused, or with one meaning.

use prkdb_core::fuzz::{self, Part};

use super::frame::PLACE;
use super::input::Input;
use super::layout::{self, BLOCK, SLOT};

/// Where in a slot its last fields stand.
const SLOT_TAIL: usize = 61_424;

/// Input: which part, whether its checksum is mended; then its bytes, those that are not zero.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (part, mend) = (input.pick(5), input.byte());
    match part {
        0 => {
            let mut block = block(&mut input, mend);
            one_meaning(Part::SegmentHeader, &mut block, b"PRKDBWAL", &[], mend);
        }
        1 => {
            let mut block = block(&mut input, mend);
            let (number, offset) = (PLACE.number.to_le_bytes(), PLACE.offset.to_le_bytes());
            let salt = [&PLACE.nonce[..], &number, &offset].concat();
            one_meaning(Part::Footer, &mut block, b"PRKDBEND", &salt, mend);
        }
        2 => {
            let mut slot = slot(&mut input);
            one_meaning(Part::MetaSlot, &mut slot, b"PRKDBMET", &[], mend);
        }
        3 => two_slots(&mut input, mend),
        _ => metrics(&mut input, mend),
    }
}

fn block(input: &mut Input<'_>, mend: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK << (mend >> 4 & 3)];
    let bytes = input.take(BLOCK);
    layout::put(&mut block, 0, bytes);
    block
}

/// Its first bytes, and those at `SLOT_TAIL`.
fn slot(input: &mut Input<'_>) -> Vec<u8> {
    let mut slot = vec![0; SLOT];
    let len = input.size(2) % SLOT_TAIL;
    layout::put(&mut slot, 0, input.take(len));
    layout::put(&mut slot, SLOT_TAIL, input.take(64));
    slot
}

fn mended(bytes: &mut [u8], magic: &[u8; 8], salt: &[u8], mend: u8) {
    if mend & 2 != 0 {
        layout::put(bytes, 0, magic);
        layout::put(bytes, 8, &1_u32.to_le_bytes());
    }
    if mend & 1 != 0 {
        layout::seal_block(bytes, salt);
    }
}

fn one_meaning(part: Part, bytes: &mut [u8], magic: &[u8; 8], salt: &[u8], mend: u8) {
    mended(bytes, magic, salt, mend);
    let Some(again) = fuzz::reencode(part, bytes, &PLACE) else { return };
    assert!(again == bytes, "{part:?} has two meanings");
    for at in [0, 8, 12, 16, 72, bytes.len() - 1] {
        bytes[at] ^= 0x40;
        let taken = fuzz::reencode(part, bytes, &PLACE).is_some();
        assert!(!taken, "byte {at} of {part:?} changed, and nobody saw it");
        bytes[at] ^= 0x40;
    }
}

fn two_slots(input: &mut Input<'_>, mend: u8) {
    let mut slots = [slot(input), slot(input)];
    for (i, slot) in slots.iter_mut().enumerate() {
        mended(slot, b"PRKDBMET", &[], mend >> (2 * i));
    }
    let [a, b] = &slots;
    let Some(chosen) = fuzz::choose_slot(a, b) else { return };
    assert!(&chosen == a || &chosen == b, "neither of the two was read");
    let other = if &chosen == a { b } else { a };
    if fuzz::reencode(Part::MetaSlot, other, &PLACE).is_some() {
        let sequence = |slot: &[u8]| layout::u64_at(slot, 16);
        assert!(sequence(other) <= sequence(&chosen), "the older slot was read");
        assert_eq!(other[24..40], chosen[24..40], "slots of two logs");
    }
}

fn metrics(input: &mut Input<'_>, mend: u8) {
    let rest = input.rest();
    let text = String::from_utf8_lossy(rest);
    let text = if mend & 1 != 0 {
        let body = format!("{}\n", text.trim_end_matches('\n'));
        format!("prkdb-metrics 1 {:08x}\n{body}", crc32fast::hash(body.as_bytes()))
    } else {
        text.into_owned()
    };
    let Some(metrics) = fuzz::metrics(text.as_bytes()) else { return };
    let again = fuzz::metrics(fuzz::metrics_text(&metrics).as_bytes());
    assert_eq!(again, Some(metrics), "told and read back they are others");
}
