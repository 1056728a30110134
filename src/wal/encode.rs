//! The frame of a batch but for its header, made on the CPU of the thread that appends.
//!
//! ```text
//! records -> pooled buffer [gap|body    ] --worth it--> pooled buffer [gap|stored]  (the first
//!                               '--------- if not: stays as it is        one goes back)
//! ```
//!
//! The writer puts the header into the gap. Invariants: memory is bounded by the room that was
//! granted, which counts the body uncompressed (while a codec works, by 2.2 times that); no stale
//! byte of a pooled buffer reaches the disk; the same records make the same bytes, whoever appends
//! them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cast::{len, round_up};
use crate::format::codec::{Encoder, bound, encoder, holds};
use crate::format::frame::{Codec, FRAME_HEADER_LEN, encode_body};
use crate::io::{Buf, BufPool};
use crate::options::CompressionConfig;

use super::records::Records;
use super::shared::LARGE;

/// Encoders that are kept for the next batch: more threads than this rarely compress at once.
const KEPT: usize = 8;

/// A body in its place, and what its header has to say about it.
pub(crate) struct Encoded {
    /// Room for the header, then the stored bytes; from `LARGE` on padded with zeros to whole
    /// blocks.
    pub(crate) buf: Buf,
    pub(crate) frame_len: usize,
    pub(crate) body: BodyFields,
}

/// What a header has to say about a body.
#[derive(Clone, Copy)]
pub(crate) struct BodyFields {
    pub(crate) codec: Codec,
    pub(crate) count: u32,
    pub(crate) raw_len: u32,
    pub(crate) payload_crc: u32,
}

/// Encodes the bodies of one log.
pub(crate) struct BodyEncoder {
    block: u64,
    codec: Codec,
    compression: CompressionConfig,
    idle: Mutex<Vec<Encoder>>,
}

impl BodyEncoder {
    /// Of a log whose block is `block` bytes.
    pub(super) fn new(block: usize, compression: CompressionConfig) -> BodyEncoder {
        BodyEncoder {
            block: block as u64,
            codec: compression.compression_type.into(),
            compression,
            idle: Mutex::default(),
        }
    }

    /// Encodes records of `record_bytes` in all, `raw_len` with their index.
    pub(super) fn encode(
        &self,
        pool: &BufPool,
        records: &impl Records,
        record_bytes: usize,
        raw_len: usize,
    ) -> Encoded {
        let count = records.count();
        let mut buf = self.take(pool, raw_len);
        let body = body_of(&mut buf, raw_len);
        let all = (0..count).map(|i| records.record(i));
        let payload_crc = encode_body(all, record_bytes, count, body);
        let length = |len: usize| u32::try_from(len).expect("a batch is bounded");
        let fields = BodyFields {
            codec: Codec::None,
            count: length(count),
            raw_len: length(raw_len),
            payload_crc,
        };
        if self.codec != Codec::None
            && raw_len >= self.compression.min_compress_bytes
            && let Some(compressed) = self.compress(pool, body, fields)
        {
            pool.give(buf);
            return compressed;
        }
        self.encoded(buf, raw_len, fields)
    }

    /// The body in a buffer of its own, compressed; none if that saves too little.
    fn compress(&self, pool: &BufPool, body: &[u8], fields: BodyFields) -> Option<Encoded> {
        let idle = self.idle().pop();
        let mut encode =
            idle.or_else(|| encoder(self.codec, self.compression.compression_level))?;
        let room = bound(self.codec, body.len());
        let mut buf = self.take(pool, room);
        let out = body_of(&mut buf, room);
        let stored_len = encode(body, out);
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(encode);
        }
        drop(idle);
        let Some(stored_len) = stored_len else {
            pool.give(buf);
            return None;
        };
        let stored = &out[..stored_len];
        debug_assert!(holds(self.codec, stored, body), "it can't be read back");
        let payload_crc = crc32fast::hash(stored);
        let fields = BodyFields { codec: self.codec, payload_crc, ..fields };
        Some(self.encoded(buf, stored_len, fields))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Encoder>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer that a frame with `stored_len` bytes fits into, padded.
    fn take(&self, pool: &BufPool, stored_len: usize) -> Buf {
        pool.take(self.padded(FRAME_HEADER_LEN + stored_len))
    }

    /// Large frames take whole blocks: they are written from where they are.
    fn padded(&self, frame_len: usize) -> usize {
        if frame_len < LARGE { frame_len } else { len(round_up(frame_len as u64, self.block)) }
    }

