//! Copying the tail where it could not be read past the page cache.
//!
//! After a failed sync the cache shows bytes that the device never got, and calls them clean: a
//! second sync succeeds and writes nothing. Frames above the watermark read from such a cache are
//! therefore written again, into a new segment of the next epoch that gets its name only when it
//! is whole and synced; then the old segments end at the watermark. Source: Rebello et al., "Can
//! Applications Recover from fsync Failures?", ATC 2020.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::cast::{len, round_up};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SegmentId;
use crate::format::frame::{FRAME_HEADER_LEN, FrameHeader, Tag, place_after};
use crate::format::meta::Meta;
use crate::io::{Access, Buf, FileRef};
use crate::lsn::Lsn;
use crate::segment::{
    Cursor, Frame, Geometry, NewSegment, Step, Summary, install, making_name, pool_dir,
};

use super::super::shared::GROUP_BYTES;
use super::footers::put_footer;
use super::reserve::{blank_file, take_reserve};
use super::site::Site;
use super::{Found, Plan, State};

/// More than a log leaves without a watermark behind it: some 32 groups in flight, of which none
/// can say yet that another one is durable, each a batch of at most 40 MiB; and what waits for a
/// sync. In memory; the segment they are copied to is smaller than a segment may be: of its blocks
/// at most a fourth is padding.
const MOST_UNPROVEN: u64 = 2 << 30;

/// Frames that are to be copied, in memory until they are.
#[derive(Default)]
pub(super) struct Unproven {
    frames: Vec<(FrameHeader, Vec<u8>)>,
    bytes: u64,
}

