//! The bug bank: each planted bug has to be caught by the same seeds that a healthy log passes.

use std::sync::Mutex;

use prkdb_core::bugs::{Bug, plant};

use super::{attempt, expecting, lanes};

/// Seeds within which a bug has to be caught.
fn budget(bug: Bug) -> u64 {
    match bug {
        Bug::EarlyAcknowledgement => 500,
        Bug::RetriedSync => 5000,
        Bug::ShortWriteIgnored => 500,
        Bug::NoNonce => 5000,
        Bug::ChecksumNotOverLength => 5000,
        Bug::MidLogDamageCut => 500,
        Bug::WriteOnInTornSegment => 5000,
        Bug::CachedTailTrusted => 5000,
        Bug::DirectorySyncMissing => 500,
        Bug::LanesCutApart => 5000,
        // Not by seeds: it takes a power cut between two steps of the recovery of a killed log.
        Bug::FooterBeforeSyncs => 1,
        Bug::HangAfterError => 500,
        Bug::CanceledSyncBelieved => 5000,
    }
}

#[test]
fn every_planted_bug_is_caught() {
    let bugs = Mutex::new(Bug::ALL.iter());
    let missed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(bug) = bugs.lock().unwrap().next().copied() else { return };
                    plant(Some(bug));
                    let caught = (0..budget(bug)).find_map(|seed| {
                        let outcome = match bug {
                            Bug::FooterBeforeSyncs => expecting(lanes::crash_recovery, false),
                            _ => attempt(seed, false).map(drop),
                        };
                        outcome.err().map(|why| (seed, why))
                    });
                    plant(None);
                    match caught {
                        Some((seed, why)) => {
                            let why = why.replace('\n', " ");
                            eprintln!("{bug:?}: caught after {} seeds: {why}", seed + 1);
                        }
                        None => missed.lock().unwrap().push(bug),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught within their budgets: {missed:?}");
}
