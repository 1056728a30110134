//! Whose a directory is: a log's, nobody's yet, or somebody else's.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io::{Entry, is_scratch};
use crate::segment::parse_name;

use super::super::meta::{META, META_TMP};
use super::super::metrics::file::{METRICS, METRICS_TMP};

/// The file whose lock a writer holds.
pub(crate) const LOCK: &str = "LOCK";

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing, or what an unfinished creation left.
    Fresh,
    /// A log.
    Log,
}

/// Tells a log from a fresh directory and from one that is somebody else's.
pub(crate) fn classify(dir: &Path, entries: &[Entry]) -> Result<Contents> {
    if entries.iter().any(|entry| entry.name == META) {
        return Ok(Contents::Log);
    }
    // A probe that was killed leaves its scratch file where the kernel has no nameless ones.
    let named = [LOCK, META_TMP, METRICS, METRICS_TMP, "pool"];
    let ours = |name: &str| named.contains(&name) || is_scratch(name);
    if let Some(entry) = entries.iter().find(|entry| parse_name(&entry.name).is_some()) {
        let why = "a segment without a META: the log's own record is missing";
        return Err(Error::corrupt("open", &dir.join(&entry.name), 0, why));
    }
    if let Some(entry) = entries.iter().find(|entry| !ours(&entry.name)) {
        let why = "the directory is not empty and holds no log; name an empty one";
        let path = dir.join(&entry.name);
        return Err(Error::invalid("open", why).at(&path, None));
    }
    Ok(Contents::Fresh)
}
