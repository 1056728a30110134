//! One segment, read for `verify`: every frame of it, beyond damaged ones too.
//!
//! Invariants: what is told is in the order of the file; one window and one frame are in memory;
//! nothing is told once the file is gone, or has become another segment; what META says was given
//! up, or cut, is no damage.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Bad;
use crate::format::codec::Decoder;
use crate::format::footer::Footer;
use crate::format::frame::{FrameHeader, Tag};
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::segment::{Cursor, Frame, Step};

use super::super::recovery::{
    Found, Span, State, count as lsns, identity, inside, skip_removed, within,
};
use super::finding::{Finding, FindingKind, VerifySummary, corrupt};

/// Bytes read at a time.
const WINDOW: u64 = 1 << 20;
/// Findings that wait for another look at their file.
const HELD: usize = 64;

/// Where the frames of a segment end: those of the log, or all that are there.
pub(super) fn end_of(f: &Found, beyond: bool) -> u64 {
    match &f.state {
        _ if f.is_cut_whole() => f.file.geometry.frames_start(),
        State::Sealed(footer) => footer.end,
        State::Open(scan) if beyond => scan.summary.end().max(scan.evidence.frames_end),
        State::Open(scan) => scan.summary.end(),
    }
}

/// What `verify` knows of the log while it reads one segment of it.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) disk: &'a dyn Disk,
    /// The log is damaged: what lies behind its end is looked at too.
    pub(super) beyond: bool,
    /// Others hold what a segment leaves out.
    pub(super) woven: bool,
    /// LSNs that were given up.
    pub(super) removed: &'a [Span],
    /// Where others hold what a segment leaves out and some was given up: LSNs that are missing
    /// beyond that.
    pub(super) lost: &'a [Span],
}

/// A walk over a segment.
pub(super) struct Reading<'a> {
    context: Context<'a>,
    f: &'a Found,
    summary: VerifySummary,
    /// The LSN after the last frame.
    next: Option<Lsn>,
    /// Bytes that are no frame, until it is known what follows: where, and why.
    blind: Option<(u64, String)>,
    /// Something was told, or left out because it was given up.
    met: bool,
}

/// Reads every frame of a segment, beyond damaged ones too; gives what was counted, none if the
/// file is gone, or is another segment by now.
pub(super) fn read_segment(
    context: Context<'_>,
    f: &Found,
    tell: &mut dyn FnMut(Finding),
    progress: &mut dyn FnMut(u64),
) -> Result<Option<VerifySummary>> {
    let (summary, next, blind) = (VerifySummary::default(), None, None);
    let mut reading = Reading { context, f, summary, next, blind, met: false };
    let mut held = Held { disk: context.disk, f, findings: Vec::new(), gone: false, tell };
    let read = reading.run_on(&mut |finding| held.add(finding), progress);
    held.let_go();
    let gone = held.gone || read.is_err() && was_taken_out(context.disk, f);
    if gone { Ok(None) } else { read.map(Some) }
}

/// Findings of a segment that a writer may take out at any time: none is told before its file was
/// looked at once more.
struct Held<'a> {
    disk: &'a dyn Disk,
    f: &'a Found,
    findings: Vec<Finding>,
    /// Whether the file was taken out.
    gone: bool,
    tell: &'a mut dyn FnMut(Finding),
}

impl Held<'_> {
    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
        if self.findings.len() == HELD {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.gone = self.gone || !self.findings.is_empty() && was_taken_out(self.disk, self.f);
        let findings = self.findings.drain(..);
        if !self.gone {
            findings.for_each(&mut *self.tell);
        }
    }
}

