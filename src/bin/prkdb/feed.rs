//! Lines of stdin, gathered into batches.
//!
//! A record is what stands between two newlines, any other byte included; a last line without its
//! newline is a record too. One line and one batch are held, whatever the length of the input, and
//! whole lines for `PATIENCE` at most: a batch ends where no more are there by then.

use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use prkdb_core::{Batch, MAX_BATCH_BYTES, MAX_RECORD_BYTES};

/// Above the buffer of the standard library's stdin, which keeps nothing back then.
const CHUNK_BYTES: usize = 256 << 10;
/// How long whole lines wait for more of them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Cuts an input into batches of at most `batch_records` lines and `MAX_BATCH_BYTES` bytes.
pub struct Feed<R, I> {
    input: BufReader<R>,
    /// Whether nothing comes for so long.
    is_idle: I,
    /// What was read of a line that is in no batch yet, without its newline.
    line: Vec<u8>,
    line_number: u64,
    batch_records: usize,
    /// All of `line` was read, and it didn't fit into the batch before.
    left_over: bool,
}

/// How far the reading of a line came.
enum Line {
    Whole,
    /// The rest may be long in coming.
    Later,
    End,
}

impl<R: Read, I: FnMut(Duration) -> bool> Feed<R, I> {
    /// Batches of `batch_records` lines of `input`, fewer where they come slowly.
    pub fn new(input: R, is_idle: I, batch_records: usize) -> Feed<R, I> {
        let input = BufReader::with_capacity(CHUNK_BYTES, input);
        let (line, line_number, left_over) = (Vec::new(), 1, false);
        Feed { input, is_idle, line, line_number, batch_records, left_over }
    }

    /// Puts the next lines into `batch`; leaves it empty at the end of the input.
    ///
    /// # Errors
    /// The input's error; `InvalidData` naming the line that is longer than a record may be.
    pub fn fill(&mut self, batch: &mut Batch) -> io::Result<()> {
        batch.clear();
        let mut since = None;
        while batch.len() < self.batch_records {
            if !self.left_over && !matches!(self.read_line(since)?, Line::Whole) {
                break;
            }
            since.get_or_insert_with(Instant::now);
            self.left_over = batch.record_bytes() + self.line.len() > MAX_BATCH_BYTES;
            if self.left_over {
                break;
            }
            batch.push(&self.line);
            self.line.clear();
        }
        Ok(())
    }

    /// Reads one line, or the rest of it, without its newline, into `line`. Others may have waited
    /// for it `since`.
    fn read_line(&mut self, since: Option<Instant>) -> io::Result<Line> {
        loop {
            if let Some(since) = since.filter(|_| self.input.buffer().is_empty())
                && (self.is_idle)(PATIENCE.saturating_sub(since.elapsed()))
            {
                return Ok(Line::Later);
            }
            let buffer = match self.input.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                filled => filled?,
            };
            if buffer.is_empty() {
                return Ok(if self.line.is_empty() { Line::End } else { Line::Whole });
            }
            let limit = MAX_RECORD_BYTES + 1 - self.line.len();
            let mut rest = &buffer[..buffer.len().min(limit)];
            let took = rest.read_until(b'\n', &mut self.line)?;
            self.input.consume(took);
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                self.line_number += 1;
                return Ok(Line::Whole);
            }
            if self.line.len() > MAX_RECORD_BYTES {
                let number = self.line_number;
                let why = format!(
                    "line {number} is longer than a record may be, {MAX_RECORD_BYTES} bytes"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn lengths(input: impl Read, batch_records: usize) -> Vec<(usize, usize)> {
        let mut feed = Feed::new(input, |_| false, batch_records);
        let mut batch = Batch::new();
        let mut lengths = Vec::new();
        loop {
            feed.fill(&mut batch).unwrap();
            if batch.is_empty() {
                return lengths;
            }
            lengths.push((batch.len(), batch.record_bytes()));
        }
    }

    #[test]
    fn empty_lines_and_a_last_line_without_newline_are_records() {
        assert_eq!(lengths(&b"a\n\nbcd\n"[..], 2), [(2, 1), (1, 3)]);
        assert_eq!(lengths(&b"a\n\nbcd"[..], 2), [(2, 1), (1, 3)]);
        assert_eq!(lengths(&b"\n"[..], 2), [(1, 0)]);
        assert_eq!(lengths(&b""[..], 2), []);
    }

    #[test]
    fn a_batch_stays_below_the_largest_one() {
        let line = [&vec![b'x'; MAX_RECORD_BYTES][..], b"\n"].concat();
        let input = [&line[..], &line, &line].concat();
        let full = MAX_RECORD_BYTES;
        assert_eq!(lengths(&input[..], 1000), [(2, 2 * full), (1, full)]);
    }

    #[test]
    fn a_line_longer_than_a_record_is_named() {
        let input = io::repeat(b'x').take(MAX_RECORD_BYTES as u64 + 1);
        let mut feed = Feed::new((&b"short\n"[..]).chain(input), |_| false, 1000);
        let error = feed.fill(&mut Batch::new()).unwrap_err();
        assert!(error.to_string().starts_with("line 2 is longer"), "{error}");
    }

    #[test]
    fn a_batch_ends_where_lines_come_slowly() {
        // Pieces as they come, and after which of them nothing comes for a while.
        let pieces = [("a\nb\nc", true), ("d\n", false), ("e\nf\ng", true), ("\nh", false)];
        struct Slow<'a>(&'a Cell<usize>, &'a [(&'a str, bool)]);
        impl Read for Slow<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let Some((text, _)) = self.1.get(self.0.get()) else { return Ok(0) };
                self.0.set(self.0.get() + 1);
                into[..text.len()].copy_from_slice(text.as_bytes());
                Ok(text.len())
            }
        }
        let at = Cell::new(0);
        let mut feed = Feed::new(Slow(&at, &pieces), |_| pieces[at.get() - 1].1, 1000);
        let (mut batch, mut lengths) = (Batch::new(), Vec::new());
        while feed.fill(&mut batch).is_ok() && !batch.is_empty() {
            lengths.push((batch.len(), batch.record_bytes()));
        }
        assert_eq!(lengths, [(2, 2), (3, 4), (2, 2)]);
    }

    #[test]
    fn a_line_waits_no_longer_because_others_come_now_and_then() {
        /// A line each 300 ms.
        struct Steady(Instant, u32);
        impl Read for Steady {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let next = self.0 + self.1 * Duration::from_millis(300);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                self.1 += 1;
                into[..2].copy_from_slice(b"x\n");
                Ok(2)
            }
        }
        let mut feed = Feed::new(Steady(Instant::now(), 0), |left| left.is_zero(), 1000);
        let mut batch = Batch::new();
        feed.fill(&mut batch).unwrap();
        assert!((1..10).contains(&batch.len()), "{}", batch.len());
    }
}
