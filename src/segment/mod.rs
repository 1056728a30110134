//! One file of frames: its names, its geometry, walking it, making and recycling it.
//!
//! ```text
//! 0          block                                   size - block      size
//! +----------+--------+--------+-- - - --------------+----------------+
//! | header   | group  | group  |  not yet written    | footer (when   |
//! | (synced) | frames, zero pad|  (zeros, or old)    |  sealed)       |
//! +----------+--------+--------+-- - - --------------+----------------+
//! ```
//!
//! Invariants: a file has its final size and written blocks before its first frame; each group
//! starts on a fresh block and no block of frames is written twice before the file is retired as a
//! whole; the name `<number>.seg` appears only once the header is durable.
//!
//! Called by `wal`. Source of the reserved footer and of recycling: RocksDB's recyclable log.

use std::path::{Path, PathBuf};

use crate::cast;
use crate::format::SegmentId;
use crate::lsn::Lsn;

mod cursor;
mod make;
mod summary;

pub(crate) use cursor::{Cursor, Evidence, Frame, Step};
pub(crate) use make::{Made, NewSegment, fill_with_zeros, install, sync_pool};
pub(crate) use summary::{SparseIndex, Summary};

/// Where in a segment things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) size: u64,
    pub(crate) block: u64,
}

impl Geometry {
    /// Offset of the first frame.
    pub(crate) fn frames_start(self) -> u64 {
        self.block
    }

    /// Offset of the footer: frames end here at the latest.
    pub(crate) fn frames_end(self) -> u64 {
        self.size - self.block
    }

    /// Bytes of frames it holds.
    pub(crate) fn capacity(self) -> u64 {
        self.size - 2 * self.block
    }

    /// The smallest segment, of whole MiB, with room for `bytes` of frames.
    pub(crate) fn size_for(bytes: u64, block: u64) -> u64 {
        cast::round_up(bytes + 2 * block, 1 << 20)
    }
}

/// A segment's identity and place in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) id: SegmentId,
    pub(crate) geometry: Geometry,
    pub(crate) path: PathBuf,
}

/// The name of segment `number`.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:020}.seg")
}

/// The number in a segment's name; none if it is no segment's name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    numbered(name, ".seg").filter(|number| *number > 0)
}

/// The number in a name of 20 digits and this ending; none if somebody else made that name.
fn numbered(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The name of the directory of prepared and retired segments.
pub(crate) const POOL: &str = "pool";

/// The directory of prepared and retired segments.
pub(crate) fn pool_dir(dir: &Path) -> PathBuf {
    dir.join(POOL)
}

/// The name in the pool of what was, or will be, segment `number`: complete, of written blocks.
pub(crate) fn free_name(number: u64) -> String {
    format!("{number:020}.free")
}

/// The name in the pool of a file that is being made: worthless after a crash.
pub(crate) fn making_name(number: u64) -> String {
    format!("{number:020}.making")
}

/// The number in the name of a retired segment.
pub(crate) fn parse_free(name: &str) -> Option<u64> {
    numbered(name, ".free")
}

/// Whether `name` is that of a file left half made.
pub(crate) fn is_making(name: &str) -> bool {
    numbered(name, ".making").is_some()
}

/// A stretch of LSNs whose frames follow each other in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        assert_eq!(parse_name(&file_name(42)), Some(42));
        assert_eq!(parse_free(&free_name(u64::MAX)), Some(u64::MAX));
        // What the reserve is made under.
        assert!(is_making(&making_name(0)) && !is_making("x.making"));
        for stranger in
            ["42.seg", "x.seg", "00000000000000000000.seg", "LOCK", "+0000000000000000001.seg"]
        {
            assert_eq!(parse_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_segment_fits_what_it_was_sized_for() {
        for bytes in [1, 4096, (1 << 20) - 8192, (1 << 20) - 8191, 40 << 20] {
            let size = Geometry::size_for(bytes, 4096);
            assert!(Geometry { size, block: 4096 }.capacity() >= bytes);
        }
    }
}
