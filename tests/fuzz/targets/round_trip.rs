//! Records in, a frame under each codec, the same records out; a damaged frame gives none.

use prkdb_core::fuzz;

use super::frame::PLACE;
use super::input::Input;

/// Input: codec and level, where to change what; then records: a way, a length, bytes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (codec, level) = (input.byte() % 4, i32::from(input.byte() % 19) + 1);
    let (at, mask) = (input.size(3), input.byte() | 1);
    let records = records(&mut input);
    let Some(frame) = fuzz::frame(&records, codec, level, &PLACE) else {
        assert_ne!(codec, 0, "only a codec may not be worth it");
        return;
    };
    assert_eq!(fuzz::records(&frame, &PLACE).as_ref(), Some(&records));
    assert_eq!(fuzz::frame(&records, codec, level, &PLACE).as_ref(), Some(&frame), "not the same");
    let at = at % frame.len();
    let mut damaged = frame.clone();
    damaged[at] ^= mask;
    assert!(fuzz::records(&damaged, &PLACE).is_none(), "byte {at} changed, and nobody saw it");
    assert!(fuzz::records(&frame[..at], &PLACE).is_none(), "cut off at {at}, and nobody saw it");
}

/// Records of the input's own bytes, and of repetitions of them, 1 MiB in all.
fn records(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let (mut records, mut left) = (Vec::new(), 1 << 20);
    while !input.is_empty() && records.len() < 1000 {
        let (way, len) = (input.byte(), input.size(1));
        let bytes = input.take(len);
        let times = if way & 1 == 0 { 1 } else { usize::from(way) * 16 };
        let record = bytes.repeat(times.min(left / len.max(1)));
        left -= record.len();
        records.push(record);
    }
    if records.is_empty() {
        records.push(Vec::new());
    }
    records
}
