//! Figures on stdout: a table for people, or a JSON object a line.

use serde_json::{Value, json};

use crate::Outcome;
use crate::figures::Row;
use crate::numbers::Ratio;
use crate::outcome::{Stop, print};
use crate::text::{rounded, short, wrapped};
use crate::workload::{Kind, Workload};

/// What the figures mean; the closing lines of table and page.
const NOTES: [&str; 4] = [
    "raw is no log: one write a batch by a bare ring over a pre-written file, one in flight for \
     each caller, at most 32, or 8 where prkdb has tickets, durable by the faster of two methods; \
     not synced where the logs are not. Nobody shares a write there, so logs whose callers share \
     them may pass it: it is a ceiling only where one caller waits. prkdb is this crate on the \
     backend that it takes by itself.",
    "prkdb over it: records/s of prkdb over those of the same round, the median of the pairs and \
     its 95 % interval (bootstrap). Rates are medians of the rounds, percentiles and CPU time are \
     over all of them; CPU time is of the whole process. Latency is from the call to its answer.",
    "Each run is a process and a fresh log, which may prepare files before the window; a second \
     process reads back all that was acknowledged and compares it. Reading is from the page cache; \
     its rate counts the opening in.",
    "All this is about this disk at this moment.",
];

/// Names of the columns behind the contestant.
pub const COLUMNS: [&str; 5] =
    ["records/s", "p50 us", "p99 us", "CPU ns/record", "prkdb over it (95 %)"];
const WIDTHS: [usize; 5] = [15, 10, 10, 15, 28];

/// Names of the columns of a workload.
pub fn columns(workload: &Workload) -> [&'static str; 5] {
    match workload.kind {
        Kind::ReadBack => ["records/s", "open ms", "", COLUMNS[3], COLUMNS[4]],
        Kind::Durable | Kind::Unsynced => COLUMNS,
    }
}

/// The first line: what the figures are taken on, and how.
pub fn machine(outcome: &Outcome) -> String {
    format!("{}; {}", outcome.machine.line(), outcome.method)
}

/// A contestant's name with its marks.
pub fn marked(row: &Row) -> String {
    format!("{}{}", row.name, if row.early.is_some() { "*" } else { "" })
}

/// The cells of a row, as its columns are named.
pub fn cells(workload: &Workload, row: &Row) -> [String; 5] {
    let ratio = match row.ours_over {
        Some(Ratio { median, interval: Some((low, high)) }) => {
            format!("{median:.2} ({low:.2} - {high:.2})")
        }
        Some(Ratio { median, interval: None }) => format!("{median:.2}"),
        None => "-".into(),
    };
    let reading = workload.kind == Kind::ReadBack;
    [
        rounded(row.records_per_s),
        short(if reading { row.open_ms } else { row.p50_us }),
        if reading { String::new() } else { short(row.p99_us) },
        rounded(row.cpu_ns_per_record),
        ratio,
    ]
}

/// What has to be said about the rows of a workload, a line each.
pub fn remarks(workload: &Workload, rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        if let Some((why, count)) = &row.flaw {
            let rounds = row.rounds;
            lines.push(format!("x {}: {why} ({count} of {rounds} rounds)", row.name));
        }
        if let Some(when) = row.early {
            lines.push(format!("* {} acknowledges {when}; not compared", row.name));
        }
    }
    let sound = rows.iter().filter(|row| row.is_peer && row.is_sound());
    let rate = |row: &&Row| row.records_per_s.unwrap_or(0.0);
    let fastest = sound.max_by(|a, b| rate(a).total_cmp(&rate(b)));
    if let Some(row) = fastest {
        let [.., ratio] = cells(workload, row);
        lines.push(format!("the fastest of the others: {}, prkdb over it {ratio}", row.name));
    }
    lines
}

/// The closing lines: what the figures mean, and what each contestant is set to.
pub fn notes(outcome: &Outcome) -> Vec<String> {
    let notes = NOTES.iter().map(|note| (*note).to_string());
    notes.chain(outcome.settings.iter().cloned()).collect()
}

/// Prints all measurements.
///
/// # Errors
/// Stdout can't be written.
pub fn tell(as_json: bool, outcome: &Outcome) -> Result<(), Stop> {
    for (workload, rows) in &outcome.board {
        if as_json {
            rows.iter().try_for_each(|row| print(&as_object(workload, row).to_string()))?;
        } else {
            print(&as_table(workload, rows))?;
        }
    }
    if as_json {
        return Ok(());
    }
    print("")?;
    notes(outcome).iter().try_for_each(|note| print(&wrapped(note)))
}

fn as_table(workload: &Workload, rows: &[Row]) -> String {
    let heading = format!("{} ({})", workload.title, workload.name);
    let mut text = format!("\n{}\n", wrapped(&heading));
    let mut line = |name: &str, cells: &[String]| {
        let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}"));
        text += format!("  {name:<16}{}", cells.collect::<String>()).trim_end();
        text.push('\n');
    };
    line("", &columns(workload).map(String::from));
    for row in rows {
        let mut cells = cells(workload, row);
        if row.flaw.is_some() {
            cells[0] = format!("x {}", cells[0]);
        }
        line(&marked(row), &cells);
    }
    for remark in remarks(workload, rows) {
        text += &format!("  {}\n", wrapped(&remark));
    }
    text.truncate(text.trim_end().len());
    text
}

fn as_object(workload: &Workload, row: &Row) -> Value {
    let durability = match workload.kind {
        Kind::Durable => Some("sync"),
        Kind::Unsynced => Some("written"),
        Kind::ReadBack => None,
    };
    let interval = row.ours_over.and_then(|ratio| ratio.interval);
    json!({
        "peer": row.name,
        "workload": workload.name,
        "durability": durability,
        "acknowledges_early": row.early,
        "flaw": row.flaw.as_ref().map(|(why, _)| why),
        "record_bytes": workload.record_bytes,
        "batch": workload.batch,
        "callers": workload.callers,
        "rounds": row.rounds,
        "records_per_s": row.records_per_s,
        "p50_us": row.p50_us,
        "p99_us": row.p99_us,
        "open_ms": row.open_ms,
        "cpu_ns_per_record": row.cpu_ns_per_record,
        "prkdb_over_it": row.ours_over.map(|ratio| ratio.median),
        "prkdb_over_it_low": interval.map(|(low, _)| low),
        "prkdb_over_it_high": interval.map(|(_, high)| high),
    })
}
