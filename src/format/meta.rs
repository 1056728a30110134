//! A slot of META: what the log knows about itself beyond its segments.
//!
//! ```text
//! +--------------------+--------------------+
//! | slot a, sequence 8 | slot b, sequence 7 |   a crash between the two writes of an update:
//! +--------------------+--------------------+   both are whole, the higher sequence is read
//! ```
//!
//! Bytes: FORMAT.md, "META slot".

use crate::lsn::Lsn;
use crate::options::{MAX_SEGMENT_BYTES, MAX_USER_STATE_BYTES, MIN_SEGMENT_BYTES};

use super::segment::MAX_NUMBER;
use super::{Bad, FORMAT_VERSION, LogId, block, le};

const MAGIC: &[u8; 8] = b"PRKDBMET";

/// Bytes of a slot.
pub(crate) const META_SLOT_BYTES: usize = 64 << 10;

const SEQUENCE: usize = block::FIELDS;
const LOG_ID: usize = 24;
const SEGMENT_BYTES: usize = 40;
const GROWTH_BYTES: usize = 48;
const NEXT_EPOCH: usize = 56;
const DURABLE_UPTO: usize = 64;
const FIRST_LSN: usize = 72;
const HIGHEST_NUMBER: usize = 80;
const BLOCK_SIZE: usize = 88;
const SYNC_METHOD: usize = 92;
const LAST_BACKEND: usize = 93;
const CLEAN: usize = 94;
const MENDING: usize = 95;
const USER_LEN: usize = 96;
const RANGES: usize = 100;
const REMOVED: usize = 104;
const RANGE_LEN: usize = 16;
const CUT_LEN: usize = 16;
const LAST_CUT: usize = USER_STATE - CUT_LEN;
const USER_STATE: usize = META_SLOT_BYTES - MAX_USER_STATE_BYTES;

/// No log gets there by appending, and one that says so has too few left.
const MOST_LSN: Lsn = Lsn::new(3 << 62);

const MAX_RANGES: usize = (LAST_CUT - REMOVED) / RANGE_LEN;
/// Cuts that are remembered.
const MAX_CUTS: usize = 512;

/// What was taken out from the end: from `lsn` on, all that segments of an epoch below `epoch`
/// hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) lsn: Lsn,
    pub(crate) epoch: u64,
}

/// The state of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Raised by each update.
    pub(crate) sequence: u64,
    pub(crate) log_id: LogId,
    pub(crate) block_size: u32,
    /// Size of a full-grown segment.
    pub(crate) segment_bytes: u64,
    /// Size of the next segment to make.
    pub(crate) growth_bytes: u64,
    /// 0 automatic, not measured; 1 DSYNC writes, 2 fdatasync; 3, 4: automatic, which found these.
    pub(crate) sync_method: u8,
    /// 0 none, 1 uring, 2 pwrite, 3 mmap, 4 tokio-uring, 5 sim, 255 other.
    pub(crate) last_backend: u8,
    pub(crate) next_epoch: u64,
    /// Closed in order: nothing was in flight.
    pub(crate) clean: bool,
    /// Giving up what is damaged began and did not end: footers and names may be in a cache alone.
    pub(crate) mending: bool,
    pub(crate) durable_upto: Lsn,
    pub(crate) first_lsn: Lsn,
    /// The greatest segment number ever given.
    pub(crate) highest_number: u64,
    /// LSNs that were cut out: half-open, sorted, none touching the next.
    pub(crate) removed: Vec<(Lsn, Lsn)>,
    /// Of rising LSNs and epochs.
    pub(crate) cuts: Vec<Cut>,
    /// The caller's, up to 4096 bytes.
    pub(crate) user_state: Vec<u8>,
}

