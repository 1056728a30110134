//! Durable commits a second by groups in flight, by backend, on the disk under DIR.
//!
//! Run with `cargo run --release --example depth [DIR] [--quick]`. Rounds are interleaved; each
//! figure is the median of five, with the lowest and highest beside it. It says what depth buys
//! *here*; a figure from another disk says little, and one of `--quick` nothing.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use prkdb_core::{Backend, Result, Wal, WalConfig};

const DEPTHS: [usize; 4] = [1, 2, 8, 32];
/// A batch that is a group of its own, so that commits are writes.
const BATCH: usize = 64 << 10;

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
    let mut rates = vec![Vec::new(); backends.len() * DEPTHS.len()];
    for round in 0..rounds {
        for (slot, rates) in rates.iter_mut().enumerate() {
            let backend = backends[slot / DEPTHS.len()];
            let name = backend.name();
            let depth = DEPTHS[slot % DEPTHS.len()];
            eprint!("\rround {} of {rounds}: {name}, depth {depth}   ", round + 1);
            match commits(&root.join(format!("{name}-{depth}")), backend, depth, time) {
                Ok(rate) => rates.push(rate),
                Err(error) if round == 0 => eprintln!("\n{name} left out: {error}"),
                Err(_) => {}
            }
        }
    }
    eprintln!();
    println!("durable {} KiB commits/s: median (lowest - highest) of {rounds} rounds", BATCH >> 10);
    for (slot, rates) in rates.iter_mut().enumerate().filter(|(_, rates)| !rates.is_empty()) {
        rates.sort_by(f64::total_cmp);
        let (low, high) = (rates[0], rates[rates.len() - 1]);
        let (name, depth) = (backends[slot / DEPTHS.len()].name(), DEPTHS[slot % DEPTHS.len()]);
        println!("{name:6} depth {depth:2}: {:8.0} ({low:.0} - {high:.0})", rates[rates.len() / 2]);
    }
    Ok(())
}

/// Commits a second with enough tickets outstanding to keep `depth` groups in flight.
fn commits(dir: &Path, backend: Backend, depth: usize, time: Duration) -> Result<f64> {
    let mut config = WalConfig { backend, depth, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config)?;
    let record = vec![b'x'; BATCH];
    let mut tickets = VecDeque::new();
    // The first segments are made while one writes; begin when that is over.
    wal.append_batch([&record])?.wait()?;
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < time {
        tickets.push_back(wal.append_batch([&record])?);
        if tickets.len() == 2 * depth {
            let oldest = tickets.pop_front();
            oldest.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
            done += 1;
        }
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
    wal.truncate_before(wal.next_lsn())?;
    wal.close()?;
    Ok(rate)
}
