//! The log on the simulated disk: crashes and faults by the thousand, from one number each.
//!
//! ```text
//! seed -> life: open, work, crash, recover, check ... -> cycles, or a panic that names the seed
//! ```
//!
//! `PRKDB_SIM_SEED=n` runs one seed and tells what it does; `PRKDB_SIM_START=n` and
//! `PRKDB_SIM_SEEDS=n` choose the range, `PRKDB_SIM_DOUBT=1` those seeds of it whose disks can't be
//! trusted. One cycle is one crash or close, recovery and check.

//!
//! | | what holds | where it is checked |
//! |---|---|---|
//! | I1 | what was promised is there, byte for byte | `model`, `life::check`, `modes` |
//! | I2 | no gap | `model`, `life::read`, `doubt`, `modes` |
//! | I3 | a batch is whole or absent | `model`, `doubt` |
//! | I4 | nothing else, nowhere else, never twice | `model`, `doubt`, `modes` |
//! | I5 | what was served once stays, whatever crashes | `life::check`, `modes` |
//! | I6 | opening twice changes nothing | `life`, `doubt`, `modes` |
//! | I7 | damage is told: no wrong bytes, nothing cut that is proved | `rot`, `doubt`, `lanes` |
//! | I8 | a poisoned log says `Ok` to nothing, all returns | `client`, `doubt`, `turns`, `modes` |
//! | I9 | space that is free again restores service | `work::fill_disk`, `modes` |
//! | I10 | nothing leaks: files, locks, queues, machines | `life`, `doubt`, `modes`, `same` |

// The simulated disk is the same on every system.
#![cfg(all(feature = "sim", not(prkdb_portable)))]

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Instant;

use prkdb_core::io::sim::CrashKind;

use tally::Tally;

mod aside;
#[cfg(feature = "bugs")]
mod bank;
mod breaks;
mod cases;
mod client;
#[path = "../support/commit.rs"]
mod commit;
mod damage;
mod doubt;
mod edges;
mod excuse;
mod lanes;
mod leaks;
mod life;
mod lives;
mod mend;
mod mending;
mod model;
mod modes;
mod room;
mod rot;
mod same;
mod script;
mod slots;
mod tail;
mod tally;
#[path = "../support/through.rs"]
mod through;
mod turns;
mod wipe;
mod work;

/// Seeds of a run that was not told how many.
const SEEDS: u64 = 5_000;

/// Seed, whether files are written past the page cache, and what a crash is.
type Way = (u64, bool, CrashKind);

/// Where operations are counted through, each way is one schedule, so that none is left out.
const WAYS: [Way; 4] = [
    (1, true, CrashKind::Power),
    (2, true, CrashKind::Kill),
    (3, false, CrashKind::Power),
    (4, false, CrashKind::Kill),
];

thread_local! {
    /// A panic in this thread is expected: it is noted, not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static NOTED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one seed; on failure what was broken and where.
fn attempt(seed: u64, verbose: bool) -> Result<Tally, String> {
    expecting(|| life::run(seed, verbose), verbose)
}

/// Runs what may panic; what the panic said.
fn expecting<T>(run: impl FnOnce() -> T, verbose: bool) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                NOTED.set(info.to_string());
            } else {
                print(info);
            }
        }));
    });
    QUIET.set(!verbose);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.map_err(|_| NOTED.take())
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name} is {text}, which is no number: {e}")))
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("PRKDB_SIM_SEED") {
        let met = attempt(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        eprintln!("seed {seed}: {met:?}");
        return;
    }
    let start = number("PRKDB_SIM_START").unwrap_or(0);
    let end = start + number("PRKDB_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(start), AtomicU64::new(0));
    let sum = Mutex::new(Tally::default());
    let broken = AtomicBool::new(false);
    let doubt = number("PRKDB_SIM_DOUBT").is_some();
    let before = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.load(Ordering::Relaxed) >= 10 {
                        return;
                    }
                    if doubt && life::hazard(seed) == life::Hazard::None {
                        continue;
                    }
                    match attempt(seed, false) {
                        Ok(met) => *sum.lock().unwrap_or_else(PoisonError::into_inner) += met,
                        Err(why) => {
                            eprintln!("PRKDB_SIM_SEED={seed} fails: {why}");
                            broken.store(true, Ordering::Relaxed);
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (run, cycles, faults) = (sum.seeds, sum.cycles, sum.met.total());
    let seconds = before.elapsed().as_secs_f64();
    let rate = cycles as f64 / seconds;
    eprintln!("{run} seeds, {cycles} cycles, {seconds:.1} s, {rate:.0} cycles/s: {sum:?}");
    assert!(!broken.into_inner(), "seeds above broke a promise");
    if !doubt {
        sum.expect_all_met();
    }
    println!(
        "soak: sim: {cycles} cycles, {faults} faults, 0 lost, {run} seeds, \
         PRKDB_SIM_START={start} PRKDB_SIM_SEEDS={}, commit {}",
        end - start,
        commit::commit()
    );
}

/// Each showed something that was mended; a change of what seeds draw may make them ordinary.
const ONCE_FAILED: &[u64] = &[
    // Refused with `StorageFull` although age had just cut what was in the way of the window.
    38_589,
    // A cut was forgotten though a segment from before it could come back.
    47_698,
    // A lying disk forgot that the log had been opened: its end was taken for that of the close.
    1_795_912_055_686,
    // A footer of which the write had failed was in the page cache, and was taken for durable.
    903_209,
    // A segment came back under its old name and was in the pool too: it was to be wiped twice.
    912_871,
    // A sync that failed while the log was opened, and was heard of on a full disk.
    4_010_992,
    // The maker's queue broke while both sync methods were measured, which went on.
    4_011_868,
];

#[test]
fn seeds_that_failed_once_pass() {
    for seed in ONCE_FAILED {
        attempt(*seed, false).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn a_seed_replays_to_the_last_byte() {
    let start = number("PRKDB_SIM_START").unwrap_or(0);
    for seed in start..start + 150 {
        let runs = [seed, seed].map(life::footprint);
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}
