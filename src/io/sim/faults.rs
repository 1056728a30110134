//! What goes wrong in a simulated world: plain data, set by a test or drawn.

use std::io;

use super::rng::Rng;

/// What goes wrong. Rates are per mille; `Faults::default()` is a healthy world.
///
/// Operations are counted by [`ops`](super::Sim::ops): each submit, each completion, each call on
/// a directory, each blocking read. The module's table tells the classes of faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Writes that fail; any subset of their sectors landed.
    pub write_eio: u32,
    /// Reads that fail.
    pub read_eio: u32,
    /// Syncs of files and directories that fail: any subset of what was unsynced is gone for
    /// good, and the next sync succeeds.
    pub sync_eio: u32,
    /// Writes of several blocks that write fewer. What a short write with `dsync` wrote is durable.
    pub short_write: u32,
    /// Reads and writes that end as `Interrupted` or `WouldBlock` with nothing done.
    pub interrupted: u32,
    /// Requests that the kernel could not start (ECANCELED). A sync goes on as a plain one, as the
    /// ring's queue does it; reads and writes are answered so, with nothing done.
    pub canceled: u32,
    /// Requests that take up to 65 ms of the world's clock instead of completing at any moment.
    pub late: u32,
    /// Creations of files that end as `StorageFull` although there is space.
    pub enospc: u32,
    /// Creations of files that end as EDQUOT.
    pub edquot: u32,
    /// Creations of files that end as EFBIG, and writes: any subset of their sectors landed.
    pub efbig: u32,
    /// Creations, renames and removals of files that fail as EIO; half of them were done. Not
    /// drawn by [`draw`](Faults::draw).
    pub names_eio: u32,
    /// Writes into a file that has its size which end as ENOSPC or EDQUOT, as on copy-on-write
    /// file systems; any subset of their sectors landed.
    pub write_full: u32,
    /// Writes that land in another place, of this or another file, and say nothing.
    pub misdirected_write: u32,
    /// Reads of which one block comes from another place, of this or another file.
    pub misdirected_read: u32,
    /// Reads in which sectors of one block are as they were before they were last synced.
    pub stale_read: u32,
    /// Completions at which one bit of a synced block, of any file, turns over for good.
    pub rot: u32,
    /// Bytes that the files may have together; none: as good as endless.
    pub capacity: Option<u64>,
    /// The operation, counted since the world was made, that never happens: everything fails from
    /// there until [`crash`](super::Sim::crash).
    pub crash_at: Option<u64>,
    /// The operation, counted since the world was made, at or after which a queue breaks, once:
    /// the next one of which a request completes. What it has in flight lands, in part or not at
    /// all, and is never answered; `reap` fails from then on.
    pub break_at: Option<u64>,
    /// The operation, counted since the world was made, that fails. A submitted request fails
    /// when it completes.
    pub fail_nth: Option<u64>,
    /// Whether all operations after `fail_nth` fail as well.
    pub fail_on: bool,
    /// How those fail.
    pub fail_as: Failure,
}

/// How the operations that [`Faults::fail_nth`] names fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// EIO. Of a write any sectors landed; a sync loses what it likes.
    #[default]
    Device,
    /// ENOSPC; all else as `Device`.
    Full,
    /// EDQUOT; all else as `Device`.
    Quota,
    /// EFBIG; all else as `Device`.
    TooLarge,
    /// ECANCELED: nothing was done. A sync too is answered so, as by a queue that hides nothing.
    Canceled,
    /// EINTR: nothing was done. Only queued reads and writes are interrupted.
    Interrupted,
    /// EAGAIN: the same.
    Again,
    /// A write of several blocks writes the first one alone; nothing else fails.
    Short,
}

impl Failure {
    /// Every one there is.
    pub const ALL: [Failure; 8] = [
        Failure::Device,
        Failure::Full,
        Failure::Quota,
        Failure::TooLarge,
        Failure::Canceled,
        Failure::Interrupted,
        Failure::Again,
        Failure::Short,
    ];

    /// Whether it is one that whoever asked has to go on after: only queued reads and writes meet
    /// it.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Failure::Interrupted | Failure::Again | Failure::Short)
    }

    /// Whether the request was never carried out.
    pub(super) fn did_nothing(self) -> bool {
        matches!(self, Failure::Canceled | Failure::Interrupted | Failure::Again)
    }

    pub(super) fn error(self, what: &str) -> io::Error {
        match self {
            Failure::Device => io::Error::other(format!("simulated I/O error in {what}")),
            Failure::Full => io::Error::from_raw_os_error(libc::ENOSPC),
            Failure::Quota => io::Error::from_raw_os_error(libc::EDQUOT),
            Failure::TooLarge => io::Error::from_raw_os_error(libc::EFBIG),
            Failure::Canceled => io::Error::from_raw_os_error(libc::ECANCELED),
            Failure::Interrupted => io::ErrorKind::Interrupted.into(),
            Failure::Again => io::ErrorKind::WouldBlock.into(),
            Failure::Short => unreachable!("a short write is no error: {what}"),
        }
    }
}

impl Faults {
    /// Rates drawn by kind, most of them 0; no crash, no limit of space, and nothing that gives
    /// wrong bytes.
    pub fn draw(rng: &mut Rng) -> Faults {
        let mut rate = |present: u32| {
            if rng.chance(present) { rng.pick(&[2, 10, 50, 200]) } else { 0 }
        };
        Faults {
            short_write: rate(300),
            interrupted: rate(300),
            late: rate(300),
            write_eio: rate(80),
            sync_eio: rate(80),
            read_eio: rate(40),
            enospc: rate(80),
            edquot: rate(40),
            efbig: rate(20),
            write_full: rate(40),
            canceled: rate(60),
            ..Faults::default()
        }
    }

    /// One fault that gives or keeps wrong bytes and says nothing: a log can't prevent that, but
    /// it must not serve them.
    pub fn draw_wrong(rng: &mut Rng) -> Faults {
        let rate = rng.pick(&[2, 10, 50]);
        match rng.below(4) {
            0 => Faults { misdirected_write: rate, ..Faults::default() },
            1 => Faults { misdirected_read: rate, ..Faults::default() },
            2 => Faults { stale_read: 4 * rate, ..Faults::default() },
            _ => Faults { rot: rate, ..Faults::default() },
        }
    }
}
