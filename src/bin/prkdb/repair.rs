//! `prkdb repair`: gives up what is damaged in a log, in its place or by copying the rest.
//!
//! Stdout has a line for all that was given up, and a last one of totals: that is what is needed to
//! judge the loss, so it comes also where nothing was lost.

use std::path::PathBuf;
use std::process::ExitCode;

use prkdb_core::{GivenUp, Lsn, RepairReport, repair, repair_to};

use crate::outcome::{Stop, print, say};
use crate::{json, progress};

/// Give up damaged records and keep all others: FILE OFFSET BYTES KIND FIRST-LAST, then totals.
///
/// Nothing is deleted: damaged bytes stay in their segment, a file that can't be used at all is
/// renamed to NAME.given-up beside it. A healthy log is not changed. No LSN of a lost record is
/// given again. A segment whose file has another length than its header says is not given up in
/// place: the error says which length to give it first. Exit status 0 also when records were lost:
/// it says that the log is whole now.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
    /// Leave the log as it is and write what is whole to this new directory.
    #[arg(long, value_name = "NEW")]
    to: Option<PathBuf>,
    /// Print JSON lines: file, offset, bytes, kind, first_lsn, last_lsn, why, kept_as; then totals.
    #[arg(long)]
    json: bool,
}

/// Repairs the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let bar = progress::of_bytes(0);
    let draw = &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    };
    let report = match &args.to {
        Some(to) => repair_to(&args.dir, to, draw),
        None => repair(&args.dir, draw),
    };
    bar.finish_and_clear();
    let report = report?;
    for gone in &report.given_up {
        print(&if args.json { as_json(args, gone) } else { as_text(args, gone) })?;
        // In place the rest was logged when it was given up, whatever came after.
        if args.to.is_some() || kind(args, gone) == "meta" {
            say(format_args!("{}: {}", gone.path.display(), gone.why));
        }
    }
    print(&totals(args, &report))?;
    let rebuilt = report.given_up.iter().any(|gone| kind(args, gone) == "meta");
    if rebuilt && report.first_lsn > Lsn::FIRST {
        say(format_args!(
            "the log begins at LSN {} now: META was rebuilt, and does not know whether what was \
             before that had been cut, or is lost with its segments",
            report.first_lsn
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What it is that was given up, in one word.
fn kind(args: &Args, gone: &GivenUp) -> &'static str {
    match gone {
        _ if gone.path == args.dir => "missing",
        _ if gone.path.ends_with("META") => "meta",
        _ if gone.offset == 0 => "segment",
        GivenUp { lsns: Some(_), .. } => "frames",
        // Nobody was promised them, or they hold no record.
        _ => "bytes",
    }
}

fn as_text(args: &Args, gone: &GivenUp) -> String {
    let lsns =
        gone.lsns.as_ref().map_or("-".into(), |lsns| format!("{}-{}", lsns.start, lsns.end.prev()));
    let (path, kind) = (gone.path.display(), kind(args, gone));
    let line = format!("{path} {} {} {kind} {lsns}", gone.offset, gone.bytes);
    match &gone.kept_as {
        Some(kept) => format!("{line} kept as {}", kept.display()),
        None => line,
    }
}

fn as_json(args: &Args, gone: &GivenUp) -> String {
    let kept_as = gone.kept_as.as_ref().map(|path| path.to_string_lossy().into_owned());
    json::object(&[
        ("file", gone.path.to_string_lossy().into()),
        ("offset", gone.offset.into()),
        ("bytes", gone.bytes.into()),
        ("kind", kind(args, gone).into()),
        ("first_lsn", json::lsn(gone.lsns.as_ref().map(|lsns| lsns.start))),
        ("last_lsn", json::lsn(gone.lsns.as_ref().map(|lsns| lsns.end.prev()))),
        ("why", gone.why.as_str().into()),
        ("kept_as", kept_as.into()),
    ])
}

fn totals(args: &Args, report: &RepairReport) -> String {
    let RepairReport { changed, records_kept, records_lost, .. } = *report;
    let (holes, next) = (report.holes.len() as u64, report.next_lsn);
    if args.json {
        let to = args.to.as_ref().map(|to| to.to_string_lossy().into_owned());
        return json::object(&[
            ("changed", changed.into()),
            ("to", to.into()),
            ("records_kept", records_kept.into()),
            ("records_lost", records_lost.into()),
            ("holes", holes.into()),
            ("first_lsn", json::lsn(Some(report.first_lsn))),
            ("next_lsn", json::lsn(Some(next))),
        ]);
    }
    let done = match (&args.to, changed) {
        (Some(to), _) => format!("wrote {}", to.display()),
        (None, true) => "repaired".into(),
        (None, false) => "nothing to repair".into(),
    };
    format!(
        "{done}: {records_kept} records kept, {records_lost} lost, holes {holes}, next LSN {next}"
    )
}
