//! The ring itself: made with what the kernel offers, entered as seldom as can be.
//!
//! Invariants: entries are pushed only while each has room for its completion (`owed`), so that
//! none overflows; an entry leaves the ring only by the kernel's hand.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use nix::libc;

use crate::io::calls::{Call, Counter};

/// How often the kernel may take a part of the entries, or be interrupted.
const TRIES: u32 = 10_000;
/// How often it may say that it lacks memory or room before the ring is broken: some ten seconds,
/// but for the first times, which follow each other at once.
const STALLS: u32 = 1_100;
const AT_ONCE: u32 = 100;
const STALL: Duration = Duration::from_millis(10);
/// A ring that was closed gives back its locked memory a little later: how often, and how long, the
/// next one waits for that.
const ROUNDS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// The smallest ring: a request and the waker's read.
const SMALLEST: u32 = 2;
/// The newest of the set-ups in `builder`.
const NEWEST: u32 = 4;
/// What may be registered once the ring runs: `io_uring_register` by number, from its header file.
const UNREGISTER_BUFFERS: u8 = 1;
const UNREGISTER_FILES: u8 = 3;
const REGISTER_FILES_UPDATE: u8 = 6;
const FIXED_FILE: u8 = 1;

/// A ring and the count of what the kernel still owes.
pub(super) struct Ring {
    ring: IoUring,
    owed: usize,
    /// How often in a row the kernel refused entries.
    stalls: u32,
    /// It was made with hands tied, for `start` to set free.
    disabled: bool,
    counter: Arc<Counter>,
}

/// One try to make a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    /// How new a set-up is asked for: 6.1 defers its work to our own calls, 6.0 knows of one
    /// thread, 5.18 goes on after a bad entry, 5.10 can be restricted.
    level: u32,
    entries: u32,
    rounds: u32,
}

impl Attempt {
    /// What to try after this errno; none if nothing helps. A kernel says EINVAL to what it does
    /// not know, ENOMEM where memory may not be locked.
    fn after(self, errno: Option<i32>, first: Attempt) -> Option<Attempt> {
        match errno {
            Some(libc::EINVAL) if self.level > 0 => Some(Attempt { level: self.level - 1, ..self }),
            Some(libc::ENOMEM) if self.entries > SMALLEST => {
                Some(Attempt { entries: self.entries / 2, ..self })
            }
            Some(libc::ENOMEM) if self.rounds < ROUNDS => {
                Some(Attempt { entries: first.entries, rounds: self.rounds + 1, ..self })
            }
            _ => None,
        }
    }
}

