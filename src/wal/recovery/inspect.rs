//! Looking at a log's directory without changing it: files, headers, footers, frames.

use std::io;
use std::path::Path;

use crate::bugs::{self, Bug};
use crate::cast::len;
use crate::error::{Error, ErrorKind, Result};
use crate::format::footer::Footer;
use crate::format::frame::Tag;
use crate::format::segment::SegmentHeader;
use crate::format::{Bad, SegmentId};
use crate::io::{Access, Buf, Disk, Entry, EntryKind, FileRef};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Cursor, Evidence, Geometry, Run, SegmentFile, Step, Summary, parse_name};

use super::super::meta::{self, META};
use super::judge::judge;
use super::progress::Progress;
use super::weave::weave;
use super::{Found, Plan, Scan, State};

/// Bytes recovery reads at a time.
pub(super) const WINDOW: u64 = 1 << 20;

/// What a log's directory holds, before anybody judges it.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) meta: meta::Loaded,
    pub(crate) found: Vec<Found>,
    /// Segments of which not even the header can be used.
    pub(crate) unusable: Vec<Error>,
    /// No more than this was certainly promised before the segments were read.
    pub(crate) upto: Lsn,
}

/// Reads all there is to know, merges it, and judges it.
pub(crate) fn inspect(
    disk: &dyn Disk,
    dir: &Path,
    policy: RecoveryPolicy,
    progress: &Progress<'_>,
) -> Result<Plan> {
    let mut survey = survey(disk, dir, progress)?;
    match survey.unusable.pop() {
        Some(error) => Err(error),
        None => judge(dir, survey, policy).map_err(|refused| refused.error),
    }
}

/// As `inspect`, beside a living writer. He adds frames while segments are read one after the
/// other, so that in the last one a record may be promised that came too late for the first: what
/// was `known` to be promised before a look has to be found by it. An error raises `known`.
pub(crate) fn inspect_beside(disk: &dyn Disk, dir: &Path, known: &mut Option<Lsn>) -> Result<Plan> {
    // Also of footers: that of a segment which he sealed since its neighbour was not yet listed
    // covers records that are not to be found here.
    let mut survey = survey(disk, dir, &Progress::default())?;
    survey.upto = known.unwrap_or(survey.upto);
    match survey.unusable.pop() {
        Some(error) => Err(error),
        None => judge(dir, survey, RecoveryPolicy::TornTail).map_err(|refused| {
            *known = Some(refused.promised);
            refused.error
        }),
    }
}

/// Reads META, headers and footers, and the frames of what has no footer, or one that leaves doubt.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path, progress: &Progress<'_>) -> Result<Survey> {
    let mut survey = look_around(disk, dir, progress)?;
    weave(disk, &mut survey)?;
    Ok(survey)
}

/// As `survey`, with a META that is not the file's.
pub(crate) fn survey_with(disk: &dyn Disk, dir: &Path, meta: meta::Loaded) -> Result<Survey> {
    let entries = disk.list(dir).map_err(|e| Error::io("open", dir, None, e))?;
    let mut survey = look_at_all(disk, dir, &entries, meta, &Progress::default())?;
    weave(disk, &mut survey)?;
    Ok(survey)
}

/// Reads META, headers and footers, and the frames of what has no footer.
fn look_around(disk: &dyn Disk, dir: &Path, progress: &Progress<'_>) -> Result<Survey> {
    // Names before META: beside a writer no segment may come from after a cut that META, as it is
    // read here, does not tell of.
    let entries = disk.list(dir).map_err(|e| Error::io("open", dir, None, e))?;
    let Some(meta) = meta::load(disk, dir)? else {
        return Err(Error::corrupt("open", &dir.join(META), 0, "META is missing"));
    };
    look_at_all(disk, dir, &entries, meta, progress)
}

