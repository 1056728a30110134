//! What a log takes on disk, by the sizes of its files. What else lies in its directory is
//! somebody else's, and counts for nothing.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::io::Disk;
use crate::segment::{is_making, parse_free, parse_name, pool_dir};

use super::meta::{META, META_TMP};
use super::metrics::file::{METRICS, METRICS_TMP};
use super::recovery::{LOCK, RESERVE};

/// Bytes of segments, META, METRICS and the pool of the log in `dir`.
pub(super) fn disk_use(disk: &dyn Disk, dir: &Path) -> Result<u64> {
    let named = [META, META_TMP, METRICS, METRICS_TMP, LOCK];
    let in_log = |name: &str| named.contains(&name) || parse_name(name).is_some();
    let in_pool = |name: &str| name == RESERVE || is_making(name) || parse_free(name).is_some();
    Ok(size(disk, dir, in_log)? + size(disk, &pool_dir(dir), in_pool)?)
}

fn size(disk: &dyn Disk, dir: &Path, ours: impl Fn(&str) -> bool) -> Result<u64> {
    match disk.list(dir) {
        Ok(entries) => Ok(entries.iter().filter(|e| ours(&e.name)).map(|e| e.size).sum()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io("look at the log's size", dir, None, e)),
    }
}