impl Ring {
    /// A ring of `entries`, or half of that and so on where memory may not be locked. It takes
    /// files and buffers, and requests after `start`.
    pub(super) fn new(entries: usize, counter: Arc<Counter>) -> io::Result<Ring> {
        let too_many = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let wanted = u32::try_from(entries).map_err(too_many)?.next_power_of_two();
        let first = Attempt { level: NEWEST, entries: wanted, rounds: 0 };
        let mut attempt = first;
        let ring = loop {
            match Ring::builder(attempt.level).build(attempt.entries) {
                Ok(ring) => break ring,
                Err(e) => match attempt.after(e.raw_os_error(), first) {
                    Some(next) => {
                        if next.rounds > attempt.rounds {
                            std::thread::sleep(PAUSE);
                        }
                        attempt = next;
                    }
                    None => return Err(e),
                },
            }
        };
        let params = ring.params();
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg()) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Ring { ring, owed: 0, stalls: 0, disabled: attempt.level >= 1, counter })
    }

    /// Lets requests in, those of the log only where the kernel can restrict a ring: code that got
    /// hold of its descriptor could do no more with it than write and read. Tells whether it is so.
    pub(super) fn start(&mut self) -> io::Result<bool> {
        if !self.disabled {
            return Ok(false);
        }
        let mut allowed = [
            Restriction::sqe_op(opcode::Write::CODE),
            Restriction::sqe_op(opcode::WriteFixed::CODE),
            Restriction::sqe_op(opcode::Read::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_allowed(FIXED_FILE),
            Restriction::register_op(REGISTER_FILES_UPDATE),
            Restriction::register_op(UNREGISTER_FILES),
            Restriction::register_op(UNREGISTER_BUFFERS),
        ];
        let restricted = self.ring.submitter().register_restrictions(&mut allowed);
        if let Err(error) = &restricted {
            tracing::debug!(%error, "a ring is not restricted");
        }
        self.ring.submitter().register_enable_rings()?;
        self.disabled = false;
        Ok(restricted.is_ok())
    }

    fn builder(level: u32) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp();
        if level >= 1 {
            builder.setup_r_disabled();
        }
        if level >= 2 {
            builder.setup_submit_all();
        }
        if level >= 3 {
            builder.setup_single_issuer();
        }
        if level >= NEWEST {
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
        let began = Instant::now();
        for _ in 0..TRIES {
            self.counter.add(Call::Enter);
            let entered = match (wait, timeout) {
                (true, None) => self.ring.submitter().submit_and_wait(1),
                (true, Some(timeout)) => {
                    let time = types::Timespec::from(timeout);
                    let args = types::SubmitArgs::new().timespec(&time);
                    self.ring.submitter().submit_with_args(1, &args)
                }
                (false, _) => self.submit_and_look(),
            };
            if entered.is_ok() {
                self.stalls = 0;
            }
            match entered.map_err(|e| (e.raw_os_error(), e)) {
                Ok(_) if wait || self.unsubmitted() == 0 => return Ok(()),
                // A signal, or the time is over: the caller counts the time.
                Err((Some(libc::EINTR | libc::ETIME), _)) if wait => return Ok(()),
                Ok(_) | Err((Some(libc::EINTR), _)) => {}
                // The entries are still in the ring. Completions in the way go first; the kernel
                // finishes none while it refuses entries.
                Err((Some(libc::EBUSY | libc::EAGAIN), _)) if self.stalls < STALLS => {
                    self.look()?;
                    if !self.ring.completion().is_empty() {
                        return Ok(());
                    }
                    self.stalls += 1;
                    match self.stalls < AT_ONCE {
                        true => std::thread::yield_now(),
                        false => std::thread::sleep(STALL),
                    }
                    // The caller may have answers to give.
                    let over = timeout.is_some_and(|timeout| began.elapsed() >= timeout);
                    if over || !wait && self.stalls > AT_ONCE {
                        return Ok(());
                    }
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
        self.enter_for_events(len)
    }

    /// Lets the kernel finish what it can, and submits nothing.
    fn look(&mut self) -> io::Result<()> {
        self.counter.add(Call::Enter);
        match self.enter_for_events(0).map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, e)) => Err(e),
        }
    }

    fn enter_for_events(&mut self, len: u32) -> io::Result<usize> {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed; the entries were vouched for in `push`.
        #[expect(unsafe_code, reason = "the safe calls leave the flag out")]
        unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(len, 0, flags, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_ring_takes_no_request_that_the_log_does_not_make() {
        let mut ring = match Ring::new(2, Arc::default()) {
            Ok(ring) => ring,
            Err(e) => {
                return writeln!(io::stderr(), "SKIPPED, no io_uring here: {e}").expect("stderr");
            }
        };
        if !ring.start().expect("a ring that was made") {
            return writeln!(io::stderr(), "SKIPPED, this kernel can't restrict a ring")
                .expect("stderr");
        }
        let entry = opcode::Nop::new().build();
        // SAFETY: it names neither memory nor descriptor.
        #[expect(unsafe_code, reason = "the kernel is handed an entry")]
        unsafe {
            ring.push(&entry);
        }
        ring.enter(true, None).expect("an entry that is refused is answered");
        assert_eq!(ring.next(), Some((0, -libc::EACCES)));
    }

    #[test]
    fn a_ring_is_asked_for_again_smaller_simpler_and_later() {
        let first = Attempt { level: 1, entries: 8, rounds: 0 };
        let (invalid, memory) = (Some(libc::EINVAL), Some(libc::ENOMEM));
        let steps = [
            (memory, Some((1, 4, 0))),
            (invalid, Some((0, 4, 0))),
            (memory, Some((0, SMALLEST, 0))),
            (memory, Some((0, 8, 1))),
            (invalid, None),
        ];
        let mut attempt = first;
        for (errno, expected) in steps {
            let next = attempt.after(errno, first);
            assert_eq!(next.map(|a| (a.level, a.entries, a.rounds)), expected, "{attempt:?}");
            attempt = next.unwrap_or(attempt);
        }
        let last = Attempt { entries: SMALLEST, rounds: ROUNDS, ..first };
        assert_eq!(last.after(memory, first), None);
        for errno in [Some(libc::EPERM), Some(libc::ENOSYS), None] {
            assert_eq!(first.after(errno, first), None, "{errno:?}");
        }
    }
}
