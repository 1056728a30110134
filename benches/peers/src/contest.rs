//! The rounds: every workload by every contestant in turn, each in a process of its own.
//!
//! ```text
//! round 1:  raw prkdb .. commitlog | raw prkdb .. commitlog | ..     a bar is a workload
//! round 2:  commitlog .. prkdb raw | commitlog .. prkdb raw | ..
//! each:     folder RUN --> child write --> child read --> figures; RUN goes
//! ```
//!
//! Invariants: contestants of one workload run next to each other, so that their ratio is taken
//! over the same minute; a round counts only if what it acknowledged was read back; a child that
//! takes too long is killed and named.

use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::Value;

use crate::child::{self, ReadBack};
use crate::drive::{Sample, settle};
use crate::folder::Interrupt;
use crate::outcome::Stop;
use crate::peer::Contestant;
use crate::workload::{Kind, Workload};

/// How long a child may take beyond its window: it prepares files, it reads everything back.
const PATIENCE: Duration = Duration::from_secs(120);
const NAP: Duration = Duration::from_millis(10);

/// What one round of one contestant gave.
#[derive(Debug)]
pub enum Round {
    /// It wrote, and what it acknowledged was read back.
    Written(Sample),
    /// It was opened and read.
    Read(ReadBack),
    /// It wrote, and what was read back was not what it had acknowledged, or it was not to be
    /// read.
    Flawed(Option<Sample>, String),
}

/// All rounds of one contestant in one workload.
pub struct Series {
    /// Who.
    pub contestant: Contestant,
    /// A round each.
    pub rounds: Vec<Round>,
}

/// How much is measured.
pub struct Contest<'a> {
    /// The folder for everything.
    pub folder: &'a Path,
    /// Who takes part.
    pub contestants: Vec<Contestant>,
    /// What is measured.
    pub workloads: Vec<&'static Workload>,
    /// Before each window.
    pub lead_in: Duration,
    /// The window.
    pub length: Duration,
    /// Bytes of records that are read back where reading is measured.
    pub read_bytes: u64,
    /// Ends it early.
    pub interrupt: &'a Interrupt,
}

/// Why a child gave nothing.
enum Failure {
    /// The bench was interrupted, or can't go on.
    Stop(Stop),
    /// The contestant is to blame.
    Peer(String),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        Failure::Stop(stop)
    }
}

