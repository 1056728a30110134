//! Figures on stdout: a table for people, or a JSON object a line.

use serde_json::Value;

use crate::json;
use crate::outcome::{Stop, print, say};
use crate::yardstick::machine::Machine;

use super::Outcome;
use super::figures::{Row, Series, row};
use super::numbers::Ratio;
use super::text::{rounded, short, wrapped};
use super::workload::Kind;

/// What the figures mean; the closing lines of table and page.
const NOTES: [&str; 4] = [
    "raw: the same blocks on a bare loop without a log. Writes in flight: 1 where one caller \
     waits, 8 with tickets, one for each of 8 or 64 callers (at most 32), who share writes in a \
     log and not here. Unsynced where the log's are; for reading it is a copy and CRC in memory.",
    "of raw: records/s over raw's in the same round, median (95 % interval). Rates are medians \
     of the rounds; percentiles, counts and CPU time are over all of them.",
    "Latency is from the append call to the answer as its caller sees it. Calls: io_uring_enter, \
     pread, pwrite, syncs, mmap, madvise, eventfd writes, those of upkeep too; futex and what \
     opens, renames and removes files is not among them. CPU time is of the whole process.",
    "Each log is cut back below 256 MiB meanwhile. All this is about this disk at this moment.",
];

/// The closing lines: what the figures mean, and who else was at work.
pub fn notes(outcome: &Outcome) -> Vec<String> {
    let options = &outcome.options;
    let set = format!("The logs were set to {options}, the raw loop was not.");
    let set = (!options.is_empty()).then_some(set);
    let notes = NOTES.iter().map(|note| (*note).to_string());
    notes.chain(set).chain(company(outcome)).collect()
}

/// Who else was at work, where the system tells.
fn company(outcome: &Outcome) -> Option<String> {
    let (cores, cpus) = (outcome.others?, outcome.machine.cpus);
    let judgement = if is_busy(outcome) { ": run it again at rest" } else { "" };
    let who = "Other programs, the kernel's own threads, or the host";
    Some(format!("{who} kept {cores:.1} of {cpus} cores busy{judgement}."))
}

/// Whether others were so busy that the figures say little.
pub fn is_busy(outcome: &Outcome) -> bool {
    outcome.others.is_some_and(|cores| cores > MANY * fraction(outcome.machine.cpus))
}

/// The share of all cores from which on others are worth a warning.
const MANY: f64 = 0.25;

fn fraction(cpus: usize) -> f64 {
    u32::try_from(cpus).map_or(f64::INFINITY, f64::from)
}

/// The first line: what the figures are taken on.
pub fn machine(as_json: bool, machine: &Machine, method: &str, options: &str) -> String {
    if !as_json {
        let set = if options.is_empty() { "" } else { "; logs: " };
        return format!("{}; raw loop: {method}{set}{options}", machine.line());
    }
    json::object(&[
        ("machine", machine.line().into()),
        ("device", machine.device.clone().into()),
        ("file_system", machine.file_system.clone().into()),
        ("write_cache", machine.write_cache.clone().into()),
        ("fua", machine.fua.into()),
        ("kernel", machine.kernel.clone().into()),
        ("cpus", machine.cpus.into()),
        ("raw_method", method.into()),
        ("options", options.into()),
    ])
}

/// Prints all measurements.
pub fn tell(as_json: bool, outcome: &Outcome) -> Result<(), Stop> {
    for rows in rows(outcome) {
        if as_json {
            rows.iter().try_for_each(|row| print(&as_object(row)))?;
        } else {
            print(&as_table(&rows))?;
        }
    }
    if as_json {
        // Not among the promised fields; a figure that says little must not stand unmarked.
        if is_busy(outcome) {
            company(outcome).iter().for_each(|note| say(format_args!("{note}")));
        }
        return Ok(());
    }
    print("")?;
    notes(outcome).iter().try_for_each(|note| print(&wrapped(note)))
}

