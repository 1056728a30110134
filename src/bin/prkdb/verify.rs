//! `prkdb verify`: reads every byte that was promised and names what is wrong.
//!
//! A torn tail is what a crash leaves of batches that nobody was promised: named, and no damage.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use prkdb_core::{Finding, FindingKind, ReadOnlyWal, VerifySummary};

use crate::outcome::{Stop, say};
use crate::{json, progress};

/// Read everything and print a line for each finding: FILE OFFSET KIND LSN.
///
/// A torn tail, left by a crash, is named and is no damage; damage makes the exit status 1.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
    /// Print findings as JSON lines: file, offset, kind, lsn, damage, detail; then totals.
    #[arg(long)]
    json: bool,
    /// Read with so many threads at most; by default as many as run at once, 4 at most.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
}

/// Verifies the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let bar = progress::of_bytes(0);
    // Verifying goes on when nobody reads the lines: its exit status is an answer too.
    let (mut printed, mut unreadable) = (Ok(()), false);
    let tell = &mut |finding: Finding| {
        unreadable |= finding.kind == FindingKind::Unreadable;
        if printed.is_ok() {
            let line = if args.json { as_json(&finding) } else { as_text(&finding) };
            printed = bar.suspend(|| writeln!(io::stdout().lock(), "{line}"));
        }
        say_detail(&bar, &finding);
    };
    let draw = &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    };
    let summary = match args.threads {
        None => ReadOnlyWal::verify(&args.dir, tell, draw),
        Some(threads) => ReadOnlyWal::verify_with(&args.dir, threads.into(), tell, draw),
    };
    bar.finish_and_clear();
    let summary = summary?;
    if args.json && printed.is_ok() {
        printed = writeln!(io::stdout().lock(), "{}", totals(&summary));
    }
    say(format_args!(
        "{} records in {} frames, {} bytes: {} damaged, {} torn, {} given up",
        summary.records,
        summary.frames,
        summary.bytes,
        summary.damaged,
        summary.torn,
        summary.given_up
    ));
    if summary.damaged > 0 {
        let dir = args.dir.display();
        say(format_args!(
            "restore what is named from a copy, or do what is said of it; else give it up: \
             `prkdb repair {dir} --to NEW` makes a new log of the rest, `prkdb repair {dir}` does \
             it in place, but for a file of another length than it says"
        ));
        if unreadable {
            say(format_args!(
                "what is unreadable stops a repair too: first copy the directory with a tool that \
                 puts zeros there (GNU ddrescue, dd conv=noerror,sync), and repair the copy"
            ));
        }
        return Ok(ExitCode::FAILURE);
    }
    printed.and_then(|()| io::stdout().flush()).map_err(|e| Stop::stdout(&e))?;
    Ok(ExitCode::SUCCESS)
}

/// The last line with `--json`: what was read, and how many findings there were.
fn totals(summary: &VerifySummary) -> String {
    json::object(&[
        ("frames", summary.frames.into()),
        ("records", summary.records.into()),
        ("bytes", summary.bytes.into()),
        ("damaged", summary.damaged.into()),
        ("torn", summary.torn.into()),
        ("given_up", summary.given_up.into()),
    ])
}

fn say_detail(bar: &ProgressBar, finding: &Finding) {
    if !finding.detail.is_empty() {
        bar.suspend(|| say(format_args!("{}: {}", finding.path.display(), finding.detail)));
    }
}

fn as_text(finding: &Finding) -> String {
    let lsn = finding.lsn.map_or("-".into(), |lsn| lsn.to_string());
    format!("{} {} {} {lsn}", finding.path.display(), finding.offset, finding.kind)
}

fn as_json(finding: &Finding) -> String {
    json::object(&[
        ("file", finding.path.to_string_lossy().into()),
        ("offset", finding.offset.into()),
        ("kind", finding.kind.to_string().into()),
        ("lsn", json::lsn(finding.lsn)),
        ("damage", finding.is_damage().into()),
        ("detail", finding.detail.as_str().into()),
    ])
}
