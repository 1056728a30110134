//! One request of a disk that fails, once: the disk is healthy before and after. Or one that does
//! not end until it is let go.

use std::sync::{Condvar, Mutex};

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
    pub random: Option<Random>,
    pub fired: u64,
    /// Writes that were lost with a flush.
    pub lost: u64,
}

impl Fault {
    pub fn new(what: &str, after: u64, seed: u64) -> Fault {
        let what = match what {
            "frame" => What::Frame,
            "write" => What::Write,
            "flush" => What::Flush,
            other => panic!("no disk fails a {other}"),
        };
        Fault { what, left: after, random: Some(Random(seed)), fired: 0, lost: 0 }
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

/// One write of a frame that the disk has taken and not done yet.
#[derive(Default)]
pub struct Held(Mutex<Hold>, Condvar);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    None,
    /// The next one is to be held.
    Asked,
    Holds,
}

impl Held {
    pub fn ask(&self) {
        *self.0.lock().unwrap() = Hold::Asked;
    }

    pub fn is_held(&self) -> bool {
        *self.0.lock().unwrap() == Hold::Holds
    }

    pub fn free(&self) {
        *self.0.lock().unwrap() = Hold::None;
        self.1.notify_all();
    }

    /// Returns once the write of `data` may be done.
    pub fn keep_if_asked(&self, data: &[u8]) {
        let mut hold = self.0.lock().unwrap();
        if *hold == Hold::Asked && data.chunks(BLOCK).any(is_frame) {
            *hold = Hold::Holds;
            drop(self.1.wait_while(hold, |hold| *hold == Hold::Holds).unwrap());
        }
    }
}

/// Whether a write is the log's: a frame begins in it, or one of its blocks names itself.
pub fn is_of_log(data: &[u8]) -> bool {
    data.chunks(BLOCK).any(|block| is_frame(block) || block.starts_with(b"PRKDB"))
}

/// Whether a write is of the journal of ext4 or XFS: their magic numbers. A flush that comes after
/// it may be the journal's, who alone hears that it failed: what it took of a file nobody can know,
/// when the file's own flush succeeds after it (seen on ext4, of fdatasync).
pub fn is_of_journal(data: &[u8]) -> bool {
    let magic = |block: &[u8]| block.starts_with(b"\xc0\x3b\x39\x98");
    data.chunks(BLOCK).any(magic) || data.starts_with(b"\xfe\xed\xba\xbe")
}

/// Whether a block starts with the header of a frame with records, as FORMAT.md has it.
fn is_frame(block: &[u8]) -> bool {
    let word = |at| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let (tags, count, lsn, version) = (word(0), word(8), word(24), word(64));
    tags == 1 && (1..1 << 20).contains(&count) && lsn > 0 && version == 1
}