    /// Cuts a buffer to the frame and its padding.
    fn encoded(&self, mut buf: Buf, stored_len: usize, body: BodyFields) -> Encoded {
        let frame_len = FRAME_HEADER_LEN + stored_len;
        buf.set_len(self.padded(frame_len));
        // What the buffer's last user left must not reach the disk.
        buf.bytes_mut().expect(UNSHARED)[frame_len..].fill(0);
        Encoded { buf, frame_len, body }
    }
}

const UNSHARED: &str = "the pool gives buffers that nobody shares";

/// The `count` bytes after the gap.
fn body_of(buf: &mut Buf, count: usize) -> &mut [u8] {
    &mut buf.bytes_mut().expect(UNSHARED)[FRAME_HEADER_LEN..FRAME_HEADER_LEN + count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::CompressionType;

    const BLOCK: usize = 4096;
    const KINDS: [CompressionType; 3] =
        [CompressionType::Lz4, CompressionType::Snappy, CompressionType::Zstd];

    /// A pool whose buffers are full of somebody else's bytes.
    fn used_pool() -> BufPool {
        let pool = BufPool::new(BLOCK, 4 << 20);
        for len in [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20] {
            for _ in 0..3 {
                let mut buf = Buf::zeroed(len, BLOCK);
                buf.bytes_mut().unwrap().fill(0xee);
                pool.give(buf);
            }
        }
        pool
    }

    fn encode(compression: CompressionConfig, record: &[u8]) -> Encoded {
        let encoder = BodyEncoder::new(BLOCK, compression);
        encoder.encode(&used_pool(), &[record], record.len(), record.len() + 8)
    }

    /// So many kinds of bytes in no order: the fewer, the more there is to save.
    fn noise(len: usize, kinds: u16) -> Vec<u8> {
        let mut state = 1_u64;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (u16::from(state.to_le_bytes()[7]) % kinds).to_le_bytes()[0]
        });
        bytes.take(len).collect()
    }

    #[test]
    fn what_follows_a_frame_in_its_buffer_is_zeros() {
        let kinds = KINDS.into_iter().filter(CompressionType::is_built_in);
        for compression_type in kinds.chain([CompressionType::None]) {
            let compression = CompressionConfig { compression_type, ..CompressionConfig::none() };
            for len in [100, 4000, 65_000, 70_000, 150_000, 300_000, 2_000_000] {
                for record in [vec![7; len], noise(len, 2)] {
                    let encoded = encode(compression, &record);
                    let frame_len = encoded.frame_len;
                    let end = if frame_len < LARGE {
                        frame_len
                    } else {
                        frame_len.next_multiple_of(BLOCK)
                    };
                    assert_eq!(encoded.buf.len(), end, "{compression_type} {len}");
                    assert!(encoded.buf.bytes()[frame_len..].iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    #[test]
    fn only_what_is_long_enough_and_saves_12_percent_is_compressed() {
        for compression_type in KINDS.into_iter().filter(CompressionType::is_built_in) {
            let compression = CompressionConfig {
                compression_type,
                min_compress_bytes: 1008,
                ..CompressionConfig::none()
            };
            let codec = |record: &[u8]| encode(compression, record).body.codec;
            assert_eq!(codec(&[7; 999]), Codec::None);
            assert_eq!(codec(&[7; 1000]), compression_type.into());
            let noise = noise(10_000, 256);
            assert_eq!(codec(&noise), Codec::None);
            let saves_11_percent = [&[0; 1250], &noise[..]].concat();
            assert_eq!(codec(&saves_11_percent), Codec::None);
            let saves_14_percent = [&[0; 1750], &noise[..]].concat();
            assert_eq!(codec(&saves_14_percent), compression_type.into());
        }
    }

    #[test]
    fn an_encoder_that_was_used_makes_the_bytes_that_a_new_one_makes() {
        let bodies = [500, 200_000, 30_000, 500].map(|len| noise(len, 2));
        for compression_type in KINDS.into_iter().filter(CompressionType::is_built_in) {
            let compression = CompressionConfig { compression_type, ..CompressionConfig::none() };
            let (used, pool) = (BodyEncoder::new(BLOCK, compression), used_pool());
            for body in &bodies {
                let again = used.encode(&pool, &[body], body.len(), body.len() + 8);
                let new = encode(compression, body);
                assert_eq!(again.body.codec, compression_type.into());
                let (again, new) = (again.buf.bytes(), new.buf.bytes());
                assert!(again[FRAME_HEADER_LEN..] == new[FRAME_HEADER_LEN..]);
            }
            assert_eq!(used.idle().len(), 1);
        }
    }
}
