//! The machine kept even, so that what was measured before is not measured again.
//!
//! ```text
//! | ours | syncfs, rest | other | syncfs, rest | other | ..   a touched ballast under all of it
//! ```

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::machine::available_bytes;

/// Makes durable what others left in the page cache of the file system under `dir`, and lets the
/// disk rest, so that nobody writes to it in the window that comes.
///
/// # Errors
/// The system's error.
pub fn settle(dir: &Path, rest: Duration) -> io::Result<()> {
    sync(dir)?;
    std::thread::sleep(rest);
    Ok(())
}

#[cfg(target_os = "linux")]
fn sync(dir: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(std::fs::File::open(dir)?)?)
}

/// As above, where no file system is synced alone.
#[cfg(not(target_os = "linux"))]
fn sync(_dir: &Path) -> io::Result<()> {
    nix::unistd::sync();
    Ok(())
}

/// Memory that was touched and is held: what a virtual machine leaves free for some seconds may go
/// back to its host, and who needs it then waits for the host.
#[derive(Debug)]
pub struct Ballast(Vec<u8>);

impl Ballast {
    /// How many times as much must be available: a ballast that others have to make room for is a
    /// load.
    const SHARE: u64 = 4;

    /// Touches so many bytes.
    ///
    /// # Errors
    /// Why there is none: too little memory is available, or nobody tells how much.
    pub fn hold(bytes: usize) -> Result<Ballast, String> {
        let available = available_bytes().ok_or("nobody tells how much memory is available")?;
        if available < Ballast::SHARE * bytes as u64 {
            return Err(format!("of memory only {} MiB are available", available >> 20));
        }
        // Not zeros: those would be pages that nobody has touched.
        Ok(Ballast(black_box(vec![1; bytes])))
    }
}
