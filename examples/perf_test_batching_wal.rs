//! How fast is batching, at which durability?
//!
//! Records of 100 bytes, in batches of 1 to 1000, each durability, with one ticket waited for at a
//! time and with 64 outstanding (or as many as the queue of 1 MiB takes). Rounds are interleaved,
//! each second one backwards; a figure is the median of the rounds, with the lowest and highest
//! beside the first. p50 and p99 are a batch's time from its call to its answer. It says what
//! batching buys *here*; a figure from another disk says little, and one of `--quick` nothing.
//!
//! Run with `cargo run --release --example perf_test_batching_wal [DIR] [--quick]`; half a minute
//! and up to 1 GiB of disk in a folder under DIR (default `target`), removed at the end.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use prkdb_core::Durability::{Queued, Sync, Written};
use prkdb_core::{Append, Durability, Result, Wal, WalConfig};

const RECORD: [u8; 100] = [b'x'; 100];
const BATCHES: [usize; 4] = [1, 10, 100, 1000];
/// What a batch waits for, how many tickets are outstanding, and what survives.
const WAYS: [(Durability, usize, &str); 5] = [
    (Sync, 1, "power loss"),
    (Sync, 64, "power loss"),
    (Written, 1, "a killed process"),
    (Written, 64, "a killed process"),
    (Queued, 64, "nothing yet"),
];

const HEAD: [&str; 2] = [
    "answered  tickets  batch            records/s (lowest - highest)  batches/s    MB/s  ",
    "p50 us  p99 us  batches/group  survives",
];

struct Round {
    batches_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    group_batches: f64,
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let root = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = Path::new(root.as_deref().unwrap_or("target"));
    let root = root.join(format!("perf-{}", std::process::id()));
    let (rounds, time) = if quick { (3, 3) } else { (5, 200) };
    let outcome = measure(&root, rounds, Duration::from_millis(time));
    if let Err(error) = std::fs::remove_dir_all(&root) {
        eprintln!("{} could not be removed: {error}", root.display());
    }
    outcome
}

fn measure(root: &Path, rounds: usize, time: Duration) -> Result<()> {
    let wal = Wal::open(WalConfig::new(root))?;
    // The first segments are made while one writes; begin when that is over.
    round(&wal, Sync, 64, &[RECORD; 1000], time)?;
    let mut cells: Vec<Vec<Round>> = (0..WAYS.len() * BATCHES.len()).map(|_| Vec::new()).collect();
    for number in 0..rounds {
        eprint!("\rround {} of {rounds}", number + 1);
        for step in 0..cells.len() {
            let cell = if number % 2 == 0 { step } else { cells.len() - 1 - step };
            let (durability, tickets, _) = WAYS[cell / BATCHES.len()];
            let records = vec![RECORD; BATCHES[cell % BATCHES.len()]];
            cells[cell].push(round(&wal, durability, tickets, &records, time)?);
        }
    }
    eprintln!();
    println!("{}, {rounds} rounds of {time:?}: medians", wal.backend().name);
    println!("{}", HEAD.concat());
    for (cell, rounds) in cells.iter().enumerate() {
        let (durability, tickets, survives) = WAYS[cell / BATCHES.len()];
        let batch = BATCHES[cell % BATCHES.len()];
        print_row(&format!("{durability:?}"), tickets, batch, rounds, survives);
    }
    println!("Queued rows say how fast batches are given their places; they are written later.");
    wal.close()
}

/// Appends for `time`, keeping `outstanding` tickets; the clock stops when all are answered.
fn round(
    wal: &Wal,
    durability: Durability,
    outstanding: usize,
    records: &[[u8; 100]],
    time: Duration,
) -> Result<Round> {
    let (before, appender) = (wal.metrics(), wal.with(durability));
    let (mut tickets, mut waits) = (VecDeque::new(), Vec::new());
    let mut answered = |(called, ticket): (Instant, Append)| -> Result<()> {
        ticket.wait()?;
        waits.push(called.elapsed());
        Ok(())
    };
    let start = Instant::now();
    while start.elapsed() < time {
        tickets.push_back((Instant::now(), appender.append_batch(records)?));
        if tickets.len() == outstanding {
            tickets.pop_front().map_or(Ok(()), &mut answered)?;
        }
    }
    tickets.into_iter().try_for_each(&mut answered)?;
    let seconds = start.elapsed().as_secs_f64();
    // Not measured: what is still on its way gets there, and its space is used again.
    wal.wait_durable(wal.next_lsn().prev())?.wait()?;
    wal.truncate_before(wal.next_lsn())?;
    let after = wal.metrics();
    waits.sort();
    let us = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1e6;
    Ok(Round {
        batches_per_s: waits.len() as f64 / seconds,
        p50_us: us(50),
        p99_us: us(99),
        group_batches: (after.batches - before.batches) as f64
            / (after.groups - before.groups) as f64,
    })
}

fn print_row(durability: &str, tickets: usize, batch: usize, rounds: &[Round], survives: &str) {
    let sorted = |figure: fn(&Round) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let median = |figure| sorted(figure)[rounds.len() / 2];
    let rates = sorted(|round| round.batches_per_s);
    let (low, rate, high) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
    let records = batch as f64;
    let shown = format!("{:.0} ({:.0} - {:.0})", rate * records, low * records, high * records);
    let megabytes = rate * records * RECORD.len() as f64 / 1e6;
    let (p50, p99) = (median(|round| round.p50_us), median(|round| round.p99_us));
    let group = median(|round| round.group_batches);
    println!(
        "{durability:8}  {tickets:7}  {batch:5}  {shown:>39}  {rate:9.0}  {megabytes:6.1}  \
         {p50:6.0}  {p99:6.0}  {group:13.1}  {survives}"
    );
}
