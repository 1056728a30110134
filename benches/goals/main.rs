//! The goals of performance, each a ratio of two things that are measured in turn.
//!
//! ```text
//! appends: null disk | memory     segments used again | bare ring     tasks | threads
//!          uring | mmap, pwrite                     --> pairs --> a row of the table each
//! reads:   log, nothing in memory | plain reads, fio     records in memory | copied, checksummed
//! ```
//!
//! `cargo bench --bench goals` takes a quarter of an hour; `-- --quick` three minutes, and says
//! less; names, or their beginnings, narrow it down (`-- P2 P3`); `-- grid` measures what defaults
//! were chosen by. Rows are a table in Markdown, on stdout: reached is the median of the ratios
//! with its 95 % interval; met is judged by its far end, missed by the near one; both figures are
//! medians of all windows, with the lowest and the highest beside them. What is counted and not
//! timed is in tests: `syscalls` (P5), `allocations` (P6), `device_bytes` (P7); other logs (P4) are
//! in `benches/peers`.
//!
//! It needs 3 GiB of free space below `target/tmp`, 4 GiB of memory for a ballast of one that is
//! held meanwhile, and for some rows fio and root; what can't be measured says SKIPPED.

mod appends;
mod backends;
mod bench;
mod cold;
mod device;
mod fio;
mod grid;
mod null;
mod options;
mod pairs;
mod reads;
mod stages;

#[allow(dead_code, unused_imports, reason = "shared, with its tests")]
#[path = "../../src/bin/prkdb/bench/numbers.rs"]
mod numbers;
#[allow(dead_code, reason = "shared")]
#[path = "../../src/bin/prkdb/outcome.rs"]
mod outcome;
#[allow(unused_imports, reason = "shared, with its tests")]
#[path = "../yardstick/mod.rs"]
mod yardstick;

use std::process::ExitCode;
use std::time::Duration;

use prkdb_core::{Backend, BatchConfig, WalConfig, probe};
use tempfile::TempDir;

use bench::workload::Workload;
use outcome::{Stop, print, say};
use pairs::{Pace, Unit};
use yardstick::calm::Ballast;
use yardstick::machine::Machine;

/// Below it everything is written.
const ROOT: &str = env!("CARGO_TARGET_TMPDIR");
const BALLAST_BYTES: usize = 1 << 30;
/// Before each window of a second.
const REST: Duration = Duration::from_millis(100);
const RECORDS: Unit = Unit::PerSecond(" records");
const BYTES: Unit = Unit::PerSecond("B");

/// What is asked for.
struct Run {
    pace: Pace,
    /// Else it is a trial, which leaves the page cache of the machine alone.
    measures: bool,
    names: Vec<String>,
    dir: TempDir,
}

fn main() -> ExitCode {
    outcome::finish("goals", goals().map(|()| ExitCode::SUCCESS))
}

fn goals() -> Result<(), Stop> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let (quick, measures) = (has("--quick"), has("--bench"));
    let names = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    let pace = match (measures, quick) {
        (true, false) => Pace { pairs: 10, window: Duration::from_secs(1), rest: REST },
        (true, true) => Pace { pairs: 5, window: Duration::from_millis(200), rest: REST / 5 },
        // `cargo test` only sees that it runs.
        (false, _) => Pace { pairs: 1, window: Duration::from_millis(10), rest: Duration::ZERO },
    };
    let _held = measures.then(ballast);
    let failed = |e| Stop::Failed(format!("{ROOT}: {e}"));
    let dir = TempDir::with_prefix_in("prkdb-goals-", ROOT).map_err(failed)?;
    let machine = Machine::under(dir.path()).map_err(failed)?;
    print(&machine.line())?;
    print(
        "\n| Goal | What, over what | To be | Reached (95 %) | Ours (low - high) \
         | The other (low - high) | |",
    )?;
    print("|---|---|---|---|---|---|---|")?;
    let run = Run { pace, measures, names, dir };
    device::processor(&run)?;
    let mut costs = Vec::new();
    match probe(run.dir.path(), Backend::Uring) {
        Ok(_) => {
            device::rows(&run)?;
            device::waiting(&run)?;
            fio::check(&run)?;
            options::rolling(&run)?;
            options::spinning(&run)?;
            costs = backends::rows(&run)?;
        }
        Err(e) => say(format_args!("SKIPPED, all that needs io_uring: {e}")),
    }
    cold::rows(&run)?;
    backends::tell(&costs)?;
    stages::run(&run)?;
    grid::run(&run)
}

/// To be held while anything is measured.
fn ballast() -> Option<Ballast> {
    let ballast = Ballast::hold(BALLAST_BYTES);
    ballast.inspect_err(|why| say(format_args!("SKIPPED, a ballast of 1 GiB: {why}"))).ok()
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|asked| name.starts_with(asked.as_str()))
    }

    /// A folder that is gone with what is made of it.
    fn folder(&self) -> Result<TempDir, Stop> {
        TempDir::new_in(self.dir.path()).map_err(|e| Stop::Failed(format!("a folder: {e}")))
    }
}

fn workload(name: &str) -> &'static Workload {
    Workload::named(name).expect("the bench has it")
}

/// `config` with so much that may be queued as large batches want.
fn deep(config: WalConfig) -> WalConfig {
    let batch_config = BatchConfig { max_buffer_bytes: 10 << 20, ..config.batch_config };
    WalConfig { batch_config, ..config }
}
