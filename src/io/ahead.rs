//! Reading a file ahead of who walks through it past the page cache, where nothing else does: while
//! a piece is checked, threads read the next ones.
//!
//! ```text
//! file --read_at--> [1] [3] [5]  `prkdb-ahead`     --copied out, in order--> read_at of the walk
//!      --read_at--> [2] [4]      `prkdb-ahead`       goes back empty
//! ```
//!
//! Used by recovery's scans. Invariants: what is given stands in the file at that offset; what a
//! thread could not read, or the walk did not ask for in order, the caller reads himself, and hears
//! the error; of each thread one piece waits; they end before their file is dropped.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Buf, File, FileRef};
use crate::cast::len;

/// Threads that read one file.
const THREADS: u64 = 2;

/// What is read ahead: whole blocks, `from .. end`, in pieces of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) from: u64,
    pub(crate) end: u64,
    pub(crate) piece: u64,
    pub(crate) block: u64,
}

/// `file`, read ahead; as it is where no threads can be started.
pub(crate) fn ahead(file: &FileRef, stretch: Stretch) -> FileRef {
    let (empty, used) = unbounded();
    let (mut pieces, mut threads) = (Vec::new(), Vec::new());
    for turn in 0..THREADS {
        let (full, waiting) = bounded(1);
        let (source, used) = (Arc::clone(file), used.clone());
        let fetch = move || stretch.fetch(&source, turn, &full, &used);
        match std::thread::Builder::new().name("prkdb-ahead".into()).spawn(fetch) {
            Ok(thread) => threads.push(thread),
            // Those that were started end when their channels are dropped.
            Err(_) => return Arc::clone(file),
        }
        pieces.push(waiting);
    }
    let stream = Stream { pieces, empty, kept: VecDeque::new(), next: stretch.from, turn: 0 };
    Arc::new(Ahead { file: Arc::clone(file), stream: Mutex::new(Some(stream)), threads })
}

impl Stretch {
    /// Reads every second piece, until the end, an error, or nobody wants more.
    fn fetch(self, file: &FileRef, turn: u64, full: &Sender<Buf>, used: &Receiver<Buf>) {
        let mut at = self.from + turn * self.piece;
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
    /// None once the walk left the order, or a thread could not go on.
    stream: Mutex<Option<Stream>>,
    threads: Vec<JoinHandle<()>>,
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
        let end = at + out.len() as u64;
        self.let_go(at);
        while self.next < end {
            let buf = self.pieces[self.turn].recv().ok()?;
            let from = self.next;
            self.next += buf.len() as u64;
            self.turn = (self.turn + 1) % self.pieces.len();
            self.kept.push_back((from, buf));
            // A walk may pass over whole pieces.
            self.let_go(at);
        }
        if self.kept.front().is_none_or(|(from, _)| *from > at) {
            return None;
        }
        let mut done = 0;
        for (from, buf) in &self.kept {
            let start = len(at + done as u64 - from);
            let count = (buf.len() - start).min(out.len() - done);
            out[done..done + count].copy_from_slice(&buf.bytes()[start..start + count]);
            done += count;
            if done == out.len() {
                return Some(());
            }
        }
        None
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
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = stream.as_mut().and_then(|stream| stream.copy(at, buf));
        if copied.is_some() {
            return Ok(buf.len());
        }
        *stream = None;
        drop(stream);
        self.file.read_at(at, buf)
    }

    fn as_any(&self) -> &dyn Any {
        self.file.as_any()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.stream.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        for thread in self.threads.drain(..) {
            // What one panicked over the caller read himself.
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Access, Disk, open_disk};
    use crate::options::Backend;

    const PIECE: usize = 64 << 10;

    fn whole(end: u64) -> Stretch {
        Stretch { from: 0, end, piece: PIECE as u64, block: 4096 }
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

    #[test]
    fn what_is_read_ahead_is_what_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, file) = file(dir.path(), 40 * PIECE);
        let end = 39 * PIECE as u64 + 4096;
        let ahead = ahead(&file, Stretch { from: 4096, ..whole(end) });
        // In order, overlapping as frames make it, across pieces, then back and beyond.
        for (at, len) in [(4096, PIECE), (60_000 & !4095, PIECE), (131_072, 3 * PIECE)] {
            assert_same(&ahead, &file, at, len);
        }
        for piece in 6..38 {
            assert_same(&ahead, &file, piece * PIECE as u64, PIECE);
        }
        assert_same(&ahead, &file, 4096, PIECE);
        // Over several pieces that nobody asked for.
        let far = super::ahead(&file, whole(end));
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
        let ahead = ahead(&file, whole(100 * PIECE as u64));
        for piece in 0..4 {
            assert_same(&ahead, &file, piece * PIECE as u64, PIECE);
        }
        // Nothing was asked for: its thread waits with what it read, and ends.
        drop(super::ahead(&file, Stretch { piece: 4096, ..whole(3 * PIECE as u64) }));
    }
}
