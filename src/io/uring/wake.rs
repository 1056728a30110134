//! Waking a thread that waits in the ring: an eventfd, and a read of it that the ring keeps open.
//!
//! ```text
//!   any thread                         the ring's thread
//!   changes something                  rang: `rung` = false (sees the change),
//!   `rung` was false: write(eventfd)         returns to its caller, which looks
//!   `rung` was true: nothing to do     before it waits again: arms the next read
//! ```
//!
//! The read resets the eventfd, so waking costs the ring's thread no system call of its own.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use io_uring::{opcode, types};
use nix::libc;

use super::WAKE;
use super::ring::Ring;
use crate::io::Buf;
use crate::io::calls::{Call, Counter};

/// What wakers share with the ring; it outlives the ring if they do.
struct Bell {
    eventfd: fs::File,
    /// Publishes to the ring's thread what a waker's thread did before it rang.
    rung: AtomicBool,
    counter: Arc<Counter>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        #[expect(clippy::host_endian_bytes, reason = "an eventfd counts in the host's order")]
        let one = 1u64.to_ne_bytes();
        self.counter.add(Call::Wake);
        while let Err(e) = (&self.eventfd).write(&one) {
            // One at most is outstanding, so the count has room; nothing else can go wrong.
            if e.kind() != io::ErrorKind::Interrupted {
                tracing::error!(error = %e, "a ring could not be woken");
                return;
            }
        }
    }
}

/// The ring's side.
pub(super) struct Alarm {
    bell: Arc<Bell>,
    /// Where the kernel puts the count. Never read.
    count: Buf,
    armed: bool,
}

impl Alarm {
    pub(super) fn new(counter: Arc<Counter>) -> io::Result<Alarm> {
        // SAFETY: no preconditions.
        #[expect(unsafe_code, reason = "the standard library has no eventfd")]
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor made just now, owned by nobody else.
        #[expect(unsafe_code, reason = "takes the descriptor over")]
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let bell = Bell { eventfd: fs::File::from(fd), rung: AtomicBool::new(false), counter };
        Ok(Alarm { bell: Arc::new(bell), count: Buf::zeroed(8, 8), armed: false })
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    /// Opens the read unless it is open; false if the ring has no room for it.
    pub(super) fn arm(&mut self, ring: &mut Ring) -> bool {
        if self.armed {
            return true;
        }
        if !ring.has_room() {
            return false;
        }
        let count = self.count.bytes_mut().expect("nobody else ever held it").as_mut_ptr();
        let fd = types::Fd(self.bell.eventfd.as_raw_fd());
        let entry = opcode::Read::new(fd, count, 8).build().user_data(WAKE);
        // SAFETY: the queue keeps this alarm, with its memory and descriptor, until the completion
        // was reaped, or leaks it; nobody looks at the memory.
        #[expect(unsafe_code, reason = "the kernel is handed a raw address")]
        unsafe {
            ring.push(&entry);
        }
        self.armed = true;
        true
    }

    /// Takes the read's completion.
    pub(super) fn rang(&mut self, result: i32) -> io::Result<()> {
        self.armed = false;
        self.bell.rung.swap(false, Ordering::AcqRel);
        match result {
            8 => Ok(()),
            // Interrupted: it is opened again. The caller sees a wake too many.
            _ if [-libc::EINTR, -libc::EAGAIN].contains(&result) => Ok(()),
            _ if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Completes the read, so that the ring can be closed.
    pub(super) fn disarm(&self) {
        if self.armed {
            self.bell.ring();
        }
    }
}
