//! Zeros as each codec stores them, made by hand from the formats' own documents: as many as one
//! likes, in as few bytes as the format allows, with a length of their own that may be a lie.

/// Zeros as an LZ4 block: one literal, then a match as long as it takes.
pub fn lz4(len: usize) -> Vec<u8> {
    // The last five bytes are literals.
    let rest = len - 1 - 5 - 4 - 15;
    let long = std::iter::repeat_n(255, rest / 255);
    let head = [0x1f, 0, 1, 0].into_iter().chain(long);
    head.chain([(rest % 255).to_le_bytes()[0], 0x50, 0, 0, 0, 0, 0]).collect()
}

/// Zeros as raw Snappy: the length, one literal, then copies of 64 bytes.
pub fn snappy(len: usize, said: usize) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), said);
    while rest > 127 {
        out.push(rest.to_le_bytes()[0] | 128);
        rest >>= 7;
    }
    out.extend([rest.to_le_bytes()[0], 0, 0]);
    let mut left = len - 1;
    while left > 0 {
        let copy = left.min(64);
        out.extend([(copy - 1).to_le_bytes()[0] << 2 | 2, 1, 0]);
        left -= copy;
    }
    out
}

/// Zeros as a Zstandard frame: a content size of four bytes, then blocks of one repeated byte.
pub fn zstd(len: usize, said: usize) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend(u32::try_from(said).unwrap().to_le_bytes());
    let mut left = len;
    while left > 0 {
        let block = left.min(128 << 10);
        left -= block;
        let word = u32::try_from(block << 3 | 2 | usize::from(left == 0)).unwrap();
        out.extend(&word.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}
