//! A trial of mapped files: one block stored, synced, read back by a descriptor.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;

use super::refusal::Refusal;
use super::{BackendReason, Tried, is_full};
use crate::error::{Error, Result};
use crate::io::calls::Counter;
use crate::io::mmap::Mapping;
use crate::io::os::{
    Volume, Way, nearest_directory, scratch, sync_to_device, uninterrupted, write_whole,
};

const BEFORE: [u8; 4096] = [0xa5; 4096];
const AFTER: [u8; 4096] = [0x5a; 4096];

/// Maps a scratch file in `dir`, or in its nearest parent that exists.
pub(super) fn attempt(dir: &Path, volume: &Volume) -> Result<Tried> {
    let refuse = |why: &str| {
        let remedy = format!("put the log on a file system whose files can be mapped ({why})");
        Ok(Err(Refusal::new(BackendReason::Filesystem, remedy)))
    };
    if volume.copies_on_write {
        return refuse("on one that copies on write a full disk would kill the process");
    }
    let file = nearest_directory(dir).and_then(|dir| scratch(&dir));
    match file.and_then(|file| round_trip(&file)) {
        Ok(true) => Ok(Ok(Way::Mmap)),
        Ok(false) => refuse("a store could not be made safe, or was not read back"),
        Err(e) if is_full(&e) => Ok(Ok(Way::Mmap)),
        // No address space for this one: such files are written by position.
        Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => Ok(Ok(Way::Mmap)),
        Err(e) => match e.raw_os_error() {
            Some(libc::EIO | libc::EMFILE | libc::ENFILE) => Err(Error::io("probe", dir, None, e)),
            _ => refuse(&e.to_string()),
        },
    }
}

fn round_trip(file: &fs::File) -> io::Result<bool> {
    let counter = Counter::default();
    write_whole(file, &BEFORE, 0)?;
    sync_to_device(file)?;
    let stored = match Mapping::of(file, &counter)? {
        None => false,
        Some(mapping) => {
            let stored = mapping.store(0, &AFTER, &counter);
            mapping.flush(&counter)?;
            stored
        }
    };
    sync_to_device(file)?;
    let mut read = [0; AFTER.len()];
    uninterrupted(|| file.read_at(&mut read, 0))?;
    Ok(stored && read == AFTER)
}
