//! The test's side of the recorder: starts it, asks it, mounts its disks.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fuse::Served;
use crate::support::disk::Mount;
use crate::support::watchdog::Watchdog;
use crate::support::{self, Random};

/// A file system that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    /// The least that its mkfs takes, about; sparse.
    fn image_bytes(self) -> u64 {
        match self {
            Kind::Ext4 => 64 << 20,
            Kind::Xfs => 320 << 20,
            Kind::Btrfs => 128 << 20,
        }
    }

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "nodiscard"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Kind::Btrfs => ("mkfs.btrfs", &["-q", "-M", "-K"]),
        }
    }

    fn options(self) -> &'static str {
        match self {
            Kind::Ext4 => "nodiscard",
            Kind::Xfs => "nouuid",
            Kind::Btrfs => "nodiscard",
        }
    }

    /// What a write tears into. The superblock of btrfs fills 4096 bytes under one checksum, and
    /// its first copy alone is looked at; XFS was seen unmountable after tears between sectors,
    /// with no log of ours on it. Both ask a disk for whole blocks.
    pub fn unit(self, random: &mut Random) -> u64 {
        match (self, random.below(4)) {
            (Kind::Btrfs | Kind::Xfs, _) | (_, 0) => 4096,
            _ => 512,
        }
    }
}

/// One at a time: loop devices may be few.
static TURN: Mutex<()> = Mutex::new(());

/// The recording file system, mounted.
pub struct Recorder(Served, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Recorder {
    /// Says why if it can't be.
    pub fn start() -> Option<Recorder> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Recorder(Served::start("recorder_in_a_child")?, turn))
    }

    /// Whom to ask for faults.
    pub fn served(&self) -> &Served {
        &self.0
    }

    /// Puts an image onto disk 0, with an empty tape.
    pub fn load(&self, image: &Path) {
        self.0.ask(format_args!("load 0 {}", image.display()));
    }

    /// How far the tape of a disk is: what was answered before is on it.
    pub fn position(&self, disk: usize) -> u64 {
        self.0.ask(format_args!("position {disk}")).parse().unwrap()
    }

    /// How many writes to a disk were overtaken by a flush.
    pub fn overtaken(&self, disk: usize) -> u64 {
        self.0.ask(format_args!("overtaken {disk}")).parse().unwrap()
    }

    /// Makes disk `to` what a power cut at `position` leaves of disk `from`; how many writes it
    /// dropped or tore.
    pub fn cut(&self, from: usize, to: usize, position: u64, unit: u64, seed: u64) -> u64 {
        let struck = self.0.ask(format_args!("cut {from} {to} {position} {unit} {seed}"));
        struck.parse().unwrap()
    }

    /// Makes an empty file system; says why if it can't.
    pub fn make(&self, kind: Kind) -> Option<std::path::PathBuf> {
        let path = self.0.root().join(format!("{kind:?}"));
        std::fs::File::create(&path).unwrap().set_len(kind.image_bytes()).unwrap();
        let (make, options) = kind.make();
        support::disk::run(Command::new(make).args(options).arg(&path))?;
        Some(path)
    }

    /// Mounts a disk through a loop device; says why if it can't.
    pub fn mount(&self, number: usize, kind: Kind) -> Option<Disk<'_>> {
        let file = self.0.path().join(number.to_string());
        // Past the page cache: the recorder sees what the file system above asks for, when it does.
        let mut attach = Command::new("losetup");
        attach.args(["--direct-io=on", "--find", "--show"]).arg(&file);
        let device = support::disk::output(&mut attach)?.trim().to_string();
        let name = format!("{kind:?}").to_lowercase();
        let mount = Mount::new(&["-t", &name, "-o", kind.options(), &device]);
        let disk = Disk { recorder: self, number, device, mount };
        let at = disk.mount.as_ref()?.path();
        self.0.ask(format_args!("mounted {number} {} {}", disk.device, at.display()));
        Some(disk)
    }

    /// Ends the test if a step takes longer than `limit`.
    pub fn watchdog(&self, limit: Duration) -> Watchdog {
        Watchdog::new(limit, self.0.pid(), self.0.path())
    }
}

/// A mounted disk of the recorder.
pub struct Disk<'a> {
    recorder: &'a Recorder,
    number: usize,
    device: String,
    mount: Option<Mount>,
}

impl Disk<'_> {
    pub fn path(&self) -> &Path {
        self.mount.as_ref().unwrap().path()
    }

    /// Whether the loop device goes past the page cache, as it was told to.
    pub fn is_direct(&self) -> bool {
        let name = Path::new(&self.device).file_name().unwrap();
        let told = Path::new("/sys/block").join(name).join("loop/dio");
        std::fs::read_to_string(told).unwrap().trim() == "1"
    }

    /// Unmounts it for good.
    pub fn unmount(mut self) {
        self.mount.take().unwrap().unmount();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        drop(self.mount.take());
        let detached = support::disk::run(Command::new("losetup").arg("-d").arg(&self.device));
        detached.unwrap_or_else(|| println!("{} stays", self.device));
        if !std::thread::panicking() {
            self.recorder.0.ask(format_args!("unmounted {}", self.number));
        }
    }
}
