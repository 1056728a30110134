//! A group that still takes batches: frames side by side in one aligned buffer.
//!
//! Invariants: a frame's header does not cross a block boundary; what lies between frames and up to
//! the end of the last block is zeros; no stale byte of the buffer reaches the disk.

use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::cast::{len, round_up};
use crate::format::Nonce;
use crate::format::frame::{FRAME_HEADER_LEN, FrameHeader, place_after};
use crate::io::Buf;
use crate::lsn::Lsn;
use crate::options::Durability;

use super::super::encode::Encoded;
use super::super::shared::GROUP_BYTES;
use super::super::shared::Pending;
use super::flight::{Counts, Placed};

/// The group that is being filled.
pub(super) struct Gather {
    pub(super) buf: Buf,
    /// Bytes of frames so far.
    pub(super) used: usize,
    /// Where the group goes in its segment.
    pub(super) at: u64,
    pub(super) first: Lsn,
    pub(super) records: usize,
    pub(super) counts: Counts,
    pub(super) since: Duration,
    pub(super) batches: Vec<Placed>,
    /// One watermark for all its frames: looking ahead finds the first of them only.
    pub(super) durable_upto: Lsn,
    /// The strongest level asked for.
    pub(super) level: Durability,
}

impl Gather {
    pub(super) fn new(
        mut buf: Buf,
        at: u64,
        first: Lsn,
        durable_upto: Lsn,
        now: Duration,
        batches: Vec<Placed>,
    ) -> Gather {
        debug_assert!(batches.is_empty());
        buf.set_len(GROUP_BYTES);
        Gather {
            buf,
            used: 0,
            at,
            first,
            records: 0,
            counts: Counts::default(),
            since: now,
            batches,
            durable_upto,
            level: Durability::Queued,
        }
    }

    /// Where in the buffer the next frame would start.
    pub(super) fn next_start(&self, block: u64) -> usize {
        len(place_after(self.used as u64, block))
    }

    /// Copies a batch's frame in, from `pos` on.
    pub(super) fn put(&mut self, pos: usize, header: &FrameHeader, nonce: &Nonce, batch: &Pending) {
        let Encoded { buf, frame_len, body } = &batch.encoded;
        let end = pos + frame_len;
        let bytes = self.buf.bytes_mut().expect("a group buffer is shared only when submitted");
        bytes[self.used..pos].fill(0);
        bytes[pos + FRAME_HEADER_LEN..end].copy_from_slice(&buf.bytes()[FRAME_HEADER_LEN..]);
        header.encode(nonce, self.at + pos as u64, &mut bytes[pos..pos + FRAME_HEADER_LEN]);
        self.used = end;
        self.records += body.count as usize;
        self.counts.batches += 1;
        self.counts.record_bytes += batch.record_bytes;
        self.level = self.level.max(batch.durability);
    }

    /// Fills its last block with zeros and cuts the buffer to whole blocks.
    pub(super) fn pad(&mut self, block: u64) {
        let whole = len(round_up(self.used as u64, block));
        let bytes = self.buf.bytes_mut().expect("a group buffer is shared only when submitted");
        if !bugs::on(Bug::PaddingKept) {
            bytes[self.used..whole].fill(0);
        }
        self.buf.set_len(whole);
    }
}
