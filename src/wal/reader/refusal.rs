//! Why a record can't be given: damage, a cut, another file, or the device.
//!
//! Invariant: damage is said only of a file that is known to be the one that was opened, and a cut
//! only where somebody may have cut unheard; in doubt the device's own error is passed on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::catalog::Segment;
use super::super::recovery::identity;
use super::Reader;
use crate::error::{Error, ErrorKind};

impl Reader {
    /// What stands where the next record should be.
    pub(super) fn missing(&mut self) -> Error {
        let fault = match self.merge.instead(self.next) {
            Ok(Some(fault)) => fault,
            Ok(None) => return self.nowhere(),
            Err((track, e)) => return self.io_error(track, e),
        };
        // Each may have held it: one that was used again shows no damage, only later records.
        for i in 0..self.merge.len() {
            let track = self.merge.track(i);
            let (segment, at) = (Arc::clone(&track.segment), track.cursor.at());
            if let Some(error) = self.used_again(&segment, at) {
                return error;
            }
        }
        let segment = Arc::clone(&self.merge.track(fault.track).segment);
        match fault.unsupported {
            true => Error::unsupported("read", &segment.file.path, fault.offset, fault.why),
            false => self.corrupt(&segment, fault.offset, &fault.why),
        }
    }

    pub(super) fn io_error(&mut self, track: usize, e: io::Error) -> Error {
        let track = self.merge.track(track);
        Error::io("read", &track.segment.file.path, Some(track.cursor.at()), e)
    }

    /// Damage, unless the file was cut from the log and used again under this reader.
    pub(super) fn damage(&self, segment: &Segment, offset: u64, why: &str) -> Error {
        let used_again = self.used_again(segment, offset);
        used_again.unwrap_or_else(|| self.corrupt(segment, offset, why))
    }

    pub(super) fn nowhere(&self) -> Error {
        let why = format!("no segment holds record {}", self.next);
        Error::new(ErrorKind::Corrupt, "read", why)
    }

    fn corrupt(&self, segment: &Segment, offset: u64, why: &str) -> Error {
        Error::corrupt("read", &segment.file.path, offset, format!("record {}: {why}", self.next))
    }

    /// What to say if the file at `segment` is not, or not known to be, the one that was opened.
    fn used_again(&self, segment: &Segment, offset: u64) -> Option<Error> {
        let file = &segment.file;
        match identity(&*self.disk, file) {
            Ok(None) => None,
            Ok(Some(id)) if id == file.id => None,
            Ok(Some(_)) => Some(self.truncated(&file.path, Some(offset))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Some(self.gone(&file.path, Some(offset), e))
            }
            Err(e) => Some(Error::io("read", &file.path, Some(0), e)),
        }
    }

    /// What it means that a segment of the catalog has no file.
    pub(super) fn gone(&self, path: &Path, offset: Option<u64>, e: io::Error) -> Error {
        // Of its own cuts this process knows: they are in the catalog.
        if self.catalog.is_followed() {
            return self.truncated(path, offset);
        }
        let why = format!("record {}: {e}, and the log did not cut it", self.next);
        Error::io("read", path, offset, io::Error::new(e.kind(), why))
    }

    fn truncated(&self, path: &Path, offset: Option<u64>) -> Error {
        let why = format!("record {} was cut while it was read", self.next);
        Error::new(ErrorKind::Truncated, "read", why).at(path, offset)
    }
}
