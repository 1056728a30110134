//! The raw loop on a bare ring: one thread, registered file and buffers, nothing else.
//!
//! ```text
//! idle slot -> stamp -> WRITE_FIXED (RWF_DSYNC | linked FSYNC | nothing) -> io_uring_enter(wait)
//!     ^-------------------------------- completion, counted <-------------------'
//! ```
//!
//! Invariants: a slot's buffer is not touched between its push and the completion of its last
//! request; what is in flight is waited for before the buffers go, or they are leaked.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::libc;

use super::file::Aligned;
use super::{Count, Load, Method, RawFile, Window};

/// The registered file.
const FILE: types::Fixed = types::Fixed(0);
/// Marks the completion of a sync; the rest of a request's number is its slot.
const SYNC: u64 = 1 << 32;

/// Whether a write to `file` through a ring comes back whole.
pub(super) fn works(file: &RawFile) -> bool {
    let load = Load { write_bytes: super::BLOCK, depth: 1, method: Method::Unsynced };
    let Ok(mut bench) = Loop::new(file, load) else { return false };
    let slot = bench.idle.pop();
    slot.is_some_and(|slot| bench.push(slot).is_ok()) && bench.drain(drop).is_ok()
}

/// Runs `load` on this thread.
pub(super) fn run(file: &RawFile, load: Load, window: &Window<'_>) -> io::Result<Count> {
    Loop::new(file, load)?.run(window)
}

/// One write in flight, or room for it.
struct Slot {
    buf: Aligned,
    since: Instant,
    /// Completions still to come.
    owed: usize,
}

struct Loop<'a> {
    ring: IoUring,
    slots: Vec<Slot>,
    /// Slots with nothing in flight.
    idle: Vec<usize>,
    /// Buffers are registered: the n-th slot's is number n.
    registered: bool,
    file: &'a RawFile,
    load: Load,
    next: u64,
}

