//! A little space in the pool, set aside while there is some: with it a tail can be copied when the
//! disk is full.
//!
//! Kept where `copy` may be needed, and taken by it alone; the next `open` sets another one aside.
//! A file that a checkpoint has by a second name is not ours to write: it is made again.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::{Access, FileRef};
use crate::segment::{Geometry, fill_with_zeros, making_name, pool_dir};

use super::site::Site;

/// Its name in the pool.
pub(crate) const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;

/// The reserve, if it is of the size that is needed; what it holds is of no use to anybody.
pub(super) fn take_reserve(site: Site<'_>, geometry: Geometry) -> Option<(FileRef, PathBuf)> {
    let path = pool_dir(site.dir).join(RESERVE);
    let file = (geometry.size == RESERVE_BYTES).then(|| open_alone(site, &path, Access::Write));
    file.flatten().map(|file| (file, path))
}

/// A file of zeros, synced, under a name that nobody believes; none is left after an error.
pub(super) async fn blank_file(site: Site<'_>, path: &Path, geometry: Geometry) -> Result<FileRef> {
    let file = site.disk.create(path, geometry.size);
    let file = file.map_err(|e| Error::io("recover: copy the tail", path, None, e))?;
    let filled =
        fill_with_zeros(site.flow, &file, geometry, 0, |_| std::future::ready(Ok(()))).await;
    if filled.is_err() {
        site.flow.release(&file);
        if let Err(error) = site.disk.unlink(path) {
            tracing::warn!(%error, path = %path.display(), "a copy that failed was not removed");
        }
    }
    filled.map(|()| file)
}

/// A file that no checkpoint has by a second name.
fn open_alone(site: Site<'_>, path: &Path, access: Access) -> Option<FileRef> {
    let file = site.disk.open(path, access).ok()?;
    file.links().is_ok_and(|names| names == 1).then_some(file)
}

/// Sets a little space aside, so that a tail can be copied when the disk is full. Without it a log
/// on a full disk of this kind opens only after space was made. An error is a failed sync alone.
pub(super) async fn keep_reserve(site: Site<'_>) -> Result<()> {
    let pool = pool_dir(site.dir);
    let (path, making) = (pool.join(RESERVE), pool.join(making_name(0)));
    if open_alone(site, &path, Access::Cached).is_some() {
        return Ok(());
    }
    let block = site.disk.block_size() as u64;
    let geometry = Geometry { size: RESERVE_BYTES, block };
    let made = async {
        let file = blank_file(site, &making, geometry).await?;
        site.flow.release(&file);
        let what = "set a reserve aside";
        site.disk.rename(&making, &path).map_err(|e| Error::io(what, &path, None, e))?;
        site.disk.sync_dir(&pool).map_err(|e| Error::sync(what, &pool, None, e))
    };
    match made.await {
        Err(error) if error.is_failed_sync() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no reserve for recovery on a full disk");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
