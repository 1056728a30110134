//! The file META: what the log knows about itself, in two slots.
//!
//! An update writes and syncs one slot, then the other, and counts only after both: whichever
//! write a crash tears, the other slot holds a whole state, old or new. What is read of the slot
//! that was being written need not be on the device, so the next update begins with that one.
//!
//! Called by recovery (open) and by the maker (truncation, close); never by two at a time.

use std::io;
use std::path::{Path, PathBuf};

use crate::bugs::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Bad;
use crate::format::meta::{META_SLOT_BYTES, Meta, choose};
use crate::io::{Access, Buf, Disk, FileRef, Flow};

/// The name of the file in the log's directory.
pub(crate) const META: &str = "META";
/// Its name until it is complete.
pub(crate) const META_TMP: &str = "META.tmp";

/// The sequence of a state that `create` wrote.
pub(crate) const UNCHANGED: u64 = 1;

/// The open file and its content.
#[derive(Debug)]
pub(crate) struct MetaFile {
    file: FileRef,
    path: PathBuf,
    meta: Meta,
    /// The slot to write first: the device holds the other one for certain.
    first: usize,
}

/// META as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) meta: Meta,
    /// Which slot is damaged: how many bytes into the file it starts.
    pub(crate) bad_slot: Option<u64>,
    /// The slot that the device may not hold as it was read.
    weak_slot: usize,
    /// Whether both slots hold it: an update that was cut short may not be durable.
    pub(crate) whole: bool,
}

impl Loaded {
    /// A state that no file holds yet.
    pub(crate) fn made(meta: Meta) -> Loaded {
        Loaded { meta, bad_slot: None, weak_slot: 0, whole: false }
    }
}

/// Reads META of the log in `dir`; none if there is no such file.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Loaded>> {
    let path = dir.join(META);
    let failed = |e| Error::io("read META", &path, None, e);
    let file = match disk.open(&path, Access::Direct) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut slots = Buf::zeroed(2 * META_SLOT_BYTES, disk.block_size());
    let bytes = slots.bytes_mut().expect("just allocated");
    let mut done = 0;
    while done < bytes.len() {
        // A file that is too short is two slots with a bad end; the other slot may serve.
        match file.read_at(done as u64, &mut bytes[done..]).map_err(failed)? {
            0 => break,
            n => done += n,
        }
    }
    let (a, b) = slots.bytes().split_at(META_SLOT_BYTES);
    match choose(a, b) {
        Ok((meta, bad)) => {
            let bad_slot = bad.map(|slot| (slot * META_SLOT_BYTES) as u64);
            let [holds_a, holds_b] = [a, b].map(|slot| Meta::decode(slot).as_ref() == Ok(&meta));
            let whole = holds_a && holds_b;
            let weak_slot = match bad {
                Some(bad) => bad,
                None if whole => 1 - first_slot(meta.sequence),
                None if bugs::on(Bug::OlderMetaSlotFirst) => usize::from(holds_a),
                // Nobody was answered for the newer state; the older one is durable.
                None => usize::from(holds_b),
            };
            Ok(Some(Loaded { meta, bad_slot, weak_slot, whole }))
        }
        Err(why @ Bad::Version(_)) => {
            Err(Error::new(ErrorKind::Unsupported, "open", why.to_string()).at(&path, Some(0)))
        }
        Err(why) => Err(Error::corrupt("open", &path, 0, format!("both slots are bad: {why}"))),
    }
}

