//! Writing what is whole in one log to a new one: records keep LSN and time, holes stay holes.
//!
//! ```text
//! segments of the source, swept --by LSN--> frames --> image of a segment --> file, synced, named
//!                                                            ... META last: it makes a log of them
//! ```
//!
//! Every new segment is sealed and holds consecutive records: a hole begins a new one. Invariants:
//! memory is bounded by one image (`IMAGE_BYTES`, or one batch) and a window for each segment of
//! the source that was written side by side; until META has its name there is no log.

use std::path::Path;

use crate::cast::{len, round_up};
use crate::error::{Error, Result};
use crate::format::codec::Decoder;
use crate::format::frame::{
    Codec, FRAME_HEADER_LEN, FrameHeader, body_len, decode_body, encode_body, place_after, record,
};
use crate::format::meta::Meta;
use crate::format::segment::SegmentHeader;
use crate::format::{LogId, SegmentId};
use crate::io::{Buf, Disk, Flow, World};
use crate::lsn::Lsn;
use crate::segment::{Frame, Run, Summary, file_name, making_name, pool_dir};

use super::super::meta::{MetaFile, UNCHANGED};
use super::super::recovery::{Loss, Met, Survey, Sweep, kept_run, skip_removed};

/// Frames of one new segment, bytes, unless one batch has more.
const IMAGE_BYTES: usize = 16 << 20;
/// Bytes of frames between two calls of progress.
const TOLD: u64 = 1 << 20;
/// Bytes of one write.
const PIECE: usize = 1 << 20;

/// Writes the new log into the empty directory `to`: the frames from `dir` and all else that `old`
/// says.
pub(super) async fn write(
    flow: &Flow,
    target: &World,
    to: &Path,
    mut frames: Frames<'_>,
    old: Meta,
    dir: &Path,
) -> Result<()> {
    let failed = |e| Error::io("repair", to, None, e);
    let disk = &*target.disk;
    disk.create_dir(&pool_dir(to)).map_err(failed)?;
    let log_id = target.host.random().map_err(failed)?;
    let mut new = NewLog::new(flow, target, to, log_id);
    let missing = |lsn: Lsn| {
        let why = format!("record {lsn} was there and is not: it changed while it was read");
        Err(Error::corrupt("repair", dir, 0, why))
    };
    let mut next = skip_removed(old.first_lsn, &old.removed);
    while let Some((header, stored)) = frames.next()? {
        // What was given up before may still stand in a segment.
        if header.last_lsn() >= next {
            if header.first_lsn > next {
                return missing(next);
            }
            next = skip_removed(header.last_lsn().next(), &old.removed);
            new.put(header, &stored).await?;
        }
    }
    if next != old.durable_upto.next() {
        return missing(next);
    }
    new.end_segment().await?;
    for dir in [to, &pool_dir(to)] {
        disk.sync_dir(dir).map_err(|e| Error::io("repair", dir, None, e))?;
    }
    let meta = Meta {
        sequence: UNCHANGED,
        log_id,
        block_size: u32::try_from(disk.block_size()).expect("a block is far below 4 GiB"),
        next_epoch: 2,
        clean: true,
        mending: false,
        highest_number: new.number,
        cuts: Vec::new(),
        ..old
    };
    MetaFile::create(flow, disk, to, meta).await.map(drop)
}

// ---- reading ---------------------------------------------------------------------------------

/// One segment of the source, at its next frame that is kept.
struct Head<'a> {
    walk: Sweep<'a>,
    kept: &'a [Run],
    frame: Frame,
}

/// The kept frames of all segments in the order of their LSNs.
pub(super) struct Frames<'a> {
    disk: &'a dyn Disk,
    /// Segments not begun yet, the one with the lowest record last.
    waiting: Vec<(Lsn, usize)>,
    heads: Vec<Head<'a>>,
    survey: &'a Survey,
    loss: &'a Loss,
    decoder: Decoder,
    /// The LSN after the last frame that was given.
    next: Lsn,
    /// Bytes of the frames that were given,
    given: u64,
    /// and who hears of them.
    hear: &'a mut (dyn FnMut(u64) + Send),
}

