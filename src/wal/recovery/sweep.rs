//! Reading every frame of a segment, beyond damaged ones too: what is whole, and what is between.
//!
//! ```text
//! frames   1-3 | 4-6 | ##### | 9-9 | ~~~~ | 10-12      runs  1-6, 9-12
//! gaps                 7.. 9         10..10             (the second one lost no record)
//! ```
//!
//! Here a frame counts only if all of it is proven, the inside of a compressed one too. Behind
//! bytes that are no frame the next header is looked for at every place: segment, nonce and offset
//! prove that it is one. Invariants: what a footer excludes and what META says was cut is not
//! looked at; the LSNs of a segment rise; one window and one frame are in
//! memory, and what is told of a segment has a bound, but for runs: 16 bytes for a frame at most.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::Bad;
use crate::format::codec::Decoder;
use crate::format::frame::{Codec, FrameHeader, Tag, check_records, decode_body};
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::segment::{Cursor, Frame, Run, Step};

use super::segment::WINDOW;
use super::{Found, State};

/// Gaps of a segment that are told one by one.
const MAX_GAPS: usize = 1024;

/// Bytes that are no whole frame, though frames should be there.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The records that stood there, if any did, are at `from` or above,
    pub(crate) from: Lsn,
    /// and below this.
    pub(crate) to: Lsn,
    pub(crate) why: String,
    /// Its header is whole: `from` and `to` are exact.
    exact: bool,
}

/// What a segment holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swept {
    /// Its whole frames, by stretches of consecutive LSNs.
    pub(crate) runs: Vec<Run>,
    pub(crate) gaps: Vec<Gap>,
    /// The greatest watermark in any header.
    pub(crate) durable: Lsn,
    /// The greatest LSN of any header.
    pub(crate) seen: Lsn,
}

impl Swept {
    /// The first record that was ever in it, as far as that is known.
    pub(crate) fn start(&self, f: &Found) -> Option<Lsn> {
        if let State::Sealed(footer) = &f.state {
            return Some(footer.first_lsn).filter(|lsn| *lsn != Lsn::NONE);
        }
        let first = self.runs.first().map(|run| run.first);
        match self.gaps.first() {
            Some(gap) if first.is_none_or(|first| gap.to <= first) => gap.exact.then_some(gap.from),
            _ => first,
        }
    }

    /// Adds a gap; when there are too many they become one.
    fn add_gap(&mut self, gap: Gap) {
        if gap.exact {
            self.end_gap(gap.from);
        }
        let full = self.gaps.len() >= MAX_GAPS;
        let goes_on = |last: &Gap| last.offset + last.bytes == gap.offset;
        match self.gaps.last_mut() {
            Some(last) if !last.exact && !gap.exact && goes_on(last) => {
                last.bytes += gap.bytes;
                last.to = last.to.max(gap.to);
            }
            Some(last) if full => {
                last.bytes = gap.offset + gap.bytes - last.offset;
                (last.to, last.exact) = (last.to.max(gap.to), gap.exact);
            }
            _ => self.gaps.push(gap),
        }
    }

    /// What was lost in the gap before `lsn` lies below it.
    fn end_gap(&mut self, lsn: Lsn) {
        if let Some(gap) = self.gaps.last_mut().filter(|gap| !gap.exact) {
            gap.to = gap.to.min(lsn).max(gap.from);
        }
    }

    /// Whether something stood before its first whole frame, if it has one, and nobody knows what.
    pub(super) fn starts_in_doubt(&self, f: &Found) -> bool {
        self.start(f).is_none() && !(self.runs.is_empty() && self.gaps.is_empty())
    }
}

/// A walk over a segment, frame by frame.
pub(crate) struct Sweep<'a> {
    f: &'a Found,
    cursor: Cursor,
    decoder: Decoder,
    end: u64,
    /// The LSN after the last whole frame.
    after: Lsn,
    durable: Lsn,
    seen: Lsn,
}

