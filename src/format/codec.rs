//! Compressing and decompressing bodies, into memory whose size is settled before.
//!
//! ```text
//! body --Encoder--> stored bytes, if worth it      bound() bytes at most
//! stored bytes --may_hold, then Decoder--> body    raw_len bytes exactly, or damage
//! ```
//!
//! Invariant: no stored bytes make it write or allocate beyond what the caller settled on, nor
//! panic. Bytes: FORMAT.md, "Compressed bodies".
#![cfg_attr(
    not(all(feature = "lz4", feature = "snappy", feature = "zstd")),
    allow(unused_variables, dead_code, reason = "a codec that is left out asks for nothing")
)]

use crate::options::CompressionType;

use super::Bad;
use super::frame::Codec;

impl From<CompressionType> for Codec {
    fn from(kind: CompressionType) -> Codec {
        match kind {
            CompressionType::None => Codec::None,
            CompressionType::Lz4 => Codec::Lz4,
            CompressionType::Snappy => Codec::Snappy,
            CompressionType::Zstd => Codec::Zstd,
        }
    }
}

/// The feature whose lack makes this codec unreadable, if it is one of ours at all.
pub(super) fn feature(codec: u8) -> Option<&'static str> {
    let known = CompressionType::ALL.into_iter().find(|kind| Codec::from(*kind) as u8 == codec);
    known.map(|kind| kind.name())
}

/// So many bytes a compressed body may have at most to be stored instead of the body itself: what
/// saves less than 12 % is not worth the reader's time.
pub(crate) fn worth(raw_len: usize) -> usize {
    // Below 2^57 bytes the product fits; a body has less than 2^26.
    raw_len * 88 / 100
}

/// Bytes of memory that an encoder of this codec wants for its output.
pub(crate) fn bound(codec: Codec, raw_len: usize) -> usize {
    match codec {
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4_flex::block::get_maximum_output_size(raw_len),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snap::raw::max_compress_len(raw_len),
        // Zstandard gives up as soon as its output is full.
        _ => worth(raw_len),
    }
}

/// Compresses a body into `out`, which has `bound` bytes; gives the length, or nothing where the
/// result is not worth storing. The same body makes the same bytes each time.
pub(crate) type Encoder = Box<dyn FnMut(&[u8], &mut [u8]) -> Option<usize> + Send>;

/// An encoder, to be used again and again; none for `Codec::None`, for a codec that this build
/// lacks, and for a level that the codec lacks.
pub(crate) fn encoder(codec: Codec, level: i32) -> Option<Encoder> {
    match codec {
        #[cfg(feature = "lz4")]
        Codec::Lz4 => Some(lz4()),
        #[cfg(feature = "snappy")]
        Codec::Snappy => {
            let mut snappy = snap::raw::Encoder::new();
            Some(Box::new(move |raw, out| worth_it(raw, snappy.compress(raw, out).ok()?)))
        }
        #[cfg(feature = "zstd")]
        Codec::Zstd => {
            let mut zstd = zstd::bulk::Compressor::new(level).ok()?;
            Some(Box::new(move |raw, out| worth_it(raw, zstd.compress_to_buffer(raw, out).ok()?)))
        }
        _ => None,
    }
}

#[cfg(feature = "lz4")]
fn lz4() -> Encoder {
    use lz4_flex::block::{CompressTable, compress_into_with_table};
    // A table that has seen a long body stays a large one, which finds other matches in a short
    // one: with one for each the bytes follow from the body alone.
    let (mut small, mut large) = (CompressTable::small(), CompressTable::large());
    Box::new(move |raw, out| {
        let table = if raw.len() < usize::from(u16::MAX) { &mut small } else { &mut large };
        worth_it(raw, compress_into_with_table(raw, out, table).ok()?)
    })
}

fn worth_it(raw: &[u8], stored_len: usize) -> Option<usize> {
    (stored_len <= worth(raw.len())).then_some(stored_len)
}

/// Whether stored bytes may be a body of `raw_len` bytes, by what they say themselves: a look at
/// their headers, before any memory is taken.
pub(super) fn may_hold(codec: Codec, stored: &[u8], raw_len: usize) -> Result<(), Bad> {
    match codec {
        #[cfg(feature = "lz4")]
        Codec::Lz4 => belongs(raw_len / 255 <= stored.len()),
        #[cfg(feature = "snappy")]
        Codec::Snappy => belongs(snap::raw::decompress_len(stored) == Ok(raw_len)),
        #[cfg(feature = "zstd")]
        Codec::Zstd => {
            use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};
            let content = get_frame_content_size(stored);
            belongs(matches!(content, Ok(Some(bytes)) if bytes == raw_len as u64))?;
            // One frame and no more: the library itself would go on with the next one.
            belongs(find_frame_compressed_size(stored) == Ok(stored.len()))
        }
        other => Err(Bad::Codec(other as u8)),
    }
}

fn belongs(together: bool) -> Result<(), Bad> {
    if together { Ok(()) } else { Err(Bad::Compressed) }
}

/// Decompresses, and keeps what that takes for the next time.
#[derive(Default)]
pub(crate) struct Decoder {
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decoder {
    /// Fills all of `body` from all of `stored`, or says that they don't belong together.
    pub(super) fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        body: &mut [u8],
    ) -> Result<(), Bad> {
        match codec {
            #[cfg(feature = "lz4")]
            Codec::Lz4 => {
                let filled = lz4_flex::block::decompress_into(stored, body);
                belongs(filled.is_ok_and(|len| len == body.len()))
            }
            #[cfg(feature = "snappy")]
            Codec::Snappy => {
                let filled = snap::raw::Decoder::new().decompress(stored, body);
                belongs(filled.is_ok_and(|len| len == body.len()))
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                let zstd = self.zstd.get_or_insert_default();
                let filled = zstd.decompress_to_buffer(stored, body);
                belongs(filled.is_ok_and(|len| len == body.len()))
            }
            other => Err(Bad::Codec(other as u8)),
        }
    }
}

/// Whether stored bytes are this body.
pub(crate) fn holds(codec: Codec, stored: &[u8], body: &[u8]) -> bool {
    let mut back = vec![0; body.len()];
    may_hold(codec, stored, body.len()).is_ok()
        && Decoder::default().decode(codec, stored, &mut back).is_ok()
        && back == body
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}
