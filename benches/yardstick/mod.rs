//! The yardsticks: what this machine does without a log, to hold the log's figures against.
//!
//! ```text
//! records --memory--> aligned buffer, lengths, one CRC a batch          what the CPU can do
//! buffers --ring | threads--> one pre-written file, many in flight      what the disk can do
//!    cpu: what this process takes  machine: which disk, which kernel     calm: rests, a ballast
//! ```
//!
//! They share no code with what they measure: a yardstick made of the same parts proves nothing.
//! Invariants: a write counts when its completion, or the sync behind it, came back in the window;
//! no two writes in flight overlap; when a run returned nothing is in flight any more.
//!
//! Compiled, by path, into `prkdb bench` and `examples/yardstick.rs`.
#![allow(dead_code, reason = "each of the two uses what it needs")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub mod calm;
pub mod cpu;
mod file;
pub mod machine;
pub mod memory;
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod ring;
#[cfg(test)]
mod tests;
mod threads;

pub use file::RawFile;

/// The unit of sizes and addresses, bytes: what direct I/O takes on common devices.
pub const BLOCK: usize = 4096;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One request that answers when it is durable: `RWF_DSYNC`, or a descriptor with `O_DSYNC`.
    Dsync,
    /// A write, and when it completed an fdatasync (on a ring linked to it).
    WriteThenFdatasync,
    /// A write alone: not durable.
    Unsynced,
}

impl Method {
    /// The ways to durability that there are here. On Apple systems only a sync reaches the device.
    pub const DURABLE: &[Method] = if cfg!(target_vendor = "apple") {
        &[Method::WriteThenFdatasync]
    } else {
        &[Method::Dsync, Method::WriteThenFdatasync]
    };

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Dsync => "dsync",
            Method::WriteThenFdatasync => "write+fdatasync",
            Method::Unsynced => "unsynced",
        }
    }
}

/// What a raw loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Bytes a write, a multiple of [`BLOCK`].
    pub write_bytes: usize,
    /// Writes in flight, 1 to 32.
    pub depth: usize,
    /// How each is made durable.
    pub method: Method,
}

/// The time in which things count. Work goes on from before it, so that nothing starts cold.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Its start.
    pub from: Instant,
    /// Its end; work stops here.
    pub until: Instant,
    /// Ends the work early.
    pub stop: &'a AtomicBool,
}

impl Window<'_> {
    /// A window of `length` that opens `lead_in` from now.
    pub fn after(lead_in: Duration, length: Duration, stop: &AtomicBool) -> Window<'_> {
        let from = Instant::now() + lead_in;
        Window { from, until: from + length, stop }
    }

    /// Whether what happened at `now` counts.
    pub fn contains(&self, now: Instant) -> bool {
        self.from <= now && now < self.until
    }

    /// Whether the work ends.
    pub fn is_over(&self, now: Instant) -> bool {
        // Relaxed: it carries no other memory with it, and a moment later is soon enough.
        now >= self.until || self.stop.load(Ordering::Relaxed)
    }

    /// Its length.
    pub fn length(&self) -> Duration {
        self.until - self.from
    }
}

/// What a raw loop did in its window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Writes that came back in it.
    pub writes: u64,
    /// From submission to answer, nanoseconds, of those that were submitted in it.
    pub latencies_ns: Vec<u64>,
    /// `io_uring_enter` calls; none where there is no ring.
    pub enters: Option<u64>,
    /// All system calls that move data or wait for it.
    pub calls: u64,
}

/// How the raw loop gets to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// A bare io_uring ring.
    Ring,
    /// Positional writes, a thread for each that is in flight.
    Threads,
}

impl Means {
    /// The ring where it works on `file`, else threads.
    pub fn of(file: &RawFile) -> Means {
        #[cfg(all(target_os = "linux", not(prkdb_portable)))]
        if ring::works(file) {
            return Means::Ring;
        }
        tracing::debug!(path = %file.path().display(), "the raw loop writes on threads");
        Means::Threads
    }

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Means::Ring => "io_uring",
            Means::Threads => "threads",
        }
    }
}

/// Writes to `file` until the window is over, then waits for what is in flight.
///
/// # Errors
/// The system's error; a short write is one too. What was in flight is waited for all the same.
pub fn raw(means: Means, file: &RawFile, load: Load, window: &Window<'_>) -> io::Result<Count> {
    file.check(load)?;
    match means {
        #[cfg(all(target_os = "linux", not(prkdb_portable)))]
        Means::Ring => ring::run(file, load, window),
        #[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
        Means::Ring => Err(io::Error::from(io::ErrorKind::Unsupported)),
        Means::Threads => threads::run(file, load, window),
    }
}

/// Fills `bytes` with what does not compress, the same in every run.
pub fn noise(bytes: &mut [u8]) {
    // Knuth's multiplicative congruence; its high byte is good enough.
    let mut state = 1u64;
    for byte in bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_le_bytes()[7];
    }
}
