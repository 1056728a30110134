//! What fio makes of the same disk: the yardstick of cold reads, and a check on the raw loop.
//!
//! ```text
//! a file of the same size ------> fio, 1 MiB reads, 8 deep ----> the scan, the readers / fio
//! the raw loop's file --> fio, the same blocks, depth, method --> the raw loop / fio
//! ```
//!
//! fio is a process of its own, and only the time that it tells counts: not its start. Where it is
//! not installed its rows are skipped, aloud.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prkdb_core::{Backend, probe};

use crate::appends::{self, Means, rate, raw};
use crate::numbers;
use crate::outcome::{Stop, say};
use crate::pairs::{Goal, Pair};
use crate::yardstick::{Method, RawFile};
use crate::{RECORDS, Run, workload};

/// What all jobs have in common.
const COMMON: &[&str] = &[
    "--name=goals",
    "--ioengine=io_uring",
    "--direct=1",
    "--fixedbufs=1",
    "--registerfiles=1",
    "--allow_file_create=0",
    "--fallocate=none",
    "--eta=never",
    "--output-format=terse",
    "--terse-version=3",
];
/// Where a line of that format has its error, and of reads and writes the KiB, behind which the
/// third field is milliseconds.
const ERROR: usize = 4;
const READ_KIB: usize = 5;
const WRITTEN_KIB: usize = 46;
const MILLIS: usize = 3;
const MIB: u64 = 1 << 20;

/// Whether there is one, with a ring; says so if not.
pub fn is_here(run: &Run, row: &str) -> bool {
    let answers = Command::new("fio").arg("--version").output();
    let why = match (answers, probe(run.dir.path(), Backend::Uring)) {
        (Ok(answer), Ok(_)) if answer.status.success() => return true,
        (Ok(_), Ok(_)) => "fio does not start".into(),
        (Ok(_), Err(e)) => e.to_string(),
        (Err(e), _) => format!("fio: {e}"),
    };
    say(format_args!("SKIPPED, {row} over fio: {why}"));
    false
}

/// Bytes a second of a job, of whose line the field `kib` is what it moved.
fn job(options: &[String], kib: usize) -> Result<f64, Stop> {
    let failed = |what: &dyn std::fmt::Display| Stop::Failed(format!("fio: {what}"));
    let answer = Command::new("fio").args(COMMON).args(options).output().map_err(|e| failed(&e))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    // What it warns of comes before the line.
    let line = text.lines().find(|line| line.starts_with("3;fio")).unwrap_or_default();
    let fields: Vec<&str> = line.split(';').collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    match (field(ERROR), field(kib), field(kib + MILLIS)) {
        // In a window that the disk stalled in nothing is done in no time: no ratio, no failure.
        (Some(0), Some(_), Some(0)) => Ok(0.0),
        (Some(0), Some(moved), Some(millis)) => {
            Ok(numbers::float(moved) * 1024e3 / numbers::float(millis))
        }
        _ => Err(failed(&String::from_utf8_lossy(&answer.stderr).trim())),
    }
}

fn file(path: &Path) -> String {
    format!("--filename={}", path.display())
}

/// A file that is read from its beginning to its end.
pub struct Reads {
    path: PathBuf,
}

impl Reads {
    /// Writes one of `bytes`, rounded up to a MiB.
    pub fn new(dir: &Path, bytes: u64) -> Result<Reads, Stop> {
        let path = dir.join("plain");
        let made = RawFile::create(&path, bytes.next_multiple_of(MIB), true);
        made.map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
        Ok(Reads { path })
    }

    /// Bytes a second.
    pub fn rate(&self) -> Result<f64, Stop> {
        let options = ["--rw=read", "--bs=1M", "--iodepth=8"].map(String::from);
        job(&[&options[..], &[file(&self.path)]].concat(), READ_KIB)
    }
}

/// Bytes a second of writes over the file at `path`, as the raw loop makes them.
fn writes(path: &Path, bytes: usize, means: Means, length: Duration) -> Result<f64, Stop> {
    let durable = match means.method {
        Method::Dsync => "--sync=dsync",
        Method::WriteThenFdatasync => "--fdatasync=1",
        Method::Unsynced => "--sync=none",
    };
    let options = [
        file(path),
        durable.into(),
        "--rw=write".into(),
        "--overwrite=1".into(),
        "--invalidate=0".into(),
        "--time_based".into(),
        format!("--bs={bytes}"),
        format!("--iodepth={}", means.depth),
        format!("--runtime={}ms", length.as_millis()),
        format!("--ramp_time={}ms", length.as_millis() / 10),
    ];
    job(&options, WRITTEN_KIB)
}

/// The bare ring over fio: a yardstick that a tool of the trade beats is none.
pub fn check(run: &Run) -> Result<(), Stop> {
    let rows = [
        ("fio-1", "single-1", "the bare ring, blocks of 4 KiB, 1 deep"),
        ("fio-tickets", "batch-1000x100-tickets", "the bare ring, 1000 x 100 B, 8 deep"),
    ];
    for (name, work, what) in rows {
        if !run.wants(name) || !is_here(run, name) {
            continue;
        }
        let (work, folder) = (workload(work), run.folder()?);
        let loops = appends::raw_file(folder.path())?;
        let means = match work.raw_depth() {
            1 => appends::calibrated(&loops, work, &[1], run.pace.window)?,
            // There fio's sync would not wait for the write that it belongs to.
            depth => Means { method: Method::Dsync, depth },
        };
        let what = format!("{what}, {}; fio", means.method.name());
        let pair = Pair { name, what, goal: Goal::AtLeast(0.9), unit: RECORDS };
        let records_a_byte = work.batch as f64 / work.batch_bytes() as f64;
        let ours = |window| Ok(rate(&raw(&loops, work, means, window)?));
        pair.run(run.pace, ours, |window| {
            let bytes = writes(loops.file.path(), work.batch_bytes(), means, window)?;
            Ok(bytes * records_a_byte)
        })?;
    }
    Ok(())
}