impl Contest<'_> {
    /// Runs all rounds; a list of series for each workload.
    ///
    /// # Errors
    /// The bench itself can't go on; a contestant that fails is in the series.
    pub fn run(&self, rounds: usize, bar: &ProgressBar) -> Result<Vec<Vec<Series>>, Stop> {
        let row = |workload: &&Workload| {
            let taking = self.contestants.iter().filter(|who| who.takes(workload));
            taking.map(|who| Series { contestant: *who, rounds: Vec::new() }).collect()
        };
        let mut board: Vec<Vec<Series>> = self.workloads.iter().map(row).collect();
        let steps = rounds * board.iter().map(Vec::len).sum::<usize>();
        crate::progress::over_steps(bar, steps as u64);
        for round in 0..rounds {
            for (workload, row) in self.workloads.iter().zip(&mut board) {
                for step in 0..row.len() {
                    let who = if round.is_multiple_of(2) { step } else { row.len() - 1 - step };
                    let series = &mut row[who];
                    bar.set_message(format!("{} {}", workload.name, series.contestant.name()));
                    series.rounds.push(self.round(series.contestant, workload)?);
                    bar.inc(1);
                }
            }
        }
        Ok(board)
    }

    fn round(&self, who: Contestant, workload: &Workload) -> Result<Round, Stop> {
        self.interrupt.check()?;
        let run = self.folder.join("run");
        let failed = |e| Stop::Failed(format!("{}: {e}", run.display()));
        std::fs::create_dir(&run).map_err(failed)?;
        let outcome = self.both(who, workload, &run);
        std::fs::remove_dir_all(&run).and_then(|()| settle(self.folder)).map_err(failed)?;
        self.interrupt.check()?;
        match outcome {
            Ok(round) => Ok(round),
            Err(Failure::Peer(why)) => Ok(Round::Flawed(None, why)),
            Err(Failure::Stop(stop)) => Err(stop),
        }
    }

    /// Writes, then reads back.
    fn both(&self, who: Contestant, workload: &Workload, run: &Path) -> Result<Round, Failure> {
        let blame = |e: Box<dyn std::error::Error + Send + Sync>| Failure::Peer(e.to_string());
        let written = self.child("write", who, workload, run, &[])?;
        let read = |acked: &[u64]| {
            let acked: Vec<String> = acked.iter().map(u64::to_string).collect();
            let read = self.child("read", who, workload, run, &["--acked", &acked.join(",")])?;
            child::read_back(&read).map_err(blame)
        };
        if workload.kind == Kind::ReadBack {
            let read = read(&child::acked(&written))?;
            return Ok(match read.flaw {
                Some(flaw) => Round::Flawed(None, flaw),
                None => Round::Read(read),
            });
        }
        let sample = child::sample(&written).map_err(blame)?;
        if matches!(who, Contestant::Raw) {
            return Ok(Round::Written(sample));
        }
        match read(&sample.acked) {
            Ok(ReadBack { flaw: None, .. }) => Ok(Round::Written(sample)),
            Ok(ReadBack { flaw: Some(flaw), .. }) => Ok(Round::Flawed(Some(sample), flaw)),
            Err(Failure::Peer(why)) => Ok(Round::Flawed(Some(sample), why)),
            Err(stop) => Err(stop),
        }
    }

    /// Runs a child to its end.
    fn child(
        &self,
        what: &str,
        who: Contestant,
        workload: &Workload,
        run: &Path,
        more: &[&str],
    ) -> Result<Value, Failure> {
        let failed = |e: &dyn std::fmt::Display| Stop::Failed(format!("a process of its own: {e}"));
        let talk = run.join("talk");
        let to = std::fs::File::create(&talk).map_err(|e| failed(&e))?;
        let program: PathBuf = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut command = Command::new(program);
        command.arg(what).args([who.name(), workload.name]).arg(run).args(more);
        command.arg("--pace").args([self.lead_in, self.length].map(|d| d.as_millis().to_string()));
        command.args(["--fill", &self.read_bytes.to_string()]);
        command.env("WALRUS_DATA_DIR", child::log_dir(run)).env("WALRUS_QUIET", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(to);
        let outcome = child::outcome_file(run);
        std::fs::remove_file(&outcome).ok();
        let process = command.spawn().map_err(|e| failed(&e))?;
        let Some(status) = self.wait(process).map_err(|e| failed(&e))? else {
            self.interrupt.check()?;
            let seconds = (self.length + PATIENCE).as_secs();
            return Err(Failure::Peer(format!("hung: {what} took more than {seconds} s")));
        };
        let told = std::fs::read_to_string(&outcome).unwrap_or_default();
        match serde_json::from_str::<Value>(&told) {
            Ok(told) => match told["error"].as_str() {
                Some(error) => Err(Failure::Peer(format!("{what}: {error}"))),
                None => Ok(told),
            },
            Err(_) => Err(Failure::Peer(format!("{what}: {}", last_words(&talk, status)))),
        }
    }

    /// Waits for a child; none if it had to be killed.
    fn wait(&self, mut process: Process) -> std::io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + self.lead_in + self.length + PATIENCE;
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline || self.interrupt.check().is_err() {
                process.kill()?;
                process.wait()?;
                return Ok(None);
            }
            std::thread::sleep(NAP);
        }
    }
}

/// What a child said on stderr before it ended without an outcome: the panic, if there is one.
fn last_words(talk: &Path, status: ExitStatus) -> String {
    let talk = std::fs::read(talk).unwrap_or_default();
    let talk = String::from_utf8_lossy(&talk);
    let mut lines = talk.lines().skip_while(|line| !line.contains("panicked at"));
    let said = lines.nth(1).or_else(|| talk.lines().last()).unwrap_or("without a word");
    format!("ended with {status}: {said}")
}
