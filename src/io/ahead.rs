//! Reading a file ahead of who walks through it past the page cache, where nothing else does: while
//! a piece is checked, threads read the next ones.
//!
//! ```text
//! file --read_at--> [1] [5] [9]  `prkdb-ahead`     --copied out, in order--> read_at of the walk
//!      --read_at--> [2] [6]      `prkdb-ahead`       goes back empty
//!      --  ..
//! ```
//!
//! Used by recovery's scans. Invariants: what is given stands in the file at that offset; what a
//! thread could not read, or the walk did not ask for in order, the caller reads himself, and hears
//! the error; of each thread one piece waits and one more is under way; no thread outlives this.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Buf, File, FileRef};
use crate::cast::len;

/// Threads that read one file. With four a cold scan of frames reached 0.60 of what a plain read
/// makes, with two 0.53, on two cores; pieces of 4 MiB instead of 1 made no difference.
const THREADS: u64 = 4;

/// What is read ahead: whole blocks up to `end`, in pieces of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) end: u64,
    pub(crate) piece: u64,
    pub(crate) block: u64,
}

/// `file`, read ahead of who reads it in order, from his second read on; as it is where no threads
/// can be started.
pub(crate) fn ahead(file: &FileRef, stretch: Stretch) -> FileRef {
    Arc::new(Ahead { file: Arc::clone(file), state: Mutex::new(State::Unread(stretch)) })
}

impl Stretch {
    /// Starts the threads, of which the first reads at `from`; none if one can't be started.
    fn start(self, file: &FileRef, from: u64) -> Option<Stream> {
        let (empty, used) = unbounded();
        let (pieces, kept, threads) = (Vec::new(), VecDeque::new(), Vec::new());
        let mut stream = Stream { pieces, empty, kept, next: from, turn: 0, threads };
        for turn in 0..THREADS {
            let (full, waiting) = bounded(1);
            let (source, used) = (Arc::clone(file), used.clone());
            let fetch = move || self.fetch(&source, from + turn * self.piece, &full, &used);
            let thread = std::thread::Builder::new().name("prkdb-ahead".into()).spawn(fetch);
            stream.threads.push(thread.ok()?);
            stream.pieces.push(waiting);
        }
        Some(stream)
    }

    /// Reads every fourth piece, until the end, an error, or nobody wants more.
    fn fetch(self, file: &FileRef, mut at: u64, full: &Sender<Buf>, used: &Receiver<Buf>) {
        while at < self.end {
            let size = (self.end - at).min(self.piece);
            let fresh = || Buf::zeroed(len(self.piece), len(self.block));
            let mut buf = used.try_recv().unwrap_or_else(|_| fresh());
            buf.set_len(len(size));
            let read = file.read_at(at, buf.bytes_mut().expect("nobody shares it"));
            // Of an error and of a short file the caller makes sure himself.
            if !matches!(read, Ok(n) if n == len(size)) || full.send(buf).is_err() {
                return;
            }
            at += THREADS * self.piece;
        }
    }
}

/// A file with threads that read ahead.
#[derive(Debug)]
struct Ahead {
    file: FileRef,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Many a walk ends in what it read first.
    Unread(Stretch),
    ReadOnce(Stretch),
    Running(Stream),
    /// The walk left the order, or a thread could not go on.
    Off,
}

/// What comes from the threads.
#[derive(Debug)]
struct Stream {
    pieces: Vec<Receiver<Buf>>,
    empty: Sender<Buf>,
    /// What was read and may be asked for again, with its offset: a frame can lie across pieces.
    kept: VecDeque<(u64, Buf)>,
    /// The offset of the piece that comes next, and whose it is.
    next: u64,
    turn: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Gives back the pieces that lie before `at`.
    fn let_go(&mut self, at: u64) {
        let is_past = |(from, buf): &(u64, Buf)| from + buf.len() as u64 <= at;
        while self.kept.front().is_some_and(is_past)
            && let Some((_, buf)) = self.kept.pop_front()
        {
            // The threads may have ended.
            self.empty.send(buf).ok();
        }
    }

    /// Copies what stands at `at`; none if it is not to be had.
    fn copy(&mut self, at: u64, out: &mut [u8]) -> Option<()> {
        self.let_go(at);
        let mut done = 0;
        while done < out.len() {
            let from = at + done as u64;
            while self.next <= from {
                let buf = self.pieces[self.turn].recv().ok()?;
                let start = self.next;
                self.next += buf.len() as u64;
                self.turn = (self.turn + 1) % self.pieces.len();
                self.kept.push_back((start, buf));
                // A walk may pass over whole pieces.
                self.let_go(at);
            }
            let holds =
                |(start, buf): &&(u64, Buf)| (*start..start + buf.len() as u64).contains(&from);
            let (start, buf) = self.kept.iter().find(holds)?;
            let rest = &buf.bytes()[len(from - start)..];
            let count = rest.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&rest[..count]);
            // Nothing of this read is given back yet: the next one begins with a frame in it.
            done += count;
        }
        Some(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Ends those that wait for room.
        self.pieces.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread that read ahead panicked; the scan reads by itself");
            }
        }
    }
}

