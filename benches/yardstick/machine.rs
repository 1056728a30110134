//! What the figures were taken on: device, file system, write cache, kernel.
//!
//! On Linux out of /proc and /sys; what can't be found there is left out, never guessed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The machine as far as a figure depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The block device under the directory, with its model or driver if it tells.
    pub device: Option<String>,
    /// The file system's type.
    pub file_system: Option<String>,
    /// What the kernel thinks of the device's cache: `write back` or `write through`.
    pub write_cache: Option<String>,
    /// Whether the device can make one write durable without flushing its cache.
    pub fua: Option<bool>,
    /// Name and release of the system.
    pub kernel: String,
    /// Cores that this process may use.
    pub cpus: usize,
}

impl Machine {
    /// Looks at what `dir` is on.
    ///
    /// # Errors
    /// `dir` can't be looked at.
    pub fn under(dir: &Path) -> io::Result<Machine> {
        let dir = dir.canonicalize()?;
        let block = block_device(&dir)?;
        let block = block.as_deref();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Ok(Machine {
            device: block.and_then(device_name),
            file_system: file_system(&mounts, &dir),
            write_cache: block.and_then(|block| attribute(block, "queue/write_cache")),
            fua: block.and_then(|block| attribute(block, "queue/fua")).map(|fua| fua == "1"),
            kernel: kernel(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// All of it in one line.
    pub fn line(&self) -> String {
        let or_unknown = |part: &Option<String>, what: &str| match part {
            Some(part) => part.clone(),
            None => format!("{what} unknown"),
        };
        let cache = match &self.write_cache {
            Some(cache) => format!("{cache} cache"),
            None => "write cache unknown".into(),
        };
        let fua = match self.fua {
            Some(true) => " with FUA",
            Some(false) => " without FUA",
            None => "",
        };
        let (device, system) =
            (or_unknown(&self.device, "device"), or_unknown(&self.file_system, "file system"));
        let cores = if self.cpus == 1 { "core" } else { "cores" };
        format!("{device}, {system}, {cache}{fua}, {}, {} {cores}", self.kernel, self.cpus)
    }
}

/// The folder in which Linux describes the device under `dir`.
#[cfg(target_os = "linux")]
fn block_device(dir: &Path) -> io::Result<Option<PathBuf>> {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::stat::{major, minor};

    let device = fs::metadata(dir)?.dev();
    let number = format!("{}:{}", major(device), minor(device));
    Ok(fs::canonicalize(Path::new("/sys/dev/block").join(number)).ok())
}

/// As above, where nobody does.
#[cfg(not(target_os = "linux"))]
fn block_device(dir: &Path) -> io::Result<Option<PathBuf>> {
    fs::metadata(dir).map(|_| None)
}

/// Bytes that an ordinary user may still write below `dir`.
///
/// # Errors
/// The system's error.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let volume = nix::sys::statvfs::statvfs(dir)?;
    // The types differ by system.
    #[allow(clippy::useless_conversion, reason = "u32 on some systems")]
    let (blocks, size) = (u64::from(volume.blocks_available()), u64::from(volume.fragment_size()));
    Ok(blocks.saturating_mul(size))
}

/// Bytes of memory that may be taken without anybody else losing any; none where nobody tells.
pub fn available_bytes() -> Option<u64> {
    available_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let amount = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = amount.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// How busy all cores were since the system started, in ticks: at work, and at all. What the host
/// gave to others counts as work. None where /proc does not tell.
pub fn ticks() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    ticks_in(&stat)
}

fn ticks_in(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let parts = line.split_whitespace().take(8).map(str::parse);
    let parts: Vec<u64> = parts.collect::<Result<_, _>>().ok()?;
    let idle = parts.get(3)? + parts.get(4)?;
    let all: u64 = parts.iter().sum();
    Some((all - idle, all))
}

fn kernel() -> String {
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => format!("Linux {}", release.trim()),
        Err(_) => std::env::consts::OS.to_string(),
    }
}

fn device_name(block: &Path) -> Option<String> {
    let name = block.file_name()?.to_string_lossy().into_owned();
    Some(match attribute(block, "device/model") {
        Some(model) => format!("{name} ({model})"),
        None => match fs::read_link(block.join("device/driver")) {
            Ok(driver) => format!("{name} ({})", driver.file_name()?.to_string_lossy()),
            Err(_) => name,
        },
    })
}

/// What `name` says of a block device, or of the disk that it is a partition of.
fn attribute(block: &Path, name: &str) -> Option<String> {
    let read = |dir: &Path| fs::read_to_string(dir.join(name)).ok();
    let text = read(block).or_else(|| read(block.parent()?))?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// The type of the file system that `dir` is on: the mount with the longest matching path, and of
/// several on one path the last.
fn file_system(mounts: &str, dir: &Path) -> Option<String> {
    let mount = |line: &str| -> Option<(PathBuf, String)> {
        let (place, rest) = line.split_once(" - ")?;
        let point = PathBuf::from(unescaped(place.split(' ').nth(4)?));
        Some((point, rest.split(' ').next()?.to_string()))
    };
    let under = mounts.lines().filter_map(mount).filter(|(point, _)| dir.starts_with(point));
    under.max_by_key(|(point, _)| point.as_os_str().len()).map(|(_, kind)| kind)
}

/// Spaces and the like stand in the mount table as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_string(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_nearest_to_the_directory_counts() {
        let mounts = "27 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                      30 27 0:30 / /a\\040b rw - tmpfs tmpfs rw\n\
                      31 30 0:31 / /a\\040b rw - xfs /dev/vdb rw\n\
                      32 27 0:32 / /a rw - btrfs /dev/vdc rw\n";
        let kind = |dir: &str| file_system(mounts, Path::new(dir));
        assert_eq!(kind("/home/x").as_deref(), Some("ext4"));
        assert_eq!(kind("/a b/c").as_deref(), Some("xfs"));
        assert_eq!(kind("/a/c").as_deref(), Some("btrfs"));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn idle_ticks_are_not_work() {
        let stat = "cpu  10 2 3 100 50 1 2 4 7 0\ncpu0 1 1 1 1\n";
        assert_eq!(ticks_in(stat), Some((22, 172)));
        assert_eq!(ticks_in("intr 1"), None);
    }

    #[test]
    fn what_is_available_is_more_than_what_is_free() {
        let meminfo = "MemTotal:  100 kB\nMemFree:  7 kB\nMemAvailable:   52 kB\nBuffers: 1 kB\n";
        assert_eq!(available_in(meminfo), Some(52 << 10));
        assert_eq!(available_in("MemFree:  7 kB\n"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_line() {
        let machine = Machine::under(Path::new(".")).unwrap();
        assert!(machine.cpus >= 1);
        assert!(machine.line().contains(&machine.kernel), "{}", machine.line());
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
        let nothing = Machine { cpus: 1, kernel: "Plan 9".into(), ..Machine::default() };
        let line = nothing.line();
        assert_eq!(
            line,
            "device unknown, file system unknown, write cache unknown, Plan 9, 1 core"
        );
    }
}
