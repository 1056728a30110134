//! The simulated disk as the engine sees it: names, open files, the lock, space.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faults::{Failure, Faults};
use super::image::BLOCK;
use super::inode::Inode;
use super::met::FaultClass;
use super::names::clean;
use super::queue::SimQueue;
use super::request::unaligned;
use super::state::{Shared, State, eio};
use crate::io::{Access, Buf, Disk, Entry, EntryKind, File, FileRef, LockGuard, Queue};

/// A disk in memory, as one life of a world sees it.
pub(super) struct SimDisk {
    shared: Arc<Shared>,
    life: u64,
}

impl SimDisk {
    pub(super) fn new(shared: &Arc<Shared>, life: u64) -> SimDisk {
        SimDisk { shared: Arc::clone(shared), life }
    }

    fn file(&self, state: &State, path: &Path, inode: u64, access: Access) -> FileRef {
        Arc::new(SimFile {
            shared: Arc::clone(&self.shared),
            life: self.life,
            path: path.into(),
            inode,
            access,
            open: Arc::clone(&state.inodes[&inode].open),
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<FileRef> {
        let mut state = self.shared.lock();
        state.call(self.life, "open")?;
        let inode = state.names.get(path)?;
        Ok(self.file(&state, path, inode, access))
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<FileRef> {
        let mut state = self.shared.lock();
        let inode = state.change(self.life, "create", |state| {
            if state.names.find(path)?.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.refuse_creation(size)?;
            let inode = state.add_inode(Inode::new(size));
            state.names.link(path, inode)?;
            Ok(inode)
        })?;
        Ok(self.file(&state, path, inode, Access::Write))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        let path = clean(path);
        let missing: Vec<&Path> = path.ancestors().take_while(|p| !state.names.is_dir(p)).collect();
        state.call(self.life, "create_dir")?;
        // One operation each, so that a crash can come between a parent and its child.
        for dir in missing.into_iter().rev() {
            state.call(self.life, "create_dir")?;
            state.names.add_dir(dir)?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.change(self.life, "rename", |state| {
            state.names.rename(from, to)?;
            state.collect();
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.change(self.life, "unlink", |state| {
            state.names.unlink(path)?;
            state.collect();
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.shared.lock();
        state.call(self.life, "list")?;
        let entry = |(name, inode): (String, Option<u64>)| match inode {
            Some(inode) => Entry { name, kind: EntryKind::File, size: state.inodes[&inode].size },
            None => Entry { name, kind: EntryKind::Directory, size: 0 },
        };
        Ok(state.names.list(dir)?.into_iter().map(entry).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let how = state.faults.fail_as;
        let failing = state.tick(self.life)? && !how.is_passing();
        if failing && how.did_nothing() {
            state.met.note(FaultClass::of(how));
            return Err(how.error("sync_dir"));
        }
        if failing || state.rng.chance(state.faults.sync_eio) {
            state.met.note(FaultClass::SyncFailed);
            state.names.fail_sync(dir, &mut state.rng)?;
            return Err(if failing { how.error("sync_dir") } else { eio("sync_dir") });
        }
        state.names.sync(dir)?;
        state.note(&[]);
        state.collect();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let mut state = self.shared.lock();
        state.call(self.life, "lock")?;
        if state.locks.contains(&clean(path)) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "held by process 1"));
        }
        if state.names.find(path)?.is_none() {
            let inode = state.add_inode(Inode::with(b"1\n"));
            state.names.link(path, inode)?;
        }
        state.locks.insert(clean(path));
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimLock { shared, life: self.life, path: clean(path) }))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.shared.lock();
        state.call(self.life, "is_locked")?;
        Ok(state.locks.contains(&clean(path)))
    }

    fn space(&self, dir: &Path) -> io::Result<u64> {
        let mut state = self.shared.lock();
        state.call(self.life, "space")?;
        if !state.names.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.space())
    }

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn direct(&self) -> bool {
        self.shared.lock().model.direct
    }

    fn queue(&self, depth: usize, _register: &[Buf]) -> io::Result<Box<dyn Queue>> {
        self.shared.lock().alive(self.life)?;
        Ok(Box::new(SimQueue::new(&self.shared, self.life, depth)))
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

impl State {
    /// Fails where there is no room for a file of `size`, or as if there were none.
    fn refuse_creation(&mut self, size: u64) -> io::Result<()> {
        let refused = self.draw_refusal(size);
        self.met.note_if(FaultClass::NoSpace, refused.is_err());
        refused
    }

    fn draw_refusal(&mut self, size: u64) -> io::Result<()> {
        let Faults { enospc, edquot, efbig, .. } = self.faults;
        if size > self.space() || self.rng.chance(enospc) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.rng.chance(edquot) {
            return Err(Failure::Quota.error("create"));
        }
        if self.rng.chance(efbig) {
            return Err(Failure::TooLarge.error("create"));
        }
        Ok(())
    }
}

/// An open file of a simulated disk.
pub(super) struct SimFile {
    shared: Arc<Shared>,
    life: u64,
    path: PathBuf,
    inode: u64,
    access: Access,
    open: Arc<()>,
}

impl SimFile {
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// What keeps the file while a request is under way.
    pub(super) fn token(&self) -> Arc<()> {
        Arc::clone(&self.open)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({}, {:?})", self.path.display(), self.access)
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.shared.lock();
        state.alive(self.life)?;
        Ok(state.inodes[&self.inode].size)
    }

    fn links(&self) -> io::Result<u64> {
        let mut state = self.shared.lock();
        state.alive(self.life)?;
        Ok(state.names.links(self.inode))
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        state.call(self.life, "read_at")?;
        let place = at.is_multiple_of(BLOCK as u64) && buf.len().is_multiple_of(BLOCK);
        let aligned = place && buf.as_ptr().align_offset(BLOCK) == 0;
        if self.access != Access::Cached && !aligned {
            return Err(unaligned());
        }
        let rate = state.faults.read_eio;
        if state.rng.chance(rate) {
            return Err(eio("read_at"));
        }
        let past_cache = state.model.reads_past_cache(self.access);
        let len = state.inodes[&self.inode].read(at, buf, past_cache);
        state.spoil(self.inode, at, &mut buf[..len]);
        Ok(len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The lock while it is held.
struct SimLock {
    shared: Arc<Shared>,
    life: u64,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}
