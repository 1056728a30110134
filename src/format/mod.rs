//! The bytes on disk and their meaning: pure code, no I/O, clock, thread or randomness.
//!
#![doc = include_str!("FORMAT.md")]

use std::fmt;

use crate::lsn::Lsn;

mod block;
mod body;
pub(crate) mod codec;
pub(crate) mod footer;
pub(crate) mod frame;
mod le;
pub(crate) mod meta;
pub(crate) mod segment;
#[cfg(test)]
mod tests;

/// 128 random bits, new for each use of a file as a segment.
pub(crate) type Nonce = [u8; 16];
/// 128 random bits, the same in all files of a log.
pub(crate) type LogId = [u8; 16];

/// The only version this build reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// No footer tells of a greater LSN: a log begins at 3 x 2^62 at the latest, and never appends as
/// many as lie between.
pub(crate) const GREATEST_LSN: Lsn = Lsn::new(7 << 61);
/// A log that is opened goes on here at the latest, so that it has enough left.
pub(crate) const MOST_NEXT_LSN: Lsn = Lsn::new((7 << 61) - (1 << 60));

/// What makes one use of one file as a segment unlike all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId {
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) nonce: Nonce,
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// A zero tag or magic: nothing was written here.
    Nothing,
    /// The bytes end too early.
    Short,
    /// Not the magic of this part of the format.
    Magic,
    /// The checksum holds, and it is of this version; or of ours with something reserved in use.
    Version(u32),
    /// The checksum over a header, block or slot differs.
    Checksum,
    /// Intact, but it belongs to another segment, or another log.
    Foreign,
    /// Intact, but lengths, counts or ranges contradict each other or exceed their limits.
    Lengths,
    /// The checksum over a frame's body, or its index, differs.
    Payload,
    /// The checksum of this record differs, or the frame has no such record.
    Record(u32),
    /// Compressed by a codec that this build can't decode.
    Codec(u8),
    /// The stored bytes are those that were written, and no body of the stated length.
    Compressed,
}

impl Bad {
    /// Whether it is whole, and a newer version's or for another build: never damage.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Bad::Version(_) | Bad::Codec(_))
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Nothing => f.write_str("zeros, nothing was written here"),
            Bad::Short => f.write_str("it ends too early"),
            Bad::Magic => f.write_str("it does not start with its magic bytes"),
            Bad::Version(FORMAT_VERSION) => {
                f.write_str("it uses a part of the format that this build does not know")
            }
            Bad::Version(v) => {
                write!(f, "it has format version {v}, this build reads {FORMAT_VERSION}")
            }
            Bad::Checksum => f.write_str("its checksum does not match"),
            Bad::Foreign => f.write_str("it belongs to another segment or log"),
            Bad::Lengths => f.write_str("its lengths or ranges do not fit together"),
            Bad::Payload => f.write_str("the checksum of the batch does not match"),
            Bad::Record(i) => write!(f, "the checksum of record {i} of the batch does not match"),
            Bad::Codec(c) => match codec::feature(*c) {
                Some(name) => write!(
                    f,
                    "it is compressed with {name}, which this build lacks; build it with the \
                     feature `{name}`"
                ),
                None => write!(f, "its codec {c} is not one this build can decode"),
            },
            Bad::Compressed => {
                f.write_str("it does not decompress to the length that its header says")
            }
        }
    }
}
