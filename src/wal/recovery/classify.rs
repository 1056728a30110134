//! Whose a directory is: a log's, nobody's yet, or somebody else's.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io::{Entry, EntryKind, is_scratch};
use crate::segment::{POOL, parse_name};

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
    // Files in the pool are removed and overwritten: a link would lead to somebody else's.
    let pool = entries.iter().find(|entry| entry.name == POOL);
    if pool.is_some_and(|pool| pool.kind != EntryKind::Directory) {
        let why = "this is no directory; remove it, it is made anew";
        return Err(Error::invalid("open", why).at(&dir.join(POOL), None));
    }
    if entries.iter().any(|entry| entry.name == META) {
        return Ok(Contents::Log);
    }
    // A probe that was killed leaves its scratch file where the kernel has no nameless ones.
    let named = [LOCK, META_TMP, METRICS, METRICS_TMP, POOL];
    let ours = |name: &str| named.contains(&name) || is_scratch(name);
    if let Some(entry) = entries.iter().find(|entry| parse_name(&entry.name).is_some()) {
        let name = &entry.name;
        let why = format!(
            "it is missing, and {name} is there, of which without it nothing is read: restore it \
             from a copy, or have a repair rebuild it from the segments"
        );
        return Err(Error::corrupt("open", &dir.join(META), 0, why));
    }
    if let Some(entry) = entries.iter().find(|entry| !ours(&entry.name)) {
        let name = &entry.name;
        let why = format!("the directory holds no log, but `{name}`; name an empty one");
        return Err(Error::invalid("open", why).at(dir, None));
    }
    Ok(Contents::Fresh)
}
