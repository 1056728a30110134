//! The bug bank: each planted bug has to be caught by the same seeds and scripts that a healthy log
//! passes, within a budget of seeds of its own, and for what it is.

use std::sync::Mutex;

use prkdb_core::bugs::{Bug, plant};

use super::{attempt, edges, expecting, lanes, mending, script, slots};

/// What has to notice a bug.
enum By {
    /// So many seeds, from the first on.
    Seeds(u64),
    /// One test, by name: what it takes is too rare for a seed to meet it.
    Test(&'static str, fn()),
}

fn watch(bug: Bug) -> By {
    match bug {
        // It takes a power cut between two steps of the recovery of a killed log.
        Bug::FooterBeforeSyncs => By::Test("lanes::crash_recovery", lanes::crash_recovery),
        // It takes a power cut, or a failed sync, between the ends of two syncs of one file.
        Bug::TwoSyncsInFlight => By::Test("lanes::one_sync_at_a_time", lanes::one_sync_at_a_time),
        // The state of a user fills several sectors of a slot here; that of a seed fits one.
        Bug::MetaInOneSlot | Bug::OlderMetaSlotFirst => {
            By::Test("slots::broken_off_and_cut_again", slots::broken_off_and_cut_again)
        }
        // It takes a failed sync of a mending, and a power cut in the life after it.
        Bug::MendingUnmarked => By::Test("mending::a_failure_each", mending::a_failure_each),
        // It takes a device that lost what it had called durable, and a resume.
        Bug::AnsweredForgotten => By::Test(
            "edges::resume_remembers_what_was_answered",
            edges::resume_remembers_what_was_answered,
        ),
        // No engine makes hard links.
        Bug::LinkedFileReused => By::Test(
            "script::a_segment_that_a_checkpoint_links_is_never_written_again",
            script::a_segment_that_a_checkpoint_links_is_never_written_again,
        ),
        // They show only where a rare thing meets another.
        Bug::NoNonce
        | Bug::CanceledSyncBelieved
        | Bug::CachedTailTrusted
        | Bug::ReadErrorIsEnd
        | Bug::LanesCutApart
        | Bug::ReaderAheadOfDurable => By::Seeds(5000),
        _ => By::Seeds(2000),
    }
}

/// A promised record is gone: the model says so, or the log itself.
const LOSES: &[&str] = &["I1, I5: ", "I1: ", "corrupt: record "];

/// What the catch of a bug says, one of these: any other panic shows something else than the bug,
/// be it that a test of it counted too few runs.
fn told(bug: Bug) -> &'static [&'static str] {
    match bug {
        Bug::ChecksumNotOverLength => &["I7: a header's bit passed"],
        Bug::MidLogDamageCut | Bug::EpochNotRaised | Bug::CleanWhileWriting => &["I7: "],
        Bug::LookAheadSkipped | Bug::MetaWatermarkIgnored => &["I7: "],
        Bug::NoNonce => &["everything to 1099511627776 was promised"],
        Bug::DirectorySyncMissing => &["its segment is missing", "I1, I5: "],
        Bug::HangAfterError => &["simulated hang", "simulated deadlock"],
        Bug::ReadErrorIsEnd => &["foretold something else", "I1, I5: ", "corrupt: record "],
        // The sync may have been for records, or for the header of their segment.
        Bug::CanceledSyncBelieved => {
            &["I1, I5: ", "corrupt: record ", "segment header: zeros, nothing was written here"]
        }
        Bug::PreparedAgain => &["a piece is answered once"],
        Bug::TwoSyncsInFlight => &[" was answered, "],
        Bug::SealedTooEarly => &["a segment stays open while groups of it are in flight"],
        Bug::LsnSkipped => &["a later record stands here"],
        // The gap is inside the log, or its start.
        Bug::ResynchronisingScan => &["a later record stands here", "no segment holds record "],
        Bug::WatermarkTooEarly => &["lost: records ", "corrupt: record "],
        Bug::MetaInOneSlot => &["one of the two states"],
        Bug::OlderMetaSlotFirst => &["both slots are bad"],
        Bug::AnsweredForgotten => &["record 3 was answered"],
        Bug::MetaUnsynced | Bug::CutForgotten => &["I4: batch "],
        Bug::RetiredBeforeMeta => &["no segment holds record "],
        Bug::MendingUnmarked => &["corrupt: segment header"],
        Bug::NamedBeforeSynced => &["segment header: zeros"],
        Bug::LinkedFileReused => &["was written again"],
        Bug::ReaderAheadOfDurable => &["I2: what was served was not all read"],
        Bug::SpaceNotAskedAgain => &["I9: "],
        Bug::PoisonedByFullDisk => &["I9: a full disk poisoned"],
        Bug::TempFileLeft | Bug::HandleKept => &["I10: "],
        Bug::AnsweredAfterPoison => &["I8: "],
        Bug::EarlyAcknowledgement
        | Bug::RetriedSync
        | Bug::ShortWriteIgnored
        | Bug::WriteOnInTornSegment
        | Bug::CachedTailTrusted
        | Bug::LanesCutApart
        | Bug::FooterBeforeSyncs
        | Bug::SyncCoversLaterWrites
        | Bug::PlainCoveredByForced
        | Bug::RestAtTheStart
        | Bug::SwallowedWriteError
        | Bug::AnsweredOutOfOrder
        | Bug::WaitEndsWhenWritten
        | Bug::PaddingKept
        | Bug::FooterUnsalted
        | Bug::LaneUnsynced => LOSES,
        Bug::RecordUnchecked => &["I1: ", "I7: damage was served"],
    }
}

/// How long a bug lived, and what noticed it; or why what noticed something did not notice it.
fn hunt(bug: Bug) -> Result<(String, String), String> {
    let caught = match watch(bug) {
        By::Seeds(budget) => (0..budget).find_map(|seed| {
            let why = attempt(seed, false).err()?;
            Some((format!("after {} seeds of {budget}", seed + 1), why))
        }),
        By::Test(name, test) => expecting(test, false).err().map(|why| (format!("by {name}"), why)),
    };
    let (when, why) = caught.ok_or("within its budget nothing noticed it")?;
    let is_told = told(bug).iter().any(|text| why.contains(text));
    if is_told { Ok((when, why)) } else { Err(format!("{when} something else: {why}")) }
}

#[test]
fn every_planted_bug_is_caught() {
    assert!(Bug::ALL.len() >= 25, "the bank has {} bugs", Bug::ALL.len());
    let bugs = Mutex::new(Bug::ALL.iter());
    let missed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(bug) = bugs.lock().unwrap().next().copied() else { return };
                    plant(Some(bug));
                    let caught = hunt(bug);
                    plant(None);
                    match caught {
                        Ok((when, why)) => {
                            let why = why.replace('\n', " ");
                            eprintln!("{bug:?}: caught {when}: {why}");
                        }
                        Err(why) => missed.lock().unwrap().push((bug, why)),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
    eprintln!("{} of {} planted bugs were caught", Bug::ALL.len(), Bug::ALL.len());
}
