//! Lines of stdin, gathered into batches.
//!
//! A record is what stands between two newlines, any other byte included; a last line without its
//! newline is a record too. One line and one batch are held, whatever the length of the input.

use std::io::{self, BufRead, BufReader, Read};

use prkdb_core::{Batch, MAX_BATCH_BYTES, MAX_RECORD_BYTES};

const CHUNK_BYTES: usize = 256 << 10;

/// Cuts an input into batches of at most `batch_records` lines and `MAX_BATCH_BYTES` bytes.
pub struct Feed<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    line_number: u64,
    batch_records: usize,
    /// `line` was read and didn't fit into the batch before.
    left_over: bool,
}

impl<R: Read> Feed<R> {
    /// Batches of `batch_records` lines of `input`.
    pub fn new(input: R, batch_records: usize) -> Feed<R> {
        let input = BufReader::with_capacity(CHUNK_BYTES, input);
        Feed { input, line: Vec::new(), line_number: 0, batch_records, left_over: false }
    }

    /// Puts the next lines into `batch`; leaves it empty at the end of the input.
    ///
    /// # Errors
    /// The input's error; `InvalidData` naming the line that is longer than a record may be.
    pub fn fill(&mut self, batch: &mut Batch) -> io::Result<()> {
        batch.clear();
        while batch.len() < self.batch_records {
            if !self.left_over && !self.read_line()? {
                break;
            }
            self.left_over = batch.record_bytes() + self.line.len() > MAX_BATCH_BYTES;
            if self.left_over {
                break;
            }
            batch.push(&self.line);
        }
        Ok(())
    }

    /// Reads one line, without its newline, into `line`; false at the end of the input.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.line_number += 1;
        let limit = MAX_RECORD_BYTES as u64 + 1;
        if (&mut self.input).take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(false);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        if self.line.len() > MAX_RECORD_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "line {} is longer than a record may be, {MAX_RECORD_BYTES} bytes",
                    self.line_number
                ),
            ));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(input: impl Read, batch_records: usize) -> Vec<(usize, usize)> {
        let mut feed = Feed::new(input, batch_records);
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
        let mut feed = Feed::new((&b"short\n"[..]).chain(input), 1000);
        let error = feed.fill(&mut Batch::new()).unwrap_err();
        assert!(error.to_string().starts_with("line 2 is longer"), "{error}");
    }
}
