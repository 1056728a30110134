//! The writer as recovery hands it over: where it goes on, and with what.

use std::sync::Arc;
use std::time::Duration;

use crate::cast::round_up;
use crate::io::FileRef;
use crate::lsn::Lsn;
use crate::segment::{SegmentFile, Summary};

use super::super::catalog::Segment;
use super::super::shared::Shared;
use super::awake::Awake;
use super::flight::Flight;
use super::lane::{Lane, Lanes};
use super::{Ending, Waits, Writer};

/// Where the writer starts.
pub(crate) struct Start {
    pub(crate) next_lsn: Lsn,
    pub(crate) time_us: u64,
    /// The greatest watermark that is known to be on disk.
    pub(crate) marked: Lsn,
    /// After a clean close: the segment to go on in.
    pub(crate) tail: Option<(SegmentFile, FileRef, Summary, Option<Arc<Segment>>)>,
}

impl Writer {
    /// A writer at the end of what recovery found; it runs on the thread that made it.
    pub(crate) fn new(shared: Arc<Shared>, start: Start) -> Writer {
        let now = shared.world.host.now();
        let awake = Awake::new(Duration::from_micros(shared.config.spin_us.into()));
        let tail = start.tail.map(|(segment, file, summary, listed)| {
            let tail = round_up(summary.end(), shared.block);
            Lane::resumed(segment, file, summary, tail, listed)
        });
        Writer {
            lanes: Lanes::new(shared.config.num_segments, shared.config.index_interval_bytes, tail),
            shared,
            backlog: Default::default(),
            gather: None,
            flight: Flight::default(),
            requests: Vec::new(),
            todo: Default::default(),
            lists: Vec::new(),
            next_lsn: start.next_lsn,
            time_us: start.time_us,
            now,
            marked: start.marked,
            want: Lsn::NONE,
            waits: Waits::new(),
            cuts: Default::default(),
            ending: Ending::No,
            lost: None,
            idle_since: now,
            answered: false,
            awake,
            poisoned: false,
            broken: false,
        }
    }
}
