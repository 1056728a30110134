//! Choices taken from a fuzzer's bytes; what is missing at the end reads as zero.

pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, at most `len`.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// A little-endian number of so many bytes, 8 at most.
    pub fn number(&mut self, bytes: usize) -> u64 {
        let mut number = [0; 8];
        let taken = self.take(bytes);
        number[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(number)
    }

    pub fn byte(&mut self) -> u8 {
        self.number(1).to_le_bytes()[0]
    }

    pub fn size(&mut self, bytes: usize) -> usize {
        usize::try_from(self.number(bytes)).unwrap()
    }

    /// One of `count`, from one byte.
    pub fn pick(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }
}