impl<'a> Frames<'a> {
    /// `hear` gets the bytes of the frames that were taken so far.
    pub(super) fn new(
        disk: &'a dyn Disk,
        survey: &'a Survey,
        loss: &'a Loss,
        hear: &'a mut (dyn FnMut(u64) + Send),
    ) -> Frames<'a> {
        let first = |(i, kept): (usize, &Vec<Run>)| Some((kept.first()?.first, i));
        let mut waiting: Vec<_> = loss.kept.iter().enumerate().filter_map(first).collect();
        waiting.sort_unstable_by(|a, b| b.cmp(a));
        let (heads, decoder, next) = (Vec::new(), Decoder::default(), Lsn::NONE);
        Frames { disk, waiting, heads, survey, loss, decoder, next, given: 0, hear }
    }

    /// The next batch: its header, with the LSNs that are part of the log, and its stored bytes.
    fn next(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>> {
        loop {
            let lowest = self.heads.iter().map(|head| head.frame.header.first_lsn).min();
            if let Some((first, i)) = self.waiting.last().copied()
                && lowest.is_none_or(|lowest| first <= lowest)
            {
                self.waiting.pop();
                let walk = Sweep::new(self.disk, &self.survey.found[i])?;
                self.heads.extend(next_kept(walk, &self.loss.kept[i])?);
                continue;
            }
            let lowest = lowest.and_then(|lsn| {
                self.heads.iter().position(|head| head.frame.header.first_lsn == lsn)
            });
            let Some(i) = lowest else { return Ok(None) };
            let mut head = self.heads.swap_remove(i);
            let taken = self.take(&mut head)?;
            self.heads.extend(next_kept(head.walk, head.kept)?);
            if taken.is_some() {
                return Ok(taken);
            }
        }
    }

    /// The frame of a head; none if another segment gave its records already.
    fn take(&mut self, head: &mut Head<'_>) -> Result<Option<(FrameHeader, Vec<u8>)>> {
        let header = head.frame.header;
        let before = self.given;
        self.given += header.frame_len();
        if before / TOLD != self.given / TOLD {
            (self.hear)(self.given);
        }
        if header.last_lsn() < self.next {
            return Ok(None);
        }
        let Some(run) = kept_run(head.kept, &header) else { return Ok(None) };
        let last = run.last.min(header.last_lsn());
        let stored = head.walk.stored(&head.frame)?;
        self.next = last.next();
        if last == header.last_lsn() {
            return Ok(Some((header, stored.to_vec())));
        }
        Ok(Some(shortened(&mut self.decoder, &header, stored, last)))
    }
}

/// A segment at its next kept frame; none if there is no more.
fn next_kept<'a>(mut walk: Sweep<'a>, kept: &'a [Run]) -> Result<Option<Head<'a>>> {
    while let Some(met) = walk.next()? {
        if let Met::Frame(frame) = met
            && kept_run(kept, &frame.header).is_some()
        {
            return Ok(Some(Head { walk, kept, frame }));
        }
    }
    Ok(None)
}

/// A batch that was cut in the middle: its records up to `last`, as they are.
fn shortened(
    decoder: &mut Decoder,
    header: &FrameHeader,
    stored: &[u8],
    last: Lsn,
) -> (FrameHeader, Vec<u8>) {
    let body = decode_body(decoder, header, stored).expect("the sweep has decoded it");
    let count = u32::try_from(last.get() - header.first_lsn.get() + 1).expect("less than it had");
    let records: Vec<&[u8]> =
        (0..count).map(|i| record(header, &body, i).expect("the sweep has checked it")).collect();
    let bytes = records.iter().map(|record| record.len()).sum();
    let mut out = vec![0; body_len(bytes, records.len())];
    let payload_crc = encode_body(records.iter().copied(), bytes, records.len(), &mut out);
    let len = u32::try_from(out.len()).expect("less than it had");
    let (stored_len, raw_len) = (len, len);
    let codec = Codec::None;
    (FrameHeader { codec, count, stored_len, raw_len, payload_crc, ..*header }, out)
}

