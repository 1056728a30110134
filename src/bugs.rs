//! Planted bugs: each breaks one promise on purpose, to prove that a test suite would notice.
//!
//! Without the feature `bugs` every question is the constant `false` and the code is gone. A bug is
//! chosen per thread: a simulated log runs on the caller's thread alone.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A bug that can be planted.
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
    /// A sync that the kernel could not start counts as done: planted in the simulated disk, which
    /// stands for the ring's queue there; that one's own answer has unit tests beside it.
    #[cfg(feature = "sim")]
    CanceledSyncBelieved,
    /// A sync that is done counts for what was written while it was under way.
    SyncCoversLaterWrites,
    /// A forced write counts for the plain ones before it.
    PlainCoveredByForced,
    /// After a short write its rest goes to the start again.
    RestAtTheStart,
    /// An interrupted write is queued twice.
    PreparedAgain,
    /// A failed write counts as done.
    SwallowedWriteError,
    /// A frame says that all before it was promised.
    WatermarkTooEarly,
    /// Several syncs of one file are in flight.
    TwoSyncsInFlight,
    /// A batch is answered when its own write is durable, whatever is missing before it.
    AnsweredOutOfOrder,
    /// Who waits for durable records is answered when they are written.
    WaitEndsWhenWritten,
    /// A segment gets its footer before all in it is durable.
    SealedTooEarly,
    /// Recovery goes on behind damage, and over a gap.
    ResynchronisingScan,
    /// A read error in recovery is the end of a segment.
    ReadErrorIsEnd,
    /// A log that is being written is marked as closed.
    CleanWhileWriting,
    /// Recovery begins no new epoch.
    EpochNotRaised,
    /// After recovery one LSN is left out.
    LsnSkipped,
    /// What was in a group's buffer before goes to the disk as its padding.
    PaddingKept,
    /// META is updated in one slot only.
    MetaInOneSlot,
    /// An update of META that follows one that was broken off begins with the older slot.
    OlderMetaSlotFirst,
    /// META does not say that what is damaged is being given up.
    MendingUnmarked,
    /// `resume` takes the log for whatever its files say, also if that is less than was answered.
    AnsweredForgotten,
    /// META is written and not synced.
    MetaUnsynced,
    /// Segments are taken away before META says so.
    RetiredBeforeMeta,
    /// META does not say that records were cut from the end.
    CutForgotten,
    /// A segment gets its name before its header is synced.
    NamedBeforeSynced,
    /// A retired file is used again though a checkpoint has it too.
    LinkedFileReused,
    /// A footer is believed whatever life of the file it is from.
    FooterUnsalted,
    /// A reader at the durable level gives what is only written.
    ReaderAheadOfDurable,
    /// A record's own checksum is not looked at.
    RecordUnchecked,
    /// Once no segment could be made, the maker is not asked again.
    SpaceNotAskedAgain,
    /// A full disk poisons the log.
    PoisonedByFullDisk,
    /// What was being made when the making was broken off stays in the pool.
    TempFileLeft,
    /// The maker keeps a handle of each segment it has made.
    HandleKept,
    /// What is in flight when a sync fails is answered as if it were durable.
    AnsweredAfterPoison,
    /// Recovery does not look behind the first frame that is bad.
    LookAheadSkipped,
    /// Recovery does not believe the watermark in META.
    MetaWatermarkIgnored,
    /// Recovery syncs one of the segments that were open, and no other.
    LaneUnsynced,
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
