//! One frame: its bytes are refused or mean one thing, and whatever changes in them is seen.

use prkdb_core::fuzz::{self, Part, Place};

use super::input::Input;
use super::layout::{self, HEADER};

pub const PLACE: Place = Place { nonce: *b"a nonce of 16 B.", number: 3, epoch: 2, offset: 8192 };

/// Bits of the first byte: what is made to hold.
const IDS: u8 = 1;
const BODY: u8 = 2;
const CRC: u8 = 4;

/// Input: which checksums to mend, which byte to change later (two bytes) and how; then the frame.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mend, at, mask) = (input.byte(), input.size(2), input.byte() | 1);
    let mut bytes = input.rest().to_vec();
    if bytes.len() >= HEADER {
        if mend & IDS != 0 {
            layout::own_header(PLACE.number, PLACE.epoch, &mut bytes);
        }
        if mend & BODY != 0 {
            layout::seal_body(&mut bytes);
        }
        if mend & CRC != 0 {
            layout::seal_header(&PLACE.nonce, 8192, &mut bytes[..HEADER]);
        }
    }
    let Some(header) = fuzz::reencode(Part::FrameHeader, &bytes, &PLACE) else {
        assert!(fuzz::records(&bytes, &PLACE).is_none(), "a body without a header");
        return;
    };
    assert_eq!(header, bytes[..HEADER], "it has another meaning than its bytes");
    let elsewhere = Place { offset: PLACE.offset + 4096, ..PLACE };
    assert!(fuzz::reencode(Part::FrameHeader, &bytes, &elsewhere).is_none(), "taken elsewhere");
    if let Some(records) = fuzz::records(&bytes, &PLACE) {
        check(&bytes, &records);
        let end = HEADER + layout::u32_at(&bytes, 12);
        assert!(fuzz::records(&bytes[..end - 1], &PLACE).is_none(), "read though it is cut off");
        let at = at % end;
        bytes[at] ^= mask;
        assert!(fuzz::records(&bytes, &PLACE).is_none(), "byte {at} changed, and nobody saw it");
    }
}

fn check(bytes: &[u8], records: &[Vec<u8>]) {
    assert_eq!(records.len(), layout::u32_at(bytes, 8), "other than its count");
    let len: usize = records.iter().map(|record| record.len() + 8).sum();
    assert_eq!(len, layout::u32_at(bytes, 16), "other than its raw length");
    if bytes[0] == 1 && bytes[1] == 0 {
        let again = fuzz::frame(records, 0, 0, &PLACE).expect("it was a frame");
        assert!(again[HEADER..] == bytes[HEADER..HEADER + len], "its body has two meanings");
    }
}
