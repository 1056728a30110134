//! Walking the frames of one segment: the only parser of frames on disk.
//!
//! ```text
//! file --read_at--> window (aligned, whole blocks) --decode--> Step::Frame | Bad | End
//! ```
//!
//! Used by recovery, readers and `verify`, so that all of them accept exactly the same bytes.
//! Invariants: no byte at or beyond `end` is looked at; a length is believed only after its
//! header's checksum and only as far as the file goes; blocks below `end` never change.

use std::io;

use crate::cast::{len, round_down, round_up};
use crate::format::frame::{FRAME_HEADER_LEN, FrameHeader, Tag, check_stored, place_after};
use crate::format::{Bad, SegmentId};
use crate::io::{Buf, FileRef};
use crate::lsn::Lsn;

use super::Geometry;

/// A frame that was found, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Offset of its header.
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
}

impl Frame {
    /// The offset after its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_len()
    }
}

/// What comes next in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A frame whose checksums hold.
    Frame(Frame),
    /// Bytes that should be a frame and are not; with the header, if that much held.
    Bad { offset: u64, why: Bad, header: Option<FrameHeader> },
    /// Nothing more before `end`.
    End,
}

/// What lies beyond the first bad frame: proof of promises, never served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The greatest watermark in any valid header.
    pub(crate) durable_upto: Lsn,
    /// The greatest LSN of any valid header.
    pub(crate) last_lsn: Lsn,
    /// The first record that stands beyond.
    pub(crate) first_lsn: Lsn,
    /// The end of the last block that held a valid header's frame, or was not zero.
    pub(crate) used_end: u64,
    /// The end of the last frame whose header is valid.
    pub(crate) frames_end: u64,
}

impl Evidence {
    fn add(&mut self, frame: &Frame, beyond: bool) {
        let header = &frame.header;
        self.durable_upto = self.durable_upto.max(header.durable_upto);
        self.last_lsn = self.last_lsn.max(header.last_lsn());
        self.frames_end = self.frames_end.max(frame.end());
        let first = header.first_lsn;
        let lower = self.first_lsn == Lsn::NONE || first < self.first_lsn;
        if beyond && lower && header.tag == Tag::Batch {
            self.first_lsn = first;
        }
    }
}

/// A position in a segment and the blocks around it.
#[derive(Debug)]
pub(crate) struct Cursor {
    file: FileRef,
    id: SegmentId,
    block: u64,
    at: u64,
    end: u64,
    window: Buf,
    window_at: u64,
    window_len: u64,
    /// So many bytes behind a window are asked for before they are needed,
    ahead: u64,
    /// and up to here that was done.
    asked_upto: u64,
}

impl Cursor {
    /// Starts at `at`; reads at least `window_bytes` at a time, or what there is.
    pub(crate) fn new(
        file: FileRef,
        id: SegmentId,
        geometry: Geometry,
        at: u64,
        window_bytes: u64,
    ) -> Cursor {
        let block = geometry.block;
        let end = geometry.frames_end();
        let there = end.saturating_sub(round_down(at, block)).max(block);
        let window = Buf::zeroed(len(round_up(window_bytes.min(there), block)), len(block));
        let (window_at, window_len) = (0, 0);
        Cursor { file, id, block, at, end, window, window_at, window_len, ahead: 0, asked_upto: at }
    }

    /// From its second window on the system fetches this much while the caller is at what it read:
    /// for a walk through a file that is read by way of the page cache.
    pub(crate) fn read_ahead(&mut self, bytes: u64) {
        self.ahead = bytes;
    }

    /// Frames end at `end`, a block boundary; it may only grow.
    pub(crate) fn set_end(&mut self, end: u64) {
        debug_assert!(end.is_multiple_of(self.block));
        self.end = end;
    }

