//! What a log takes on disk, by the sizes of its files. What else lies in its directory is
//! somebody else's, and counts for nothing.
//!
//! A retired segment moves from the log's directory to its pool, a used one back. Who counts beside
//! a writer would see it in both or in neither, so the directory is read before and after the pool,
//! until nothing has moved.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::io::{Disk, Entry};
use crate::segment::{is_making, parse_free, parse_name, pool_dir};

use super::meta::{META, META_TMP};
use super::metrics::file::{METRICS, METRICS_TMP};
use super::recovery::{LOCK, RESERVE};

/// Looks after which the last one counts, moved or not.
const LOOKS: usize = 10;

/// Bytes of segments, META, METRICS and the pool of the log in `dir`.
pub(super) fn disk_use(disk: &dyn Disk, dir: &Path) -> Result<u64> {
    let named = [META, META_TMP, METRICS, METRICS_TMP, LOCK];
    let in_log = |name: &str| named.contains(&name) || parse_name(name).is_some();
    let in_pool = |name: &str| name == RESERVE || is_making(name) || parse_free(name).is_some();
    let pool = pool_dir(dir);
    settled(|| list(disk, dir, in_log), || list(disk, &pool, in_pool))
}

/// The bytes in both directories at a moment when nothing moved between them.
fn settled(
    mut log: impl FnMut() -> Result<Vec<Entry>>,
    mut pool: impl FnMut() -> Result<Vec<Entry>>,
) -> Result<u64> {
    let mut before = log()?;
    let mut pooled = pool()?;
    for _ in 1..LOOKS {
        let after = log()?;
        if before == after {
            break;
        }
        before = after;
        pooled = pool()?;
    }
    Ok(before.iter().chain(&pooled).map(|entry| entry.size).sum())
}

fn list(disk: &dyn Disk, dir: &Path, ours: impl Fn(&str) -> bool) -> Result<Vec<Entry>> {
    match disk.list(dir) {
        Ok(entries) => Ok(entries.into_iter().filter(|e| ours(&e.name)).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("look at the log's size", dir, None, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::EntryKind;

    fn files(names: &[&str]) -> Result<Vec<Entry>> {
        let entry = |name: &&str| Entry { name: name.to_string(), kind: EntryKind::File, size: 1 };
        Ok(names.iter().map(entry).collect())
    }

    #[test]
    fn a_segment_that_moves_under_the_look_counts_once() {
        let mut log = [["1", "2"].as_slice(), &["2"], &["2"]].into_iter();
        let retired = settled(|| files(log.next().unwrap()), || files(&["free"]));
        assert_eq!(retired.unwrap(), 2);
        let mut log = [["2"].as_slice(), &["2", "3"], &["2", "3"]].into_iter();
        let used = settled(|| files(log.next().unwrap()), || files(&[]));
        assert_eq!(used.unwrap(), 2);
    }

    #[test]
    fn a_log_that_never_rests_is_counted_all_the_same() {
        let mut number = 0;
        let restless = || {
            number += 1;
            files(&[&number.to_string()])
        };
        assert_eq!(settled(restless, || files(&["free"])).unwrap(), 2);
    }
}
