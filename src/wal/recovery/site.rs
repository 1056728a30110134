//! Where recovery works, and what it hands over when it is done.

use std::path::Path;
use std::sync::Arc;

use crate::io::{Disk, FileRef, Flow, Host};
use crate::lsn::Lsn;
use crate::segment::{SegmentFile, Summary};

use super::super::catalog::Segment;
use super::super::maker::Stock;
use super::super::meta::MetaFile;
use super::RecoveryReport;

/// A log that is ready to be written.
pub(crate) struct Recovered {
    pub(crate) report: RecoveryReport,
    pub(crate) meta: MetaFile,
    pub(crate) stock: Stock,
    pub(crate) next_lsn: Lsn,
    pub(crate) time_us: u64,
    /// The segment to go on in: only after a clean close.
    pub(crate) tail: Option<(SegmentFile, FileRef, Summary, Option<Arc<Segment>>)>,
}

/// Which log is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// One that is not there yet.
    New,
    /// Whichever is there.
    Any,
    /// That which this process wrote: up to here it was answered as durable.
    Ours(Lsn),
}

/// Where recovery works.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) flow: &'a Flow,
    pub(super) disk: &'a dyn Disk,
    pub(super) host: &'a dyn Host,
    pub(super) dir: &'a Path,
    /// Gets the bytes read so far, of how many.
    pub(super) hear: &'a dyn Fn(u64, u64),
    /// What was retired is wiped before it goes.
    pub(super) wipe: bool,
}
