//! `prkdb bench`: all backends side by side on this disk, the raw device loop as the yardstick.
//!
//! ```text
//! folder --> raw file, a log for each backend --> calibrate, warm up --> contest: rounds
//!                                                                           |
//! stdout: machine line ... table | JSON     FILE: page with charts <-- figures: rows
//! ```
//!
//! `workload` says what is measured, `load` runs it once, `log` keeps a log small meanwhile.
//! Invariants: everything is written below one fresh folder, which is gone on every way out;
//! figures come from completed rounds only.

mod chart;
mod contest;
mod figures;
mod folder;
mod html;
mod load;
mod log;
mod numbers;
mod page;
mod panels;
mod reading;
mod setting;
mod table;
mod text;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use prkdb_core::{Backend, WalConfig};

use crate::outcome::{Stop, print, say};
use crate::yardstick::cpu;
use crate::yardstick::machine::{self, Machine, free_bytes};
use crate::{backend, progress};

use contest::{Contest, RAW_BYTES};
use figures::Series;
use folder::{Folder, Interrupt};
use load::Pace;
use log::Log;
use setting::Setting;
use workload::{ALL, Workload};

/// The shortest time that a contestant runs before its window.
const LEAD_IN: Duration = Duration::from_millis(10);

/// Measure all backends side by side on this disk, with the raw device loop as the yardstick.
///
/// Everything is written to a temporary folder, which is removed at the end, also on an error and
/// on Ctrl-C.
#[derive(clap::Args)]
pub struct Args {
    /// Where the temporary folder is made: the disk to measure.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds that each contestant is measured in each round.
    #[arg(long, value_name = "S", default_value = "0.4", value_parser = seconds)]
    seconds: Duration,
    /// Measure this backend only; may be given several times.
    #[arg(long, value_parser = backend::named())]
    backend: Vec<Backend>,
    /// Measure this workload only; may be given several times.
    #[arg(long, value_name = "W", value_parser = workloads())]
    workload: Vec<&'static Workload>,
    /// Measure logs with this option, not the default; may be given several times. The raw loop
    /// stays as it is, so two runs compare by their ratio to it. depth, num_segments, spin_us,
    /// max_buffer_bytes, max_batch_size, linger_ms, sync_method (auto, dsync, fdatasync).
    #[arg(long, value_name = "NAME=VALUE", value_parser = Setting::parse)]
    set: Vec<Setting>,
    /// Print a JSON line for the machine, then one for each measurement.
    #[arg(long)]
    json: bool,
    /// Write a page with charts too, which needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
    let sane = Duration::from_millis(1)..=Duration::from_secs(3600);
    seconds.filter(|s| sane.contains(s)).ok_or("must be a number from 0.001 to 3600".into())
}

fn workloads() -> impl TypedValueParser<Value = &'static Workload> {
    let known = |name: String| Workload::named(&name).ok_or("no such workload");
    PossibleValuesParser::new(ALL.iter().map(|w| w.name)).try_map(known)
}

/// What was measured, and on what.
struct Outcome {
    machine: Machine,
    method: String,
    /// What the logs were set to.
    options: String,
    /// Cores that others kept busy in the rounds, where the system tells.
    others: Option<f64>,
    board: Vec<(&'static Workload, Vec<Series>)>,
}

/// Runs the bench.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let interrupt = Interrupt::watch()?;
    args.html.as_deref().map_or(Ok(()), page::check)?;
    let folder = Folder::below(&args.dir, &interrupt)?;
    let outcome = bench(args, &folder, &interrupt);
    let removed = folder.remove();
    if let (Err(_), Err(Stop::Failed(why))) = (&outcome, &removed) {
        // The worse of two errors ends the command; this one is told before it.
        say(format_args!("prkdb bench: {why}"));
    }
    let outcome = outcome?;
    removed?;
    // The page first: nobody may be reading the table to its end.
    if let Some(path) = &args.html {
        html::write(path, args, &outcome)?;
        say(format_args!("the page is in {}", path.display()));
    }
    table::tell(args.json, &outcome)?;
    Ok(ExitCode::SUCCESS)
}

