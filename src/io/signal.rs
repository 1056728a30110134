//! The signal that a file grown past RLIMIT_FSIZE would kill the process with.
//!
//! Blocked in every thread of ours that writes, it leaves the error EFBIG instead.

/// Blocks SIGXFSZ in the calling thread.
#[cfg(unix)]
pub(crate) fn block_file_size_signal() {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set.thread_block().expect("the set and the operation are valid");
}
