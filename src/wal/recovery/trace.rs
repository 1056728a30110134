//! A segment whose header can't be used: what its frames still prove.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::frame::Tag;
use crate::lsn::Lsn;
use crate::segment::{Cursor, Frame, Step};

/// What the frames prove of a segment whose header can't be used.
pub(super) struct Trace {
    /// The greatest LSN or watermark in them.
    pub(super) seen: Lsn,
    /// The first record of the segment, if all before it is there.
    pub(super) start: Option<Lsn>,
}

/// Looks for frames of a segment whose header can't be used, in case it still says what their
/// checksums are made with; none if there is no frame.
pub(super) fn trace(mut cursor: Cursor, path: &Path) -> Result<Option<Trace>> {
    let mut trace: Option<Trace> = None;
    let mut gap = false;
    loop {
        match cursor.peek().map_err(|e| Error::io("read", path, Some(cursor.at()), e))? {
            Step::Frame(Frame { header, .. }) => {
                let trace = trace.get_or_insert(Trace { seen: Lsn::NONE, start: None });
                trace.seen = trace.seen.max(header.last_lsn()).max(header.durable_upto);
                if header.tag == Tag::Batch && !gap {
                    (trace.start, gap) = (Some(header.first_lsn), true);
                }
                cursor.skip(&header);
            }
            Step::Bad { .. } | Step::End => {
                gap = true;
                let more = cursor.resync();
                if !more.map_err(|e| Error::io("read", path, Some(cursor.at()), e))? {
                    return Ok(trace);
                }
            }
        }
    }
}
