//! The one error of the crate: a kind that says what the caller can do next, and where it failed.
//!
//! Cheap to clone, because one failed write answers many waiting callers. Imports std only.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call is wrong as it stands; nothing was done. Change the call.
    Invalid,
    /// The queue is full; nothing was queued. Try again later.
    Busy,
    /// Another process, or another handle in this one, writes this log.
    Locked,
    /// No space for the batch; it is certainly not in the log. Free space, append again.
    StorageFull,
    /// The batch was being written when the log failed: after recovery it is there whole or absent.
    NotConfirmed,
    /// An earlier write or sync failed; this call did nothing. `resume` or reopen.
    Poisoned,
    /// The operating system failed the call; its error is the source.
    Io,
    /// Promised bytes are damaged or missing; the message names file and offset.
    Corrupt,
    /// The records asked for were cut from the log, before or while they were read.
    Truncated,
    /// Damaged records stood here, and a recovery or repair gave them up. Go on behind them, or
    /// restore a copy.
    Lost,
    /// A newer format, or a feature that this build or this system lacks.
    Unsupported,
    /// The log was closed, or this is a forked child.
    Closed,
}

/// An error: kind, operation, place, cause.
///
/// - Shape: [`kind`](Error::kind) for programs, the message for people, `source()` the OS error.
///   `Debug` is the message too: it is what `main` prints of an error that it returns.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    op: &'static str,
    path: Option<PathBuf>,
    offset: Option<u64>,
    detail: String,
    source: Option<Arc<io::Error>>,
    /// A sync failed, and not for want of space.
    of_sync: bool,
    right_length: Option<u64>,
}

impl Error {
    /// An error of `kind` in the operation `op`, with what happened and what to do about it.
    pub(crate) fn new(kind: ErrorKind, op: &'static str, detail: impl Into<String>) -> Error {
        let detail = detail.into();
        Error(Arc::new(Inner {
            kind,
            op,
            path: None,
            offset: None,
            detail,
            source: None,
            of_sync: false,
            right_length: None,
        }))
    }

    pub(crate) fn invalid(op: &'static str, detail: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, op, detail)
    }

    /// Damage at `offset` of `path`.
    pub(crate) fn corrupt(
        op: &'static str,
        path: &Path,
        offset: u64,
        detail: impl Into<String>,
    ) -> Error {
        Error::new(ErrorKind::Corrupt, op, detail).at(path, Some(offset))
    }

    /// Something at `offset` of `path` that is whole, and not for this build: no damage.
    pub(crate) fn unsupported(
        op: &'static str,
        path: &Path,
        offset: u64,
        why: impl fmt::Display,
    ) -> Error {
        Error::new(ErrorKind::Unsupported, op, why.to_string()).at(path, Some(offset))
    }

    /// A failed system call on `path`. A full disk or quota is `StorageFull`, all else `Io`.
    pub(crate) fn io(op: &'static str, path: &Path, offset: Option<u64>, e: io::Error) -> Error {
        let kind = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            _ => ErrorKind::Io,
        };
        Error::new(kind, op, "").at(path, offset).because(e)
    }

    /// A failed sync of `path`, or a forced write. Of the disk's cache more may be gone than what
    /// was in that file.
    pub(crate) fn sync(op: &'static str, path: &Path, offset: Option<u64>, e: io::Error) -> Error {
        let error = Error::io(op, path, offset, e);
        let of_sync = error.kind() == ErrorKind::Io;
        error.change(|inner| inner.of_sync = of_sync)
    }

    /// Whether a sync failed, and not for want of space: nobody knows then what was lost.
    pub(crate) fn is_failed_sync(&self) -> bool {
        self.0.of_sync
    }

    /// It is the length of the file that is wrong.
    pub(crate) fn with_right_length(self, bytes: u64) -> Error {
        self.change(|inner| inner.right_length = Some(bytes))
    }

    pub(crate) fn at(self, path: &Path, offset: Option<u64>) -> Error {
        self.change(|inner| {
            inner.path = Some(path.to_path_buf());
            inner.offset = offset;
        })
    }

    pub(crate) fn because(self, e: io::Error) -> Error {
        self.change(|inner| inner.source = Some(Arc::new(e)))
    }

    /// The same failure under another kind: what it means to a caller who is one step away from it.
    pub(crate) fn as_kind(&self, kind: ErrorKind) -> Error {
        self.clone().change(|inner| inner.kind = kind)
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Error {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// What the caller can do next.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed, one word or two.
    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// The file or directory it failed on.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte position in that file.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The length in bytes that the file should have, where nothing else is wrong with it as far as
    /// is known: `Corrupt` as it stands. Once it has that length what it holds is read again.
    pub fn right_length(&self) -> Option<u64> {
        self.0.right_length
    }

    /// What happened, for whoever has said where already.
    pub(crate) fn reason(&self) -> String {
        let Inner { kind, detail, source, .. } = &*self.0;
        let source = source.as_ref().map(|e| format!("{e}{}", advice(e)));
        match (detail.is_empty(), source) {
            (false, Some(source)) => format!("{detail}: {source}"),
            (false, None) => detail.clone(),
            (true, source) => source.unwrap_or_else(|| kind.to_string()),
        }
    }

    /// The standard library's kind of the system's error, if there is one.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.source.as_ref().map(|e| e.kind())
    }

    /// The operating system's error number, if it gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(|e| e.raw_os_error())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        write!(f, "{}: ", inner.op)?;
        if let Some(path) = &inner.path {
            write!(f, "{}", path.display())?;
            if let Some(offset) = inner.offset {
                write!(f, " at offset {offset}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", inner.kind)?;
        match inner.detail.is_empty() && inner.source.is_none() {
            true => Ok(()),
            false => write!(f, ": {}", self.reason()),
        }
    }
}

/// What helps where a limit of the process is in the way.
fn advice(e: &io::Error) -> &'static str {
    // ENFILE, EMFILE and EFBIG: these numbers on every Unix.
    match e.raw_os_error() {
        Some(23 | 24) => "; raise the limit on open files (ulimit -n), or close some",
        Some(27) => "; raise the limit on the size of files (ulimit -f)",
        _ => "",
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Busy => "busy",
            ErrorKind::Locked => "locked",
            ErrorKind::StorageFull => "storage full",
            ErrorKind::NotConfirmed => "not confirmed",
            ErrorKind::Poisoned => "poisoned",
            ErrorKind::Io => "I/O error",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Truncated => "truncated",
            ErrorKind::Lost => "lost",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Closed => "closed",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| &**e as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_operation_file_offset_and_cause() {
        let cause = io::Error::from_raw_os_error(5);
        let e = Error::io("append", Path::new("/log/1.seg"), Some(4096), cause);
        let text = e.to_string();
        let place = "append: /log/1.seg at offset 4096: I/O error: ";
        assert_eq!(text, format!("{place}{}", e.reason()));
        assert_eq!(e.raw_os_error(), Some(5));
        assert!(std::error::Error::source(&e).is_some());
    }

    #[test]
    fn a_full_disk_is_storage_full() {
        let e = Error::io("make", Path::new("p"), None, io::Error::from_raw_os_error(28));
        assert_eq!(e.kind(), ErrorKind::StorageFull);
    }
}