impl Unproven {
    /// Adds a frame of the file `path`; refuses what only a forger leaves.
    pub(super) fn add(&mut self, path: &Path, frame: &Frame, stored: &[u8]) -> Result<()> {
        let kept = size_of::<(FrameHeader, Vec<u8>)>() as u64 + frame.header.frame_len();
        self.bytes = self.bytes.saturating_add(kept);
        if self.bytes > MOST_UNPROVEN {
            let why = "no log leaves so much that no watermark covers; `repair_to` takes over what \
                       is whole";
            return Err(Error::corrupt("recover: copy the tail", path, frame.offset, why));
        }
        self.frames.push((frame.header, stored.to_vec()));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Copies the kept frames above the watermark; false if there are none.
pub(super) async fn copy_tail(site: Site<'_>, plan: &mut Plan) -> Result<bool> {
    let mut unproven = Unproven::default();
    for f in plan.found.iter().filter(|f| matches!(f.state, State::Open(_))) {
        if f.kept_last() > plan.promised {
            unpromised(site, f, plan.promised, plan.next, &mut unproven)?;
        }
    }
    if unproven.is_empty() {
        return Ok(false);
    }
    plan.highest_number += 1;
    copy_frames(site, &plan.meta.meta, plan.highest_number, plan.epoch, unproven).await?;
    plan.epoch += 1;
    Ok(true)
}

/// Writes frames into a new segment of this number and epoch.
pub(super) async fn copy_frames(
    site: Site<'_>,
    meta: &Meta,
    number: u64,
    epoch: u64,
    unproven: Unproven,
) -> Result<()> {
    let Unproven { mut frames, .. } = unproven;
    frames.sort_by_key(|(header, _)| header.first_lsn);
    // Two segments hold one record only where somebody forged that.
    frames.dedup_by(|(next, _), (kept, _)| next.first_lsn <= kept.last_lsn());
    let block = u64::from(meta.block_size);
    let Layout { places, groups, end } = lay_out(frames.iter().map(|(header, _)| header), block);
    let bytes = end - block;
    let random = site.host.random().map_err(|e| Error::io("recover", site.dir, None, e))?;
    let new = NewSegment {
        disk: site.disk,
        dir: site.dir,
        log_id: meta.log_id,
        id: SegmentId { number, epoch, nonce: random },
        geometry: Geometry { size: Geometry::size_for(bytes, block), block },
    };
    let path = pool_dir(site.dir).join(making_name(new.id.number));
    let (file, path, zeroed) = match blank_file(site, &path, new.geometry).await {
        Ok(file) => (file, path, true),
        Err(e) if e.kind() == ErrorKind::StorageFull => {
            let Some((file, path)) = take_reserve(site, new.geometry) else { return Err(e) };
            // A copy that a crash cut short may have left its frames there.
            (file, path, false)
        }
        Err(e) => return Err(e),
    };
    let mut summary = Summary::new(new.geometry.frames_start());
    for group in groups {
        let (frames, places) = (&frames[group.clone()], &places[group]);
        put_group(site, &file, new, frames, places, &mut summary).await?;
    }
    // `install` syncs the file before it gets its name.
    let made = install(site.flow, new, &file, &path, zeroed).await?;
    site.flow.release(&file);
    // What it holds is the log's: only a footer proves that where the next segment has lost its
    // beginning. Not before its name is durable, for what has a footer is not copied once more.
    let ended = put_footer(site, &made.segment, &made.file, &summary, summary.last_lsn()).await;
    site.flow.release(&made.file);
    ended
}

/// Adds the kept frames of one segment that nobody is known to have been promised.
fn unpromised(
    site: Site<'_>,
    f: &Found,
    promised: Lsn,
    next: Lsn,
    unproven: &mut Unproven,
) -> Result<()> {
    let failed = |at, e| Error::io("recover: copy the tail", &f.file.path, at, e);
    let file = site.disk.open(&f.file.path, Access::Direct).map_err(|e| failed(None, e))?;
    let start = f.file.geometry.frames_start();
    let mut cursor = Cursor::new(Arc::clone(&file), f.file.id, f.file.geometry, start, 1 << 20);
    let kept = |frame: &Frame| {
        let header = &frame.header;
        let (first, last) = (header.first_lsn, header.last_lsn());
        let run = f.kept.get(f.kept.partition_point(|run| run.last < last));
        let inside = run.is_some_and(|run| run.first <= first);
        header.tag == Tag::Batch && first > promised && last < next && inside
    };
    while let Step::Frame(frame) = cursor.step().map_err(|e| failed(Some(cursor.at()), e))? {
        if kept(&frame) {
            let stored = cursor.stored(&frame).map_err(|e| failed(Some(frame.offset), e))?;
            unproven.add(&f.file.path, &frame, stored)?;
        }
    }
    Ok(())
}

/// Where frames go.
struct Layout {
    /// The offset of each.
    places: Vec<u64>,
    /// Which are written at once.
    groups: Vec<Range<usize>>,
    /// The end of the last block.
    end: u64,
}

/// Groups as the writer forms them, from the first block on.
fn lay_out<'a>(headers: impl Iterator<Item = &'a FrameHeader>, block: u64) -> Layout {
    let (mut places, mut groups): (Vec<u64>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
    let (mut end, mut next_lsn) = (block, Lsn::NONE);
    for (i, header) in headers.enumerate() {
        let at = place_after(end, block);
        // What judges a log counts on it that a run begins with a group.
        let follows = |group: &&mut Range<usize>| {
            let most = places[group.start] + GROUP_BYTES as u64;
            header.first_lsn == next_lsn && at + header.frame_len() <= most
        };
        let at = match groups.last_mut().filter(follows) {
            Some(group) => {
                group.end = i + 1;
                at
            }
            None => {
                groups.push(i..i + 1);
                round_up(end, block)
            }
        };
        places.push(at);
        end = at + header.frame_len();
        next_lsn = header.last_lsn().next();
    }
    Layout { places, groups, end: round_up(end, block) }
}

/// Writes the frames of one group to their places, and notes them.
async fn put_group(
    site: Site<'_>,
    file: &FileRef,
    new: NewSegment<'_>,
    frames: &[(FrameHeader, Vec<u8>)],
    places: &[u64],
    summary: &mut Summary,
) -> Result<()> {
    let (id, block) = (new.id, new.geometry.block);
    let (start, last) = (places[0], frames.len() - 1);
    let end = places[last] + frames[last].0.frame_len();
    let mut buf = Buf::zeroed(len(round_up(end - start, block)), len(block));
    let bytes = buf.bytes_mut().expect("just allocated");
    for ((header, stored), at) in frames.iter().zip(places) {
        let moved = FrameHeader { number: id.number, epoch: id.epoch, ..*header };
        let frame = &mut bytes[len(at - start)..];
        moved.encode(&id.nonce, *at, frame);
        frame[FRAME_HEADER_LEN..][..stored.len()].copy_from_slice(stored);
        summary.add(*at, &moved);
    }
    let written = site.flow.write(file, start, buf, false).await;
    let failed = |e| Error::io("recover: copy the tail", file.path(), Some(start), e);
    written.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Codec;

    fn header(lsn: u64, body: u32) -> FrameHeader {
        FrameHeader {
            tag: Tag::Batch,
            codec: Codec::None,
            flags: 0,
            stream: 0,
            count: 1,
            stored_len: body,
            raw_len: body,
            payload_crc: 0,
            first_lsn: Lsn::new(lsn),
            durable_upto: Lsn::NONE,
            time_us: 0,
            number: 1,
            epoch: 1,
        }
    }

    #[test]
    fn small_frames_take_little_more_than_their_bytes() {
        let headers: Vec<_> = (1..=1_100_000).map(|lsn| header(lsn, 9)).collect();
        let Layout { groups, end, .. } = lay_out(headers.iter(), 4096);
        assert!(end < 1_100_000 * 83, "{end}");
        assert_eq!(groups.iter().map(Range::len).sum::<usize>(), headers.len());
    }

    #[test]
    fn groups_do_not_overlap_and_begin_on_blocks() {
        let large = [600_000, 9, 500_000, 30_000, 40 << 20, 4_000, 4_000, 9];
        let headers = large.iter().zip([1, 2, 3, 4, 5, 6, 7, 9]);
        let headers: Vec<_> = headers.map(|(body, lsn)| header(lsn, *body)).collect();
        let Layout { places, groups, end } = lay_out(headers.iter(), 4096);
        // A group has 512 KiB or one batch; behind a gap another one begins.
        assert_eq!(groups, [0..1, 1..3, 3..4, 4..5, 5..7, 7..8]);
        let ends = headers.iter().zip(&places).map(|(header, at)| at + header.frame_len());
        let ends: Vec<u64> = ends.collect();
        for group in &groups[1..] {
            assert_eq!(places[group.start], round_up(ends[group.start - 1], 4096));
        }
        assert_eq!(places[2], ends[1], "frames of a group stand side by side");
        assert_eq!(end, round_up(ends[7], 4096));
    }

    #[test]
    fn what_only_a_forger_leaves_is_refused() {
        let frame = Frame { offset: 4096, header: header(1, 32 << 20) };
        let mut unproven = Unproven::default();
        let added = (1..).find(|_| unproven.add(Path::new("1.seg"), &frame, &[]).is_err());
        assert_eq!(added, Some(64));
        assert!(!unproven.is_empty());
    }
}
