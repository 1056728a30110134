//! The file system that fails as it is told: requests of the kernel on a tree in memory.
//!
//! ```text
//! log -> kernel --FUSE--> Files: is it the n-th write, sync or read? --no--> Tree
//! test --- a line ------> Desk --arms--> Fault ----------------------yes--> errno, short, late
//! ```
//!
//! Files are opened as the kernel likes it, but where short counts are asked for: O_DIRECT goes
//! past its page cache, all else through it; mapped pages come as writes when they are synced.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use crate::fuse::{self, Service};
use crate::support::Random;
use crate::tree::{Content, Node, Tree};

const NO_TIME: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;

/// Which requests fail, and how.
struct Fault {
    what: What,
    how: How,
    /// Only of files whose names end so.
    suffix: String,
    /// So many more are let through.
    after: u64,
    sticky: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Write,
    Sync,
    Read,
}

#[derive(Clone, Copy)]
enum How {
    Errno(i32),
    /// Less than asked is written.
    Short,
    /// It takes so long, microseconds at most.
    Late(u64),
}

struct State {
    tree: Tree,
    fault: Option<Fault>,
    fired: u64,
    /// The files that it struck.
    struck: BTreeSet<OsString>,
    /// Files whose sync lost something since it was armed, and how many more syncs of those came.
    lost: BTreeSet<u64>,
    again: u64,
    random: Random,
}

#[derive(Clone)]
struct Files {
    state: Arc<Mutex<State>>,
    /// No file goes through the kernel's page cache, unless it is mapped, and the kernel waits for
    /// each request: what it takes for a short count to reach the caller.
    is_direct: bool,
}

impl State {
    /// What is to happen to a request for a file.
    fn strike(&mut self, what: What, file: u64) -> Option<How> {
        let node = self.tree.node(file);
        let name = node.name.as_encoded_bytes();
        let fault = self.fault.as_mut()?;
        if fault.what != what || !name.ends_with(fault.suffix.as_bytes()) {
            return None;
        }
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        self.fired += 1;
        self.struck.insert(match node.content {
            Content::Directory(_) => "/".into(),
            Content::File { .. } => node.name.clone(),
        });
        let how = fault.how;
        if !fault.sticky {
            self.fault = None;
        }
        Some(match how {
            How::Late(most) => How::Late(self.random.below(most)),
            other => other,
        })
    }

    fn attributes(&self, number: u64) -> FileAttr {
        let node = self.tree.node(number);
        let (kind, time) = (kind(node), SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: INodeNo(number),
            size: node.size(),
            blocks: node.size().div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: node.mode,
            nlink: node.links,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }
}

fn kind(node: &Node) -> FileType {
    match node.content {
        Content::Directory(_) => FileType::Directory,
        Content::File { .. } => FileType::RegularFile,
    }
}

/// Whether a failure of a sync with it says that pages are lost, not that it did not begin.
fn loses(errno: i32) -> bool {
    !matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED)
}

