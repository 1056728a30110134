//! The fuzz targets' corpus, replayed as plain tests: what fuzzing reached stays reached.
//!
//! `ci/fuzz` finds inputs; those worth keeping are under `tests/fuzz/corpus/<target>/`.
#![cfg(feature = "fuzz")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

#[path = "fuzz/targets/mod.rs"]
mod targets;

use targets::{TARGETS, Target};

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
    let Target(_, run) = TARGETS.iter().find(|target| target.0 == name).unwrap();
    let inputs = corpus(name);
    assert!(!inputs.is_empty(), "an empty corpus tests nothing");
    for (path, input) in &inputs {
        if panic::catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
            panic!("{name} fails on {}", path.display());
        }
    }
    println!("{name}: {} inputs", inputs.len());
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
