//! The format a second time, from its document: where checksums stand, and making them hold.
//!
//! Shares no code with the crate, so that a mistake there is no mistake here.

use std::ops::Range;

pub const BLOCK: usize = 4096;
/// Length of a frame header.
pub const HEADER: usize = 72;
/// Length of one of META's two slots.
pub const SLOT: usize = 64 << 10;

pub fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// Makes the checksum of a segment header, footer or META slot hold.
pub fn seal_block(block: &mut [u8], salt: &[u8]) {
    let crc = crc32fast::hash(&[salt, &block[..12], &block[16..]].concat());
    put(block, 12, &crc.to_le_bytes());
}

/// The salt of the footer that `segment` has, or should have.
pub fn footer_salt(segment: &[u8]) -> Vec<u8> {
    let at = (segment.len() - BLOCK) as u64;
    [&segment[48..64], &segment[32..40], &at.to_le_bytes()].concat()
}

/// Whether `segment` ends in a footer of its own.
pub fn has_footer(segment: &[u8]) -> bool {
    let footer = &segment[segment.len() - BLOCK..];
    let mut sealed = footer.to_vec();
    seal_block(&mut sealed, &footer_salt(segment));
    footer.starts_with(b"PRKDBEND") && sealed == footer
}

/// Makes the checksum of the frame header at `offset` of its file hold.
pub fn seal_header(nonce: &[u8], offset: usize, header: &mut [u8]) {
    let offset = (offset as u64).to_le_bytes();
    let crc = crc32fast::hash(&[nonce, &offset, &header[..68]].concat());
    put(header, 68, &crc.to_le_bytes());
}

/// Says in the frame header that it is of this segment and version.
pub fn own_header(number: u64, epoch: u64, header: &mut [u8]) {
    put(header, 48, &number.to_le_bytes());
    put(header, 56, &epoch.to_le_bytes());
    put(header, 64, &1_u32.to_le_bytes());
}

/// Makes the checksums over the body of a frame hold: of each record that its index describes, and
/// the payload's. The header's does not afterwards.
pub fn seal_body(frame: &mut [u8]) {
    let (count, stored) = (u32_at(frame, 8), u32_at(frame, 12));
    let end = (HEADER + stored).min(frame.len());
    if frame[1] != 0 || frame[0] != 1 {
        let crc = crc32fast::hash(&frame[HEADER..end]);
        return put(frame, 20, &crc.to_le_bytes());
    }
    let Some(index) = count.checked_mul(8).and_then(|len| end.checked_sub(len)) else { return };
    if index < HEADER {
        return;
    }
    let mut start = HEADER;
    for at in (index..end).step_by(8) {
        let to = HEADER + u32_at(frame, at);
        if start <= to && to <= index {
            let crc = crc32fast::hash(&frame[start..to]);
            put(frame, at + 4, &crc.to_le_bytes());
            start = to;
        }
    }
    let crc = crc32fast::hash(&frame[index..end]);
    put(frame, 20, &crc.to_le_bytes());
}

/// The header block of a segment, and zeros up to its `size`.
pub fn segment(nonce: &[u8; 16], number: u64, epoch: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    put(&mut bytes, 0, b"PRKDBWAL");
    put(&mut bytes, 8, &1_u32.to_le_bytes());
    put(&mut bytes, 16, b"the id of a log.");
    put(&mut bytes, 32, &number.to_le_bytes());
    put(&mut bytes, 40, &epoch.to_le_bytes());
    put(&mut bytes, 48, nonce);
    put(&mut bytes, 64, &(size as u64).to_le_bytes());
    put(&mut bytes, 72, &4096_u32.to_le_bytes());
    bytes[76] = 1;
    seal_block(&mut bytes[..BLOCK], &[]);
    bytes
}

/// Where the next frame header stands at `at` or behind, before `end`: past padding, and past
/// blocks that hold nothing.
pub fn next_header(bytes: &[u8], mut at: usize, end: usize) -> Option<usize> {
    loop {
        let left = (at + 1).next_multiple_of(BLOCK) - at;
        if left < HEADER {
            at += left;
        }
        if at + HEADER > end {
            return None;
        }
        if bytes[at] != 0 {
            return Some(at);
        }
        at = (at + 1).next_multiple_of(BLOCK);
    }
}

/// The frames of a segment whose header's checksum holds, up to the first that is none.
pub fn frames(segment: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut at) = (Vec::new(), BLOCK);
    let end = segment.len() - BLOCK;
    while let Some(start) = next_header(segment, at, end) {
        let mut header = segment[start..start + HEADER].to_vec();
        seal_header(&segment[48..64], start, &mut header);
        let to = start + HEADER + u32_at(&header, 12);
        if header != segment[start..start + HEADER] || to > end {
            break;
        }
        found.push(start..to);
        at = to;
    }
    found
}
