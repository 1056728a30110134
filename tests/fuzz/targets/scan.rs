//! The walk over a segment's frames: within the file, each frame once, whatever the window.

use std::path::Path;

use prkdb_core::fuzz;
use prkdb_core::io::sim::{Faults, Model, Sim};

use super::frame::PLACE;
use super::input::Input;
use super::layout::{self, BLOCK, HEADER};

const PATH: &str = "/00000000000000000003.seg";
const MOST: usize = 16 * BLOCK;

/// Bits of the first byte: what is made to hold in each frame header that the walk could meet.
const IDS: u8 = 1;
const BODY: u8 = 2;
const CRC: u8 = 4;

/// Input: which checksums to mend; then pieces: how many blocks further on (0: at once), a length,
/// bytes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mend = input.byte();
    let mut area = vec![0; MOST];
    let mut at: usize = 0;
    while !input.is_empty() {
        let (skip, len) = (usize::from(input.byte() % 4), input.size(2));
        if skip > 0 {
            at = at.next_multiple_of(BLOCK) + (skip - 1) * BLOCK;
        }
        let bytes = input.take(len.min(MOST.saturating_sub(at)));
        if at + bytes.len() >= MOST {
            break;
        }
        layout::put(&mut area, at, bytes);
        at += bytes.len();
    }
    // The last skip may have gone beyond.
    let end = at.clamp(1, MOST).next_multiple_of(BLOCK);
    let size = BLOCK + end + BLOCK;
    let mut file = layout::segment(&PLACE.nonce, PLACE.number, PLACE.epoch, size);
    layout::put(&mut file, BLOCK, &area[..size - 2 * BLOCK]);
    mend_frames(&mut file, mend);
    walk(&file);
}

fn mend_frames(file: &mut [u8], mend: u8) {
    let (mut at, end) = (BLOCK, file.len() - BLOCK);
    while let Some(start) = layout::next_header(file, at, end) {
        let stored = layout::u32_at(file, start + 12);
        let to = (start + HEADER + stored).min(end);
        let frame = &mut file[start..to];
        if mend & IDS != 0 {
            layout::own_header(PLACE.number, PLACE.epoch, frame);
        }
        if mend & BODY != 0 {
            layout::seal_body(frame);
        }
        if mend & CRC != 0 {
            layout::seal_header(&PLACE.nonce, start, &mut frame[..HEADER]);
        }
        at = to;
    }
}

fn walk(file: &[u8]) {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    sim.put(PATH, file).unwrap();
    let disk = sim.world().disk;
    let windows = [1, 3 * BLOCK as u64, 1 << 20];
    let walks = windows.map(|window| fuzz::walk(&*disk, Path::new(PATH), window).unwrap());
    assert!(walks.iter().all(|walk| walk == &walks[0]), "it depends on the window: {walks:?}");
    let end = (file.len() - BLOCK) as u64;
    let mut at = BLOCK as u64;
    for (offset, len, _) in &walks[0].frames {
        assert!(*offset >= at && offset + len <= end, "{:?} in {end}", walks[0]);
        let start = usize::try_from(*offset).unwrap();
        assert!(start % BLOCK + HEADER <= BLOCK, "a header over the end of a block");
        let mut header = file[start..start + HEADER].to_vec();
        layout::seal_header(&PLACE.nonce, start, &mut header);
        assert_eq!(header, file[start..start + HEADER], "its checksum does not hold");
        at = offset + len;
    }
    assert!(walks[0].bad.is_none_or(|bad| (at..end).contains(&bad)), "{:?}", walks[0]);
    assert!(walks[0].frames.len() <= file.len() / HEADER);
}
