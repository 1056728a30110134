//! Making a segment that can be overwritten without allocating: content first, name last.
//!
//! ```text
//! pool/N.making: size -> zeros, 1 MiB at a time -> sync -+
//! pool/M.free (a retired segment) -----------------------+-> header -> sync
//!        -> rename to N.seg -> sync both directories -> the writer may use it
//! ```
//!
//! A crash at any point leaves either a file in the pool, which nobody believes, or a complete
//! segment. Called by recovery and by the maker in `wal`.

use std::io;
use std::path::Path;

use crate::bugs::{self, Bug};
use crate::cast::len;
use crate::error::{Error, Result};
use crate::format::segment::SegmentHeader;
use crate::format::{LogId, SegmentId};
use crate::io::{Access, Buf, Disk, FileRef, Flow};

use super::{Geometry, SegmentFile, file_name, pool_dir};

/// Bytes of zeros in one write.
const CHUNK: u64 = 1 << 20;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSegment<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) log_id: LogId,
    pub(crate) id: SegmentId,
    pub(crate) geometry: Geometry,
}

/// A segment that is ready for frames.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) segment: SegmentFile,
    pub(crate) file: FileRef,
}

/// Writes zeros over a file from `start` to its end and syncs it; `pace(at)` is awaited before each
/// chunk.
pub(crate) async fn fill_with_zeros<F>(
    flow: &Flow,
    file: &FileRef,
    geometry: Geometry,
    start: u64,
    mut pace: impl FnMut(u64) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let failed = |at, e| Error::io("make segment", file.path(), at, e);
    let mut chunk = Some(Buf::zeroed(len(CHUNK.min(geometry.size)), len(geometry.block)));
    let mut at = start;
    while at < geometry.size {
        pace(at).await?;
        let mut zeros = chunk.take().expect("put back after each write");
        zeros.set_len(len(CHUNK.min(geometry.size - at)));
        let step = zeros.len() as u64;
        chunk = Some(flow.write(file, at, zeros, false).await.map_err(|e| failed(Some(at), e))?);
        at += step;
    }
    flow.sync_all(file).await.map_err(|e| Error::sync("make segment", file.path(), None, e))
}

/// Gives a file of written blocks, `from` in the pool, its header and its name.
pub(crate) async fn install(
    flow: &Flow,
    new: NewSegment<'_>,
    file: &FileRef,
    from: &Path,
    zeroed: bool,
) -> Result<Made> {
    let header = SegmentHeader {
        log_id: new.log_id,
        id: new.id,
        size: new.geometry.size,
        block_size: u32::try_from(new.geometry.block).expect("a block is far below 4 GiB"),
        zeroed,
    };
    let image = header.encode();
    let mut block = Buf::zeroed(image.len(), len(new.geometry.block));
    block.bytes_mut().expect("just allocated").copy_from_slice(&image);
    let failed = |e| Error::io("make segment", from, Some(0), e);
    flow.write(file, 0, block, false).await.map_err(failed)?;
    if !bugs::on(Bug::NamedBeforeSynced) {
        flow.sync(file).await.map_err(|e| Error::sync("make segment", from, None, e))?;
    }
    let path = new.dir.join(file_name(new.id.number));
    let failed = |e| Error::io("name segment", &path, None, e);
    new.disk.rename(from, &path).map_err(failed)?;
    if !bugs::on(Bug::DirectorySyncMissing) {
        let unsynced = |e| Error::sync("name segment", &path, None, e);
        new.disk.sync_dir(new.dir).map_err(unsynced)?;
        sync_pool(new.disk, new.dir).map_err(unsynced)?;
    }
    // Opened anew, so that the file knows the name it has now.
    let file = new.disk.open(&path, Access::Write).map_err(failed)?;
    let segment = SegmentFile { id: new.id, geometry: new.geometry, path };
    Ok(Made { segment, file })
}

/// Makes the names in the pool of the log in `dir` durable. One that somebody removed has none.
pub(crate) fn sync_pool(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.sync_dir(&pool_dir(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}
