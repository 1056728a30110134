//! Planted bugs: each breaks one promise on purpose, to prove that a test suite would notice.
//!
//! Without the feature `bugs` every question is the constant `false` and the code is gone. A bug is
//! chosen per thread: a simulated log runs on the caller's thread alone.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A bug that can be planted.
        #[cfg_attr(not(feature = "sim"), expect(dead_code, reason = "some are the simulator's"))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[$doc])* $name),+ }

        #[cfg(feature = "bugs")]
        impl Bug {
            /// Every bug there is.
            pub const ALL: &'static [Bug] = &[$(Bug::$name),+];
        }
    };
}

bugs! {
    /// A `Sync` append is answered when its write is submitted.
    EarlyAcknowledgement,
    /// A failed sync is tried again, and the second answer believed.
    RetriedSync,
    /// A short write counts as a whole one.
    ShortWriteIgnored,
    /// Headers are checked without the segment's nonce.
    NoNonce,
    /// The frame header's checksum leaves out its lengths.
    ChecksumNotOverLength,
    /// Damage below the watermark is cut as if it were a torn tail.
    MidLogDamageCut,
    /// After a crash the log goes on in the segment that was torn.
    WriteOnInTornSegment,
    /// The tail is served as the page cache shows it, without a copy.
    CachedTailTrusted,
    /// A segment is used before its directory entry is synced.
    DirectorySyncMissing,
    /// Recovery ends each segment at its own last frame, whatever another one lost.
    LanesCutApart,
    /// Recovery ends a segment before it synced those beside it.
    FooterBeforeSyncs,
    /// After a failed write the batches in flight are never answered.
    HangAfterError,
    /// A sync that the kernel could not start counts as done.
    CanceledSyncBelieved,
}

/// True where `bug` is planted in this thread.
#[cfg(feature = "bugs")]
pub(crate) fn on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// False: nothing can be planted in this build.
#[cfg(not(feature = "bugs"))]
pub(crate) const fn on(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in the calling thread, or none.
#[cfg(feature = "bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
