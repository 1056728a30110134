//! Small file systems to fill and to write-protect: mounted by root, unmounted in any case.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where this process has mounted something.
static MOUNTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// For a process that is about to end without its destructors.
pub fn unmount_all() {
    for path in MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        drop(Command::new("umount").arg("-l").arg(path).status());
    }
}

/// A mounted directory; dropping it unmounts it, also in a panic.
pub struct Mount {
    root: tempfile::TempDir,
    mounted: PathBuf,
    /// It has not been unmounted yet.
    is_on: bool,
}

impl Mount {
    /// Runs `mount ARGS.. DIR` on a new directory; says why if it can't.
    pub fn new(args: &[&str]) -> Option<Mount> {
        let root = tempfile::tempdir().unwrap();
        let mounted = root.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        run(Command::new("mount").args(args).arg(&mounted))?;
        MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).push(mounted.clone());
        Some(Mount { root, mounted, is_on: true })
    }

    pub fn tmpfs(size: &str) -> Option<Mount> {
        Mount::new(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    /// An ext4 file system of this size in a file.
    pub fn ext4(image: &Path, bytes: u64) -> Option<Mount> {
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        Mount::new(&["-t", "ext4", "-o", "loop", image.to_str().unwrap()])
    }

    /// A btrfs file system of this size in a file.
    pub fn btrfs(image: &Path, bytes: u64) -> Option<Mount> {
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        run(Command::new("mkfs.btrfs").args(["-q", "-M"]).arg(image))?;
        Mount::new(&["-t", "btrfs", "-o", "loop", image.to_str().unwrap()])
    }

    /// Unmounts it for good: nothing of it is left to land afterwards.
    pub fn unmount(mut self) {
        // A ring lets go of its files some milliseconds after it was dropped.
        for _ in 0..3000 {
            if Command::new("umount").arg(&self.mounted).output().unwrap().status.success() {
                self.is_on = false;
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} is busy for thirty seconds", self.mounted.display());
    }

    /// What is in `dir`, to be read only.
    pub fn read_only(dir: &Path) -> Option<Mount> {
        let mount = Mount::new(&["--bind", dir.to_str().unwrap()])?;
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(mount.path()))?;
        Some(mount)
    }

    pub fn path(&self) -> &Path {
        &self.mounted
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.retain(|path| *path != self.mounted);
        drop(mounted);
        if !self.is_on {
            return;
        }
        // Lazily: a ring lets go of its files some milliseconds after it was dropped, and the mount
        // must not outlive the test in any case.
        if run(Command::new("umount").arg("-l").arg(&self.mounted)).is_none() {
            println!("{} stays mounted", self.mounted.display());
        }
        assert!(self.root.path().exists(), "the mount point went away first");
    }
}

/// Which file system an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// A file that holds a file system, to be mounted again and again.
pub struct Image {
    path: PathBuf,
    kind: Kind,
}

impl Image {
    /// Makes a file system in a file in `dir`; says why if it can't.
    pub fn new(dir: &Path, kind: Kind) -> Option<Image> {
        let path = dir.join(format!("{kind:?}.image"));
        // The least that mkfs.xfs takes is 300 MiB; the file is sparse.
        std::fs::File::create(&path).unwrap().set_len(320 << 20).unwrap();
        let (make, options): (_, &[&str]) = match kind {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        };
        run(Command::new(make).args(options).arg(&path))?;
        Some(Image { path, kind })
    }

    pub fn mount(&self) -> Option<Mount> {
        let kind = format!("{:?}", self.kind).to_lowercase();
        Mount::new(&["-t", &kind, "-o", "loop", self.path.to_str().unwrap()])
    }
}

/// Runs a command; says what it said if it fails.
pub fn run(command: &mut Command) -> Option<()> {
    output(command).map(drop)
}

/// What a command writes to its standard output; says what it said if it fails.
pub fn output(command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let talk = String::from_utf8_lossy(&output.stderr).trim().to_string();
            super::skip(format_args!("{command:?}"), talk);
            None
        }
        Err(e) => {
            super::skip(format_args!("{command:?}"), e);
            None
        }
    }
}