fn bench(args: &Args, folder: &Folder, interrupt: &Interrupt) -> Result<Outcome, Stop> {
    let machine = Machine::under(folder.path())
        .map_err(|e| Stop::Failed(format!("{}: {e}", folder.path().display())))?;
    if let Some(name @ ("tmpfs" | "ramfs")) = machine.file_system.as_deref() {
        say(format_args!(
            "{} is in memory ({name}), so no sync waits for a device: name a directory on a disk \
             with --dir",
            args.dir.display()
        ));
    }
    let backends = usable(args, folder.path())?;
    check_space(args, backends.len())?;
    let bar = progress::of_preparations();
    let open = |backend: &Backend| {
        let dir = folder.path().join(backend.name());
        Log::open(*backend, &dir, &|config| args.set.iter().for_each(|s| s.apply(config)))
    };
    let mut contest = Contest {
        raw: contest::raw(folder.path())?,
        logs: backends.iter().map(open).collect::<Result<_, _>>()?,
        workloads: chosen(args),
        loads: Vec::new(),
        pace: Pace { lead_in: LEAD_IN.max(args.seconds / 10), length: args.seconds },
        interrupt,
    };
    contest.warm_up(&bar)?;
    contest.calibrate(&bar)?;
    let method = contest.method_line();
    let options = setting::told(&args.set);
    bar.suspend(|| print(&table::machine(args.json, &machine, &method, &options)))?;
    let before = Company::now();
    let board = contest.run(args.rounds.into(), &bar)?;
    let others = before.cores_since(machine.cpus);
    bar.finish_and_clear();
    let board = contest.workloads.iter().copied().zip(board).collect();
    contest.logs.into_iter().try_for_each(Log::close)?;
    Ok(Outcome { machine, method, options, others, board })
}

/// Time that this process and all together have spent on cores.
struct Company {
    at: Instant,
    own: Option<Duration>,
    ticks: Option<(u64, u64)>,
}

impl Company {
    fn now() -> Company {
        let (own, ticks) = (cpu::process_time().ok(), machine::ticks());
        Company { at: Instant::now(), own, ticks }
    }

    /// Cores that others kept busy since then.
    fn cores_since(&self, cpus: usize) -> Option<f64> {
        let now = Company::now();
        let own = (now.own? - self.own?).as_secs_f64() / (now.at - self.at).as_secs_f64();
        let ((busy, all), (busy_then, all_then)) = (now.ticks?, self.ticks?);
        let share = numbers::per(busy - busy_then, all - all_then)?;
        let cores = share * f64::from(u32::try_from(cpus).ok()?);
        Some((cores - own).max(0.0))
    }
}

/// The workloads asked for, each once, in the order in which they run.
fn chosen(args: &Args) -> Vec<&'static Workload> {
    let wanted = |w: &&Workload| args.workload.is_empty() || args.workload.contains(w);
    ALL.iter().filter(wanted).collect()
}

/// The backends asked for that work in `dir`; says why one is left out.
fn usable(args: &Args, dir: &Path) -> Result<Vec<Backend>, Stop> {
    let wanted = |b: &Backend| args.backend.is_empty() || args.backend.contains(b);
    let mut usable = Vec::new();
    for backend in backend::all().filter(wanted) {
        match prkdb_core::probe(dir, backend) {
            Ok(_) => usable.push(backend),
            Err(e) => say(format_args!("{} is left out: {e}", backend.name())),
        }
    }
    if usable.is_empty() {
        return Err(Stop::Failed(format!("no backend works in {}", args.dir.display())));
    }
    Ok(usable)
}

fn check_space(args: &Args, logs: usize) -> Result<(), Stop> {
    let (dir, mut config) = (&args.dir, WalConfig::default());
    args.set.iter().for_each(|setting| setting.apply(&mut config));
    // Each one more is open, and later in the pool.
    let lanes = 2 * (config.num_segments as u64 - 1) * log::SEGMENT_BYTES;
    let needed = RAW_BYTES + logs as u64 * (log::MAX_BYTES + lanes);
    let free = free_bytes(dir)
        .map_err(|e| Stop::Failed(format!("free space of {}: {e}", dir.display())))?;
    if free < needed {
        let (dir, needed, free) = (dir.display(), needed >> 20, free >> 20);
        let why = format!(
            "{needed} MiB of free space are needed below {dir}, there are {free} MiB; name another \
             disk with --dir, or fewer backends with --backend"
        );
        return Err(Stop::Failed(why));
    }
    Ok(())
}
