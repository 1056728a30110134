//! The one file that raw loops write to: pre-written, so that a write moves data only.
//!
//! ```text
//! | place 0 | place 1 | ... | place n-1 |   a write to place p in lap l has l * n + p in its first
//!    size of the file / size of a write     eight bytes; the rest is noise
//! ```
//!
//! Invariants: places do not overlap, and a file has at least twice as many as writes may be in
//! flight. The stamps let a test count in the file what a loop says that it wrote.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BLOCK, Load, Method, noise};

const FILL: usize = 1 << 20;

/// A pre-written file; whoever made its folder removes it.
#[derive(Debug)]
pub struct RawFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    direct: bool,
}

impl RawFile {
    /// Makes `path` with `bytes` of noise, a multiple of 1 MiB, past the page cache if `direct`
    /// and the file system takes it.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(path: &Path, bytes: u64, direct: bool) -> io::Result<RawFile> {
        OpenOptions::new().write(true).create_new(true).open(path)?.set_len(bytes)?;
        let noise = Aligned::noise(FILL);
        // Filled the way it will be written: cached pages would slow the direct writes down.
        let direct = direct && takes_direct(path, &noise);
        let file = open(path, direct, Method::Unsynced)?;
        for at in (0..bytes / FILL as u64).map(|n| n * FILL as u64) {
            file.write_all_at(noise.bytes(), at)?;
        }
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(RawFile { path: path.to_path_buf(), file, bytes, direct })
    }

    /// Whether it is written past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes durable what was written without a sync.
    ///
    /// # Errors
    /// The system's error.
    pub fn settle(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The open file, without O_DSYNC.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// A description of its own, on which a write by `method` is one call.
    pub(super) fn open_for(&self, method: Method) -> io::Result<File> {
        open(&self.path, self.direct, method)
    }

    /// Refuses a load that would overlap itself or is no multiple of a block.
    pub(super) fn check(&self, load: Load) -> io::Result<()> {
        let enough = 2 * load.depth as u64 * load.write_bytes as u64 <= self.bytes;
        let whole = load.write_bytes > 0 && load.write_bytes.is_multiple_of(BLOCK);
        if enough && whole && (1..=32).contains(&load.depth) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{load:?} in {self:?}")))
    }

    /// How many writes of this size fit beside each other.
    pub(super) fn places(&self, write_bytes: usize) -> u64 {
        self.bytes / write_bytes as u64
    }
}

/// Whether a direct write to `path` comes back whole.
fn takes_direct(path: &Path, noise: &Aligned) -> bool {
    let block = &noise.bytes()[..BLOCK];
    let written = open(path, true, Method::Unsynced).and_then(|file| file.write_at(block, 0));
    cfg!(target_os = "linux") && matches!(written, Ok(BLOCK))
}

fn open(path: &Path, direct: bool, method: Method) -> io::Result<File> {
    use nix::libc;
    let mut flags = if method == Method::Dsync { libc::O_DSYNC } else { 0 };
    #[cfg(target_os = "linux")]
    if direct {
        flags |= libc::O_DIRECT;
    }
    #[cfg(not(target_os = "linux"))]
    debug_assert!(!direct, "only Linux has O_DIRECT");
    flags |= libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Memory that starts at a multiple of [`BLOCK`].
#[derive(Debug)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn zeroed(len: usize) -> Aligned {
        let memory = vec![0; len + BLOCK];
        // A Vec never moves what it holds, so what is aligned now stays so.
        let start = memory.as_ptr().align_offset(BLOCK);
        assert!(start <= BLOCK, "bytes can be aligned to {BLOCK}");
        Aligned { memory, start, len }
    }

    pub(super) fn noise(len: usize) -> Aligned {
        let mut aligned = Aligned::zeroed(len);
        noise(aligned.bytes_mut());
        aligned
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Marks the bytes as those of one write.
    pub(super) fn stamp(&mut self, stamp: u64) {
        self.bytes_mut()[..8].copy_from_slice(&stamp.to_le_bytes());
    }
}
