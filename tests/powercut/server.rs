//! The file system that records: each of its files is a disk, each request is put on a tape, unless
//! it is to fail.
//!
//! ```text
//! engine -> ext4 -> /dev/loopN -> kernel --FUSE--> Disks (4 threads) --> Tape 0, 1, 2
//!                                                    '-- EIO, if a Fault says so
//! Recorder --------- a line ---------------------> Desk -------------------^
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use crate::fault::{self, Fault, Held};
use crate::fuse::{self, Service};
use crate::support::Random;
use crate::tape::{Blocks, Tape};

/// Files: the disk of a life, one cut from it, and one cut from that.
const DISKS: usize = 3;
/// The longest that a request is held back, microseconds.
const MAX_DELAY: u64 = 300;

type Tapes = [Mutex<Tape>; DISKS];

struct Disks {
    tapes: Arc<Tapes>,
    fault: Arc<Mutex<Fault>>,
    held: Arc<Held>,
    requests: AtomicU64,
}

fn lock(tapes: &Tapes, number: usize) -> MutexGuard<'_, Tape> {
    tapes[number].lock().expect("the recorder panicked before")
}

impl Disks {
    fn tape(&self, file: INodeNo) -> MutexGuard<'_, Tape> {
        lock(&self.tapes, usize::try_from(file.0).expect("small") - 2)
    }

    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().expect("the recorder panicked before")
    }

    /// Some requests take long: a flush that should have waited for a write overtakes it, and who
    /// does not wait for a flush is answered before it.
    fn hold_back(&self) {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut random = Random(request << 1 | 1);
        random.next();
        if random.below(16) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(MAX_DELAY)));
        }
    }

    fn attributes(&self, file: INodeNo) -> FileAttr {
        let (kind, size) = match file {
            INodeNo::ROOT => (FileType::Directory, 0),
            file => (FileType::RegularFile, self.tape(file).size as u64),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: file,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disks {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Several requests of the loop device at once, as a disk takes them.
        let missing = |flags| std::io::Error::other(format!("this kernel lacks {flags:?}"));
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(missing)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse::<usize>().ok()) {
            Some(number) if number < DISKS => {
                let attributes = self.attributes(INodeNo(number as u64 + 2));
                reply.entry(&Duration::ZERO, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(file));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), direct);
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
        let (at, length) = (usize::try_from(at).unwrap(), usize::try_from(length).unwrap());
        let data = self.tape(file).read(at, length);
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.held.keep_if_asked(data);
        // Of a write that fails some may be there all the same.
        let landed = self.fault().of_write(data);
        let data = &data[..landed.unwrap_or(data.len())];
        let number = self.tape(file).write_begins(usize::try_from(at).unwrap(), data);
        self.hold_back();
        self.tape(file).write_ends(number);
        match landed {
            Some(_) => reply.error(Errno::EIO),
            None => reply.written(u32::try_from(data.len()).expect("it was asked for in 32 bits")),
        }
    }

    fn fsync(&self, _: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut guard = self.fault();
        let fault = &mut *guard;
        if fault.of_flush() {
            let random = fault.random.as_mut().expect("it is armed");
            let mut tape = self.tape(file);
            if !tape.unflushed().any(fault::is_of_journal) {
                fault.lost += tape.flush_fails(random, fault::is_of_log);
            }
            return reply.error(Errno::EIO);
        }
        drop(guard);
        let number = self.tape(file).flush_begins();
        self.hold_back();
        self.tape(file).flush_ends(number);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A descriptor is closed: that makes nothing durable.
        reply.ok();
    }
}

/// What the child does for the test.
struct Desk {
    tapes: Arc<Tapes>,
    fault: Arc<Mutex<Fault>>,
    held: Arc<Held>,
    /// By disk: the loop device that it is mounted through, and where.
    mounted: BTreeMap<String, [String; 2]>,
}

impl Desk {
    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().expect("the recorder panicked before")
    }
}

impl Service for Desk {
    fn answer(&mut self, words: &[&str]) -> String {
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let disk = |word: &str| word.parse::<usize>().expect("a number");
        match words {
            ["load", to, path] => {
                let image = std::fs::read(Path::new(path)).expect("an image");
                *lock(&self.tapes, disk(to)) = Tape::new(image.len(), Blocks::of(&image));
            }
            ["position", of] => return lock(&self.tapes, disk(of)).position().to_string(),
            ["overtaken", of] => return lock(&self.tapes, disk(of)).overtaken().to_string(),
            ["cut", from, to, position, unit, seed] => {
                let mut random = Random(number(seed));
                let (size, (blocks, struck)) = {
                    let tape = lock(&self.tapes, disk(from));
                    (tape.size, tape.cut(number(position), disk(unit), &mut random))
                };
                *lock(&self.tapes, disk(to)) = Tape::new(size, blocks);
                return struck.to_string();
            }
            ["arm", what, _, _, _, after, _, seed] => {
                *self.fault() = Fault::new(what, number(after), number(seed));
            }
            // How often it struck.
            ["heal"] => return std::mem::take(&mut *self.fault()).fired.to_string(),
            // How many writes went with a flush that failed.
            ["lost"] => return self.fault().lost.to_string(),
            ["fired"] => return self.fault().fired.to_string(),
            ["hold"] => self.held.ask(),
            // Whether one is held.
            ["held"] => return u64::from(self.held.is_held()).to_string(),
            ["free"] => self.held.free(),
            ["mounted", disk, device, at] => {
                self.mounted.insert(disk.to_string(), [device.to_string(), at.to_string()]);
            }
            ["unmounted", disk] => drop(self.mounted.remove(*disk)),
            other => panic!("nobody asks {other:?}"),
        }
        "done".into()
    }

    fn end(&mut self) {
        // What a test that was killed left; its ring lets go of files some milliseconds later.
        for [device, at] in self.mounted.values() {
            std::thread::sleep(Duration::from_millis(100));
            drop(Command::new("umount").arg("-l").arg(at).status());
            detach(device);
        }
    }
}

/// Detaches a loop device, unless it has become somebody else's.
fn detach(device: &str) {
    let mut backing = Command::new("losetup");
    let backing = backing.args(["-n", "-O", "BACK-FILE", device]).output();
    let ours = std::env::var(fuse::MOUNT_AT).expect("it is mounted there");
    if backing.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(&ours)) {
        drop(Command::new("losetup").arg("-d").arg(device).status());
    }
}

/// What the re-executed test binary does.
pub fn serve() {
    let tapes: Arc<Tapes> = Arc::default();
    let fault: Arc<Mutex<Fault>> = Arc::default();
    let held: Arc<Held> = Arc::default();
    let (of_tapes, of_fault) = (Arc::clone(&tapes), Arc::clone(&fault));
    let (of_held, requests) = (Arc::clone(&held), AtomicU64::new(0));
    let disks = Disks { tapes: of_tapes, fault: of_fault, held: of_held, requests };
    fuse::serve(disks, Desk { tapes, fault, held, mounted: BTreeMap::new() });
}
