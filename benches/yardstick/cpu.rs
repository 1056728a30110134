//! What the CPU did for this process, all its threads and the kernel's workers for its rings
//! included.

use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// So far, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time.
    pub time: Duration,
    /// How often a thread gave its core up, because it waited or because another one's turn came.
    pub switches: u64,
}

impl Usage {
    /// So far.
    ///
    /// # Errors
    /// The system's error.
    pub fn now() -> io::Result<Usage> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        Ok(Usage {
            time: Duration::from_micros(u64::try_from(micros).unwrap_or(0)),
            switches: u64::try_from(switches).unwrap_or(0),
        })
    }

    /// Since it was `before`.
    #[must_use]
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            time: self.time.saturating_sub(before.time),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// User and system time so far.
///
/// # Errors
/// The system's error.
pub fn process_time() -> io::Result<Duration> {
    Ok(Usage::now()?.time)
}