impl Meta {
    /// The slot, or `Lengths` if this does not fit one.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Bad> {
        self.check()?;
        let count = |n: usize| u32::try_from(n).map_err(|_| Bad::Lengths);
        let mut out = vec![0; META_SLOT_BYTES];
        le::put_u64(&mut out, SEQUENCE, self.sequence);
        le::put(&mut out, LOG_ID, &self.log_id);
        le::put_u64(&mut out, SEGMENT_BYTES, self.segment_bytes);
        le::put_u64(&mut out, GROWTH_BYTES, self.growth_bytes);
        le::put_u64(&mut out, NEXT_EPOCH, self.next_epoch);
        le::put_u64(&mut out, DURABLE_UPTO, self.durable_upto.get());
        le::put_u64(&mut out, FIRST_LSN, self.first_lsn.get());
        le::put_u64(&mut out, HIGHEST_NUMBER, self.highest_number);
        le::put_u32(&mut out, BLOCK_SIZE, self.block_size);
        out[SYNC_METHOD] = self.sync_method;
        out[LAST_BACKEND] = self.last_backend;
        out[CLEAN] = u8::from(self.clean);
        out[MENDING] = u8::from(self.mending);
        le::put_u32(&mut out, USER_LEN, count(self.user_state.len())?);
        le::put_u32(&mut out, RANGES, count(self.removed.len())?);
        for (range, to) in self.removed.iter().zip(out[REMOVED..].chunks_exact_mut(RANGE_LEN)) {
            le::put_u64(to, 0, range.0.get());
            le::put_u64(to, 8, range.1.get());
        }
        for (cut, to) in self.cuts.iter().rev().zip(out[..USER_STATE].rchunks_exact_mut(CUT_LEN)) {
            le::put_u64(to, 0, cut.lsn.get());
            le::put_u64(to, 8, cut.epoch);
        }
        le::put(&mut out, USER_STATE, &self.user_state);
        block::seal(&mut out, MAGIC, &[]);
        Ok(out)
    }

    /// The state in `slot`.
    pub(crate) fn decode(slot: &[u8]) -> Result<Meta, Bad> {
        block::check(slot, MAGIC, &[])?;
        if slot.len() != META_SLOT_BYTES {
            return Err(Bad::Lengths);
        }
        let user = le::u32_at(slot, USER_LEN) as usize;
        let ranges = le::u32_at(slot, RANGES) as usize;
        if user > MAX_USER_STATE_BYTES || ranges > MAX_RANGES {
            return Err(Bad::Lengths);
        }
        let (removed, rest) = slot[REMOVED..USER_STATE].split_at(ranges * RANGE_LEN);
        let (rest, cuts) = split_cuts(rest)?;
        let (user_state, after) = slot[USER_STATE..].split_at(user);
        for reserved in [rest, after] {
            block::check_zero(reserved)?;
        }
        let meta = Meta {
            sequence: le::u64_at(slot, SEQUENCE),
            log_id: le::array(slot, LOG_ID),
            block_size: le::u32_at(slot, BLOCK_SIZE),
            segment_bytes: le::u64_at(slot, SEGMENT_BYTES),
            growth_bytes: le::u64_at(slot, GROWTH_BYTES),
            sync_method: slot[SYNC_METHOD],
            last_backend: slot[LAST_BACKEND],
            next_epoch: le::u64_at(slot, NEXT_EPOCH),
            clean: block::flag(slot[CLEAN])?,
            mending: block::flag(slot[MENDING])?,
            durable_upto: Lsn::new(le::u64_at(slot, DURABLE_UPTO)),
            first_lsn: Lsn::new(le::u64_at(slot, FIRST_LSN)),
            highest_number: le::u64_at(slot, HIGHEST_NUMBER),
            removed: removed.chunks_exact(RANGE_LEN).map(range).collect(),
            cuts,
            user_state: user_state.to_vec(),
        };
        meta.check()?;
        Ok(meta)
    }

    fn check(&self) -> Result<(), Bad> {
        if self.sync_method > 4 {
            return Err(Bad::Version(FORMAT_VERSION));
        }
        let block = u64::from(self.block_size);
        let segment = |size: u64| {
            (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&size) && size.is_multiple_of(block)
        };
        let sizes = block::is_block_size(block)
            && segment(self.segment_bytes)
            && segment(self.growth_bytes);
        let held = self.removed.len() + self.cuts.len().max(1) <= MAX_RANGES + 1
            && self.cuts.len() <= MAX_CUTS
            && self.user_state.len() <= MAX_USER_STATE_BYTES;
        let ends = self.removed.last().map_or(Lsn::NONE, |range| range.1);
        let lsns = self.first_lsn >= Lsn::FIRST
            && self.first_lsn.max(ends) <= MOST_LSN
            && self.removed_is_merged();
        let is_cut = |cut: &Cut| cut.lsn >= Lsn::FIRST && (1..self.next_epoch).contains(&cut.epoch);
        let rise = |pair: &[Cut]| pair[0].lsn < pair[1].lsn && pair[0].epoch < pair[1].epoch;
        let cuts = self.cuts.iter().all(is_cut) && self.cuts.windows(2).all(rise);
        let numbers = [self.sequence, self.next_epoch, self.highest_number];
        let numbers = numbers.iter().all(|number| *number <= MAX_NUMBER);
        if sizes && held && lsns && cuts && numbers { Ok(()) } else { Err(Bad::Lengths) }
    }

    /// Adds a cut, later than all that are there.
    pub(crate) fn add_cut(&mut self, cut: Cut) {
        self.cuts.retain(|earlier| earlier.lsn < cut.lsn);
        self.cuts.push(cut);
        self.forget_cuts();
    }

    /// Forgets the oldest cuts that there is no room for.
    pub(crate) fn forget_cuts(&mut self) {
        let too_many = self.cuts.len().saturating_sub(self.room_for_cuts());
        self.cuts.drain(..too_many);
    }

    fn room_for_cuts(&self) -> usize {
        MAX_CUTS.min(MAX_RANGES + 1 - self.removed.len().min(MAX_RANGES))
    }

    /// From where on records may have been cut since `next_epoch` was the next.
    pub(crate) fn cut_since(&self, next_epoch: u64) -> Option<Lsn> {
        let at = self.cuts.iter().position(|cut| cut.epoch >= next_epoch)?;
        // Each cut is an epoch of its own: of so many one may have been forgotten.
        let many = self.next_epoch.saturating_sub(next_epoch) > self.room_for_cuts() as u64;
        // There may have been earlier ones, which lie lower.
        let forgotten = at == 0 && (many || self.cuts.len() >= self.room_for_cuts());
        Some(if forgotten { Lsn::FIRST } else { self.cuts[at].lsn })
    }

    /// From where on the records of segments of this epoch were cut. The earliest cut after it lies
    /// lowest.
    pub(crate) fn cut_of(&self, epoch: u64) -> Option<Lsn> {
        self.cuts.iter().find(|cut| epoch < cut.epoch).map(|cut| cut.lsn)
    }

    fn removed_is_merged(&self) -> bool {
        self.removed.iter().all(|&(from, to)| Lsn::FIRST <= from && from < to)
            && self.removed.windows(2).all(|w| w[0].1 < w[1].0)
    }
}

