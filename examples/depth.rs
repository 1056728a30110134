//! Durable commits a second by groups in flight, by backend, on the disk under DIR.
//!
//! Run with `cargo run --release --example depth [DIR] [--quick]`. Rounds are interleaved; each
//! figure is the median of five, with the lowest and highest beside it, and the time to an answer
//! of the median run. It says what depth buys *here*; a figure from another disk says little, and
//! one of `--quick` nothing.

use std::collections::VecDeque;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use prkdb_core::{Backend, Result, Wal, WalConfig};

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// A batch that is a group of its own, so that commits are writes.
const BATCH: usize = 64 << 10;

/// What one run came to.
struct Run {
    commits: f64,
    /// The median, microseconds.
    answer: u128,
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let root = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = Path::new(root.as_deref().unwrap_or("target"));
    let root = root.join(format!("depth-{}", std::process::id()));
    let (rounds, time) = if quick { (1, 5) } else { (5, 400) };
    let outcome = measure(&root, rounds, Duration::from_millis(time));
    if let Err(error) = std::fs::remove_dir_all(&root) {
        eprintln!("{} could not be removed: {error}", root.display());
    }
    outcome
}

fn measure(root: &Path, rounds: usize, time: Duration) -> Result<()> {
    let backends = [Backend::Uring, Backend::Mmap, Backend::Pwrite];
    let mut runs: Vec<Vec<Run>> = Vec::new();
    runs.resize_with(backends.len() * DEPTHS.len(), Vec::new);
    for round in 0..rounds {
        for (slot, runs) in runs.iter_mut().enumerate() {
            let backend = backends[slot / DEPTHS.len()];
            let name = backend.name();
            let depth = DEPTHS[slot % DEPTHS.len()];
            if stderr().is_terminal() {
                eprint!("\rround {} of {rounds}: {name}, depth {depth}   ", round + 1);
            }
            match commits(&root.join(format!("{name}-{depth}")), backend, depth, time) {
                Ok(run) => runs.push(run),
                Err(error) if round == 0 => eprintln!("\n{name} left out: {error}"),
                Err(_) => {}
            }
        }
    }
    if stderr().is_terminal() {
        eprintln!();
    }
    println!("durable {} KiB commits/s: median (lowest - highest) of {rounds} rounds", BATCH >> 10);
    for (slot, runs) in runs.iter_mut().enumerate().filter(|(_, runs)| !runs.is_empty()) {
        runs.sort_by(|a, b| a.commits.total_cmp(&b.commits));
        let (low, high) = (runs[0].commits, runs[runs.len() - 1].commits);
        let (name, depth) = (backends[slot / DEPTHS.len()].name(), DEPTHS[slot % DEPTHS.len()]);
        let Run { commits, answer } = &runs[runs.len() / 2];
        println!("{name:6} depth {depth:2}: {commits:8.0} ({low:.0} - {high:.0}), {answer:6} us");
    }
    Ok(())
}

/// Commits a second, with enough tickets outstanding to keep `depth` groups in flight.
fn commits(dir: &Path, backend: Backend, depth: usize, time: Duration) -> Result<Run> {
    let mut config = WalConfig { backend, depth, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config)?;
    let record = vec![b'x'; BATCH];
    let (mut tickets, mut answers) = (VecDeque::new(), Vec::new());
    // The first segments are made while one writes; begin when that is over.
    wal.append_batch([&record])?.wait()?;
    let start = Instant::now();
    while start.elapsed() < time {
        tickets.push_back((Instant::now(), wal.append_batch([&record])?));
        if tickets.len() == 2 * depth
            && let Some((since, ticket)) = tickets.pop_front()
        {
            ticket.wait()?;
            answers.push(since.elapsed().as_micros());
        }
    }
    let commits = answers.len() as f64 / start.elapsed().as_secs_f64();
    tickets.into_iter().try_for_each(|(_, ticket)| ticket.wait().map(drop))?;
    wal.truncate_before(wal.next_lsn())?;
    wal.close()?;
    answers.sort_unstable();
    let answer = answers.get(answers.len() / 2).copied().unwrap_or_default();
    Ok(Run { commits, answer })
}
