//! The format read a second time, from its document alone: where frames stand, what they promise.
//!
//! Shares no code with the crate, so that a mistake there is no mistake here.

use std::fs;
use std::path::{Path, PathBuf};

/// Length of a frame header.
pub const HEADER: usize = 72;
/// Length of one of META's two slots.
pub const SLOT: usize = 64 << 10;

/// A batch as it stands in a segment.
#[derive(Clone, Debug)]
pub struct Frame {
    pub path: PathBuf,
    pub offset: usize,
    pub len: usize,
    pub first: u64,
    pub count: u64,
    pub durable_upto: u64,
    pub codec: u8,
    /// Length of its body, uncompressed.
    pub raw_len: usize,
    /// Its segment has a footer of its own.
    pub sealed: bool,
}

impl Frame {
    pub fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn block_size(segment: &[u8]) -> usize {
    u32_at(segment, 72)
}

/// CRC of a salt and of `bytes` but for its own place, 12 to 15.
pub fn block_crc(salt: &[u8], bytes: &[u8]) -> u32 {
    crc32fast::hash(&[salt, &bytes[..12], &bytes[16..]].concat())
}

/// Makes a changed segment header, or slot of META, valid again.
pub fn fix_crc(bytes: &mut [u8]) {
    let crc = block_crc(&[], bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn footer_is_valid(segment: &[u8]) -> bool {
    let footer = &segment[segment.len() - block_size(segment)..];
    footer.starts_with(b"PRKDBEND") && footer_crc(segment) as usize == u32_at(footer, 12)
}

fn footer_crc(segment: &[u8]) -> u32 {
    let at = segment.len() - block_size(segment);
    let offset = u64::try_from(at).unwrap().to_le_bytes();
    let salt = [&segment[48..64], &segment[32..40], &offset].concat();
    block_crc(&salt, &segment[at..])
}

/// Changes a segment's footer and makes it valid again.
pub fn change_footer(path: &Path, change: impl FnOnce(&mut [u8])) {
    let mut segment = fs::read(path).unwrap();
    let at = segment.len() - block_size(&segment);
    change(&mut segment[at..]);
    let crc = footer_crc(&segment).to_le_bytes();
    segment[at + 12..at + 16].copy_from_slice(&crc);
    fs::write(path, segment).unwrap();
}

/// The batches of one segment up to the first bytes that are no frame, and the greatest watermark
/// in any frame, marks too.
pub fn frames(path: &Path) -> (Vec<Frame>, u64) {
    frames_in(path, &fs::read(path).unwrap())
}

/// The same of bytes that stand, or should stand, under this name.
pub fn frames_in(path: &Path, bytes: &[u8]) -> (Vec<Frame>, u64) {
    let (block, sealed) = (block_size(bytes), footer_is_valid(bytes));
    let end = bytes.len() - block;
    let (mut found, mut promised, mut at) = (Vec::new(), 0, block);
    while at < end {
        let to_block = at.next_multiple_of(block) - at;
        if to_block > 0 && (to_block < HEADER || bytes[at] == 0) {
            at += to_block;
            continue;
        }
        let header = &bytes[at..at + HEADER];
        let offset = u64::try_from(at).unwrap().to_le_bytes();
        let crc = crc32fast::hash(&[&bytes[48..64], &offset, &header[..68]].concat());
        if header[0] == 0 || crc as usize != u32_at(header, 68) {
            break;
        }
        let len = HEADER + u32_at(header, 12);
        promised = promised.max(u64_at(header, 32));
        if header[0] == 1 {
            found.push(Frame {
                path: path.to_path_buf(),
                offset: at,
                len,
                first: u64_at(header, 24),
                count: u64::try_from(u32_at(header, 8)).unwrap(),
                durable_upto: u64_at(header, 32),
                codec: header[1],
                raw_len: u32_at(header, 16),
                sealed,
            });
        }
        at += len;
    }
    if sealed {
        promised = promised.max(u64_at(&bytes[end..], 72));
    }
    (found, promised)
}

/// All batches of a log in LSN order, and what it can prove to have promised.
pub fn log(dir: &Path) -> (Vec<Frame>, u64) {
    let meta = fs::read(dir.join("META")).unwrap();
    let mut promised = u64_at(&meta, 64).max(u64_at(&meta, SLOT + 64));
    let mut all = Vec::new();
    for path in super::segments(dir) {
        let (found, upto) = frames(&path);
        promised = promised.max(upto);
        all.extend(found);
    }
    all.sort_by_key(|frame| frame.first);
    (all, promised)
}

/// All batches of the segments in a directory, in LSN order.
pub fn log_without_meta(dir: &Path) -> Vec<Frame> {
    let mut all: Vec<Frame> = super::segments(dir).iter().flat_map(|path| frames(path).0).collect();
    all.sort_by_key(|frame| frame.first);
    all
}

/// Puts another body where a batch stands in its segment, no longer than its own, and whatever it
/// takes for its checksums to hold: what only somebody who may write the files can do. Marks fill
/// the blocks that are left over.
pub fn forge(segment: &mut [u8], frame: &Frame, codec: u8, raw_len: usize, stored: &[u8]) {
    let (at, end) = (frame.offset, frame.offset + frame.len);
    let word = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
    let mut header = segment[at..at + HEADER].to_vec();
    segment[at..end].fill(0);
    header[1] = codec;
    header[12..16].copy_from_slice(&word(stored.len()));
    header[16..20].copy_from_slice(&word(raw_len));
    header[20..24].copy_from_slice(&crc32fast::hash(stored).to_le_bytes());
    put_header(segment, at, &header);
    let stored_end = at + HEADER + stored.len();
    segment[at + HEADER..stored_end].copy_from_slice(stored);
    header[..32].fill(0);
    header[0] = 2;
    let block = block_size(segment);
    for at in (stored_end.next_multiple_of(block)..end).step_by(block) {
        put_header(segment, at, &header);
    }
}

/// Changes one byte of a batch's header and makes the header valid again: as a newer version might.
pub fn change_header(frame: &Frame, at: usize, byte: u8) {
    let mut segment = fs::read(&frame.path).unwrap();
    let mut header = segment[frame.offset..frame.offset + HEADER].to_vec();
    header[at] = byte;
    put_header(&mut segment, frame.offset, &header);
    fs::write(&frame.path, segment).unwrap();
}

/// Puts a frame header there and makes it valid.
fn put_header(segment: &mut [u8], at: usize, header: &[u8]) {
    let offset = u64::try_from(at).unwrap().to_le_bytes();
    let crc = crc32fast::hash(&[&segment[48..64], &offset, &header[..68]].concat());
    segment[at..at + 68].copy_from_slice(&header[..68]);
    segment[at + 68..at + HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// Replaces `range` of a file by what `change` makes of it.
pub fn change(path: &Path, range: std::ops::Range<usize>, change: impl FnOnce(&mut [u8])) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; range.len()];
    let at = u64::try_from(range.start).unwrap();
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
    file.sync_all().unwrap();
}

/// Turns one bit of a file over; done twice it is undone.
pub fn flip(path: &Path, at: usize) {
    change(path, at..at + 1, |byte| byte[0] ^= 0x10);
}