/// The rows of each workload, raw first.
pub fn rows(outcome: &Outcome) -> Vec<Vec<Row>> {
    let rows = |workload, series: &[Series]| match series {
        [] => Vec::new(),
        [raw, ..] => series.iter().map(|series| row(workload, series, raw)).collect(),
    };
    outcome.board.iter().map(|(workload, series)| rows(workload, series)).collect()
}

/// One measurement with the fields that are promised.
fn as_object(row: &Row) -> String {
    let durability = match row.workload.kind {
        Kind::Durable => Some("sync"),
        Kind::Unsynced => Some("written"),
        Kind::ReadBack | Kind::ReadBatches => None,
    };
    let interval = row.raw_ratio.and_then(|ratio| ratio.interval);
    json::object(&[
        ("backend", row.backend.as_str().into()),
        ("workload", row.workload.name.into()),
        ("durability", durability.into()),
        ("record_bytes", row.workload.record_bytes.into()),
        ("batch", row.workload.batch.into()),
        ("callers", row.workload.callers.into()),
        ("outstanding", row.outstanding.into()),
        ("rounds", row.rounds.into()),
        ("records_per_s", number(row.records_per_s, 1)),
        ("batches_per_s", number(row.batches_per_s, 1)),
        ("groups_per_s", number(row.groups_per_s, 1)),
        ("p50_us", number(row.p50_us, 1)),
        ("p99_us", number(row.p99_us, 1)),
        ("enters_per_group", number(row.enters_per_group, 3)),
        ("syscalls_per_group", number(row.syscalls_per_group, 3)),
        ("cpu_ns_per_record", number(row.cpu_ns_per_record, 1)),
        ("raw_ratio", number(row.raw_ratio.map(|r| r.median), 3)),
        ("raw_ratio_low", number(interval.map(|(low, _)| low), 3)),
        ("raw_ratio_high", number(interval.map(|(_, high)| high), 3)),
    ])
}

/// A number with so many decimals, or null.
fn number(value: Option<f64>, decimals: i32) -> Value {
    let unit = 10f64.powi(decimals);
    value.map(|value| (value * unit).round() / unit).into()
}

/// Names of the columns behind the backend.
pub const COLUMNS: [&str; 8] = [
    "records/s",
    "groups/s",
    "p50 us",
    "p99 us",
    "enters/group",
    "calls/group",
    "CPU ns/record",
    "of raw (low - high)",
];
const WIDTHS: [usize; 8] = [13, 10, 8, 8, 13, 12, 14, 24];

/// The cells of a row, as `COLUMNS` names them.
pub fn cells(row: &Row) -> [String; 8] {
    let ratio = match row.raw_ratio {
        Some(_) if row.backend == "raw" => "1.00".to_string() + &" ".repeat(14),
        Some(Ratio { median, interval: Some((low, high)) }) => {
            format!("{median:.2} ({low:.2} - {high:.2})")
        }
        Some(Ratio { median, interval: None }) => format!("{median:.2} (few rounds)"),
        None => "-".into(),
    };
    [
        rounded(row.records_per_s),
        rounded(row.groups_per_s),
        short(row.p50_us),
        short(row.p99_us),
        fixed(row.enters_per_group),
        fixed(row.syscalls_per_group),
        rounded(row.cpu_ns_per_record),
        ratio,
    ]
}

fn as_table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let mut text = format!("\n{} ({})\n", first.workload.title, first.workload.name);
    let mut line = |name: &str, cells: &[String]| {
        let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}"));
        text += &format!("  {name:<11}{}\n", cells.collect::<String>());
    };
    line("", &COLUMNS.map(String::from));
    for row in rows {
        line(&row.backend, &cells(row));
    }
    text.truncate(text.trim_end().len());
    text
}

fn fixed(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::text::WIDTH;
    use super::*;

    #[test]
    fn numbers_of_json_have_no_more_decimals_than_they_are_worth() {
        assert_eq!(number(Some(1.2345), 2), Value::from(1.23));
        assert_eq!(number(None, 2), Value::Null);
    }

    #[test]
    fn notes_fit_the_page() {
        for line in NOTES.iter().flat_map(|note| wrapped(note).lines().map(str::len).max()) {
            assert!(line <= WIDTH, "{line}");
        }
    }
}
