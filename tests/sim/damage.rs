//! Damage planted on purpose: bits flipped in frames, and payloads that look like frames.
//!
//! ```text
//! segment file --peek--> Spot{segment, offset, len, LSNs} --flip one bit--> open, read: I7
//! tail of the open segment -------------------------------> a payload full of forged headers
//! ```
//!
//! Reads files by FORMAT.md, "Segment header" and "Frame header", on its own: a parser shared with
//! the crate would share its mistakes.

use std::path::PathBuf;

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Wal, WalConfig};

use crate::model::Promises;

pub const HEADER_LEN: usize = 72;
const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// A frame in a file.
#[derive(Clone, Debug)]
pub struct Spot {
    pub path: PathBuf,
    pub offset: u64,
    pub len: u64,
    pub first: u64,
    pub last: u64,
    epoch: u64,
}

/// The segment that was made last and holds frames.
#[derive(Debug)]
pub struct Tail {
    number: u64,
    epoch: u64,
    /// Where the next group goes.
    at: u64,
    /// Bytes of frames that fit after that.
    pub left: u64,
}

/// All frames of records that were read before, up to `last`, each where the log has it; but for
/// compressed ones, whose records can't be compared here.
pub fn promised_frames(sim: &Sim, promises: &Promises, last: u64) -> Vec<Spot> {
    let mut spots: Vec<Spot> = Vec::new();
    for (path, bytes) in segments(sim) {
        for (at, header) in frames(&bytes) {
            let (first, count) = (u64_at(header, 24), u64::from(u32_at(header, 8)));
            if header[..2] != [1, 0] || first < promises.first_most || first + count - 1 > last {
                continue;
            }
            let stored = HEADER_LEN + u32_at(header, 12) as usize;
            let body = &bytes[at + HEADER_LEN..at + stored];
            if !is_right(body, first, count, promises) {
                continue;
            }
            let (path, offset) = (path.clone(), at as u64);
            let (len, epoch) = (stored as u64, u64_at(header, 56));
            spots.push(Spot { path, offset, len, first, last: first + count - 1, epoch });
        }
    }
    // Recovery may have copied a frame; the copy of the highest epoch is the one that serves.
    spots.sort_by_key(|spot| (spot.first, std::cmp::Reverse(spot.epoch)));
    spots.dedup_by_key(|spot| spot.first);
    spots
}

/// Where the next frame will be, if the writer is idle and nothing was rolled.
pub fn tail(sim: &Sim) -> Option<Tail> {
    let (_, bytes) = segments(sim).into_iter().rfind(|(_, bytes)| !frames(bytes).is_empty())?;
    let (at, header) = frames(&bytes).pop()?;
    let end = at + HEADER_LEN + u32_at(header, 12) as usize;
    let at = end.next_multiple_of(BLOCK) as u64;
    let left = (bytes.len() as u64).saturating_sub(at + BLOCK as u64);
    Some(Tail { number: u64_at(&bytes, 32), epoch: u64_at(&bytes, 40), at, left })
}

