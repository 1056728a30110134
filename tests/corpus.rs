//! The fuzz targets' corpus, replayed as plain tests: what fuzzing reached stays reached.
//!
//! `ci/fuzz` finds inputs; those worth keeping are under `tests/fuzz/corpus/<target>/`. What a
//! target holds on the heap is bounded as `-malloc_limit_mb` bounds one allocation there, and by
//! what its input is long: no length in it is believed before it was proven.
#![cfg(feature = "fuzz")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

#[path = "fuzz/targets/mod.rs"]
mod targets;

use targets::{TARGETS, Target};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

/// The heap is counted over the whole process: one target at a time.
static TURN: Mutex<()> = Mutex::new(());
/// The most that a target may hold while its corpus is replayed, beyond what it held before.
const MOST_HEAP: usize = 64 << 20;
/// Targets that read files which an input makes or damages, and what they may hold beyond its
/// length: next to what was measured, of which most is the target's own. zstd's own state, from C,
/// is not counted.
const BEYOND_INPUT: [(&str, usize); 4] = [
    // 2,514 bytes: the frame twice, its records, what a codec keeps.
    ("frame", 4 << 10),
    // 1,227,956: a window of 1 MiB, and a file of 72 KiB in the simulated world.
    ("scan", 5 << 18),
    // 2,914,876: a log of up to a dozen small files in such a world, twice where it is mended.
    ("directory", 3 << 20),
    // 261,768: two slots of 64 KiB, twice.
    ("meta", 260 << 10),
];

/// The most that was held at once, of what was allocated meanwhile.
fn peak(run: impl FnOnce()) -> usize {
    let counting = dhat::Profiler::builder().testing().build();
    run();
    let peak = dhat::HeapStats::get().max_bytes;
    drop(counting);
    peak
}

/// The most that the whole corpus may take in the repository.
const MOST_BYTES: usize = 512 << 10;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs a target on its corpus; names the first input that it fails on.
fn replay(name: &str) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Target(_, run) = TARGETS.iter().find(|target| target.0 == name).unwrap();
    let inputs = corpus(name);
    assert!(!inputs.is_empty(), "an empty corpus tests nothing");
    for (path, input) in &inputs {
        if panic::catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
            panic!("{name} fails on {}", path.display());
        }
    }
    // The logs that inputs are about are made once, at the first that needs them.
    let held = peak(|| inputs.iter().for_each(|(_, input)| run(input)));
    println!("{name}: {} inputs, {held} bytes at most", inputs.len());
    assert!(held <= MOST_HEAP, "{name} holds {held} bytes");
    if let Some((_, most)) = BEYOND_INPUT.iter().find(|(target, _)| *target == name) {
        bounded_by_input(name, *run, &inputs, *most);
    }
    drop(turn);
}

fn bounded_by_input(name: &str, run: fn(&[u8]), inputs: &[(PathBuf, Vec<u8>)], most: usize) {
    let (mut worst, mut who) = (0, None);
    for (path, input) in inputs {
        let beyond = peak(|| run(input)).saturating_sub(input.len());
        if beyond > worst {
            (worst, who) = (beyond, path.file_name());
        }
    }
    println!("{name}: {worst} bytes beyond its length at most, by {who:?}");
    assert!(worst <= most, "{name}: {worst} bytes beyond the length of {who:?}, not {most}");
}

macro_rules! replays {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )+

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),+];
            let targets: Vec<_> = TARGETS.iter().map(|target| target.0).collect();
            assert_eq!(replayed[..], targets);
        }
    };
}

replays!(frame scan directory decompress meta operations round_trip backends);

#[test]
fn the_corpus_stays_small() {
    let inputs = TARGETS.iter().flat_map(|target| corpus(target.0));
    let bytes: usize = inputs.map(|(_, input)| input.len()).sum();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}
