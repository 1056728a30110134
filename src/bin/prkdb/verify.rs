//! `prkdb verify`: reads every byte that was promised and names what is wrong.
//!
//! A torn tail is what a crash leaves of batches that nobody was promised: named, and no damage.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use prkdb_core::{Finding, ReadOnlyWal};

use crate::outcome::{Stop, say};
use crate::{json, progress};

/// Read everything and print a line for each finding: FILE OFFSET KIND LSN.
///
/// A torn tail, left by a crash, is named and is no damage; damage makes the exit status 1.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
    /// Print findings as JSON lines: file, offset, kind, lsn, damage, detail.
    #[arg(long)]
    json: bool,
}

/// Verifies the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let bar = progress::of_bytes(0);
    // Verifying goes on when nobody reads the lines: its exit status is an answer too.
    let mut printed = Ok(());
    let summary = ReadOnlyWal::verify(
        &args.dir,
        &mut |finding| {
            if printed.is_ok() {
                let line = if args.json { as_json(&finding) } else { as_text(&finding) };
                printed = bar.suspend(|| writeln!(io::stdout().lock(), "{line}"));
            }
            say_detail(&bar, &finding);
        },
        &mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        },
    )?;
    bar.finish_and_clear();
    say(format_args!(
        "{} records in {} frames, {} bytes: {} damaged, {} torn",
        summary.records, summary.frames, summary.bytes, summary.damaged, summary.torn
    ));
    if summary.damaged > 0 {
        return Ok(ExitCode::FAILURE);
    }
    printed.and_then(|()| io::stdout().flush()).map_err(|e| Stop::stdout(&e))?;
    Ok(ExitCode::SUCCESS)
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
