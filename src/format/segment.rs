//! The segment header: the first block of a segment, durable before the file has its name.
//!
//! Bytes: FORMAT.md, "Segment header".

use crate::options::MAX_SEGMENT_BYTES;

use super::{Bad, LogId, SegmentId, block, le};

const MAGIC: &[u8; 8] = b"PRKDBWAL";

const LOG_ID: usize = block::FIELDS;
const NUMBER: usize = 32;
const EPOCH: usize = 40;
const NONCE: usize = 48;
const SIZE: usize = 64;
const BLOCK_SIZE: usize = 72;
const ZEROED: usize = 76;
const END: usize = 77;

/// The greatest number and epoch of a segment: with greater ones a log would soon have none left.
pub(crate) const MAX_NUMBER: u64 = u64::MAX >> 1;
/// So many of both are left to a log that is opened: more than it can use up.
pub(crate) const LEFT_NUMBERS: u64 = 1 << 40;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    pub(crate) id: SegmentId,
    /// Of the file, header and footer included.
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    /// All was zero before the first frame: not a retired segment's content.
    pub(crate) zeroed: bool,
}

impl SegmentHeader {
    /// The block; its length is `block_size`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fits = self.is_numbered() && self.fits(u64::from(self.block_size));
        assert!(fits, "no reader would take {self:?}");
        let mut out = vec![0; self.block_size as usize];
        le::put(&mut out, LOG_ID, &self.log_id);
        le::put_u64(&mut out, NUMBER, self.id.number);
        le::put_u64(&mut out, EPOCH, self.id.epoch);
        le::put(&mut out, NONCE, &self.id.nonce);
        le::put_u64(&mut out, SIZE, self.size);
        le::put_u32(&mut out, BLOCK_SIZE, self.block_size);
        out[ZEROED] = u8::from(self.zeroed);
        block::seal(&mut out, MAGIC, &[]);
        out
    }

    /// The header in `block`, the file's first block, whole.
    pub(crate) fn decode(block: &[u8]) -> Result<SegmentHeader, Bad> {
        block::check(block, MAGIC, &[])?;
        if !block::is_block_size(block.len() as u64) {
            return Err(Bad::Lengths);
        }
        block::check_zero(&block[END..])?;
        let header = SegmentHeader {
            log_id: le::array(block, LOG_ID),
            id: SegmentId {
                number: le::u64_at(block, NUMBER),
                epoch: le::u64_at(block, EPOCH),
                nonce: le::array(block, NONCE),
            },
            size: le::u64_at(block, SIZE),
            block_size: le::u32_at(block, BLOCK_SIZE),
            zeroed: block::flag(block[ZEROED])?,
        };
        let fits = header.is_numbered() && header.fits(block.len() as u64);
        if fits { Ok(header) } else { Err(Bad::Lengths) }
    }

    fn is_numbered(&self) -> bool {
        self.id.number.max(self.id.epoch) <= MAX_NUMBER
    }

    /// What a block that does not decode says it is, and of which size: worth a try, for the frames
    /// of its segment prove whether it is right.
    pub(crate) fn claimed(block: &[u8], number: u64) -> (SegmentId, u64) {
        let epoch = le::u64_at(block, EPOCH);
        let size = le::u64_at(block, SIZE);
        let size = if size > MAX_SEGMENT_BYTES { 0 } else { size };
        (SegmentId { number, epoch, nonce: le::array(block, NONCE) }, size)
    }

    fn fits(&self, block_len: u64) -> bool {
        let block = u64::from(self.block_size);
        let whole = block == block_len && block::is_block_size(block);
        whole
            && (3 * block..=MAX_SEGMENT_BYTES).contains(&self.size)
            && self.size.is_multiple_of(block)
    }
}
