//! Which batches are compressed, and how.
//!
//! Compression is asked for, never done on its own: every codec is slower than a good device. It
//! runs in the thread that appends, before the batch is queued.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

use super::MAX_BATCH_BYTES;

/// The levels that [`CompressionConfig::compression_level`] takes. Zstandard has higher ones: they
/// want hundreds of MiB for each thread that appends.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// How the body of a batch is compressed.
///
/// A log may hold batches of all of them side by side, and is read whatever it is opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompressionType {
    /// Not at all.
    #[default]
    None,
    /// LZ4 blocks: the cheapest to read back. Feature `lz4`.
    Lz4,
    /// Raw Snappy, for what other programs ask of the files. Feature `snappy`.
    Snappy,
    /// Zstandard: saves most and costs most. Feature `zstd`.
    Zstd,
}

impl CompressionType {
    /// All of them, whether this build has them or not.
    pub const ALL: [CompressionType; 4] = [
        CompressionType::None,
        CompressionType::Lz4,
        CompressionType::Snappy,
        CompressionType::Zstd,
    ];

    /// Its short name, which is its feature's too: `none`, `lz4`, `snappy`, `zstd`.
    pub fn name(&self) -> &'static str {
        match self {
            CompressionType::None => "none",
            CompressionType::Lz4 => "lz4",
            CompressionType::Snappy => "snappy",
            CompressionType::Zstd => "zstd",
        }
    }

    /// Whether this build can write and read it; a matter of the crate's features.
    pub fn is_built_in(&self) -> bool {
        match self {
            CompressionType::None => true,
            CompressionType::Lz4 => cfg!(feature = "lz4"),
            CompressionType::Snappy => cfg!(feature = "snappy"),
            CompressionType::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CompressionType {
    type Err = Error;

    /// By its short name.
    fn from_str(name: &str) -> Result<CompressionType> {
        CompressionType::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let why = format!("{name:?} is no codec; there are none, lz4, snappy and zstd");
            Error::invalid("parse", why)
        })
    }
}

/// Which batches are compressed, and how.
///
/// - Shape: a batch is compressed as a whole, checksums of its records included, and kept as it is
///   where that would save less than 12 %. The limits on records, batches and segments hold for it
///   uncompressed.
/// - Durability: none of it depends on the codec.
/// - Source: figures in `benches/batching_bench.rs`, group `codecs`.
///
/// ```
/// use prkdb_core::{CompressionConfig, CompressionType};
///
/// let config = CompressionConfig {
///     compression_type: CompressionType::Zstd,
///     ..CompressionConfig::default()
/// };
/// assert_eq!(config.min_compress_bytes, 256);
/// assert_eq!(CompressionConfig::default(), CompressionConfig::balanced());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionConfig {
    /// The codec. Default `Lz4`. Zstd: fewer bytes, several times the CPU time of the caller.
    pub compression_type: CompressionType,
    /// Batches with fewer bytes than this, 8 bytes of index a record included, are kept as they
    /// are. Bytes, at most 32 MiB. Default 256. Less: CPU time for a few bytes; a device writes
    /// whole blocks all the same.
    pub min_compress_bytes: usize,
    /// The level of Zstd, 1 to 19; the other codecs have none and don't look at it. Default 3.
    /// More: fewer bytes, far slower, more memory for each thread that appends; the log keeps that
    /// of 8 of them. For batches of 1 MiB it is 1.3 MiB at 3, 11 MiB at 9 and 18 MiB at 19, for
    /// the largest ones 83 MiB at 19. Reading costs the same.
    pub compression_level: i32,
}

impl CompressionConfig {
    /// No compression: what a log does unless it is told otherwise.
    pub fn none() -> CompressionConfig {
        let compression_type = CompressionType::None;
        CompressionConfig { compression_type, ..CompressionConfig::balanced() }
    }

    /// Little CPU time: LZ4 for batches of 512 bytes and more.
    pub fn throughput_optimized() -> CompressionConfig {
        CompressionConfig {
            compression_type: CompressionType::Lz4,
            min_compress_bytes: 512,
            compression_level: 1,
        }
    }

    /// Few bytes: Zstd at level 9 for batches of 128 bytes and more.
    pub fn compression_optimized() -> CompressionConfig {
        CompressionConfig {
            compression_type: CompressionType::Zstd,
            min_compress_bytes: 128,
            compression_level: 9,
        }
    }

    /// The default: LZ4 for batches of 256 bytes and more.
    pub fn balanced() -> CompressionConfig {
        CompressionConfig {
            compression_type: CompressionType::Lz4,
            min_compress_bytes: 256,
            compression_level: 3,
        }
    }

    /// Checks every field against its stated range, and that this build has the codec.
    ///
    /// # Errors
    /// `Invalid`, naming the field and the range. `Unsupported`, naming the feature.
    pub fn validate(&self) -> Result<()> {
        let (codec, level) = (self.compression_type, self.compression_level);
        if !codec.is_built_in() {
            let why = format!("this build lacks {codec}; build it with the feature `{codec}`");
            return Err(Error::new(ErrorKind::Unsupported, "open", why));
        }
        if self.min_compress_bytes > MAX_BATCH_BYTES {
            let why = format!(
                "min_compress_bytes is {}; it must be at most {MAX_BATCH_BYTES}",
                self.min_compress_bytes
            );
            return Err(Error::invalid("open", why));
        }
        if !LEVELS.contains(&level) {
            let why = format!("compression_level is {level}; it must be 1 to {}", LEVELS.end());
            return Err(Error::invalid("open", why));
        }
        Ok(())
    }
}

impl Default for CompressionConfig {
    fn default() -> CompressionConfig {
        CompressionConfig::balanced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_has_one_name() {
        for kind in CompressionType::ALL {
            assert_eq!(kind.to_string().parse::<CompressionType>().unwrap(), kind);
        }
        let unknown = "gzip".parse::<CompressionType>().unwrap_err();
        assert!(unknown.to_string().contains("\"gzip\" is no codec"), "{unknown}");
    }

    #[test]
    fn presets_are_what_they_say() {
        let fields =
            |c: CompressionConfig| (c.compression_type, c.min_compress_bytes, c.compression_level);
        use CompressionType::{Lz4, None, Zstd};
        assert_eq!(CompressionConfig::none().compression_type, None);
        assert_eq!(fields(CompressionConfig::throughput_optimized()), (Lz4, 512, 1));
        assert_eq!(fields(CompressionConfig::compression_optimized()), (Zstd, 128, 9));
        assert_eq!(fields(CompressionConfig::balanced()), (Lz4, 256, 3));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let none = CompressionConfig::none();
        assert!(none.validate().is_ok());
        for level in [0, 20, i32::MIN, -1] {
            let bad = CompressionConfig { compression_level: level, ..none }.validate();
            assert!(bad.unwrap_err().to_string().contains("compression_level is"));
        }
        let bad = CompressionConfig { min_compress_bytes: MAX_BATCH_BYTES + 1, ..none };
        assert!(bad.validate().unwrap_err().to_string().contains("min_compress_bytes is"));
    }

    #[test]
    fn a_codec_that_was_left_out_is_unsupported_and_its_feature_named() {
        for compression_type in CompressionType::ALL {
            let config = CompressionConfig { compression_type, ..CompressionConfig::none() };
            match config.validate() {
                Ok(()) => assert!(compression_type.is_built_in()),
                Err(e) => {
                    assert!(!compression_type.is_built_in(), "{e}");
                    assert_eq!(e.kind(), ErrorKind::Unsupported);
                    assert!(e.to_string().contains(&format!("feature `{compression_type}`")));
                }
            }
        }
    }
}
