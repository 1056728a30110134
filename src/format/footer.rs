//! The footer: the last block of a sealed segment, which spares a reader the walk over its frames.
//!
//! Invariant: a footer that decodes was made for this life of this file; its salt tells it from
//! the one that a recycled file still holds. Bytes: FORMAT.md, "Footer".

use crate::bugs::{self, Bug};
use crate::lsn::Lsn;

use super::{Bad, GREATEST_LSN, SegmentId, block, le};

const MAGIC: &[u8; 8] = b"PRKDBEND";

const FIRST_LSN: usize = block::FIELDS;
const LAST_LSN: usize = 24;
const FIRST_TIME: usize = 32;
const LAST_TIME: usize = 40;
const FRAMES: usize = 48;
const RECORDS: usize = 56;
const FRAMES_END: usize = 64;
const DURABLE_UPTO: usize = 72;
const ENTRIES: usize = 80;
const INDEX: usize = 88;
const ENTRY_LEN: usize = 16;

/// The most entries of a sparse index.
pub(crate) const MAX_INDEX_ENTRIES: usize = 128;

const _: () = assert!(INDEX + MAX_INDEX_ENTRIES * ENTRY_LEN <= 4096, "fits the smallest block");

/// Where one of the batches is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Of its first record.
    pub(crate) lsn: Lsn,
    /// Of its frame.
    pub(crate) offset: u64,
}

/// What a sealed segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// `NONE` if there is no batch.
    pub(crate) first_lsn: Lsn,
    /// Inclusive; `NONE` if there is no batch.
    pub(crate) last_lsn: Lsn,
    pub(crate) first_time_us: u64,
    pub(crate) last_time_us: u64,
    /// Batches; marks don't count.
    pub(crate) frames: u64,
    pub(crate) records: u64,
    /// Offset after the last valid frame.
    pub(crate) end: u64,
    /// The greatest LSN known durable when the footer was made.
    pub(crate) durable_upto: Lsn,
    /// Some of the batches, in order.
    pub(crate) index: Vec<IndexEntry>,
}

impl Footer {
    /// The block at `offset` of segment `id`.
    pub(crate) fn encode(&self, id: &SegmentId, offset: u64, block_size: usize) -> Vec<u8> {
        assert!(self.fits(offset, block_size as u64), "no reader would take {self:?} at {offset}");
        assert!(block::is_block_size(block_size as u64), "a block of {block_size} bytes");
        let mut out = vec![0; block_size];
        le::put_u64(&mut out, FIRST_LSN, self.first_lsn.get());
        le::put_u64(&mut out, LAST_LSN, self.last_lsn.get());
        le::put_u64(&mut out, FIRST_TIME, self.first_time_us);
        le::put_u64(&mut out, LAST_TIME, self.last_time_us);
        le::put_u64(&mut out, FRAMES, self.frames);
        le::put_u64(&mut out, RECORDS, self.records);
        le::put_u64(&mut out, FRAMES_END, self.end);
        le::put_u64(&mut out, DURABLE_UPTO, self.durable_upto.get());
        let entries = u32::try_from(self.index.len()).expect("at most MAX_INDEX_ENTRIES");
        le::put_u32(&mut out, ENTRIES, entries);
        for (entry, to) in self.index.iter().zip(out[INDEX..].chunks_exact_mut(ENTRY_LEN)) {
            le::put_u64(to, 0, entry.lsn.get());
            le::put_u64(to, 8, entry.offset);
        }
        block::seal(&mut out, MAGIC, &salt(id, offset));
        out
    }

    /// The footer in `block`, the whole block at `offset` of segment `id`.
    pub(crate) fn decode(block: &[u8], id: &SegmentId, offset: u64) -> Result<Footer, Bad> {
        block::check(block, MAGIC, &salt(id, offset))?;
        if !block::is_block_size(block.len() as u64) {
            return Err(Bad::Lengths);
        }
        let entries = le::u32_at(block, ENTRIES) as usize;
        if entries > MAX_INDEX_ENTRIES {
            return Err(Bad::Lengths);
        }
        let (index, rest) = block[INDEX..].split_at(entries * ENTRY_LEN);
        block::check_zero(&block[ENTRIES + 4..INDEX])?;
        block::check_zero(rest)?;
        let footer = Footer {
            first_lsn: Lsn::new(le::u64_at(block, FIRST_LSN)),
            last_lsn: Lsn::new(le::u64_at(block, LAST_LSN)),
            first_time_us: le::u64_at(block, FIRST_TIME),
            last_time_us: le::u64_at(block, LAST_TIME),
            frames: le::u64_at(block, FRAMES),
            records: le::u64_at(block, RECORDS),
            end: le::u64_at(block, FRAMES_END),
            durable_upto: Lsn::new(le::u64_at(block, DURABLE_UPTO)),
            index: index.chunks_exact(ENTRY_LEN).map(entry).collect(),
        };
        if footer.fits(offset, block.len() as u64) { Ok(footer) } else { Err(Bad::Lengths) }
    }

    fn fits(&self, offset: u64, block: u64) -> bool {
        let counts = if self.frames == 0 { self.is_empty() } else { self.ranges_fit() };
        let lsns = self.last_lsn.max(self.durable_upto) <= GREATEST_LSN;
        counts && lsns && self.end <= offset && self.index_fits(block)
    }

    fn is_empty(&self) -> bool {
        let lsns = self.first_lsn == Lsn::NONE && self.last_lsn == Lsn::NONE;
        let times = self.first_time_us == 0 && self.last_time_us == 0;
        lsns && times && self.records == 0 && self.index.is_empty()
    }

    fn ranges_fit(&self) -> bool {
        let (first, last) = (self.first_lsn.get(), self.last_lsn.get());
        // With several segments open at once a segment need not have all LSNs of its range.
        (1..=last).contains(&first)
            && (self.frames..=last - first + 1).contains(&self.records)
            && self.first_time_us <= self.last_time_us
    }

    fn index_fits(&self, block: u64) -> bool {
        // Frames begin behind the header's block.
        let inside = |e: &IndexEntry| {
            (self.first_lsn..=self.last_lsn).contains(&e.lsn)
                && (block..self.end).contains(&e.offset)
        };
        let rises = |w: &[IndexEntry]| w[0].lsn < w[1].lsn && w[0].offset < w[1].offset;
        self.index.len() <= MAX_INDEX_ENTRIES
            && self.index.iter().all(inside)
            && self.index.windows(2).all(rises)
    }
}

fn entry(bytes: &[u8]) -> IndexEntry {
    IndexEntry { lsn: Lsn::new(le::u64_at(bytes, 0)), offset: le::u64_at(bytes, 8) }
}

fn salt(id: &SegmentId, offset: u64) -> [u8; 32] {
    let mut salt = [0; 32];
    if bugs::on(Bug::FooterUnsalted) {
        return salt;
    }
    le::put(&mut salt, 0, &id.nonce);
    le::put_u64(&mut salt, 16, id.number);
    le::put_u64(&mut salt, 24, offset);
    salt
}