impl<'a> Loop<'a> {
    fn new(file: &'a RawFile, load: Load) -> io::Result<Loop<'a>> {
        let ring = build(load.depth * 2)?;
        ring.submitter().register_files(&[file.file().as_raw_fd()])?;
        let slot =
            || Slot { buf: Aligned::noise(load.write_bytes), since: Instant::now(), owed: 0 };
        let mut slots: Vec<Slot> = (0..load.depth).map(|_| slot()).collect();
        let views: Vec<libc::iovec> = slots
            .iter_mut()
            .map(|slot| {
                let bytes = slot.buf.bytes_mut();
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
            })
            .collect();
        // SAFETY: each view is of a slot's buffer, which never moves, and `drop` frees
        // the buffers only when nothing is in flight.
        #[expect(unsafe_code, reason = "the kernel is told of memory")]
        let registered = unsafe { ring.submitter().register_buffers(&views) };
        // Where memory may not be locked, plain writes do.
        let registered = registered.is_ok();
        let idle = (0..load.depth).collect();
        Ok(Loop { ring, slots, idle, registered, file, load, next: 0 })
    }

    fn run(&mut self, window: &Window<'_>) -> io::Result<Count> {
        let mut count = Count { enters: Some(0), ..Count::default() };
        while !window.is_over(Instant::now()) {
            while let Some(slot) = self.idle.pop() {
                self.push(slot)?;
            }
            let entered = self.enter();
            let now = Instant::now();
            let counts = window.contains(now);
            if counts {
                count.enters = count.enters.map(|enters| enters + 1);
                count.calls += 1;
            }
            entered?;
            self.reap(|since| {
                count.writes += u64::from(counts);
                note(&mut count.latencies_ns, window, since, now);
            })?;
        }
        self.drain(|since| note(&mut count.latencies_ns, window, since, Instant::now()))?;
        Ok(count)
    }

    /// Prepares the next write in `slot`.
    fn push(&mut self, slot: usize) -> io::Result<()> {
        let Load { write_bytes, method, .. } = self.load;
        let stamp = self.next;
        let at = stamp % self.file.places(write_bytes) * write_bytes as u64;
        self.next += 1;
        let index = u16::try_from(slot).map_err(io::Error::other)?;
        let len = u32::try_from(write_bytes).map_err(io::Error::other)?;
        let flags = if method == Method::Dsync { libc::RWF_DSYNC } else { 0 };
        let target = &mut self.slots[slot];
        debug_assert_eq!(target.owed, 0, "the slot is idle");
        target.buf.stamp(stamp);
        target.since = Instant::now();
        let memory = target.buf.bytes().as_ptr();
        let write = match self.registered {
            true => {
                opcode::WriteFixed::new(FILE, memory, len, index).offset(at).rw_flags(flags).build()
            }
            false => opcode::Write::new(FILE, memory, len).offset(at).rw_flags(flags).build(),
        }
        .user_data(index.into());
        if method != Method::WriteThenFdatasync {
            return self.hand_over(slot, &[write]);
        }
        let sync = opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build();
        // Linked: the sync starts when the write returned its full length, else it is cancelled.
        let write = write.flags(squeue::Flags::IO_LINK);
        self.hand_over(slot, &[write, sync.user_data(u64::from(index) | SYNC)])
    }

    fn hand_over(&mut self, slot: usize, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: the entries name the registered file and this slot's buffer, which is as long as
        // they say, never moves, and is not touched before `reap` took their last completion.
        #[expect(unsafe_code, reason = "the kernel is handed raw addresses")]
        let pushed = unsafe { self.ring.submission().push_multiple(entries) };
        pushed.map_err(|_| io::Error::other("the ring has no room for a write"))?;
        self.slots[slot].owed = entries.len();
        Ok(())
    }

    /// Submits what was pushed and waits for a completion.
    fn enter(&mut self) -> io::Result<()> {
        // One write in flight has come back when both of its requests have.
        let alone = self.load.depth == 1 && self.load.method == Method::WriteThenFdatasync;
        let owed = self.slots.first().map_or(0, |slot| slot.owed);
        match self.ring.submit_and_wait(if alone { owed.max(1) } else { 1 }) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes the completions that are there; `done` is told since when a finished write ran.
    fn reap(&mut self, mut done: impl FnMut(Instant)) -> io::Result<()> {
        let entries: Vec<cqueue::Entry> = self.ring.completion().collect();
        let mut failed = None;
        for entry in entries {
            let index = usize::try_from(entry.user_data() & !SYNC).map_err(io::Error::other)?;
            let slot = &mut self.slots[index];
            slot.owed -= 1;
            if slot.owed == 0 {
                self.idle.push(index);
                done(slot.since);
            }
            let expected = if entry.user_data() & SYNC == 0 { self.load.write_bytes } else { 0 };
            match usize::try_from(entry.result()) {
                Ok(n) if n == expected => {}
                Ok(n) => failed = Some(io::Error::other(format!("a raw write of {n} bytes"))),
                Err(_) => failed = Some(io::Error::from_raw_os_error(-entry.result())),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Waits until nothing is in flight.
    fn drain(&mut self, mut done: impl FnMut(Instant)) -> io::Result<()> {
        let mut failed = Ok(());
        while self.slots.iter().any(|slot| slot.owed > 0) {
            self.enter()?;
            failed = failed.and(self.reap(&mut done));
        }
        failed
    }
}

/// Takes the latency of a write that began in the window, also if its answer came after the end.
fn note(latencies: &mut Vec<u64>, window: &Window<'_>, since: Instant, now: Instant) {
    if window.contains(since) {
        latencies.push(u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Drop for Loop<'_> {
    fn drop(&mut self) {
        // Only an enter that fails leaves a slot busy; what a write said is not asked here.
        while self.slots.iter().any(|slot| slot.owed > 0) {
            if self.enter().is_err() {
                // The kernel may still read them.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            self.reap(drop).ok();
        }
    }
}

/// A ring of this thread's own, with what the kernel offers.
fn build(entries: usize) -> io::Result<IoUring> {
    let entries = u32::try_from(entries).map_err(io::Error::other)?;
    // 6.1 defers its work to our own calls, 6.0 knows of one thread; older kernels say EINVAL.
    let fast = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    match fast {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries),
        other => other,
    }
}
