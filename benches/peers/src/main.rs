//! The benchmark against other logs: who makes how many records durable, on this disk, in turn.
//!
//! ```text
//! main: folder --> contest: rounds --> child write, child read --> figures --> table, html
//!                                         drive --> peer <-- peers/*: an adapter each
//! ```
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml`. Table on stdout, progress on
//! stderr. Everything is written below one fresh folder, which is gone on every way out. What it
//! shares with `prkdb bench` is compiled in by path: the yardsticks, the folder, charts, page.

mod child;
mod contest;
mod drive;
mod figures;
mod html;
mod peer;
mod peers;
mod records;
mod table;
mod workload;

#[path = "../../../src/bin/prkdb/bench/chart.rs"]
mod chart;
#[allow(dead_code, reason = "shared")]
#[path = "../../../src/bin/prkdb/bench/folder.rs"]
mod folder;
#[allow(dead_code, reason = "shared")]
#[path = "../../../src/bin/prkdb/bench/numbers.rs"]
mod numbers;
#[allow(dead_code, reason = "shared")]
#[path = "../../../src/bin/prkdb/outcome.rs"]
mod outcome;
#[path = "../../../src/bin/prkdb/bench/page.rs"]
mod page;
#[allow(dead_code, reason = "shared")]
#[path = "../../../src/bin/prkdb/progress.rs"]
mod progress;
#[path = "../../../src/bin/prkdb/bench/text.rs"]
mod text;
#[path = "../../yardstick/mod.rs"]
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use contest::Contest;
use figures::Row;
use folder::{Folder, Interrupt};
use outcome::{Stop, say};
use peer::{Contestant, OURS};
use workload::{ALL, Workload};
use yardstick::machine::{Machine, free_bytes};

/// Free space that is needed: one log at a time, and what it prepares.
const NEEDED_BYTES: u64 = 3 << 30;

/// Measure this crate against other logs on this disk, in turn.
///
/// Everything is written to a temporary folder, which is removed at the end, also on an error and
/// on Ctrl-C. With all defaults it takes about an hour: fewer rounds, shorter windows, and some
/// workloads only make it shorter.
#[derive(Parser)]
#[command(name = "peers", max_term_width = 100, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    child: Option<child::Child>,
    /// Where the temporary folder is made: the disk to measure.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds; figures are medians over them, intervals need five.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds that each contestant is measured in each round.
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// Measure this workload only; may be given several times.
    #[arg(long, value_name = "W", value_parser = workloads())]
    workload: Vec<&'static Workload>,
    /// Measure this contestant only, beside prkdb; may be given several times.
    #[arg(long, value_name = "P", value_parser = contestants())]
    peer: Vec<&'static str>,
    /// MB of records that are read back where reading is measured.
    #[arg(long, value_name = "MB", default_value_t = 256)]
    read_mb: u64,
    /// Print a JSON line for the machine, then one for each measurement.
    #[arg(long)]
    json: bool,
    /// Write a page with charts too, which needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    let sane = Duration::from_millis(10)..=Duration::from_secs(60);
    seconds.filter(|s| sane.contains(s)).ok_or("must be a number from 0.01 to 60".into())
}

fn workloads() -> impl TypedValueParser<Value = &'static Workload> {
    let known = |name: String| Workload::named(&name).ok_or("no such workload");
    PossibleValuesParser::new(ALL.iter().map(|w| w.name)).try_map(known)
}

fn contestants() -> impl TypedValueParser<Value = &'static str> {
    let known = |name: String| Contestant::named(&name).map(|c| c.name()).ok_or("nobody");
    PossibleValuesParser::new(Contestant::all().map(|c| c.name())).try_map(known)
}

/// What was measured, on what, and how.
pub struct Outcome {
    machine: Machine,
    method: String,
    /// A line for each contestant.
    settings: Vec<String>,
    board: Vec<(&'static Workload, Vec<Row>)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(child) = &args.child {
        return match child.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                say(format_args!("peers: {e}"));
                ExitCode::FAILURE
            }
        };
    }
    outcome::finish("peers", run(&args))
}

fn run(args: &Args) -> Result<ExitCode, Stop> {
    let interrupt = Interrupt::watch()?;
    args.html.as_deref().map_or(Ok(()), page::check)?;
    let free = free_bytes(&args.dir)
        .map_err(|e| Stop::Failed(format!("free space of {}: {e}", args.dir.display())))?;
    if free < NEEDED_BYTES {
        let (needed, free) = (NEEDED_BYTES >> 20, free >> 20);
        return Err(Stop::Failed(format!("{needed} MiB of free space are needed, not {free}")));
    }
    let folder = Folder::below(&args.dir, &interrupt)?;
    let outcome = bench(args, &folder, &interrupt);
    let removed = folder.remove();
    let outcome = outcome?;
    removed?;
    if let Some(path) = &args.html {
        html::write(path, &outcome)?;
        say(format_args!("the page is in {}", path.display()));
    }
    table::tell(args.json, &outcome)?;
    Ok(ExitCode::SUCCESS)
}

fn bench(args: &Args, folder: &Folder, interrupt: &Interrupt) -> Result<Outcome, Stop> {
    let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", folder.path().display()));
    let machine = Machine::under(folder.path()).map_err(failed)?;
    let wanted =
        |c: &Contestant| args.peer.is_empty() || c.name() == OURS || args.peer.contains(&c.name());
    let contestants: Vec<Contestant> = Contestant::all().filter(wanted).collect();
    let setting = |contestant: &Contestant| match contestant {
        Contestant::Raw => None,
        Contestant::Log(adapter) => Some(format!("{}: {}.", adapter.name(), adapter.setting())),
    };
    let chosen = |w: &&Workload| args.workload.is_empty() || args.workload.contains(w);
    let (rounds, seconds) = (args.rounds, args.seconds.as_secs_f64());
    let outcome = Outcome {
        machine,
        method: format!("{rounds} interleaved rounds of {seconds} s, every second one backwards"),
        settings: contestants.iter().filter_map(setting).collect(),
        board: Vec::new(),
    };
    if args.json {
        outcome::print(&serde_json::json!({ "machine": table::machine(&outcome) }).to_string())?;
    } else {
        outcome::print(&table::machine(&outcome))?;
    }
    let contest = Contest {
        folder: folder.path(),
        contestants,
        workloads: ALL.iter().filter(chosen).collect(),
        lead_in: (args.seconds / 20).clamp(Duration::from_millis(10), Duration::from_millis(50)),
        length: args.seconds,
        read_bytes: args.read_mb * 1_000_000,
        interrupt,
    };
    let bar = progress::of_preparations();
    let board = contest.run(args.rounds.into(), &bar)?;
    bar.finish_and_clear();
    let rows = |(workload, series): (&&'static Workload, &Vec<contest::Series>)| {
        (*workload, figures::rows(workload, series))
    };
    Ok(Outcome { board: contest.workloads.iter().zip(&board).map(rows).collect(), ..outcome })
}