/// Whether the segment's file is gone, or is another segment by now. Where that can't be read it is
/// not known to be.
fn was_taken_out(disk: &dyn Disk, f: &Found) -> bool {
    match identity(disk, &f.file) {
        Ok(id) => id.is_some_and(|id| id != f.file.id),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

impl Reading<'_> {
    /// As `run`; a place that the device can't read is a finding, and the end of this segment.
    fn run_on(
        &mut self,
        tell: &mut dyn FnMut(Finding),
        progress: &mut dyn FnMut(u64),
    ) -> Result<VerifySummary> {
        match self.run(tell, progress) {
            Ok(()) => {}
            Err(error) => match (error.kind(), error.path(), error.offset()) {
                (ErrorKind::Io, Some(path), Some(offset)) => {
                    // Of what is missing no more is known than where it begins.
                    let from = self.next.or(self.f.runs.first().map(|run| run.first));
                    self.end_blind(from.unwrap_or(Lsn::FIRST).next(), tell);
                    let (path, kind) = (path.into(), FindingKind::Unreadable);
                    let lsn = self.next.or(self.f.runs.first().map(|run| run.first));
                    tell(Finding { path, offset, kind, lsn, detail: error.reason() });
                }
                _ => return Err(error),
            },
        }
        Ok(self.summary)
    }

    fn run(&mut self, tell: &mut dyn FnMut(Finding), progress: &mut dyn FnMut(u64)) -> Result<()> {
        let (f, Context { disk, beyond, woven, .. }) = (self.f, self.context);
        let path = &f.file.path;
        let failed = |at, e| Error::io("verify", path, at, e);
        let file = disk.open(path, Access::Direct).map_err(|e| failed(None, e))?;
        let (start, end) = (f.file.geometry.frames_start(), end_of(f, beyond));
        let mut cursor = Cursor::new(file, f.file.id, f.file.geometry, start, WINDOW);
        let mut decoder = Decoder::default();
        let goes_on = beyond && matches!(f.state, State::Open(_));
        let block = f.file.geometry.block;
        loop {
            let step = step_to(&mut cursor, end, goes_on, block);
            let Some(step) = step.map_err(|e| failed(Some(cursor.at()), e))? else { break };
            match step {
                Step::Frame(frame) => {
                    progress(frame.end().min(end));
                    if f.cut_at.is_some_and(|cut| frame.header.first_lsn >= cut) {
                        self.end_blind(frame.header.first_lsn, tell);
                        break;
                    }
                    let was_lost = self.blind.is_some() || woven;
                    if frame.header.tag == Tag::Batch {
                        self.end_blind(frame.header.first_lsn, tell);
                    }
                    let fault = match inside("verify", &mut cursor, &mut decoder, &frame, path)? {
                        None => {
                            let (summary, next) = (&mut self.summary, &mut self.next);
                            let given_up = gone(self.context.removed, *next, &frame.header);
                            self.met |= given_up;
                            count(summary, &frame, f.cut_at, next, was_lost || given_up)
                        }
                        fault => fault,
                    };
                    if let Some(why) = fault {
                        self.bad_frame(frame.offset, &frame.header, why, tell);
                    }
                }
                Step::Bad { offset, why, .. } if why.is_unsupported() => {
                    return Err(Error::unsupported("verify", path, offset, &why));
                }
                Step::Bad { offset, why, header: Some(header) } => {
                    cursor.skip(&header);
                    self.end_blind(header.first_lsn, tell);
                    self.bad_frame(offset, &header, why.to_string(), tell);
                }
                // Between a bad header and the next good one nothing can be told apart.
                Step::Bad { offset, why, header: None } => {
                    self.blind.get_or_insert((offset, why.to_string()));
                    resync(&mut cursor, block).map_err(|(at, e)| failed(Some(at), e))?;
                }
                Step::End => {
                    let why = "zeros where a frame should be".to_string();
                    self.blind.get_or_insert((cursor.at(), why));
                    resync(&mut cursor, block).map_err(|(at, e)| failed(Some(at), e))?;
                }
            }
        }
        self.end_blind(self.end_lsn(), tell);
        if !self.met && holds_others(f, &self.context, self.summary.records, self.next) {
            tell(corrupt(path, end, self.next, "the footer promises other records".into()));
        }
        Ok(())
    }

    /// The LSN after the last record the segment may have held.
    fn end_lsn(&self) -> Lsn {
        let last = match &self.f.state {
            State::Sealed(footer) => footer.last_lsn,
            State::Open(_) => self.f.runs.last().map_or(Lsn::NONE, |run| run.last),
        };
        last.next().max(self.next.unwrap_or(Lsn::FIRST))
    }

    /// A frame of which the header is whole is damaged.
    fn bad_frame(
        &mut self,
        offset: u64,
        header: &FrameHeader,
        why: String,
        tell: &mut dyn FnMut(Finding),
    ) {
        let (first, after) = (header.first_lsn, header.last_lsn().next());
        debug_assert_eq!(header.tag, Tag::Batch, "a mark is its header and nothing else");
        self.met = true;
        let cut = self.f.cut_at.is_some_and(|cut| first >= cut);
        self.next = Some(self.f.cut_at.map_or(after, |cut| after.min(cut)));
        if !cut && !covers(self.context.removed, first, after) {
            tell(corrupt(&self.f.file.path, offset, Some(first), why));
        }
    }

    /// What stood in the bytes that are no frame lies below `to`, where the next one begins.
    fn end_blind(&mut self, to: Lsn, tell: &mut dyn FnMut(Finding)) {
        let Some((offset, why)) = self.blind.take() else { return };
        self.met = true;
        let Context { woven, removed, lost, .. } = self.context;
        // Of a lane that begins with them nobody knows what it held.
        let start = self.f.runs.first().filter(|_| !woven).map_or(Lsn::FIRST, |run| run.first);
        let from = self.next.unwrap_or(start);
        let path = &self.f.file.path;
        if self.f.cut_at.is_some_and(|cut| from >= cut) {
            return;
        }
        let any = |ranges| within(ranges, from, to).next().is_some();
        if woven && any(removed) && !any(lost) {
            return;
        }
        let to = self.f.cut_at.map_or(to, |cut| to.min(cut));
        if !woven && from == to && matches!(self.f.state, State::Sealed(_)) {
            let (path, kind) = (path.clone(), FindingKind::GivenUp);
            let detail = format!("{why}; no record is missing, readers pass over it");
            return tell(Finding { path, offset, kind, lsn: None, detail });
        }
        if woven || !covers(removed, from, to) {
            let first = self.next.filter(|_| !woven).map(|next| skip_removed(next, removed));
            tell(corrupt(path, offset, first, why));
        }
    }
}

/// Whether all of `from .. to`, which is not empty, was given up.
fn covers(removed: &[Span], from: Lsn, to: Lsn) -> bool {
    from < to && within(removed, from, to).eq([(from, to)])
}

/// Whether what lies between `next` and a frame behind it was given up.
fn gone(removed: &[Span], next: Option<Lsn>, header: &FrameHeader) -> bool {
    header.tag == Tag::Batch && next.is_some_and(|next| covers(removed, next, header.first_lsn))
}

/// What stands at the cursor, up to `end`; where the log `goes_on` also the frames that follow
/// there: of a group that was seen by looking ahead only the first frame is known.
fn step_to(cursor: &mut Cursor, end: u64, goes_on: bool, block: u64) -> io::Result<Option<Step>> {
    let at = cursor.at();
    let past = at >= end;
    if past && !goes_on {
        return Ok(None);
    }
    let step = match cursor.step() {
        // One of the window's blocks can't be read: block by block, up to that.
        Err(_) => {
            cursor.shrink(block);
            cursor.step()?
        }
        Ok(step) => step,
    };
    let offset = match &step {
        Step::Frame(Frame { offset, .. }) | Step::Bad { offset, .. } => *offset,
        Step::End => at,
    };
    if !goes_on && offset >= end {
        // That was given up once; what stood before the end looks like padding.
        return Ok(Some(Step::Bad { offset: at, why: Bad::Nothing, header: None }));
    }
    Ok((!past || matches!(step, Step::Frame(_))).then_some(step))
}

/// Goes on to the next header; if that fails, it says where.
fn resync(cursor: &mut Cursor, block: u64) -> std::result::Result<(), (u64, io::Error)> {
    let found = cursor.resync().or_else(|_| {
        cursor.shrink(block);
        cursor.resync()
    });
    found.map(drop).map_err(|e| (cursor.at().next_multiple_of(block), e))
}

/// Whether a segment of whole frames, with `read` records up to before `next`, is not what its
/// footer says.
fn holds_others(f: &Found, context: &Context<'_>, read: u64, next: Option<Lsn>) -> bool {
    let Context { beyond, woven, .. } = *context;
    let fewer = match &f.state {
        State::Sealed(footer) if woven && f.cut_at.is_none() && footer.records != read => {
            !is_given_up(footer, context, read)
        }
        State::Sealed(_) | State::Open(_) => false,
    };
    let expected = f.runs.last().map(|run| run.last.next());
    // Of one that was cut beside others only a walk knows where it ends.
    let known = !f.is_sparse() || f.walked || f.cut_at.is_none();
    fewer || !beyond && known && next != expected
}

/// Whether what a footer counts beyond the `read` records of its segment may all have been given
/// up, and nothing else is missing there: a frame that looks like padding leaves no other trace.
fn is_given_up(footer: &Footer, context: &Context<'_>, read: u64) -> bool {
    let (from, to) = (footer.first_lsn, footer.last_lsn.next());
    let known = lsns(within(context.removed, from, to));
    let lost = within(context.lost, from, to).next().is_some();
    !lost && (read..=read.saturating_add(known)).contains(&footer.records)
}

/// Counts a whole frame; tells what is wrong with its place in the order.
fn count(
    summary: &mut VerifySummary,
    frame: &Frame,
    cut_at: Option<Lsn>,
    next: &mut Option<Lsn>,
    lost: bool,
) -> Option<String> {
    summary.frames += 1;
    summary.bytes += frame.header.frame_len();
    if frame.header.tag == Tag::Mark {
        return None;
    }
    let first = frame.header.first_lsn;
    let after = after(frame, cut_at);
    summary.records += after.get() - first.get();
    let expected = next.replace(after);
    match expected {
        Some(expected) if first < expected => Some("its LSN was used before".into()),
        // What lies between was told already.
        Some(expected) if first > expected && !lost => {
            Some(format!("record {expected} is missing"))
        }
        _ => None,
    }
}

/// The LSN after a batch's last record. Of one that was cut in the middle the rest counts no more.
fn after(frame: &Frame, cut_at: Option<Lsn>) -> Lsn {
    let after = frame.header.last_lsn().next();
    cut_at.map_or(after, |cut| after.min(cut))
}