/// A record of `blocks` blocks which, appended alone at the tail, has at each start of a block a
/// header that is valid but for the nonce, and claims that far more was promised than there is.
pub fn forged(tail: &Tail, blocks: usize) -> Vec<u8> {
    let mut record = vec![0x5a; blocks * BLOCK];
    for k in 1..blocks {
        let mut header = [0; HEADER_LEN];
        header[0] = 2;
        header[32..40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        header[48..56].copy_from_slice(&tail.number.to_le_bytes());
        header[56..64].copy_from_slice(&tail.epoch.to_le_bytes());
        header[64..68].copy_from_slice(&1_u32.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[0; 16]);
        crc.update(&(tail.at + (k * BLOCK) as u64).to_le_bytes());
        crc.update(&header[..68]);
        header[68..].copy_from_slice(&crc.finalize().to_le_bytes());
        let at = k * BLOCK - HEADER_LEN;
        record[at..at + HEADER_LEN].copy_from_slice(&header);
    }
    record
}

/// All files named like a segment, in the order of their numbers.
pub fn segments(sim: &Sim) -> Vec<(PathBuf, Vec<u8>)> {
    let files = sim.files().into_iter().map(|(path, _)| path);
    let named = files.filter(|path| path.extension().is_some_and(|ext| ext == "seg"));
    named.map(|path| (path.clone(), sim.peek(&path).expect("it was listed just now"))).collect()
}

/// Offsets and headers of the frames in a segment's bytes, one after the other.
pub fn frames(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    let end = bytes.len().saturating_sub(BLOCK);
    let mut at = BLOCK;
    while at + HEADER_LEN <= end {
        if at % BLOCK + HEADER_LEN > BLOCK {
            at = at.next_multiple_of(BLOCK);
            continue;
        }
        let header = &bytes[at..at + HEADER_LEN];
        let len = HEADER_LEN + u32_at(header, 12) as usize;
        if header[0] == 0 && !at.is_multiple_of(BLOCK) {
            at = (at + 1).next_multiple_of(BLOCK);
            continue;
        }
        let ours =
            (u64_at(header, 48), u64_at(header, 56)) == (u64_at(bytes, 32), u64_at(bytes, 40));
        if header[0] == 0 || !ours || at + len > end {
            break;
        }
        found.push((at, header));
        at += len;
    }
    found
}

/// The watermark of each valid frame header at the start of a block, in rising order: what of the
/// promises survives on the device, at the least.
pub fn watermarks(sim: &Sim) -> Vec<u64> {
    let mut found = Vec::new();
    for (_, bytes) in segments(sim).iter().filter(|(_, bytes)| bytes.len() > 2 * BLOCK) {
        let salt = |at: usize| {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[48..64]);
            crc.update(&(at as u64).to_le_bytes());
            crc
        };
        let (end, ours) = (bytes.len().saturating_sub(BLOCK), &bytes[32..48]);
        for at in (BLOCK..end).step_by(BLOCK) {
            let header = &bytes[at..at + HEADER_LEN];
            let mut crc = salt(at);
            crc.update(&header[..68]);
            let valid = header[0] != 0 && crc.finalize() == u32_at(header, 68);
            if valid && header[48..64] == *ours {
                found.push(u64_at(header, 32));
            }
        }
    }
    found.sort_unstable();
    found
}

/// The promised frames behind whose last byte there is something else than zeros, another frame, or
/// the end of a sector: what lies in further ones may be older than the frame.
pub fn kept_in_padding(sim: &Sim, promises: &Promises, last: u64) -> Vec<Spot> {
    let mut found = promised_frames(sim, promises, last);
    let segments = segments(sim);
    found.retain(|spot| {
        let (_, bytes) = segments.iter().find(|(path, _)| *path == spot.path).expect("listed");
        let end = usize::try_from(spot.offset + spot.len).expect("a segment is small");
        let padding = &bytes[end..end.next_multiple_of(SECTOR)];
        // A tag: what follows in the same group may be torn.
        let goes_on = matches!(padding, [1 | 2, ..]);
        !goes_on && padding.iter().any(|b| *b != 0)
    });
    found
}

fn is_right(body: &[u8], first: u64, count: u64, promises: &Promises) -> bool {
    let index = body.len() - 8 * usize::try_from(count).expect("a frame is small");
    let mut start = 0;
    (0..count).zip(body[index..].chunks_exact(8)).all(|(i, entry)| {
        let end = u32_at(entry, 0) as usize;
        let record = body.get(start..end);
        start = end;
        record == Some(promises.content(first + i))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn what_is_left_in_padding_is_found() {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    let wal = Wal::open_in(sim.world(), WalConfig::new("/log")).unwrap();
    let mut promises = Promises::new();
    let batch = promises.submit(vec![b"a record".to_vec()]);
    let records = &promises.batch(batch).records;
    let lsn = wal.append_batch(records).unwrap().wait().unwrap().first();
    promises.learn(1, &wal.read(lsn).unwrap().data);
    wal.close().unwrap();
    let spot = promised_frames(&sim, &promises, 1).pop().unwrap();
    assert!(kept_in_padding(&sim, &promises, 1).is_empty());
    sim.poke(&spot.path, spot.offset + spot.len + 9, b"x").unwrap();
    assert_eq!(kept_in_padding(&sim, &promises, 1).len(), 1);
}
