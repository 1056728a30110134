//! The ring itself: made with what the kernel offers, entered as seldom as can be.
//!
//! Invariants: entries are pushed only while each has room for its completion (`owed`), so that
//! none overflows; an entry leaves the ring only by the kernel's hand.

use std::io;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, squeue, types};
use nix::libc;

/// How often in a row the kernel may say that it lacks memory or room before the ring is broken.
const STALLS: u32 = 10_000;
/// A ring that was closed gives back its locked memory a little later: how often, and how long, the
/// next one waits for that.
const ROUNDS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// The smallest ring: a request and the waker's read.
const SMALLEST: u32 = 2;

/// A ring and the count of what the kernel still owes.
pub(super) struct Ring {
    ring: IoUring,
    owed: usize,
}

impl Ring {
    /// A ring of `entries`, or half of that and so on where memory may not be locked.
    pub(super) fn new(entries: usize) -> io::Result<Ring> {
        let too_many = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let wanted = u32::try_from(entries).map_err(too_many)?.next_power_of_two();
        // 6.1 defers its work to our own calls, 6.0 knows of one thread, 5.18 goes on after a bad
        // entry; a kernel says EINVAL to what it does not know.
        let (mut level, mut entries, mut rounds) = (3, wanted, 0);
        let ring = loop {
            match Ring::builder(level).build(entries) {
                Ok(ring) => break ring,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINVAL) if level > 0 => level -= 1,
                    Some(libc::ENOMEM) if entries > SMALLEST => entries /= 2,
                    Some(libc::ENOMEM) if rounds < ROUNDS => {
                        std::thread::sleep(PAUSE);
                        (entries, rounds) = (wanted, rounds + 1);
                    }
                    _ => return Err(e),
                },
            }
        };
        let params = ring.params();
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg()) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Ring { ring, owed: 0 })
    }

    fn builder(level: u32) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp();
        if level >= 1 {
            builder.setup_submit_all();
        }
        if level >= 2 {
            builder.setup_single_issuer();
        }
        if level >= 3 {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        }
        builder
    }

    /// For registering files and buffers.
    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Whether one more entry and its completion fit.
    pub(super) fn has_room(&mut self) -> bool {
        let answers = self.ring.params().cq_entries();
        !self.ring.submission().is_full() && self.owed < crate::cast::len(answers.into())
    }

    /// Prepares an entry; `enter` hands it over.
    ///
    /// # Safety
    /// - Memory and descriptors that the entry names stay valid until `next` gave its completion.
    /// - Memory that it writes to is referred to by nobody else until then.
    ///
    /// # Panics
    /// Without room.
    #[expect(unsafe_code, reason = "the kernel is handed raw addresses")]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: by this function's own contract.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the caller asked for room");
        self.owed += 1;
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn unsubmitted(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Whether a call would do anything at once: entries to take, or completions held back.
    pub(super) fn wants_enter(&mut self) -> bool {
        let entries = self.ring.submission();
        !entries.is_empty() || entries.taskrun() || entries.cq_overflow()
    }

    /// Completions still to come.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// The next completion that is visible: its user data and result.
    pub(super) fn next(&mut self) -> Option<(u64, i32)> {
        let entry = self.ring.completion().next()?;
        self.owed -= 1;
        Some((entry.user_data(), entry.result()))
    }

    /// Lets go of registered files and buffers; nothing is in flight.
    pub(super) fn release_all(&mut self) -> io::Result<()> {
        for released in
            [self.ring.submitter().unregister_files(), self.ring.submitter().unregister_buffers()]
        {
            match released {
                // There were none.
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Submits all entries and lets the kernel finish what it can; with `wait`, until a completion
    /// is there or `timeout` is over. A wait may end early.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        for _ in 0..STALLS {
            let entered = match (wait, timeout) {
                (true, None) => self.ring.submitter().submit_and_wait(1),
                (true, Some(timeout)) => {
                    let time = types::Timespec::from(timeout);
                    let args = types::SubmitArgs::new().timespec(&time);
                    self.ring.submitter().submit_with_args(1, &args)
                }
                (false, _) => self.submit_and_look(),
            };
            match entered.map_err(|e| (e.raw_os_error(), e)) {
                Ok(_) if wait || self.unsubmitted() == 0 => return Ok(()),
                // A signal, or the time is over: the caller counts the time.
                Err((Some(libc::EINTR | libc::ETIME), _)) if wait => return Ok(()),
                Ok(_) | Err((Some(libc::EINTR), _)) => {}
                // The entries are still in the ring. Completions in the way go first.
                Err((Some(libc::EBUSY | libc::EAGAIN), _)) => {
                    if !self.ring.completion().is_empty() {
                        return Ok(());
                    }
                    std::thread::yield_now();
                }
                Err((_, e)) => return Err(e),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Submits without waiting. Asks for events all the same: only then does the kernel finish
    /// what it deferred to this thread.
    fn submit_and_look(&mut self) -> io::Result<usize> {
        let len = u32::try_from(self.unsubmitted()).expect("a ring's length is a u32");
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed; the entries were vouched for in `push`.
        #[expect(unsafe_code, reason = "the safe calls leave the flag out")]
        unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(len, 0, flags, None)
        }
    }
}
