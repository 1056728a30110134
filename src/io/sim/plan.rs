//! What a simulated world is like: plain data, set by a test or drawn.
//!
//! Four kinds of disk have names: [`strict`](Model::strict), [`ordered`](Model::ordered) (ext4 with
//! `data=ordered`), [`weak`](Model::weak) (what POSIX promises) and [`lying`](Model::lying).
//!
//! `tests/powercut` looked whether disks are like this (Linux 6.18, 600 cuts of each file system
//! with names that nobody synced). ext4 is `ordered`: 3,692 of 6,791 changes of names survived,
//! always those before some moment, never fewer than a sync of any directory had covered; where a
//! size survived without its data (390 of 7,146 files) there were zeros. XFS keeps the order, but a
//! sync of one directory leaves out later changes in another (11 cuts); btrfs keeps neither (434
//! cuts out of order): both are inside `weak`.

use super::rng::Rng;
use crate::io::Access;

/// Which changes of names survive a power cut that came before `sync_dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameOrder {
    /// All of them: each is durable when its call returns.
    Strict,
    /// Those made before some moment, across all directories, as in a journal. A rename is one
    /// change; `sync_dir` of any directory commits the whole journal.
    Journal,
    /// For each name those made before some moment of its own. A rename is two changes, so that a
    /// file may have both names, or, if neither directory was synced, none.
    Weak,
}

/// What kind of disk a world has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Which unsynced changes of names survive a power cut.
    pub names: NameOrder,
    /// Whether `Direct` and `Write` files are read past the page cache.
    pub direct: bool,
    /// Whether `Write` files are read through it all the same, as where memory is mapped.
    pub mapped: bool,
    /// Whether writes tear between blocks of 4096 bytes only, not between sectors of 512.
    pub whole_blocks: bool,
    /// Whether syncs and forced writes are acknowledged and not done: a power cut loses what it
    /// likes since any moment.
    pub lies: bool,
}

impl Model {
    /// Whether a file opened so is read past the page cache.
    pub(super) fn reads_past_cache(&self, access: Access) -> bool {
        match access {
            Access::Cached => false,
            Access::Direct => self.direct,
            Access::Write => self.direct && !self.mapped,
        }
    }

    /// Names are durable at once; sectors of 512 bytes tear. `direct` as told, here and below.
    pub fn strict(direct: bool) -> Model {
        Model { names: NameOrder::Strict, ..Model::weak(direct) }
    }

    /// Names survive in the order of a journal, as on ext4.
    pub fn ordered(direct: bool) -> Model {
        Model { names: NameOrder::Journal, ..Model::weak(direct) }
    }

    /// The most forgetful of the honest disks: each name survives or not by itself.
    pub fn weak(direct: bool) -> Model {
        let (names, mapped) = (NameOrder::Weak, false);
        Model { names, direct, mapped, whole_blocks: false, lies: false }
    }

    /// A disk that acknowledges syncs and drops them when the power fails. Nothing can be durable
    /// there; what a log must still not do is to serve wrong bytes.
    pub fn lying(direct: bool) -> Model {
        Model { lies: true, ..Model::ordered(direct) }
    }

    /// A disk drawn from the honest ones.
    pub fn draw(rng: &mut Rng) -> Model {
        Model {
            names: rng.pick(&[NameOrder::Strict, NameOrder::Journal, NameOrder::Weak]),
            direct: rng.chance(667),
            mapped: rng.chance(333),
            whole_blocks: rng.chance(250),
            lies: false,
        }
    }
}

/// How a world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process is killed: page cache and names stay, requests in flight land whole, in part
    /// or not at all.
    Kill,
    /// The power fails: the page cache is gone; of what was not synced each sector, size and name
    /// survives or not.
    Power,
}