impl MetaFile {
    /// Makes META of a fresh log.
    pub(crate) async fn create(
        flow: &Flow,
        disk: &dyn Disk,
        dir: &Path,
        meta: Meta,
    ) -> Result<MetaFile> {
        let made = MetaFile::make(flow, disk, dir, meta).await;
        if made.is_err()
            && let Err(error) = disk.unlink(&dir.join(META))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a META whose name may not be durable could not be removed");
        }
        made
    }

    /// Makes META, complete under another name first.
    async fn make(flow: &Flow, disk: &dyn Disk, dir: &Path, meta: Meta) -> Result<MetaFile> {
        prepare(flow, disk, dir, &meta).await?;
        MetaFile::name(disk, dir, meta)
    }

    /// Gives what `prepare` made its name.
    fn name(disk: &dyn Disk, dir: &Path, meta: Meta) -> Result<MetaFile> {
        let (tmp, path) = (dir.join(META_TMP), dir.join(META));
        let failed = |e| Error::io("create META", &path, None, e);
        disk.rename(&tmp, &path).map_err(failed)?;
        // If this fails the device may never learn the name, and the next sync would not say so: a
        // log that was built on what the cache shows would be without META after a power cut.
        disk.sync_dir(dir).map_err(failed)?;
        let file = disk.open(&path, Access::Write).map_err(failed)?;
        let first = 1 - first_slot(meta.sequence);
        Ok(MetaFile { file, path, meta, first })
    }

    /// Opens META of a log that is to be written. One that was never changed is made again first:
    /// its name may not have become durable when it was made. Where there is no space for that it
    /// is taken as it is: a full disk is no reason to keep a log shut. One that has a second name
    /// is made again or the log stays shut: a checkpoint has it as well.
    pub(crate) async fn take_over(
        flow: &Flow,
        disk: &dyn Disk,
        dir: &Path,
        loaded: &Loaded,
    ) -> Result<MetaFile> {
        let opened = MetaFile::open(disk, dir, loaded)?;
        let names =
            opened.file.links().map_err(|e| Error::io("open META", &opened.path, None, e))?;
        let shared = names > 1 && !bugs::on(Bug::LinkedFileReused);
        if loaded.meta.sequence != UNCHANGED && !shared {
            return Ok(opened);
        }
        match prepare(flow, disk, dir, &loaded.meta).await {
            Err(error) if no_space(&error) && !shared => {
                tracing::warn!(%error, "META was not made again");
                // That takes no space.
                disk.sync_dir(dir).map_err(|e| Error::io("open", dir, None, e))?;
                Ok(opened)
            }
            Err(error) => Err(error),
            Ok(()) => MetaFile::name(disk, dir, loaded.meta.clone()),
        }
    }

    /// Opens META for updates.
    fn open(disk: &dyn Disk, dir: &Path, loaded: &Loaded) -> Result<MetaFile> {
        let path = dir.join(META);
        let file =
            disk.open(&path, Access::Write).map_err(|e| Error::io("open META", &path, None, e))?;
        Ok(MetaFile { file, path, meta: loaded.meta.clone(), first: loaded.weak_slot })
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Changes META durably. After an error the file holds the old state or the new one.
    pub(crate) async fn update(
        &mut self,
        flow: &Flow,
        disk: &dyn Disk,
        change: impl FnOnce(&mut Meta),
    ) -> Result<()> {
        let mut meta = self.meta.clone();
        change(&mut meta);
        meta.sequence += if first_slot(meta.sequence + 1) == self.first { 1 } else { 2 };
        let mut image = slot(&meta, disk.block_size())?;
        for slot in [self.first, 1 - self.first] {
            let at = (slot * META_SLOT_BYTES) as u64;
            let failed = |e| Error::io("update META", &self.path, Some(at), e);
            let forced = !bugs::on(Bug::MetaUnsynced);
            image = flow.write(&self.file, at, image, forced).await.map_err(failed)?;
            if bugs::on(Bug::MetaInOneSlot) {
                self.meta = meta;
                return Ok(());
            }
        }
        self.first = 1 - self.first;
        self.meta = meta;
        Ok(())
    }
}

/// Makes META.tmp, durable but for its name; nothing is left of one that could not be finished.
async fn prepare(flow: &Flow, disk: &dyn Disk, dir: &Path, meta: &Meta) -> Result<()> {
    let (tmp, path) = (dir.join(META_TMP), dir.join(META));
    let failed = |e| Error::io("create META", &path, None, e);
    remove_tmp(disk, &tmp).map_err(|e| Error::io("create META", &tmp, None, e))?;
    let image = slot(meta, disk.block_size())?;
    let made = match disk.create(&tmp, 2 * META_SLOT_BYTES as u64) {
        Ok(file) => {
            let written = write_slots(flow, &file, image).await;
            flow.release(&file);
            written
        }
        Err(e) => Err(e),
    };
    if made.is_err()
        && let Err(error) = remove_tmp(disk, &tmp)
    {
        tracing::warn!(%error, "a META.tmp that was not finished could not be removed");
    }
    made.map_err(failed)
}

/// Writes both slots, durably.
async fn write_slots(flow: &Flow, file: &FileRef, image: Buf) -> io::Result<()> {
    let image = flow.write(file, 0, image, false).await?;
    flow.write(file, META_SLOT_BYTES as u64, image, false).await?;
    flow.sync(file).await
}

/// Removes what an earlier attempt left.
fn remove_tmp(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.unlink(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Whether a file could not be made for want of space, or of the right to make one that large.
fn no_space(error: &Error) -> bool {
    error.kind() == ErrorKind::StorageFull || error.io_kind() == Some(io::ErrorKind::FileTooLarge)
}

/// The slot that the update with this number writes first.
fn first_slot(sequence: u64) -> usize {
    usize::from(sequence % 2 == 1)
}

fn slot(meta: &Meta, block: usize) -> Result<Buf> {
    let image = meta
        .encode()
        .map_err(|why| Error::invalid("update META", format!("it does not fit: {why}")))?;
    let mut buf = Buf::zeroed(image.len(), block);
    buf.bytes_mut().expect("just allocated").copy_from_slice(&image);
    Ok(buf)
}