    /// The offset it looks at next.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Finds the next frame and checks all of it that can be checked without a codec: whoever wants
    /// the records of a compressed one decodes its `stored` bytes and finds out more. At a bad one
    /// it stays where it is.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        match self.peek()? {
            Step::Frame(frame) => self.whole(frame),
            other => Ok(other),
        }
    }

    /// Finds the next frame by its header alone and stays there; `whole` checks it, `skip` doesn't.
    pub(crate) fn peek(&mut self) -> io::Result<Step> {
        loop {
            self.at = place_after(self.at, self.block);
            if self.at >= self.end {
                return Ok(Step::End);
            }
            let offset = self.at;
            match self.header_at(offset)? {
                Err(Bad::Nothing) => {
                    // Zero padding after a group's last frame; a block that starts with zero was
                    // never written.
                    if offset.is_multiple_of(self.block) {
                        return Ok(Step::End);
                    }
                    self.at = round_up(offset + 1, self.block);
                }
                Err(why) => return Ok(Step::Bad { offset, why, header: None }),
                Ok(header) => return Ok(Step::Frame(Frame { offset, header })),
            }
        }
    }

    /// The stored bytes of the frame that `step` gave last.
    pub(crate) fn stored(&mut self, frame: &Frame) -> io::Result<&[u8]> {
        let from = frame.offset + FRAME_HEADER_LEN as u64;
        self.bytes(from, u64::from(frame.header.stored_len))
    }

    /// Goes past a frame that was not taken whole, by the length its header says.
    pub(crate) fn skip(&mut self, header: &FrameHeader) {
        self.at = (self.at + header.frame_len()).min(self.end);
    }

    /// Goes to the next block, past what is no frame.
    pub(crate) fn skip_block(&mut self) {
        self.at = round_up(self.at + 1, self.block).min(self.end);
    }

    /// Whether what begins at `offset` names this segment where a header does: a header that is
    /// damaged, or was torn. What a segment held before it was used again names another.
    pub(crate) fn is_of_segment(&mut self, offset: u64) -> io::Result<bool> {
        let room = (self.end - offset).min(FRAME_HEADER_LEN as u64);
        let id = self.id;
        Ok(FrameHeader::names(self.bytes(offset, room)?, &id))
    }

    /// Goes past what is no frame to the next valid header, wherever in a block it stands; false,
    /// and at the end, if there is none. If it fails, asked again it goes on there.
    pub(crate) fn resync(&mut self) -> io::Result<bool> {
        let (id, block) = (self.id, self.block);
        let mut at = self.at + 1;
        while at < self.end {
            let block_at = round_down(at, block);
            self.at = at - 1;
            let bytes = self.bytes(block_at, block)?;
            if let Some(found) = FrameHeader::find(bytes, len(at - block_at), &id, block_at) {
                self.at = block_at + found as u64;
                return Ok(true);
            }
            at = block_at + block;
        }
        self.at = self.end;
        Ok(false)
    }

    /// Lets go of what it read, if that was more than `window_bytes`.
    pub(crate) fn shrink(&mut self, window_bytes: u64) {
        let window = round_up(window_bytes, self.block);
        if self.window.capacity() as u64 > window {
            self.window = Buf::zeroed(len(window), len(self.block));
            self.window_len = 0;
        }
    }

    /// Forgets what it read, for blocks at the old end may have been under way then; reads at least
    /// `window_bytes` at a time from now on.
    pub(crate) fn renew(&mut self, window_bytes: u64) {
        let window = round_up(window_bytes, self.block);
        if (self.window.capacity() as u64) < window {
            self.window = Buf::zeroed(len(window), len(self.block));
        }
        self.window_len = 0;
    }

    /// Reads on from the position, block start by block start, to the end of the segment.
    pub(crate) fn look_ahead(&mut self) -> io::Result<Evidence> {
        let mut seen = Evidence::default();
        let mut at = round_down(self.at, self.block);
        while at < self.end {
            let block = self.block;
            // Without a way out in the middle it is one pass of wide registers.
            let zero = self.bytes(at, block)?.iter().fold(0, |all, b| all | b) == 0;
            if !zero {
                seen.used_end = seen.used_end.max(at + block);
            }
            if let Ok(header) = self.header_at(at)? {
                // The block it begins in may hold frames before it.
                seen.add(&Frame { offset: at, header }, at >= self.at);
            }
            at += block;
        }
        // The frame the walk stopped at may begin inside a block.
        if self.at < self.end
            && let Ok(header) = self.header_at(self.at)?
        {
            seen.add(&Frame { offset: self.at, header }, true);
        }
        Ok(seen)
    }

    fn header_at(&mut self, offset: u64) -> io::Result<Result<FrameHeader, Bad>> {
        let room = (self.end - offset).min(FRAME_HEADER_LEN as u64);
        let id = self.id;
        let bytes = self.bytes(offset, room)?;
        Ok(FrameHeader::decode(bytes, &id, offset))
    }

    /// Checks all of a frame that `peek` gave and goes past it, unless it is bad.
    pub(crate) fn whole(&mut self, frame: Frame) -> io::Result<Step> {
        let Frame { offset, header } = frame;
        let bad = |why| Step::Bad { offset, why, header: Some(header) };
        if frame.end() > self.end {
            return Ok(bad(Bad::Lengths));
        }
        if header.tag == Tag::Batch {
            let stored = self.stored(&frame)?;
            if let Err(why) = check_stored(&header, stored) {
                return Ok(bad(why));
            }
        }
        self.at = frame.end();
        Ok(Step::Frame(frame))
    }

    /// The bytes `from .. from + count`, which lie below `end`, through the window.
    fn bytes(&mut self, from: u64, count: u64) -> io::Result<&[u8]> {
        debug_assert!(from + count <= self.end);
        if from < self.window_at || from + count > self.window_at + self.window_len {
            self.load(from, count)?;
        }
        let start = len(from - self.window_at);
        Ok(&self.window.bytes()[start..start + len(count)])
    }

    /// Asks for what follows `from`, in pieces of half of what is to be ahead.
    fn ask_ahead(&mut self, from: u64) {
        let at = self.asked_upto.max(from);
        let upto = (from + self.ahead).min(self.end);
        if upto > at && (upto == self.end || upto - at >= self.ahead / 2) {
            self.file.will_need(at, upto - at);
            self.asked_upto = upto;
        }
    }

    fn load(&mut self, from: u64, count: u64) -> io::Result<()> {
        let start = round_down(from, self.block);
        let needed = round_up(from + count, self.block) - start;
        if needed > self.window.capacity() as u64 {
            self.window = Buf::zeroed(len(needed), len(self.block));
        }
        let want = (self.window.capacity() as u64).min(self.end - start);
        let window = self.window_at..=self.window_at + self.window_len;
        let goes_on = self.window_len > 0 && window.contains(&start);
        self.window_len = 0;
        self.window.set_len(len(want));
        if self.ahead > 0 && goes_on {
            // The disk is at it while this window is waited for.
            self.ask_ahead(start + want);
        }
        let bytes = self.window.bytes_mut().expect("the cursor's window is its own");
        let got = read_full(&self.file, start, bytes)?;
        if (got as u64) < needed {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than its header says",
            ));
        }
        self.window_at = start;
        self.window_len = round_down(got as u64, self.block).max(needed);
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends.
fn read_full(file: &FileRef, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(at + done as u64, &mut buf[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}