/// The state of a log from its two slots, and which slot is bad, if one is.
pub(crate) fn choose(a: &[u8], b: &[u8]) -> Result<(Meta, Option<usize>), Bad> {
    match (Meta::decode(a), Meta::decode(b)) {
        // A newer build was here: what it wrote counts, and this build can't read it.
        (Err(Bad::Version(v)), _) | (_, Err(Bad::Version(v))) => Err(Bad::Version(v)),
        (Ok(a), Ok(b)) if a.log_id != b.log_id => Err(Bad::Foreign),
        // Two states with one sequence: no update made both.
        (Ok(a), Ok(b)) if a.sequence == b.sequence && a != b => Err(Bad::Foreign),
        (Ok(a), Ok(b)) => Ok((if a.sequence >= b.sequence { a } else { b }, None)),
        (Ok(a), Err(_)) => Ok((a, Some(1))),
        (Err(_), Ok(b)) => Ok((b, Some(0))),
        (Err(Bad::Nothing), Err(why)) | (Err(why), Err(_)) => Err(why),
    }
}

/// The cuts at the end of `bytes`, and what is left in front of them.
fn split_cuts(bytes: &[u8]) -> Result<(&[u8], Vec<Cut>), Bad> {
    let (mut rest, mut cuts) = (bytes, Vec::new());
    while let Some((before, cut)) = rest.split_last_chunk::<CUT_LEN>() {
        match (le::u64_at(cut, 0), le::u64_at(cut, 8)) {
            (0, 0) => break,
            (0, _) | (_, 0) => return Err(Bad::Lengths),
            (lsn, epoch) => cuts.push(Cut { lsn: Lsn::new(lsn), epoch }),
        }
        rest = before;
    }
    cuts.reverse();
    Ok((rest, cuts))
}

fn range(bytes: &[u8]) -> (Lsn, Lsn) {
    (Lsn::new(le::u64_at(bytes, 0)), Lsn::new(le::u64_at(bytes, 8)))
}
