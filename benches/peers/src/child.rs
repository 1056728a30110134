//! The process that runs one contestant once: it writes, or reads back what another wrote.
//!
//! ```text
//! parent --arguments--> child write --> DIR/log, outcome file
//!        --arguments--> child read  --> outcome file
//! ```
//!
//! A process of its own, so that a log that hangs or panics takes nothing with it, that its CPU
//! time is its alone, and that what is read back was left by a process that ended. What it found
//! goes to a file as JSON: some logs talk on stdout.

use std::fs::File;
use std::io::sink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::drive::{self, Sample};
use crate::peer::{Contestant, Outcome, Sink};
use crate::records::Checker;
use crate::workload::{Kind, Workload};
use crate::yardstick::cpu;

/// What a child is to do.
#[derive(clap::Subcommand)]
pub enum Child {
    /// Runs a contestant on a workload.
    #[command(hide = true)]
    Write(Job),
    /// Reads back what it wrote.
    #[command(hide = true)]
    Read(Job),
}

/// Its arguments; only the parent gives them.
#[derive(clap::Args)]
pub struct Job {
    peer: String,
    workload: String,
    /// The folder of this run.
    dir: PathBuf,
    /// Milliseconds before the window, and of the window.
    #[arg(long, num_args = 2, default_values = ["0", "0"])]
    pace: Vec<u64>,
    /// Bytes of records to fill a log with that is to be read.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Records of each caller that were acknowledged.
    #[arg(long, value_delimiter = ',')]
    acked: Vec<u64>,
}

/// Where the log is, in the folder of a run.
pub fn log_dir(run: &Path) -> PathBuf {
    run.join("log")
}

/// Where the outcome is.
pub fn outcome_file(run: &Path) -> PathBuf {
    run.join("outcome.json")
}

/// What was read back.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    /// To open the log.
    pub open: Duration,
    /// To read it.
    pub read: Duration,
    /// Records that it gave.
    pub records: u64,
    /// CPU time of both.
    pub cpu: Duration,
    /// What is wrong with them, if something is.
    pub flaw: Option<String>,
}

impl Child {
    /// Does it; the outcome, also an error, goes to its file.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn run(&self) -> Outcome<()> {
        // If the parent goes, however it does, so does this.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        let (job, outcome) = match self {
            Child::Write(job) => (job, job.write()),
            Child::Read(job) => (job, job.read()),
        };
        let outcome = outcome.unwrap_or_else(|e| json!({ "error": chain(&*e) }));
        Ok(std::fs::write(outcome_file(&job.dir), outcome.to_string())?)
    }
}

/// An error and what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |e| e.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Job {
    fn who(&self) -> Outcome<(Contestant, &'static Workload)> {
        let contestant = Contestant::named(&self.peer).ok_or("no such contestant")?;
        Ok((contestant, Workload::named(&self.workload).ok_or("no such workload")?))
    }

    fn write(&self) -> Outcome<Value> {
        let (contestant, workload) = self.who()?;
        let dir = log_dir(&self.dir);
        std::fs::create_dir(&dir)?;
        let [lead_in, length] = self.pace[..] else { return Err("two paces".into()) };
        let pace = (Duration::from_millis(lead_in), Duration::from_millis(length));
        match contestant {
            Contestant::Raw => Ok(told(&drive::bare(workload, &dir, pace)?)),
            Contestant::Log(adapter) if workload.kind == Kind::ReadBack => {
                let records = drive::fill(adapter, workload, &dir, self.fill)?;
                Ok(json!({ "acked": [records] }))
            }
            Contestant::Log(adapter) => Ok(told(&drive::log(adapter, workload, &dir, pace)?)),
        }
    }

    fn read(&self) -> Outcome<Value> {
        let (contestant, workload) = self.who()?;
        let Contestant::Log(adapter) = contestant else { return Err("it keeps nothing".into()) };
        let dir = log_dir(&self.dir);
        to_cache(&dir)?;
        let to = Arc::new(Sink::new(Checker::new(workload, self.acked.clone())));
        let (start, cpu) = (Instant::now(), cpu::process_time()?);
        adapter.read(&dir, workload, &to)?;
        let end = Instant::now();
        let cpu = cpu::process_time()?.saturating_sub(cpu);
        let opened = to.opened_at().unwrap_or(end);
        Ok(json!({
            "open_ns": nanos(opened - start),
            "read_ns": nanos(end - opened),
            "records": to.checker().count(),
            "cpu_ns": nanos(cpu),
            "flaw": to.checker().verdict(),
        }))
    }
}

/// Reads every file below `dir`, so that all logs are read from the page cache.
fn to_cache(dir: &Path) -> Outcome<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            to_cache(&entry.path())?;
        } else if kind.is_file() {
            std::io::copy(&mut File::open(entry.path())?, &mut sink())?;
        }
    }
    Ok(())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn told(sample: &Sample) -> Value {
    let counts = sample.latencies.iter_recorded();
    let counts = counts.map(|at| json!([at.value_iterated_to(), at.count_at_value()]));
    json!({
        "seconds": sample.seconds,
        "records": sample.records,
        "latencies": counts.collect::<Vec<Value>>(),
        "looked": sample.looked,
        "cpu_ns": nanos(sample.cpu),
        "acked": sample.acked,
    })
}

/// What a child that wrote has told.
pub fn sample(outcome: &Value) -> Outcome<Sample> {
    let missing = |name: &str| format!("the outcome lacks {name}");
    let count = |name: &str| outcome[name].as_u64().ok_or_else(|| missing(name));
    let real = |name: &str| outcome[name].as_f64().ok_or_else(|| missing(name));
    let mut latencies = drive::latencies();
    for at in outcome["latencies"].as_array().ok_or_else(|| missing("latencies"))? {
        let pair = at[0].as_u64().zip(at[1].as_u64());
        let (value, count) = pair.ok_or_else(|| missing("a latency"))?;
        latencies.saturating_record_n(value, count);
    }
    Ok(Sample {
        seconds: real("seconds")?,
        records: count("records")?,
        latencies,
        looked: real("looked")?,
        cpu: Duration::from_nanos(count("cpu_ns")?),
        acked: acked(outcome),
    })
}

/// Records of each caller that it says were acknowledged.
pub fn acked(outcome: &Value) -> Vec<u64> {
    outcome["acked"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// What a child that read has told.
pub fn read_back(outcome: &Value) -> Outcome<ReadBack> {
    let missing = |name: &str| format!("the outcome lacks {name}");
    let count = |name: &str| outcome[name].as_u64().ok_or_else(|| missing(name));
    Ok(ReadBack {
        open: Duration::from_nanos(count("open_ns")?),
        read: Duration::from_nanos(count("read_ns")?),
        records: count("records")?,
        cpu: Duration::from_nanos(count("cpu_ns")?),
        flaw: outcome["flaw"].as_str().map(str::to_string),
    })
}
