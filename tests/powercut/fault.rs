//! One request of a disk that fails, once: the disk is healthy before and after.

use crate::support::Random;

const BLOCK: usize = 4096;
const SECTOR: u64 = 512;

/// What is to fail.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum What {
    #[default]
    Nothing,
    /// A write that holds a frame of the log.
    Frame,
    /// Any write: also of the file system's journal, of META, of a segment that is made.
    Write,
    /// A flush.
    Flush,
}

/// Which request is to fail, and whether it has.
#[derive(Default)]
pub struct Fault {
    what: What,
    /// So many of them pass before.
    left: u64,
    random: Option<Random>,
    pub fired: u64,
}

impl Fault {
    pub fn new(what: &str, after: u64, seed: u64) -> Fault {
        let what = match what {
            "frame" => What::Frame,
            "write" => What::Write,
            "flush" => What::Flush,
            other => panic!("no disk fails a {other}"),
        };
        Fault { what, left: after, random: Some(Random(seed)), fired: 0 }
    }

    fn strikes(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.what = What::Nothing;
        self.fired += 1;
        true
    }

    /// How much of a write is on the disk although it fails; none if it does not.
    pub fn of_write(&mut self, data: &[u8]) -> Option<usize> {
        let meant = match self.what {
            What::Frame => data.chunks(BLOCK).any(is_frame),
            What::Write => true,
            What::Flush | What::Nothing => false,
        };
        if !meant || !self.strikes() {
            return None;
        }
        let sectors = data.len() as u64 / SECTOR;
        let landed = self.random.as_mut().map_or(0, |random| match random.below(2) {
            0 => 0,
            _ => random.below(sectors + 1) * SECTOR,
        });
        Some(usize::try_from(landed).unwrap())
    }

    pub fn of_flush(&mut self) -> bool {
        self.what == What::Flush && self.strikes()
    }
}

/// Whether a block starts with the header of a frame with records, as FORMAT.md has it.
fn is_frame(block: &[u8]) -> bool {
    let word = |at| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let (tags, count, lsn, version) = (word(0), word(8), word(24), word(64));
    tags == 1 && (1..1 << 20).contains(&count) && lsn > 0 && version == 1
}
