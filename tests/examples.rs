//! Every example runs to its end, says what it is there to say, and leaves nothing it should not.
//!
//! ```text
//! files of examples/ --each must be in--> EXAMPLES --run, short, DIR of its own--> status, output
//! ```
//!
//! `cargo test` builds the examples beside the tests; with `--test examples` alone it does not, and
//! with `--examples` it builds their unit tests instead. Then this says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[cfg(not(feature = "cli"))]
mod support;

/// What stands for the example's own, empty directory in its arguments.
const DIR: &str = "DIR";

/// An example: its name, its arguments, a line of its output (the beginning), what it leaves.
struct Example(&'static str, &'static [&'static str], &'static str, Leaves);

#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    /// A log, so it must also run when it finds that one.
    Log,
    Nothing,
}

const EXAMPLES: &[Example] = &[
    Example("async_no_runtime", &[DIR], "100 records read, each where its", Leaves::Log),
    Example("async_tokio", &[DIR], "1001 records read, each where its", Leaves::Log),
    Example("counter", &[DIR, "--quick"], "every acknowledged increment is counted", Leaves::Log),
    Example("depth", &[DIR, "--quick"], "durable 64 KiB commits/s:", Leaves::Nothing),
    Example("follow", &[DIR], "followed to the end: read ", Leaves::Nothing),
    Example("perf_test_batching_wal", &[DIR, "--quick"], "Queued ", Leaves::Nothing),
    Example("simple_wal", &[DIR], "the log now starts at ", Leaves::Log),
    Example("yardstick", &[DIR, "--quick"], "durable writes/s by ", Leaves::Nothing),
];

/// Those that the simulated disk is needed for.
const SIMULATED: &[Example] = &[
    Example("simulated_crashes", &["10"], "10 seeds, 100 crashes, ", Leaves::Nothing),
    Example("simulated_crashes", &["--buggy"], "seed ", Leaves::Nothing),
];

const SCRIPTS: &[&str] = &["roundtrip.sh"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn fresh_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The program of an example, as it was built last.
fn program(name: &str) -> PathBuf {
    // This test is target/PROFILE/deps/examples-HASH.
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().join("examples");
    let program = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let built =
        age(&program).is_ok_and(|built| built >= age(&source(name).with_extension("rs")).unwrap());
    assert!(
        built,
        "{} is missing or older than its source: plain `cargo test` builds it, `--test` and \
         `--examples` do not; run `cargo build --examples` first, with the same features",
        program.display()
    );
    program
}

fn assert_says(name: &str, output: &Output, line: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let says = text.lines().any(|said| said.starts_with(line));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{text}\n{talk}", output.status);
    assert!(says, "{name} does not say `{line}`:\n{text}\n{talk}");
}

fn run(Example(name, args, line, leaves): &Example) {
    let (program, dir) = (program(name), fresh_dir());
    let path = dir.path().to_str().unwrap();
    let args: Vec<&str> = args.iter().map(|arg| if *arg == DIR { path } else { arg }).collect();
    let times = if *leaves == Leaves::Log { 2 } else { 1 };
    for time in 1..=times {
        println!("{name}, run {time} of {times}");
        // Where an example that forgot its directory would write.
        let output = Command::new(&program).args(&args).current_dir(&dir).output().unwrap();
        assert_says(name, &output, line);
    }
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let log = left.iter().any(|path| path.ends_with("META"));
    assert!(log || left.is_empty(), "{name} left {left:?}");
    assert_eq!(log, *leaves == Leaves::Log, "{name} left {left:?}");
}

#[test]
fn every_example_runs_to_its_end() {
    EXAMPLES.iter().for_each(run);
    if cfg!(feature = "sim") {
        SIMULATED.iter().for_each(run);
    } else {
        println!("examples/simulated_crashes.rs is left out: it needs the feature sim");
    }
}

#[test]
fn no_example_is_forgotten() {
    let known = EXAMPLES.iter().chain(SIMULATED);
    let known = known.map(|Example(name, ..)| format!("{name}.rs"));
    let mut known: Vec<_> = known.chain(SCRIPTS.iter().map(ToString::to_string)).collect();
    known.sort();
    known.dedup();
    let entries = fs::read_dir(source("")).unwrap();
    let mut there: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, known, "the files of examples/, and what is run here");
    let readme = fs::read_to_string(source("../README.md")).unwrap();
    for file in there {
        assert!(readme.contains(&format!("(examples/{file})")), "README.md has no link to {file}");
    }
}

#[test]
fn the_script_sends_a_file_into_a_log_and_back() {
    #[cfg(not(feature = "cli"))]
    support::skip("examples/roundtrip.sh", "it needs the feature cli");
    #[cfg(feature = "cli")]
    {
        let dir = fresh_dir();
        let output = Command::new("bash")
            .arg(source("roundtrip.sh"))
            .arg(source("../README.md"))
            .arg(env!("CARGO_BIN_EXE_prkdb"))
            .env("CARGO_TARGET_DIR", dir.path())
            .output()
            .unwrap();
        assert_says("roundtrip.sh", &output, "same: every line of ");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "it removes its log");
    }
}
