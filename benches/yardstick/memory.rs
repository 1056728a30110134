//! What the CPU can do: records copied into an aligned buffer, each behind its length of four
//! bytes, and one CRC over the batch. No disk, no thread, no header.

use std::hint::black_box;
use std::time::Instant;

use super::Window;
use super::file::Aligned;

/// A buffer as large as one batch.
#[derive(Debug)]
pub struct Memory(Aligned);

impl Memory {
    /// A buffer for batches of these lengths.
    pub fn new<R: AsRef<[u8]>>(records: &[R]) -> Memory {
        Memory(Aligned::zeroed(records.iter().map(|record| 4 + record.as_ref().len()).sum()))
    }

    /// Copies one batch and gives its checksum.
    ///
    /// # Panics
    /// If the records are longer than those that the buffer was made for.
    pub fn batch<R: AsRef<[u8]>>(&mut self, records: &[R]) -> u32 {
        let mut rest = self.0.bytes_mut();
        for record in records {
            let record = record.as_ref();
            let len = u32::try_from(record.len()).expect("a record is shorter than 4 GiB");
            let (head, behind) = rest.split_at_mut(4);
            head.copy_from_slice(&len.to_le_bytes());
            let (body, behind) = behind.split_at_mut(record.len());
            body.copy_from_slice(record);
            rest = behind;
        }
        crc32fast::hash(self.0.bytes())
    }

    /// What was copied last.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Copies one batch after the other, over and over, until the window is over; how many were
    /// done in it.
    pub fn run<R: AsRef<[u8]>>(&mut self, batches: &[&[R]], window: &Window<'_>) -> u64 {
        let mut done = 0;
        for batch in batches.iter().cycle() {
            black_box(self.batch(black_box(batch)));
            let now = Instant::now();
            if window.is_over(now) {
                break;
            }
            done += u64::from(window.contains(now));
        }
        done
    }
}