impl File for Ahead {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn links(&self) -> io::Result<u64> {
        self.file.links()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, State::Off) {
            State::Unread(stretch) => State::ReadOnce(stretch),
            State::ReadOnce(stretch) => {
                stretch.start(&self.file, at).map_or(State::Off, State::Running)
            }
            other => other,
        };
        if let State::Running(stream) = &mut *state {
            if stream.copy(at, buf).is_some() {
                return Ok(buf.len());
            }
            *state = State::Off;
        }
        drop(state);
        self.file.read_at(at, buf)
    }

    fn will_need(&self, at: u64, len: u64) {
        self.file.will_need(at, len);
    }

    fn wont_need(&self) {
        self.file.wont_need();
    }

    fn as_any(&self) -> &dyn Any {
        self.file.as_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Access, Disk, open_disk};
    use crate::options::Backend;

    const PIECE: usize = 64 << 10;

    fn upto(end: u64) -> Stretch {
        Stretch { end, piece: PIECE as u64, block: 4096 }
    }

    /// A file of so many bytes, each 4 KiB of them another number.
    fn file(dir: &Path, len: usize) -> (Arc<dyn Disk>, FileRef) {
        let (disk, _) = open_disk(dir, Backend::Pwrite).unwrap();
        let path = dir.join("file");
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
        std::fs::write(&path, bytes).unwrap();
        let file = disk.open(&path, Access::Direct).unwrap();
        (disk, file)
    }

    fn assert_same(ahead: &FileRef, file: &FileRef, at: u64, len: usize) {
        let [mut ours, mut theirs] = [(); 2].map(|()| Buf::zeroed(len, 4096));
        let got = ahead.read_at(at, ours.bytes_mut().unwrap()).unwrap();
        assert_eq!(got, file.read_at(at, theirs.bytes_mut().unwrap()).unwrap(), "{len} at {at}");
        assert!(ours.bytes() == theirs.bytes(), "{len} at {at}");
    }

    /// A frame on the edge of what was read is read again from its beginning.
    #[test]
    fn a_walk_whose_reads_overlap_is_read_ahead_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, file) = file(dir.path(), 64 * PIECE);
        let state = Mutex::new(State::Unread(upto(64 * PIECE as u64)));
        let ahead = Arc::new(Ahead { file: Arc::clone(&file), state });
        let (seen, mut at): (FileRef, u64) = (ahead.clone(), 0);
        // As large as a frame may be.
        let far = (3 * PIECE, PIECE as u64 / 2);
        for (len, step) in std::iter::repeat_n((PIECE, PIECE as u64 - 12_288), 20).chain([far; 60])
        {
            assert_same(&seen, &file, at, len);
            let runs = matches!(*ahead.state.lock().unwrap(), State::Running(_));
            assert!(runs || at == 0, "it read alone from {at} on");
            at += step;
        }
    }

    #[test]
    fn what_is_read_ahead_is_what_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, file) = file(dir.path(), 40 * PIECE);
        let end = 39 * PIECE as u64 + 4096;
        let ahead = ahead(&file, upto(end));
        // In order, overlapping as frames make it, across pieces, then back and beyond.
        for (at, len) in [(4096, PIECE), (60_000 & !4095, PIECE), (131_072, 3 * PIECE)] {
            assert_same(&ahead, &file, at, len);
        }
        for piece in 6..38 {
            assert_same(&ahead, &file, piece * PIECE as u64, PIECE);
        }
        assert_same(&ahead, &file, 4096, PIECE);
        // Over several pieces that nobody asked for.
        let far = super::ahead(&file, upto(end));
        for (at, len) in [(0, PIECE), (10 * PIECE as u64 + 8192, PIECE), (20 * PIECE as u64, 4096)]
        {
            assert_same(&far, &file, at, len);
        }
        assert_same(&ahead, &file, 39 * PIECE as u64, PIECE);
        assert_same(&ahead, &file, 40 * PIECE as u64 - 4096, 8192);
    }

    #[test]
    fn a_file_that_is_shorter_and_one_that_is_left_early_are_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, file) = file(dir.path(), 3 * PIECE);
        let ahead = ahead(&file, upto(100 * PIECE as u64));
        for piece in 0..4 {
            assert_same(&ahead, &file, piece * PIECE as u64, PIECE);
        }
        // Nothing was asked for: its thread waits with what it read, and ends.
        drop(super::ahead(&file, Stretch { piece: 4096, ..upto(3 * PIECE as u64) }));
    }
}
