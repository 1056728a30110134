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
use crate::io::os::{Way, nearest_directory, scratch, sync_to_device};

const BYTES: [u8; 4096] = [0x5a; 4096];

/// Maps a scratch file in `dir`, or in its nearest parent that exists.
pub(super) fn attempt(dir: &Path) -> Result<Tried> {
    let failed = |e| Error::io("probe", dir, None, e);
    let file = nearest_directory(dir).and_then(|dir| scratch(&dir));
    let tried = file.and_then(|file| {
        file.set_len(BYTES.len() as u64)?;
        round_trip(&file)
    });
    match tried {
        Ok(true) => Ok(Ok(Way::Mmap)),
        Ok(false) => Err(failed(io::Error::other("what was stored was not read back"))),
        Err(e) if is_full(&e) => Ok(Ok(Way::Mmap)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENODEV | libc::EACCES | libc::EPERM | libc::ENOSYS | libc::EINVAL) => {
                let remedy =
                    format!("put the log on a file system whose files can be mapped ({e})");
                Ok(Err(Refusal::new(BackendReason::Filesystem, remedy)))
            }
            _ => Err(failed(e)),
        },
    }
}

fn round_trip(file: &fs::File) -> io::Result<bool> {
    let counter = Counter::default();
    // None: this file system's files are written by position, which needs no trial.
    let Some(mapping) = Mapping::of(file, &counter)? else { return Ok(true) };
    if !mapping.store(0, &BYTES, &counter) {
        file.write_all_at(&BYTES, 0)?;
    }
    mapping.flush(&counter)?;
    sync_to_device(file)?;
    let mut read = [0; BYTES.len()];
    file.read_exact_at(&mut read, 0)?;
    Ok(read == BYTES)
}
