//! Segments that are out of the log: used again, wiped or removed.
//!
//! Invariant: a file is used again only if the log was closed; META had its number and what it
//! promised before it left the log.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::segment::MAX_NUMBER;
use crate::io::{Disk, Entry, EntryKind};
use crate::options::WalConfig;
use crate::segment::{free_name, is_making, parse_free, pool_dir};

use super::super::maker::Retired;
use super::Plan;
use super::site::Site;

/// Makes the pool and empties it, but for the retired segments that can be used by who may `reuse`
/// them, and those that are to be wiped.
///
/// None can unless the log was closed: a directory sync may have failed before the crash, and then
/// the names seen here need not be those on the device. Writing a file that the device still knows
/// as a segment would break that segment; removing a name too many breaks nothing.
pub(super) fn ready_pool(site: Site<'_>, reuse: Option<&WalConfig>) -> Result<Vec<Retired>> {
    let pool = pool_dir(site.dir);
    let failed = |path: &Path, e| Error::io("open", path, None, e);
    site.disk.create_dir(&pool).map_err(|e| failed(&pool, e))?;
    let mut retired = Vec::new();
    let entries = site.disk.list(&pool).map_err(|e| failed(&pool, e))?;
    let mut spare = spare_numbers(&entries);
    // What is no file is nobody's segment, whatever its name.
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
        let path = pool.join(&entry.name);
        let (number, making) = (parse_free(&entry.name), is_making(&entry.name));
        let free = number.is_some();
        // With a greater number it is one that an earlier life found unfit and did not wipe yet.
        let fit = number.is_some_and(|number| number <= MAX_NUMBER);
        let reusable = fit
            && reuse.is_some_and(|config| {
                entry.size == config.segment_bytes && has_place(&retired, config)
            });
        if reusable || site.wipe && free {
            retired.push(Retired { path, reusable });
        } else if site.wipe && making {
            // It may be a copy of records; the number in its name is given again.
            let to = pool.join(free_name(spare.next().expect("fewer files than numbers")));
            site.disk.rename(&path, &to).map_err(|e| failed(&path, e))?;
            retired.push(Retired { path: to, reusable });
        } else if free || making {
            site.disk.unlink(&path).map_err(|e| failed(&path, e))?;
        }
    }
    sync_dirs(site)?;
    Ok(retired)
}

/// Numbers that no file in the pool has and no segment ever gets.
fn spare_numbers(entries: &[Entry]) -> impl Iterator<Item = u64> + use<'_> {
    let taken = |number: &u64| entries.iter().any(|e| parse_free(&e.name) == Some(*number));
    (MAX_NUMBER + 1..=u64::MAX).rev().filter(move |number| !taken(number))
}

/// The log is to be marked as closed with segments left that wait to be wiped. The next life takes
/// what it finds in the pool for fit to be used again then, but for those that have a number no
/// segment has: what was not fit in this life never will be.
pub(crate) fn set_apart(disk: &dyn Disk, dir: &Path, left: &[Retired]) -> Result<()> {
    let pool = pool_dir(dir);
    let unfit: Vec<&Path> = left.iter().filter(|l| !l.reusable).map(|l| &*l.path).collect();
    if unfit.is_empty() {
        return Ok(());
    }
    let failed = |path: &Path, e| Error::io("close", path, None, e);
    let entries = match disk.list(&pool) {
        // Somebody removed it, and so what was to be wiped.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| failed(&pool, e))?,
    };
    for (path, number) in unfit.into_iter().zip(spare_numbers(&entries)) {
        disk.rename(path, &pool.join(free_name(number))).map_err(|e| failed(path, e))?;
    }
    disk.sync_dir(&pool).map_err(|e| failed(&pool, e))
}

/// Whether one more is kept for use again.
fn has_place(retired: &[Retired], config: &WalConfig) -> bool {
    retired.iter().filter(|retired| retired.reusable).count() < config.pool_segments()
}

/// Makes the names in the log's directory and in the pool durable.
fn sync_dirs(site: Site<'_>) -> Result<()> {
    for dir in [site.dir, &pool_dir(site.dir)] {
        site.disk.sync_dir(dir).map_err(|e| Error::io("open", dir, None, e))?;
    }
    Ok(())
}

/// Takes segments that hold nothing of the log out of it, now that META has their number and what
/// they promised; adds those that can be used again, after a clean close only, as in `ready_pool`,
/// and those that are to be wiped.
pub(super) fn remove_spent(
    site: Site<'_>,
    plan: &Plan,
    config: &WalConfig,
    retired: &mut Vec<Retired>,
) -> Result<()> {
    let (first, recorded) = (plan.meta.meta.first_lsn, plan.meta.meta.durable_upto);
    for f in plan.found.iter().filter(|f| f.is_spent(recorded) || f.is_cut(first)) {
        let failed = |e| Error::io("retire segment", &f.file.path, None, e);
        let full = f.file.geometry.size == config.segment_bytes;
        let reusable = plan.meta.meta.clean && full && has_place(retired, config);
        if reusable || site.wipe {
            let path = pool_dir(site.dir).join(free_name(f.file.id.number));
            // After a power cut it may be in the pool as well: of two names of one file a rename
            // would keep both.
            if retired.iter().any(|other| other.path == path) {
                site.disk.unlink(&path).map_err(failed)?;
                retired.retain(|other| other.path != path);
            }
            site.disk.rename(&f.file.path, &path).map_err(failed)?;
            retired.push(Retired { path, reusable });
        } else {
            site.disk.unlink(&f.file.path).map_err(failed)?;
        }
    }
    sync_dirs(site)
}