impl Files {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the server panicked before")
    }

    /// Meets the fault if it is armed for this; an errno if the request fails.
    fn meet(&self, what: What, file: INodeNo) -> Option<How> {
        let how = self.state().strike(what, file.0);
        if let Some(How::Late(micros)) = how {
            std::thread::sleep(Duration::from_micros(micros));
            return None;
        }
        how
    }

    fn sync(&self, file: INodeNo, reply: ReplyEmpty) {
        let how = self.meet(What::Sync, file);
        let mut state = self.state();
        let State { tree, random, lost, again, .. } = &mut *state;
        *again += u64::from(lost.contains(&file.0));
        match how {
            Some(How::Errno(errno)) => {
                if loses(errno) {
                    tree.node_mut(file.0).fail_sync(random);
                    lost.insert(file.0);
                }
                drop(state);
                reply.error(Errno::from_i32(errno));
            }
            _ => {
                tree.node_mut(file.0).sync();
                drop(state);
                reply.ok();
            }
        }
    }

    fn open_flags(&self) -> FopenFlags {
        match self.is_direct {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => FopenFlags::empty(),
        }
    }

    fn add(&self, parent: INodeNo, name: &OsStr, mode: u32, is_directory: bool) -> FileAttr {
        let mut state = self.state();
        let mode = u16::try_from(mode & 0o7777).expect("twelve bits");
        let number = state.tree.add(parent.0, name, mode, is_directory);
        state.attributes(number)
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let missing = |flags| std::io::Error::other(format!("this kernel lacks {flags:?}"));
        config
            .add_capabilities(match self.is_direct {
                true => InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
                false => InitFlags::FUSE_ASYNC_DIO,
            })
            .map_err(missing)
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state.tree.find(parent.0, name) {
            Some(number) => reply.entry(&NO_TIME, &state.attributes(number), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _: &Request, file: INodeNo, _: u64) {
        self.state().tree.forget(file.0);
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NO_TIME, &self.state().attributes(file.0));
    }

    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let node = state.tree.node_mut(file.0);
        if let Some(size) = size {
            node.set_size(usize::try_from(size).expect("small"));
        }
        if let Some(mode) = mode {
            node.mode = u16::try_from(mode & 0o7777).expect("twelve bits");
        }
        reply.attr(&NO_TIME, &state.attributes(file.0));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        reply.entry(&NO_TIME, &self.add(parent, name, mode, true), Generation(0));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attributes = self.add(parent, name, mode, false);
        let flags = self.open_flags();
        reply.created(&NO_TIME, &attributes, Generation(0), FileHandle(0), flags);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), self.open_flags());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.state().tree.remove(parent.0, name) {
            true => reply.ok(),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match self.state().tree.rename((parent.0, name), (to.0, new)) {
            true => reply.ok(),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        at: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(How::Errno(errno)) = self.meet(What::Read, file) {
            return reply.error(Errno::from_i32(errno));
        }
        let state = self.state();
        let (at, length) = (usize::try_from(at).unwrap(), usize::try_from(length).unwrap());
        let data = state.tree.node(file.0).read(at, length);
        drop(state);
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        kind: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = self.meet(What::Write, file);
        // Pages of a mapping are written whole: another count is against the protocol.
        let is_page = kind.contains(WriteFlags::FUSE_WRITE_CACHE);
        let how = how.filter(|how| !is_page || !matches!(how, How::Short));
        let at = usize::try_from(at).unwrap();
        let mut state = self.state();
        let sectors = data.len() as u64 / 512;
        let whole = |sectors| usize::try_from(sectors * 512).unwrap();
        let done = match how {
            // Anywhere, but mostly between blocks: a block that never gets whole is a failure.
            Some(How::Short) if sectors > 1 && state.random.below(4) == 0 => {
                whole(1 + state.random.below(sectors - 1))
            }
            Some(How::Short) if sectors > 8 => whole(8 * (1 + state.random.below(sectors / 8))),
            // Some of it may be there all the same.
            Some(How::Errno(_)) => whole(state.random.below(sectors + 1)),
            _ => data.len(),
        };
        state.tree.node_mut(file.0).write(at, &data[..done]);
        drop(state);
        match how {
            Some(How::Errno(errno)) => reply.error(Errno::from_i32(errno)),
            _ => reply.written(u32::try_from(done).expect("no more than came")),
        }
    }

    fn fsync(&self, _: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(file, reply);
    }

    fn fsyncdir(&self, _: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(file, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        directory: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let mut names = state.tree.list(directory.0);
        names.sort_by_key(|(number, _)| *number);
        // Places that hold whatever comes and goes meanwhile: a name that stays is told once.
        let names = names.into_iter().map(|(number, name)| (number + 2, number, name));
        let own = [(1, directory.0, ".".into()), (2, directory.0, "..".into())];
        let all = own.into_iter().chain(names);
        for (place, number, name) in all.skip_while(|(place, ..)| *place <= from) {
            let kind = kind(state.tree.node(number));
            if reply.add(INodeNo(number), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, BLOCK, 255, BLOCK);
    }
}

/// What the child does for the test.
struct Desk(Files);

impl Service for Desk {
    fn answer(&mut self, words: &[&str]) -> String {
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let mut state = self.0.state();
        match words {
            ["arm", what, how, value, suffix, after, sticky, seed] => {
                state.random = Random(number(seed));
                let what = match *what {
                    "write" => What::Write,
                    "sync" => What::Sync,
                    _ => What::Read,
                };
                let how = match *how {
                    "errno" => How::Errno(value.parse().expect("a number")),
                    "short" => How::Short,
                    _ => How::Late(number(value)),
                };
                let (suffix, after) = (suffix.trim_start_matches('*').to_string(), number(after));
                let sticky = *sticky == "sticky";
                state.fault = Some(Fault { what, how, suffix, after, sticky });
                (state.fired, state.again) = (0, 0);
                state.struck.clear();
                state.lost.clear();
                "armed".into()
            }
            // How often it struck.
            ["heal"] => {
                state.fault = None;
                state.fired.to_string()
            }
            // Which files, a directory being a slash.
            ["struck"] => {
                let names = state.struck.iter().map(|name| name.to_string_lossy());
                names.collect::<Vec<_>>().join(" ")
            }
            ["fired"] => state.fired.to_string(),
            // How many syncs came of files of which one had failed.
            ["again"] => state.again.to_string(),
            other => panic!("nobody asks {other:?}"),
        }
    }
}

/// What the re-executed test binary does.
pub fn serve(is_direct: bool) {
    let (tree, random) = (Tree::new(), Random(1));
    let (struck, lost) = (BTreeSet::new(), BTreeSet::new());
    let state = State { tree, fault: None, fired: 0, struck, lost, again: 0, random };
    let files = Files { state: Arc::new(Mutex::new(state)), is_direct };
    fuse::serve(files.clone(), Desk(files));
}
