//! Stored bytes under each codec: any bytes, and what a codec made with a few of its bytes changed.
//!
//! The codec is reached past every checksum. What it may take is memory for the length that it was
//! told, at most; libFuzzer's limit on one allocation looks after that.

use prkdb_core::fuzz;

use super::input::Input;
use super::layout::{self, HEADER};

/// Input: codec, whether to compress first, claimed length and count; then the bytes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (codec, made) = (input.byte() % 4, input.byte() & 1 == 1);
    if made {
        return changed(codec, &mut input);
    }
    let (raw_len, count) = (input.size(4), input.size(2));
    read(codec, raw_len, count, input.rest());
}

/// What the codec made of records, with changes: pairs of a place and a byte.
fn changed(codec: u8, input: &mut Input<'_>) {
    let changes = input.pick(4);
    let places: Vec<_> = (0..changes).map(|_| (input.size(2), input.byte())).collect();
    let lie = input.number(1);
    let (repeat, len) = (input.size(2), input.size(1));
    let record = input.take(len).repeat(1 + repeat % 1024);
    let records = [record, input.rest().to_vec()];
    let Some(frame) = fuzz::frame(&records, codec, 1, &super::frame::PLACE) else { return };
    let raw_len = layout::u32_at(&frame, 16) + usize::try_from(lie).unwrap();
    let mut stored = frame[HEADER..].to_vec();
    for (at, mask) in &places {
        let at = at % stored.len();
        stored[at] ^= mask;
    }
    let whole = stored == frame[HEADER..] && lie == 0;
    let back = read(codec, raw_len, 2, &stored);
    assert!(!whole || back.is_some_and(|back| back == records), "not what went in");
}

fn read(codec: u8, raw_len: usize, count: usize, stored: &[u8]) -> Option<Vec<Vec<u8>>> {
    let word = |value: usize| u32::try_from(value).unwrap();
    let records = fuzz::decompress(codec, word(raw_len), word(count), stored)?;
    assert_eq!(records.len(), count);
    let len: usize = records.iter().map(|record| record.len() + 8).sum();
    assert_eq!(len, raw_len, "another length than was claimed");
    Some(records)
}
