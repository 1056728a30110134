//! The bug bank: each planted bug has to be caught by the same seeds and scripts that a healthy log
//! passes, within a budget of seeds of its own.

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

/// How long a bug lived, and what noticed it.
fn hunt(bug: Bug) -> Option<(String, String)> {
    match watch(bug) {
        By::Seeds(budget) => (0..budget).find_map(|seed| {
            let why = attempt(seed, false).err()?;
            Some((format!("after {} seeds of {budget}", seed + 1), why))
        }),
        By::Test(name, test) => expecting(test, false).err().map(|why| (format!("by {name}"), why)),
    }
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
                        Some((when, why)) => {
                            let why = why.replace('\n', " ");
                            eprintln!("{bug:?}: caught {when}: {why}");
                        }
                        None => missed.lock().unwrap().push(bug),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught within their budgets: {missed:?}");
    eprintln!("{} of {} planted bugs were caught", Bug::ALL.len(), Bug::ALL.len());
}
