//! The two things that systems do differently on the way to a device: syncing and allocating.
//!
//! | system | durable is | blocks are allocated by |
//! |---|---|---|
//! | Linux | `fdatasync` | writing zeros |
//! | Apple | `fcntl(F_FULLFSYNC)` | `fcntl(F_PREALLOCATE)` |
//! | other Unix | `fdatasync` | `posix_fallocate` where it is known, else writing zeros |
//!
//! On Apple systems `fsync` alone leaves the bytes in the drive's cache; the standard library's
//! `sync_data` is the same `fcntl` there today, and does not promise it. Allocating is for a full
//! disk to be met early, by who makes a file; what makes a store safe is that the file was written.
//! Sources: fsync(2) and fcntl(2) of macOS; posix_fallocate(3).

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

/// How often an interrupted call is made again.
const RETRIES: u32 = 64;

/// Makes a call again while it is interrupted, but not for ever, as the standard library does with
/// some: a file system in user space can answer so each time.
pub(in crate::io) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RETRIES {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
    call()
}

/// Writes all of `bytes`; an interruption counts as in [`uninterrupted`].
pub(in crate::io) fn write_whole(file: &fs::File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match uninterrupted(|| file.write_at(&bytes[done..], at + done as u64))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}

/// Makes what was written to `file` durable. An error is final, an interruption too: it may be what
/// came of writing a page back, and the next sync would not tell of it. Hence not by the standard
/// library, which calls again.
#[cfg(target_os = "linux")]
pub(in crate::io) fn sync_to_device(file: &fs::File) -> io::Result<()> {
    Ok(nix::unistd::fdatasync(file)?)
}

/// As above, but that the standard library's call is made again when it is interrupted.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(in crate::io) fn sync_to_device(file: &fs::File) -> io::Result<()> {
    file.sync_data()
}

/// As above. Where a volume knows no `F_FULLFSYNC` (some network file systems) nothing can be
/// promised, so its refusal is the answer.
#[cfg(target_vendor = "apple")]
pub(in crate::io) fn sync_to_device(file: &fs::File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(file, FcntlArg::F_FULLFSYNC)?;
    Ok(())
}

/// Makes the names in a directory durable; an error is final here as well.
#[cfg(target_os = "linux")]
pub(super) fn sync_names(directory: &fs::File) -> io::Result<()> {
    Ok(nix::unistd::fsync(directory)?)
}

/// As above, but that the standard library's call is made again when it is interrupted.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_names(directory: &fs::File) -> io::Result<()> {
    directory.sync_all()
}

/// Asks for blocks for `size` bytes of `file`, which was made just now. `Ok` where the file system
/// can't: whoever needs to know looks at the file.
#[cfg(all(
    not(all(target_os = "linux", not(prkdb_portable))),
    any(target_os = "linux", target_os = "android", target_os = "freebsd")
))]
pub(in crate::io) fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::posix_fallocate;
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let size = i64::try_from(size).map_err(too_large)?;
    uninterrupted(|| match posix_fallocate(file, 0, size) {
        Ok(()) | Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    })
}

/// As above: all of it, or none.
#[cfg(target_vendor = "apple")]
pub(in crate::io) fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let mut store = libc::fstore_t {
        fst_flags: libc::F_ALLOCATEALL,
        fst_posmode: libc::F_PEOFPOSMODE,
        fst_offset: 0,
        fst_length: i64::try_from(size).map_err(too_large)?,
        fst_bytesalloc: 0,
    };
    match fcntl(file, FcntlArg::F_PREALLOCATE(&mut store)) {
        Ok(_) | Err(Errno::EINVAL | Errno::ENOTSUP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// As above, on systems that have no call for it.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
pub(in crate::io) fn allocate(_: &fs::File, _: u64) -> io::Result<()> {
    Ok(())
}
