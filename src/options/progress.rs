//! How far a recovery is: told to whoever waits for `open`.

use std::fmt;
use std::sync::Arc;

/// How much of the log recovery has looked at.
///
/// - Units: bytes of segment files. A sealed segment counts whole once its footer was read. Under
///   `PointInTime` and `Salvage` each byte is looked at three times and counts as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Bytes done; never falls, and reaches `bytes_total` before `open` returns `Ok`.
    pub bytes_done: u64,
    /// Bytes to do, the same in each call.
    pub bytes_total: u64,
}

/// What [`WalConfig::on_recovery_progress`](crate::WalConfig::on_recovery_progress) takes: a
/// function that may be shared. Two are equal if they are clones of one.
#[derive(Clone)]
pub struct OnRecoveryProgress(Arc<dyn Fn(RecoveryProgress) + Send + Sync>);

impl OnRecoveryProgress {
    /// Calls `hear` now and then: after each segment, and inside of one that has to be walked about
    /// every MiB.
    pub fn new(hear: impl Fn(RecoveryProgress) + Send + Sync + 'static) -> OnRecoveryProgress {
        OnRecoveryProgress(Arc::new(hear))
    }

    pub(crate) fn tell(&self, bytes_done: u64, bytes_total: u64) {
        (self.0)(RecoveryProgress { bytes_done, bytes_total });
    }
}

impl fmt::Debug for OnRecoveryProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRecoveryProgress(..)")
    }
}

impl PartialEq for OnRecoveryProgress {
    fn eq(&self, other: &OnRecoveryProgress) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OnRecoveryProgress {}
