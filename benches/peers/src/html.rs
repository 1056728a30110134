//! The page: charts, table and notes in one file that needs no network and no script.

use std::path::Path;
use std::time::SystemTime;

use crate::Outcome;
use crate::chart::{self, Bars, Drawn, Line, Tick};
use crate::figures::Row;
use crate::outcome::Stop;
use crate::page::{self, date, escaped, figure};
use crate::peers;
use crate::table::{self, COLUMNS};
use crate::workload::{Kind, Workload};

/// Writes the page to `path`.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, outcome: &Outcome) -> Result<(), Stop> {
    let failed = |e| Stop::Failed(format!("{}: {e}", path.display()));
    page::write(path, &framed(outcome).map_err(failed)?)
}

fn framed(outcome: &Outcome) -> Drawn<String> {
    let rows = || outcome.board.iter().flat_map(|(_, rows)| rows);
    let mut names: Vec<&str> = Vec::new();
    for row in rows().filter(|row| row.early.is_none()) {
        if !names.contains(&row.name) {
            names.push(row.name);
        }
    }
    let charts =
        [singles(outcome, &names)?, latencies(outcome, &names)?, batches(outcome, &names)?];
    let (line, date) = (escaped(&outcome.machine.line()), date(SystemTime::now()));
    let (method, charts, table) = (escaped(&outcome.method), charts.concat(), tables(outcome));
    let notes = table::notes(outcome);
    let notes: String = notes.iter().map(|note| format!("<p>{}</p>\n", escaped(note))).collect();
    let body = format!(
        "<p class=\"machine\">{line}</p>\n<p class=\"soft\">{method}. {date}.</p>\n{charts}\n\
         <h2>All figures</h2>\n<div class=\"wide\">\n{table}</div>\n\
         <h2>How it was measured</h2>\n<div class=\"notes\">\n{notes}</div>\n"
    );
    Ok(page::framed("prkdb beside other logs", &style(), &body))
}

/// The colours of the key, as the charts have them.
fn style() -> String {
    let rule = |name: &str| {
        let (r, g, b) = {
            let c = chart::colour(name);
            (c.0, c.1, c.2)
        };
        format!(".key .{name} {{ border-color: #{r:02x}{g:02x}{b:02x}; }}\n")
    };
    let logs: String = peers::ALL.iter().map(|adapter| rule(adapter.name())).collect();
    logs + "td s { color: var(--soft); }\n.remark { text-align: left; white-space: normal; }\n"
}

/// Rows of durable workloads that a chart may show: those whose figures mean what they say.
fn sound(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.is_sound())
}

fn singles(outcome: &Outcome, names: &[&str]) -> Drawn<String> {
    const TITLE: &str = "Durable single records by number of callers";
    let is_single = |workload: &Workload| workload.kind == Kind::Durable && workload.batch == 1;
    let board: Vec<_> = outcome.board.iter().filter(|(workload, _)| is_single(workload)).collect();
    if board.is_empty() {
        return Ok(figure(TITLE, None, names, "Not drawn: not measured."));
    }
    let place = |w: &Workload| f64::from(u32::try_from(w.callers).unwrap_or(1)).log2();
    let ticks: Vec<Tick> = board.iter().map(|(w, _)| (place(w), w.callers.to_string())).collect();
    let line = |name: &&str| {
        let found = board.iter().filter_map(|(workload, rows)| {
            let row = sound(rows).find(|row| row.name == *name)?;
            Some((place(workload), row.records_per_s.filter(|rate| *rate > 0.0)?))
        });
        Line { name: (*name).to_string(), points: found.collect() }
    };
    let lines: Vec<Line> = names.iter().map(line).collect();
    let svg = chart::lines(&lines, &ticks, "records/s", "callers", true)?;
    let caption = "Records of 100 B a second, each durable before its caller goes on; both axes \
                   are logarithmic. Lines rise where callers who wait at the same time share a \
                   write or a sync. Raw makes a write for each of them, at most 32 at a time: no \
                   ceiling where they are shared. Who acknowledges before the sync, or lost \
                   something, is not drawn.";
    Ok(figure(TITLE, Some(&svg), names, caption))
}

fn latencies(outcome: &Outcome, names: &[&str]) -> Drawn<String> {
    const TITLE: &str = "The slowest of a hundred durable appends";
    let group = |(workload, rows): &(&Workload, Vec<Row>)| {
        let value = |row: &Row| Some((row.name.to_string(), row.p99_us? / 1e3));
        Bars { name: workload.name.into(), values: sound(rows).filter_map(value).collect() }
    };
    let durable = outcome.board.iter().filter(|(workload, _)| workload.kind == Kind::Durable);
    let groups: Vec<Bars> = durable.map(group).filter(|group| !group.values.is_empty()).collect();
    if groups.is_empty() {
        return Ok(figure(TITLE, None, names, "Not drawn: not measured."));
    }
    let svg = chart::bars(&groups, "milliseconds, 99 of 100 are faster")?;
    let caption = "From the call of an append to its answer, over all rounds; less is better.";
    Ok(figure(TITLE, Some(&svg), names, caption))
}

fn batches(outcome: &Outcome, names: &[&str]) -> Drawn<String> {
    const TITLE: &str = "Batches and reading: millions of records a second";
    let group = |(workload, rows): &(&Workload, Vec<Row>)| {
        let value = |row: &Row| Some((row.name.to_string(), row.records_per_s? / 1e6));
        Bars { name: workload.name.into(), values: sound(rows).filter_map(value).collect() }
    };
    let batches = outcome.board.iter().filter(|(workload, _)| workload.batch > 1);
    let groups: Vec<Bars> = batches.map(group).filter(|group| !group.values.is_empty()).collect();
    if groups.is_empty() {
        return Ok(figure(TITLE, None, names, "Not drawn: not measured."));
    }
    let svg = chart::bars(&groups, "millions of records a second")?;
    let caption = "Durable batches, batches that are written and not synced, and opening and \
                   reading a log from the page cache; more is better.";
    Ok(figure(TITLE, Some(&svg), names, caption))
}

fn tables(outcome: &Outcome) -> String {
    let mut table = String::from("<table>\n");
    for (workload, rows) in &outcome.board {
        let span = COLUMNS.len() + 1;
        let columns = table::columns(workload);
        let columns: String = columns.iter().map(|n| format!("<th>{}</th>", escaped(n))).collect();
        table += &format!(
            "<tbody>\n<tr><th colspan=\"{span}\">{} (<code>{}</code>)</th></tr>\n\
             <tr><td></td>{columns}</tr>\n",
            escaped(workload.title),
            escaped(workload.name)
        );
        for row in rows {
            let class = if row.name == "raw" { " class=\"raw\"" } else { "" };
            let mut cells = table::cells(workload, row).map(|cell| escaped(&cell));
            if row.flaw.is_some() {
                cells[0] = format!("<s>{}</s>", cells[0]);
            }
            let cells = cells.map(|cell| format!("<td>{cell}</td>")).concat();
            table += &format!("<tr{class}><td>{}</td>{cells}</tr>\n", escaped(&table::marked(row)));
        }
        for remark in table::remarks(workload, rows) {
            let remark = escaped(&remark);
            table += &format!("<tr><td class=\"remark\" colspan=\"{span}\">{remark}</td></tr>\n");
        }
        table += "</tbody>\n";
    }
    table + "</table>\n"
}
