//! One segment as it is found: header and footer, or else every frame.

use std::io;
use std::path::Path;

use crate::bugs::{self, Bug};
use crate::cast::{len, round_up};
use crate::error::{Error, Result};
use crate::format::footer::Footer;
use crate::format::frame::Tag;
use crate::format::segment::SegmentHeader;
use crate::format::{Bad, SegmentId};
use crate::io::{Access, Buf, Disk, Entry, EntryKind, FileRef, Stretch, ahead};
use crate::lsn::Lsn;
use crate::segment::{Cursor, Evidence, Geometry, Run, SegmentFile, Step, Summary, parse_name};

use super::super::meta;
use super::{Found, Scan, State};

/// Bytes recovery reads at a time.
pub(super) const WINDOW: u64 = 1 << 20;
/// A segment of which so many bytes are scanned is read ahead of the scan.
const LARGE: u64 = 8 << 20;

/// What header and footer say of a segment.
pub(super) enum Glance {
    /// It has a footer, and is what that says.
    Sealed(Box<Found>),
    /// It has none, or one that does not count.
    Open(Option<String>),
}

/// A segment of which the header holds.
fn open_segment(
    disk: &dyn Disk,
    dir: &Path,
    entry: &Entry,
    meta: &meta::Loaded,
) -> Result<(FileRef, SegmentFile, bool)> {
    let path = dir.join(&entry.name);
    if entry.kind != EntryKind::File {
        let why = "it is named like a segment and is no regular file";
        return Err(Error::invalid("open", why).at(&path, None));
    }
    let file = disk.open(&path, Access::Direct).map_err(|e| Error::io("open", &path, None, e))?;
    let header = read_header(&file, &path, entry, meta)?;
    let geometry = Geometry { size: header.size, block: u64::from(meta.meta.block_size) };
    Ok((file, SegmentFile { id: header.id, geometry, path }, header.zeroed))
}

/// Header, then footer.
pub(super) fn glance_at(
    disk: &dyn Disk,
    dir: &Path,
    entry: &Entry,
    meta: &meta::Loaded,
) -> Result<Glance> {
    let (file, segment, zeroed) = open_segment(disk, dir, entry, meta)?;
    let (at, block) = (segment.geometry.frames_end(), segment.geometry.block);
    let footer = read_block(&file, at, block);
    let footer = footer.map_err(|e| Error::io("open", &segment.path, Some(at), e))?;
    let bad_footer = match Footer::decode(footer.bytes(), &segment.id, at) {
        Ok(footer) => {
            let run = Run { first: footer.first_lsn, last: footer.last_lsn };
            let runs = if run.first == Lsn::NONE { Vec::new() } else { vec![run] };
            let found = Found::new(segment, zeroed, State::Sealed(footer), runs);
            return Ok(Glance::Sealed(Box::new(found)));
        }
        Err(Bad::Nothing) => None,
        Err(why @ Bad::Version(_)) => {
            return Err(Error::unsupported("open", &segment.path, at, &why));
        }
        // A recycled segment holds the footer of its former life.
        Err(_) if !zeroed => None,
        Err(why) => Some(why.to_string()),
    };
    Ok(Glance::Open(bad_footer))
}

/// Every frame of a segment without a footer.
pub(super) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    entry: &Entry,
    meta: &meta::Loaded,
    bad_footer: Option<String>,
    tell: &mut dyn FnMut(u64),
) -> Result<Found> {
    let (file, segment, zeroed) = open_segment(disk, dir, entry, meta)?;
    let geometry = segment.geometry;
    let (start, end) = (geometry.frames_start(), geometry.frames_end());
    // A thread more pays where there is much to read.
    let file = match disk.readers() > 1 && end - start >= LARGE {
        true => ahead(&file, Stretch { end, piece: WINDOW, block: geometry.block }),
        false => file,
    };
    let cursor = Cursor::new(file, segment.id, geometry, start, WINDOW);
    let closed_at = meta.meta.clean.then_some(meta.meta.durable_upto);
    let (scan, runs) = walk(cursor, (&segment, zeroed), bad_footer, closed_at, tell)?;
    Ok(Found::new(segment, zeroed, State::Open(scan), runs))
}

pub(crate) fn read_block(file: &FileRef, at: u64, block: u64) -> io::Result<Buf> {
    let mut buf = Buf::zeroed(len(block), len(block));
    let bytes = buf.bytes_mut().expect("just allocated");
    if file.read_at(at, bytes)? < bytes.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before that"));
    }
    Ok(buf)
}