// ---- writing ---------------------------------------------------------------------------------

/// The new log and the image of the segment that is being filled.
struct NewLog<'a> {
    flow: &'a Flow,
    target: &'a World,
    dir: &'a Path,
    log_id: LogId,
    block: usize,
    /// Of the last segment.
    number: u64,
    id: SegmentId,
    /// Header block and frames; empty: no segment is begun.
    image: Vec<u8>,
    summary: Summary,
}

impl<'a> NewLog<'a> {
    fn new(flow: &'a Flow, target: &'a World, dir: &'a Path, log_id: LogId) -> NewLog<'a> {
        let block = target.disk.block_size();
        let id = SegmentId { number: 0, epoch: 1, nonce: [0; 16] };
        let (image, summary) = (Vec::new(), Summary::new(block as u64));
        NewLog { flow, target, dir, log_id, block, number: 0, id, image, summary }
    }

    async fn put(&mut self, header: FrameHeader, stored: &[u8]) -> Result<()> {
        let follows = self.summary.last_lsn().next() == header.first_lsn;
        let full = self.image.len() + stored.len() > IMAGE_BYTES;
        if !self.image.is_empty() && (full || !follows) {
            self.end_segment().await?;
        }
        if self.image.is_empty() {
            self.begin_segment()?;
        }
        let at = len(place_after(self.image.len() as u64, self.block as u64));
        let (number, epoch) = (self.id.number, self.id.epoch);
        let moved = FrameHeader { number, epoch, ..header };
        self.image.resize(at + FRAME_HEADER_LEN, 0);
        moved.encode(&self.id.nonce, at as u64, &mut self.image[at..]);
        self.image.extend_from_slice(stored);
        self.summary.add(at as u64, &moved);
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<()> {
        let nonce = self.target.host.random();
        let nonce = nonce.map_err(|e| Error::io("repair", self.dir, None, e))?;
        self.number += 1;
        self.id = SegmentId { number: self.number, epoch: 1, nonce };
        self.image.resize(self.block, 0);
        self.summary = Summary::new(self.block as u64);
        Ok(())
    }

    /// Writes the segment, syncs it, gives it its name.
    async fn end_segment(&mut self) -> Result<()> {
        if self.image.is_empty() {
            return Ok(());
        }
        let block = self.block as u64;
        let footer_at = round_up(self.image.len() as u64, block);
        let size = footer_at + block;
        let block_size = u32::try_from(block).expect("a block is far below 4 GiB");
        let (log_id, id) = (self.log_id, self.id);
        let header = SegmentHeader { log_id, id, size, block_size, zeroed: true };
        self.image.resize(len(footer_at), 0);
        self.image[..self.block].copy_from_slice(&header.encode());
        let footer = self.summary.footer(self.summary.last_lsn());
        self.image.extend(footer.encode(&id, footer_at, self.block));
        let (making, name) = (making_name(id.number), file_name(id.number));
        let (from, to) = (pool_dir(self.dir).join(making), self.dir.join(name));
        let failed = |e| Error::io("repair", &to, None, e);
        let file = self.target.disk.create(&from, size).map_err(failed)?;
        for (i, piece) in self.image.chunks(PIECE).enumerate() {
            let mut buf = Buf::zeroed(piece.len(), self.block);
            buf.bytes_mut().expect("just allocated").copy_from_slice(piece);
            self.flow.write(&file, (i * PIECE) as u64, buf, false).await.map_err(failed)?;
        }
        self.flow.sync(&file).await.map_err(failed)?;
        self.flow.release(&file);
        self.target.disk.rename(&from, &to).map_err(failed)?;
        self.image.clear();
        Ok(())
    }
}
