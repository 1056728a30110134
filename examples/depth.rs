//! Durable commits a second by groups in flight, by backend, on the disk under DIR.
//!
//! ```text
//! append, answer, append, answer .. --each segment's worth: Lsn--> cutter: truncate_before
//!        ^-- written into segments that were cut before <-- pool <--'
//! ```
//!
//! Run with `cargo run --release --example depth [DIR] [--quick]`. Rounds are interleaved; each
//! figure is the median of five, with the lowest and highest beside it, and the time to an answer
//! of the median run. Logs are cut while they are written, as in use, and measured once they write
//! into old segments: a new one is written twice, with zeros and with records. It says what depth
//! buys *here*; a figure from another disk says little, and one of `--quick` nothing.

use std::collections::VecDeque;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use prkdb_core::{Append, Backend, Lsn, Result, Wal, WalConfig};

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// A batch that is a group of its own, so that commits are writes.
const BATCH: usize = 64 << 10;
/// Segments in which a log must have begun to use old ones again: a slow disk is not waited for.
const WARM_SEGMENTS: usize = 32;

/// How much is measured.
#[derive(Clone, Copy)]
struct Pace {
    rounds: usize,
    time: Duration,
    segment_bytes: u64,
}

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
    let (rounds, millis, mib) = if quick { (1, 5, 1) } else { (5, 400, 16) };
    let time = Duration::from_millis(millis);
    let outcome = measure(&root, Pace { rounds, time, segment_bytes: mib << 20 });
    if let Err(error) = std::fs::remove_dir_all(&root) {
        eprintln!("{} could not be removed: {error}", root.display());
    }
    outcome
}

fn measure(root: &Path, pace: Pace) -> Result<()> {
    let rounds = pace.rounds;
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
            match commits(&root.join(format!("{name}-{depth}")), backend, depth, pace) {
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
fn commits(dir: &Path, backend: Backend, depth: usize, pace: Pace) -> Result<Run> {
    let segment_bytes = pace.segment_bytes;
    let mut config = WalConfig { backend, depth, segment_bytes, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config)?;
    let (cut, cuts) = channel::<Lsn>();
    let run = std::thread::scope(|scope| {
        let wal = &wal;
        let cutter = scope.spawn(move || cuts.iter().try_for_each(|lsn| wal.truncate_before(lsn)));
        let load = Load { wal, depth, tickets: VecDeque::new(), answers: Vec::new(), cut };
        let run = load.run(pace);
        cutter.join().expect("it does not panic").and(run)
    })?;
    wal.truncate_before(wal.next_lsn())?;
    wal.close()?;
    Ok(run)
}

/// The one caller of a log, and what it waits for.
struct Load<'a> {
    wal: &'a Wal,
    depth: usize,
    tickets: VecDeque<(Instant, Append)>,
    /// Microseconds each.
    answers: Vec<u128>,
    cut: Sender<Lsn>,
}

impl Load<'_> {
    fn run(mut self, pace: Pace) -> Result<Run> {
        let segment = (pace.segment_bytes / BATCH as u64).max(1);
        for _ in 0..WARM_SEGMENTS {
            if self.wal.metrics().segments_recycled > 0 {
                break;
            }
            self.append(segment)?;
        }
        self.answers.clear();
        let start = Instant::now();
        while start.elapsed() < pace.time {
            self.append(segment)?;
        }
        let commits = self.answers.len() as f64 / start.elapsed().as_secs_f64();
        self.tickets.into_iter().try_for_each(|(_, ticket)| ticket.wait().map(drop))?;
        self.answers.sort_unstable();
        let answer = self.answers.get(self.answers.len() / 2).copied().unwrap_or_default();
        Ok(Run { commits, answer })
    }

    /// Appends a segment's worth of batches; what is durable then may be cut.
    fn append(&mut self, batches: u64) -> Result<()> {
        let record = vec![b'x'; BATCH];
        for _ in 0..batches {
            self.tickets.push_back((Instant::now(), self.wal.append_batch([&record])?));
            if self.tickets.len() == 2 * self.depth
                && let Some((since, ticket)) = self.tickets.pop_front()
            {
                ticket.wait()?;
                self.answers.push(since.elapsed().as_micros());
            }
        }
        // A cutter that has ended tells why when it is joined.
        self.cut.send(self.wal.durable_lsn()).ok();
        Ok(())
    }
}