fn read_header(
    file: &FileRef,
    path: &Path,
    entry: &Entry,
    meta: &meta::Loaded,
) -> Result<SegmentHeader> {
    let corrupt = |why: &str| Err(Error::corrupt("open", path, 0, why));
    let block = u64::from(meta.meta.block_size);
    let size = file.size().map_err(|e| Error::io("open", path, None, e))?;
    if size < block {
        return corrupt(&format!("a segment of {size} bytes holds no frame: it was cut short"));
    }
    let image = read_block(file, 0, block).map_err(|e| Error::io("open", path, Some(0), e))?;
    let header = match SegmentHeader::decode(image.bytes()) {
        Ok(header) => header,
        Err(why @ Bad::Version(_)) => return Err(Error::unsupported("open", path, 0, &why)),
        Err(why) => return corrupt(&format!("segment header: {why}")),
    };
    if header.log_id != meta.meta.log_id {
        return corrupt("it belongs to another log");
    }
    if Some(header.id.number) != parse_name(&entry.name) {
        return corrupt(&format!("its header says it is segment {}", header.id.number));
    }
    if header.size != size {
        let says = header.size;
        let how =
            if size < says { "a copy that ended early?" } else { "was something added to it?" };
        let why = format!(
            "it has {size} bytes, its header says {says}: {how} Restore it, or give it that \
             length, as `truncate -s {says}` does, and what it holds is read again"
        );
        return Err(Error::corrupt("open", path, size.min(says), why).with_right_length(says));
    }
    debug_assert_eq!(u64::from(header.block_size), block, "a header is one block of its log");
    Ok(header)
}

/// Walks frames to the first that is bad, then looks ahead for proof of what was promised. Where
/// the log was closed, and ends where META says, META has all the proof there is.
///
/// Compressed bodies are not decompressed here: their checksum tells a torn write, and a body that
/// is wrong inside was written so, which is nothing to cut.
fn walk(
    mut cursor: Cursor,
    (segment, zeroed): (&SegmentFile, bool),
    bad_footer: Option<String>,
    closed_at: Option<Lsn>,
    tell: &mut dyn FnMut(u64),
) -> Result<(Scan, Vec<Run>)> {
    let failed = |at, e| Error::io("open", &segment.path, Some(at), e);
    let mut summary = Summary::new(segment.geometry.frames_start());
    let (mut runs, mut ends): (Vec<Run>, Vec<u64>) = (Vec::new(), Vec::new());
    let (mut stop_lsn, mut watermark) = (None, Lsn::NONE);
    let stop = loop {
        let step = match cursor.step() {
            Err(_) if bugs::on(Bug::ReadErrorIsEnd) => Step::End,
            step => step.map_err(|e| failed(cursor.at(), e))?,
        };
        match step {
            Step::End => break None,
            Step::Bad { .. } if bugs::on(Bug::ResynchronisingScan) => cursor.skip_block(),
            Step::Bad { why: why @ (Bad::Version(_) | Bad::Codec(_)), offset, .. } => {
                return Err(Error::unsupported("open", &segment.path, offset, &why));
            }
            Step::Bad { offset, why, header } => {
                stop_lsn = header.map(|header| header.first_lsn);
                break Some((offset, why.to_string()));
            }
            Step::Frame(frame) => {
                let header = &frame.header;
                tell(frame.end());
                watermark = watermark.max(header.durable_upto);
                let (first, last) = (header.first_lsn, header.last_lsn());
                if header.tag == Tag::Mark {
                    summary.add(frame.offset, header);
                    continue;
                }
                if runs.last().is_some_and(|run: &Run| run.last >= first) {
                    break Some((frame.offset, "its LSN was used before".to_string()));
                }
                summary.add(frame.offset, header);
                match runs.last_mut().zip(ends.last_mut()) {
                    Some((run, end)) if run.last.next() == first => {
                        (run.last, *end) = (last, frame.end());
                    }
                    _ => {
                        runs.push(Run { first, last });
                        ends.push(frame.end());
                    }
                }
            }
        }
    };
    let all = closed_at.is_some_and(|upto| runs.last().is_none_or(|run| run.last == upto));
    let next = round_up(summary.end(), segment.geometry.block);
    // A file that is used again shows its former life there: no news, it is overwritten next.
    let former = all && !zeroed && stop.as_ref().is_some_and(|(at, _)| *at == next);
    let former = former && !cursor.is_of_segment(next).map_err(|e| failed(next, e))?;
    let stop = stop.filter(|_| !former);
    let seen = match closed_at {
        Some(_) if all && stop.is_none() => Ok(Evidence::default()),
        _ if bugs::on(Bug::LookAheadSkipped) => Ok(Evidence::default()),
        _ => cursor.look_ahead(),
    };
    let mut evidence = seen.map_err(|e| failed(cursor.at(), e))?;
    evidence.durable_upto = evidence.durable_upto.max(watermark);
    Ok((Scan { summary, stop, stop_lsn, ends, evidence, bad_footer }, runs))
}

/// The identity of a segment file, read again: has it been reused since?
pub(crate) fn identity(disk: &dyn Disk, file: &SegmentFile) -> io::Result<Option<SegmentId>> {
    let opened = disk.open(&file.path, Access::Direct)?;
    let block = read_block(&opened, 0, file.geometry.block)?;
    Ok(SegmentHeader::decode(block.bytes()).ok().map(|header| header.id))
}