fn look_at_all(
    disk: &dyn Disk,
    dir: &Path,
    entries: &[Entry],
    meta: meta::Loaded,
    progress: &Progress<'_>,
) -> Result<Survey> {
    let block = u64::from(meta.meta.block_size);
    if (disk.block_size() as u64) > block {
        let why = format!(
            "the log's block is {block} bytes, this disk wants {}; copy it to one that takes it",
            disk.block_size()
        );
        return Err(Error::new(ErrorKind::Unsupported, "open", why).at(dir, None));
    }
    let (mut found, mut unusable) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(|entry| parse_name(&entry.name).is_some()) {
        match look_at(disk, dir, entry, &meta, progress) {
            Ok(mut segment) => {
                segment.cut(meta.meta.cut);
                found.push(segment);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => unusable.push(error),
            Err(error) => return Err(error),
        }
        progress.end_segment(entry.size);
    }
    Ok(Survey { meta, found, unusable, upto: Lsn::new(u64::MAX) })
}

/// Header, then footer, then if there is none every frame.
fn look_at(
    disk: &dyn Disk,
    dir: &Path,
    entry: &Entry,
    meta: &meta::Loaded,
    progress: &Progress<'_>,
) -> Result<Found> {
    let path = dir.join(&entry.name);
    if entry.kind != EntryKind::File {
        let why = "it is named like a segment and is no regular file";
        return Err(Error::invalid("open", why).at(&path, None));
    }
    let failed = |at, e| Error::io("open", &path, at, e);
    let file = disk.open(&path, Access::Direct).map_err(|e| failed(None, e))?;
    let block = u64::from(meta.meta.block_size);
    let header = read_header(&file, &path, entry, meta)?;
    let geometry = Geometry { size: header.size, block };
    let at = geometry.frames_end();
    let footer = read_block(&file, at, block).map_err(|e| failed(Some(at), e))?;
    let segment = SegmentFile { id: header.id, geometry, path: path.clone() };
    let bad_footer = match Footer::decode(footer.bytes(), &header.id, at) {
        Ok(footer) => {
            let run = Run { first: footer.first_lsn, last: footer.last_lsn };
            let runs = if run.first == Lsn::NONE { Vec::new() } else { vec![run] };
            let (zeroed, state) = (header.zeroed, State::Sealed(footer));
            return Ok(Found::new(segment, zeroed, state, runs));
        }
        Err(Bad::Nothing) => None,
        Err(why @ Bad::Version(_)) => return Err(unsupported(&path, at, &why)),
        // A recycled segment holds the footer of its former life.
        Err(_) if !header.zeroed => None,
        Err(why) => Some(why.to_string()),
    };
    let cursor = Cursor::new(file, header.id, geometry, geometry.frames_start(), WINDOW);
    let closed_at = meta.meta.clean.then_some(meta.meta.durable_upto);
    let (scan, runs) = walk(cursor, &segment, bad_footer, closed_at, progress)?;
    let state = State::Open(scan);
    Ok(Found::new(segment, header.zeroed, state, runs))
}

/// Valid, and beyond what this build knows: not damage, and nothing to cut.
pub(super) fn unsupported(path: &Path, offset: u64, why: &Bad) -> Error {
    Error::new(ErrorKind::Unsupported, "open", why.to_string()).at(path, Some(offset))
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
    if size < 3 * block {
        return corrupt(&format!("a segment of {size} bytes is too short to hold a header"));
    }
    let image = read_block(file, 0, block).map_err(|e| Error::io("open", path, Some(0), e))?;
    let header = match SegmentHeader::decode(image.bytes()) {
        Ok(header) => header,
        Err(why @ Bad::Version(_)) => return Err(unsupported(path, 0, &why)),
        Err(why) => return corrupt(&format!("segment header: {why}")),
    };
    if header.log_id != meta.meta.log_id {
        return corrupt("it belongs to another log");
    }
    if Some(header.id.number) != parse_name(&entry.name) {
        return corrupt(&format!("its header says it is segment {}", header.id.number));
    }
    if header.size != size {
        return corrupt(&format!("it has {size} bytes, its header says {}", header.size));
    }
    if u64::from(header.block_size) != block {
        return corrupt("its block size is not the log's");
    }
    Ok(header)
}

/// Walks frames to the first that is bad, then looks ahead for proof of what was promised. Where
/// the log was closed and nothing is missing META has all the proof there is.
///
/// Compressed bodies are not decompressed here: their checksum tells a torn write, and a body that
/// is wrong inside was written so, which is nothing to cut.
fn walk(
    mut cursor: Cursor,
    segment: &SegmentFile,
    bad_footer: Option<String>,
    closed_at: Option<Lsn>,
    progress: &Progress<'_>,
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
                return Err(unsupported(&segment.path, offset, &why));
            }
            Step::Bad { offset, why, header } => {
                stop_lsn = header.map(|header| header.first_lsn);
                break Some((offset, why.to_string()));
            }
            Step::Frame(frame) => {
                let header = &frame.header;
                progress.at(frame.end());
                watermark = watermark.max(header.durable_upto);
                summary.add(frame.offset, header);
                if header.tag == Tag::Mark {
                    continue;
                }
                let (first, last) = (header.first_lsn, header.last_lsn());
                match runs.last_mut().zip(ends.last_mut()) {
                    Some((run, _)) if run.last >= first => {
                        break Some((frame.offset, "its LSN was used before".to_string()));
                    }
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
    let whole = |upto| runs.last().is_none_or(|run| run.last >= upto) && stop.is_none();
    let seen = match closed_at {
        Some(upto) if whole(upto) => Ok(Evidence::default()),
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
