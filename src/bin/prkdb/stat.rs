//! `prkdb stat`: what a log holds, which backend would write it here, what its writer counted.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prkdb_core::{Backend, Histogram, Metrics, ReadOnlyWal};
use serde_json::{Map, Value, json};

use crate::json::{lsn, object};
use crate::outcome::{Stop, print};

/// Describe the log, the backend that `auto` would choose here, probed now, and the metrics that
/// the last writer left.
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
    let log = ReadOnlyWal::open(&args.dir)?;
    let (stat, metrics) = (log.stat(), log.last_metrics());
    // A directory that can't be written, where no backend works, can still be described.
    let (backend, reason, remedy) = match prkdb_core::probe(&args.dir, Backend::Auto) {
        Ok(probed) => (Some(probed.name), probed.reason.to_string(), probed.remedy),
        Err(e) => (None, e.to_string(), None),
    };
    let mut fields = vec![
        ("backend", backend.into()),
        ("backend_reason", reason.into()),
        ("remedy", remedy.into()),
        ("last_backend", stat.last_backend.into()),
        ("sync_method", stat.sync_method.into()),
        ("first_lsn", lsn(stat.first_lsn)),
        ("next_lsn", lsn(stat.next_lsn)),
        ("durable_lsn", lsn(stat.durable_lsn)),
        ("segments", stat.segments.into()),
        ("size_bytes", stat.size_bytes.into()),
        ("format_version", stat.format_version.into()),
        ("promised_lsn", lsn(stat.promised_lsn)),
        ("holes", log.holes().len().into()),
    ];
    if args.json {
        fields.push(("metrics", metrics.as_ref().map(as_json).into()));
        print(&object(&fields))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&as_text(&fields))?;
    if let Some(metrics) = metrics {
        print(&format!("\n{}\n{metrics}", heading(&metrics)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// When the metrics were taken, and over how long.
fn heading(metrics: &Metrics) -> String {
    let taken = Duration::from_micros(metrics.at_us);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = now.saturating_sub(taken).as_secs();
    let open = Duration::from_micros(metrics.open_us).as_secs_f64();
    format!("metrics of the last writer, {ago} s ago, after {open:.1} s open")
}

fn as_json(metrics: &Metrics) -> Value {
    let mut all = Map::new();
    all.insert("at_us".into(), metrics.at_us.into());
    all.insert("open_us".into(), metrics.open_us.into());
    all.extend(metrics.counts().into_iter().map(|(name, n)| (name.to_string(), n.into())));
    let calls = metrics.calls.map(|calls| calls.total());
    all.insert("system_calls".into(), calls.into());
    let histogram = |h: &Histogram| {
        json!({
            "count": h.count(), "mean": h.mean(), "max": h.max(),
            "p50": h.quantile(0.5), "p99": h.quantile(0.99),
        })
    };
    all.extend(metrics.histograms().into_iter().map(|(name, h)| (name.to_string(), histogram(h))));
    Value::Object(all)
}

fn as_text(fields: &[(&str, Value)]) -> String {
    let line = |(name, value): &(&str, Value)| match value {
        Value::Null => format!("{name:14} -"),
        Value::String(text) => format!("{name:14} {text}"),
        other => format!("{name:14} {other}"),
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}
