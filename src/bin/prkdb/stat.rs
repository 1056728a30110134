//! `prkdb stat`: what a log holds, and which backend would write it here.

use std::path::PathBuf;
use std::process::ExitCode;

use prkdb_core::{Backend, ReadOnlyWal};
use serde_json::Value;

use crate::json;
use crate::outcome::{Stop, print};

/// Describe the log and the backend that `auto` would choose here, probed now.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Describes the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let stat = ReadOnlyWal::open(&args.dir)?.stat();
    // A directory that can't be written, where no backend works, can still be described.
    let (backend, reason, remedy) = match prkdb_core::probe(&args.dir, Backend::Auto) {
        Ok(probed) => (Some(probed.name), probed.reason.to_string(), probed.remedy),
        Err(e) => (None, e.to_string(), None),
    };
    let fields = [
        ("backend", backend.into()),
        ("backend_reason", reason.into()),
        ("remedy", remedy.into()),
        ("last_backend", stat.last_backend.into()),
        ("sync_method", stat.sync_method.into()),
        ("first_lsn", json::lsn(stat.first_lsn)),
        ("next_lsn", json::lsn(stat.next_lsn)),
        ("durable_lsn", json::lsn(stat.durable_lsn)),
        ("segments", stat.segments.into()),
        ("size_bytes", stat.size_bytes.into()),
        ("format_version", stat.format_version.into()),
    ];
    print(&if args.json { json::object(&fields) } else { as_text(&fields) })?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(fields: &[(&str, Value)]) -> String {
    let line = |(name, value): &(&str, Value)| match value {
        Value::Null => format!("{name:14} -"),
        Value::String(text) => format!("{name:14} {text}"),
        other => format!("{name:14} {other}"),
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}