/// What a walk comes by.
pub(crate) enum Met {
    /// A batch, whole.
    Frame(Frame),
    Gap(Gap),
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(disk: &dyn Disk, f: &'a Found) -> Result<Sweep<'a>> {
        let file = disk.open(&f.file.path, Access::Direct);
        let file = file.map_err(|e| Error::io("read", &f.file.path, None, e))?;
        let start = f.file.geometry.frames_start();
        let end = match &f.state {
            _ if f.is_cut_whole() => start,
            State::Sealed(footer) => footer.end,
            State::Open(_) => f.file.geometry.frames_end(),
        };
        let cursor = Cursor::new(file, f.file.id, f.file.geometry, start, WINDOW);
        let (after, durable, seen) = (Lsn::NONE, Lsn::NONE, Lsn::NONE);
        Ok(Sweep { f, cursor, decoder: Decoder::default(), end, after, durable, seen })
    }

    /// Where it is, bytes into the file.
    pub(crate) fn at(&self) -> u64 {
        self.cursor.at()
    }

    /// The stored bytes of the frame that was met last.
    pub(crate) fn stored(&mut self, frame: &Frame) -> Result<&[u8]> {
        let path = &self.f.file.path;
        let stored = self.cursor.stored(frame);
        stored.map_err(|e| Error::io("read", path, Some(frame.offset), e))
    }

    /// The next frame or gap; none at the end of what the segment holds.
    pub(crate) fn next(&mut self) -> Result<Option<Met>> {
        while self.cursor.at() < self.end {
            let at = self.cursor.at();
            let step = self.cursor.step().map_err(|e| self.failed(e))?;
            match step {
                Step::Frame(frame) if frame.offset >= self.end => {
                    // It was given up once; what stood before the end looks like padding.
                    return Ok(Some(self.blind_gap(at, "zeros where frames should be".into())));
                }
                Step::Frame(frame) if self.is_below_footer(&frame.header) => {}
                Step::Frame(frame) if self.is_foreign(&frame.header) => {
                    // Who goes by the footer will not find it.
                    let why = "its LSN is none of those that the footer tells of".into();
                    return Ok(Some(self.blind_gap(at, why)));
                }
                Step::Frame(frame) => {
                    let header = &frame.header;
                    self.note(header);
                    if header.tag == Tag::Mark {
                        continue;
                    }
                    if self.f.cut_at.is_some_and(|cut| header.first_lsn >= cut) {
                        return Ok(None);
                    }
                    let (path, decoder) = (&self.f.file.path, &mut self.decoder);
                    let fault = match inside("open", &mut self.cursor, decoder, &frame, path)? {
                        None if header.first_lsn < self.after => {
                            Some("its LSN was used before".to_string())
                        }
                        fault => fault,
                    };
                    if let Some(why) = fault {
                        return Ok(Some(self.known_gap(frame.offset, header, why)));
                    }
                    self.after = self.clipped(header.last_lsn().next());
                    return Ok(Some(Met::Frame(frame)));
                }
                Step::Bad { offset, why: why @ (Bad::Version(_) | Bad::Codec(_)), .. } => {
                    return Err(Error::unsupported("open", &self.f.file.path, offset, &why));
                }
                Step::Bad { offset, why, header: Some(header) } => {
                    self.note(&header);
                    self.cursor.skip(&header);
                    return Ok(Some(self.known_gap(offset, &header, why.to_string())));
                }
                Step::Bad { offset, why, header: None } => {
                    let ours = self.cursor.is_of_segment(offset).map_err(|e| self.failed(e))?;
                    let more = self.cursor.resync().map_err(|e| self.failed(e))?;
                    let is_open = matches!(self.f.state, State::Open(_));
                    if !more && !ours && !self.f.zeroed && is_open {
                        // What the segment held before it was used again, as far as can be told.
                        return Ok(None);
                    }
                    return Ok(Some(self.blind_gap(offset, why.to_string())));
                }
                Step::End => {
                    let offset = self.cursor.at();
                    if offset >= self.end {
                        return Ok(None);
                    }
                    let more = self.cursor.resync().map_err(|e| self.failed(e))?;
                    if !more && matches!(self.f.state, State::Open(_)) {
                        return Ok(None);
                    }
                    return Ok(Some(self.blind_gap(offset, "zeros where frames should be".into())));
                }
            }
        }
        Ok(None)
    }

    /// Whether a batch stands before the first that the footer tells of: it lay below the start of
    /// the log by then.
    fn is_below_footer(&self, header: &FrameHeader) -> bool {
        let State::Sealed(footer) = &self.f.state else { return false };
        let first = header.tag == Tag::Batch && self.after == Lsn::NONE;
        first && header.first_lsn < footer.first_lsn
    }

    /// Whether a batch stands in a segment whose footer knows nothing of it.
    fn is_foreign(&self, header: &FrameHeader) -> bool {
        let State::Sealed(footer) = &self.f.state else { return false };
        let told = footer.first_lsn..=footer.last_lsn;
        header.tag == Tag::Batch && !told.contains(&header.first_lsn)
    }

    fn note(&mut self, header: &FrameHeader) {
        let last = self.f.cut_at.map_or(Lsn::MAX, Lsn::prev);
        self.durable = self.durable.max(header.durable_upto.min(last));
        self.seen = self.seen.max(header.last_lsn().min(last));
    }

    /// A frame whose header is whole.
    fn known_gap(&self, offset: u64, header: &FrameHeader, why: String) -> Met {
        let bytes = self.cursor.at().min(self.end).saturating_sub(offset);
        let after = header.last_lsn().next().max(header.first_lsn);
        let (from, to) = (header.first_lsn.max(self.after), self.clipped(after));
        let to = to.max(from);
        Met::Gap(Gap { offset, bytes, from, to, why, exact: true })
    }

    /// Bytes up to where the walk goes on; what follows says where the records end.
    fn blind_gap(&self, offset: u64, why: String) -> Met {
        let bytes = self.cursor.at().min(self.end).saturating_sub(offset);
        let to = match &self.f.state {
            State::Sealed(footer) => footer.last_lsn.next(),
            State::Open(_) => Lsn::MAX,
        };
        let (from, to) = (self.after.max(Lsn::FIRST), self.clipped(to));
        Met::Gap(Gap { offset, bytes, from, to, why, exact: false })
    }

    fn clipped(&self, lsn: Lsn) -> Lsn {
        self.f.cut_at.map_or(lsn, |cut| lsn.min(cut))
    }

    fn failed(&self, e: std::io::Error) -> Error {
        self.f.failed("read", self.cursor.at(), e)
    }
}

impl Found {
    fn failed(&self, op: &'static str, at: u64, e: std::io::Error) -> Error {
        Error::io(op, &self.file.path, Some(at), e)
    }
}

/// Looks into a compressed frame, further than its checksum; tells what is wrong with its body.
pub(crate) fn inside(
    operation: &'static str,
    cursor: &mut Cursor,
    decoder: &mut Decoder,
    frame: &Frame,
    path: &Path,
) -> Result<Option<String>> {
    let (header, offset) = (&frame.header, Some(frame.offset));
    if header.codec == Codec::None {
        return Ok(None);
    }
    let stored = cursor.stored(frame).map_err(|e| Error::io(operation, path, offset, e))?;
    let body = decode_body(decoder, header, stored);
    match body.and_then(|body| check_records(header, &body)) {
        Ok(()) => Ok(None),
        // Neither whole nor damaged, as far as this build can tell.
        Err(why @ Bad::Codec(_)) => Err(Error::unsupported(operation, path, frame.offset, &why)),
        Err(why) => Ok(Some(why.to_string())),
    }
}

/// Sweeps a whole segment; `progress` gets the bytes done.
pub(crate) fn sweep(disk: &dyn Disk, f: &Found, progress: &mut dyn FnMut(u64)) -> Result<Swept> {
    let mut walk = Sweep::new(disk, f)?;
    let mut swept = Swept::default();
    while let Some(met) = walk.next()? {
        progress(walk.at());
        match met {
            Met::Gap(gap) => swept.add_gap(gap),
            Met::Frame(frame) => {
                let (first, last) = (frame.header.first_lsn, walk.after.prev());
                swept.end_gap(first);
                match swept.runs.last_mut() {
                    Some(run) if run.last.next() == first => run.last = last,
                    _ => swept.runs.push(Run { first, last }),
                }
            }
        }
    }
    (swept.durable, swept.seen) = (walk.durable, walk.seen);
    Ok(swept)
}

/// The last of `kept`, which rise, that has records of the frame.
pub(crate) fn kept_run<'a>(kept: &'a [Run], header: &FrameHeader) -> Option<&'a Run> {
    let before = kept.partition_point(|run| run.first <= header.last_lsn());
    kept[..before].last().filter(|run| header.first_lsn <= run.last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_follow_each_other_are_one_gap() {
        let mut swept = Swept::default();
        let blind = |offset, to| {
            let (from, to, why) = (Lsn::new(5), Lsn::new(to), String::new());
            Gap { offset, bytes: 4096, from, to, why, exact: false }
        };
        for gap in [blind(4096, 20), blind(8192, 30), blind(16384, 30)] {
            swept.add_gap(gap);
        }
        let told = |gap: &Gap| (gap.offset, gap.bytes, gap.to.get());
        let told: Vec<_> = swept.gaps.iter().map(told).collect();
        assert_eq!(told, [(4096, 8192, 30), (16384, 4096, 30)]);
    }

    #[test]
    fn gaps_without_end_become_one() {
        let mut swept = Swept::default();
        let many = 3 * MAX_GAPS as u64;
        for i in 0..many {
            let (from, to) = (Lsn::new(2 * i + 1), Lsn::new(2 * i + 2));
            let (offset, why) = (i * 100, String::new());
            swept.add_gap(Gap { offset, bytes: 50, from, to, why, exact: i % 2 == 0 });
        }
        assert_eq!(swept.gaps.len(), MAX_GAPS);
        let last = swept.gaps.last().expect("there are some");
        assert_eq!(last.offset + last.bytes, (many - 1) * 100 + 50);
        assert_eq!((last.from.get(), last.to.get()), (2 * MAX_GAPS as u64 - 1, 2 * many));
    }
}
