//! What this machine does without a log: durable writes by size, method and number in flight, and
//! records copied and checksummed in memory.
//!
//! Run with `cargo run --release --example yardstick [DIR] [--quick]`; about a minute, 192 MiB of
//! disk, removed at the end. Rounds are interleaved, each second one backwards; figures are medians
//! with the lowest and highest beside them; those of `--quick` say nothing. `prkdb bench` holds the
//! log against the same loops.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[path = "../benches/yardstick/mod.rs"]
mod yardstick;

use yardstick::machine::{Machine, free_bytes};
use yardstick::memory::Memory;
use yardstick::{Load, Means, Method, RawFile, Window, raw};

const FILE_BYTES: u64 = 64 << 20;
const SIZES: [usize; 3] = [4 << 10, 100 << 10, 1 << 20];
const DEPTHS: [usize; 5] = [1, 2, 4, 8, 32];
const RECORDS: [usize; 3] = [16, 100, 1024];

/// One cell of the grid: which file, what is done, and its rates.
struct Cell {
    file: usize,
    load: Load,
    rates: Vec<f64>,
}

/// How often each cell is measured, and for how long.
struct Pace {
    rounds: usize,
    lead_in: Duration,
    round: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let root = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = root.unwrap_or_else(|| ".".into());
    let (rounds, lead_in, round) = if quick { (1, 1, 4) } else { (3, 20, 180) };
    let [lead_in, round] = [lead_in, round].map(Duration::from_millis);
    let folder = tempfile::Builder::new().prefix("prkdb-yardstick-").tempdir_in(&root)?;
    let outcome = measure(folder.path(), &Pace { rounds, lead_in, round });
    folder.close()?;
    outcome
}

fn measure(folder: &Path, pace: &Pace) -> Result<(), Box<dyn Error>> {
    let needed = 3 * FILE_BYTES;
    if free_bytes(folder)? < needed {
        return Err(format!("{} MiB of free space are needed", needed >> 20).into());
    }
    println!("{}", Machine::under(folder)?.line());
    let files = [
        RawFile::create(&folder.join("direct"), FILE_BYTES, true)?,
        RawFile::create(&folder.join("buffered"), FILE_BYTES, false)?,
    ];
    let means = Means::of(&files[0]);
    let mut cells = grid(&files);
    let (stop, rounds) = (AtomicBool::new(false), pace.rounds);
    for round in 0..rounds {
        let total = cells.len();
        for step in 0..total {
            eprint!("\rround {} of {rounds}: {:3} of {total} ", round + 1, step + 1);
            let cell = &mut cells[if round % 2 == 0 { step } else { total - 1 - step }];
            let window = Window::after(pace.lead_in, pace.round, &stop);
            let count = raw(means, &files[cell.file], cell.load, &window)?;
            cell.rates.push(pace.per_second(count.writes));
        }
    }
    eprintln!();
    println!("durable writes/s by {}: median (lowest - highest) of {rounds} rounds", means.name());
    for cell in &mut cells {
        let Load { write_bytes, depth, method } = cell.load;
        let way = if files[cell.file].is_direct() { "direct" } else { "buffered" };
        let (size, method) = (write_bytes >> 10, method.name());
        let rates = spread(&mut cell.rates);
        println!("{size:5} KiB  {way:8}  {method:15}  {depth:2} in flight: {rates}");
    }
    println!("records/s copied behind their length, one CRC for 1000, in memory");
    for bytes in RECORDS {
        let records = vec![vec![b'x'; bytes]; 1000];
        let mut memory = Memory::new(&records);
        let mut rates: Vec<f64> = (0..rounds)
            .map(|_| memory.run(&[&records[..]], &Window::after(pace.lead_in, pace.round, &stop)))
            .map(|batches| pace.per_second(batches * 1000))
            .collect();
        println!("{bytes:5} B: {}", spread(&mut rates));
    }
    Ok(())
}

/// All sizes, files, methods and depths, in the order of the table.
fn grid(files: &[RawFile]) -> Vec<Cell> {
    // Where the file system takes no direct writes the two files would be the same.
    let different = (0..files.len()).filter(|file| *file == 0 || files[0].is_direct());
    let files: Vec<usize> = different.collect();
    let mut cells = Vec::new();
    for write_bytes in SIZES {
        for file in &files {
            for method in Method::DURABLE {
                for depth in DEPTHS {
                    let load = Load { write_bytes, depth, method: *method };
                    cells.push(Cell { file: *file, load, rates: Vec::new() });
                }
            }
        }
    }
    cells
}

impl Pace {
    fn per_second(&self, count: u64) -> f64 {
        // Counts of a fraction of a second are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let count = count as f64;
        count / self.round.as_secs_f64()
    }
}

fn spread(rates: &mut [f64]) -> String {
    rates.sort_by(f64::total_cmp);
    let (low, high) = (rates[0], rates[rates.len() - 1]);
    format!("{:10.0} ({low:.0} - {high:.0})", rates[rates.len() / 2])
}
