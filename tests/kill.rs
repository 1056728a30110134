//! SIGKILL at random moments: what was acknowledged is there, and nothing else was made of it.
//! `kill_steps` does it at named ones.
//!
//! ```text
//! cycle: append --acks, killed  -->  verify: status 0
//!   lines -> log, acks -> here       cat: all of the cycles before, then a prefix of this
//!                                         cycle's lines, at least as long as what was acked
//! ```
//!
//! `PRKDB_KILL_CYCLES` asks for another number of cycles than 50 for each backend.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use prkdb_core::Backend;

mod support;

use support::Random;
use support::watchdog::within_reason;

/// Longer than any step takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);

#[test]
fn acknowledged_records_survive_sigkill_on_uring() {
    let root = tempfile::tempdir().unwrap();
    match prkdb_core::probe(root.path(), Backend::Uring) {
        Ok(_) => kill_cycles(&root.path().join("log"), "uring"),
        Err(e) => support::must_be_missing(Backend::Uring, &e),
    }
}

#[test]
fn acknowledged_records_survive_sigkill_on_mmap() {
    let root = tempfile::tempdir().unwrap();
    match prkdb_core::probe(root.path(), Backend::Mmap) {
        Ok(_) => kill_cycles(&root.path().join("log"), "mmap"),
        Err(e) => support::must_be_missing(Backend::Mmap, &e),
    }
}

#[test]
fn acknowledged_records_survive_sigkill_on_pwrite() {
    let root = tempfile::tempdir().unwrap();
    kill_cycles(&root.path().join("log"), "pwrite");
}

#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
#[test]
fn acknowledged_records_survive_sigkill_on_tokio_uring() {
    let root = tempfile::tempdir().unwrap();
    match prkdb_core::probe(root.path(), Backend::TokioUring) {
        Ok(_) => kill_cycles(&root.path().join("log"), "tokio-uring"),
        Err(e) => support::must_be_missing(Backend::TokioUring, &e),
    }
}

fn kill_cycles(dir: &Path, backend: &str) {
    let cycles = std::env::var("PRKDB_KILL_CYCLES").map_or(50, |cycles| cycles.parse().unwrap());
    let mut random = Random(support::seed());
    println!("{backend}: seed {}", random.0);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut with_acks = 0;
    let root = dir;
    for cycle in 0..cycles {
        // Each cycle reads all there is: after a hundred another log begins.
        let dir = &root.join((cycle / 100).to_string());
        if cycle % 100 == 0 {
            kept.clear();
        }
        let first = kept.len() as u64 + 1;
        let what = format!("{backend}: cycle {cycle}");
        let append = || append_and_kill(dir, backend, cycle, &mut random);
        let acked = within_reason(&what, HANGS, append);
        with_acks += u64::from(acked.is_some());
        if let Some((first_acked, _)) = acked {
            assert_eq!(first_acked, first, "cycle {cycle}: LSNs went on elsewhere");
        }
        if acked.is_none() && !dir.join("META").exists() {
            continue; // Killed before there was a log.
        }
        let (status, _, talk) = within_reason(&what, HANGS, || prkdb("verify", dir));
        assert_eq!(status, Some(0), "cycle {cycle}: {talk}");
        let (status, found, talk) = within_reason(&what, HANGS, || prkdb("cat", dir));
        assert_eq!(status, Some(0), "cycle {cycle}: {talk}");
        let found: Vec<_> = found.split_inclusive(|byte| *byte == b'\n').collect();
        let promised = acked.map_or(first - 1, |(_, last)| last);
        assert!(found.len() as u64 >= promised, "cycle {cycle}: {} < {promised}", found.len());
        let (old, new) = found.split_at_checked(kept.len()).expect("older records are gone");
        assert!(old == kept, "cycle {cycle}: older records changed");
        for (number, line) in new.iter().enumerate() {
            assert!(*line == self::line(cycle, number), "cycle {cycle}: new line {number}");
        }
        kept.extend(new.iter().map(|line| line.to_vec()));
    }
    println!("{backend}: {with_acks} of {cycles} cycles had acknowledgements");
    support::tally(format_args!("kill {backend}"), cycles, with_acks);
    assert!(with_acks * 4 >= cycles, "{with_acks} of {cycles} cycles: too few to say anything");
}

/// Appends until killed; the first and the last LSN that were acknowledged.
fn append_and_kill(
    dir: &Path,
    backend: &str,
    cycle: u64,
    random: &mut Random,
) -> Option<(u64, u64)> {
    let mut draw = |bound| usize::try_from(random.below(bound)).unwrap();
    let durability = ["sync", "written"][draw(2)];
    let batch = ["1", "7", "100"][draw(3)];
    let codec = if cfg!(feature = "lz4") { ["none", "none", "lz4"][draw(3)] } else { "none" };
    let mut child = Command::new(env!("CARGO_BIN_EXE_prkdb"))
        .arg("append")
        .arg(dir)
        .args(["--acks", "--backend", backend, "--durability", durability, "--batch", batch])
        .args(["--codec", codec])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // Every second cycle is killed while records flow, the others at any moment, also in open.
    let after_acks = if cycle.is_multiple_of(2) { 1 + draw(50) } else { 0 };
    let pause = draw(40_000);
    std::thread::scope(|scope| {
        scope.spawn(move || feed(stdin, cycle));
        let mut acks = BufReader::new(stdout).lines().map(|ack| parse(&ack.unwrap()));
        let mut acked: Vec<(u64, u64)> = acks.by_ref().take(after_acks).collect();
        std::thread::sleep(Duration::from_micros(pause as u64));
        child.kill().unwrap();
        acked.extend(acks);
        assert!(acked.is_sorted() && acked.windows(2).all(|w| w[0].1 + 1 == w[1].0), "{acked:?}");
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended by itself");
        Some((acked.first()?.0, acked.last()?.1))
    })
}

/// Feeds lines until the reader is gone.
fn feed(mut stdin: ChildStdin, cycle: u64) {
    let mut number = 0;
    loop {
        let lines: Vec<u8> = (number..number + 64).flat_map(|n| line(cycle, n)).collect();
        if stdin.write_all(&lines).is_err() {
            return;
        }
        number += 64;
    }
}

/// Line `number` of `cycle`, unlike any other; its length varies.
fn line(cycle: u64, number: usize) -> Vec<u8> {
    let padding = "-".repeat(number * 37 % 300 + if number.is_multiple_of(64) { 5000 } else { 0 });
    format!("{cycle} {number} {padding}\n").into_bytes()
}

fn parse(ack: &str) -> (u64, u64) {
    match ack.split(' ').collect::<Vec<_>>()[..] {
        ["acked", first, last] => (first.parse().unwrap(), last.parse().unwrap()),
        _ => panic!("not an acknowledgement: {ack}"),
    }
}

fn prkdb(subcommand: &str, dir: &Path) -> (Option<i32>, Vec<u8>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_prkdb")).arg(subcommand).arg(dir).output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}
