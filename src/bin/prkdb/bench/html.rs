//! What is told on the page: machine, charts, table and notes.

use std::path::Path;
use std::time::SystemTime;

use crate::outcome::Stop;

use super::chart::Drawn;
use super::figures::Row;
use super::page::{self, date, escaped};
use super::panels;
use super::table::{self, COLUMNS};
use super::workload::Workload;
use super::{Args, Outcome};

/// Writes the page to `path`.
pub fn write(path: &Path, args: &Args, outcome: &Outcome) -> Result<(), Stop> {
    let failed = |e| Stop::Failed(format!("{}: {e}", path.display()));
    page::write(path, &page(args, outcome).map_err(failed)?)
}

fn page(args: &Args, outcome: &Outcome) -> Drawn<String> {
    let rows = table::rows(outcome);
    let names: Vec<&str> = match &outcome.board[..] {
        [(_, series), ..] => series.iter().map(|s| s.backend.as_str()).collect(),
        [] => Vec::new(),
    };
    let panels = panels::all(outcome, &rows, &names)?;
    let (machine, method) = (escaped(&outcome.machine.line()), escaped(&outcome.method));
    let (date, rounds) = (date(SystemTime::now()), args.rounds);
    let seconds = args.seconds.as_secs_f64();
    let table = html_table(&rows);
    let notes = table::notes(outcome);
    let notes: String = notes.iter().map(|note| format!("<p>{}</p>\n", escaped(note))).collect();
    let body = format!(
        "<p class=\"machine\">{machine}</p>\n\
         <p class=\"soft\">Raw loop: {method}. {date}; {rounds} interleaved rounds of {seconds} s \
         each.</p>\n\
         {}\n<h2>All figures</h2>\n<div class=\"wide\">\n{table}</div>\n\
         <h2>How it was measured</h2>\n<div class=\"notes\">\n{notes}</div>\n",
        panels.concat()
    );
    Ok(page::framed("prkdb bench", "", &body))
}

fn html_table(rows: &[Vec<Row>]) -> String {
    let columns: String =
        COLUMNS.iter().map(|name| format!("<th>{}</th>", escaped(name))).collect();
    let mut table = format!("<table>\n<thead><tr><th></th>{columns}</tr></thead>\n<tbody>\n");
    for rows in rows {
        let Some(first) = rows.first() else { continue };
        let Workload { title, name, .. } = first.workload;
        table += &format!(
            "<tr><th colspan=\"{}\">{} (<code>{}</code>)</th></tr>\n",
            COLUMNS.len() + 1,
            escaped(title),
            escaped(name)
        );
        for row in rows {
            let class = if row.backend == "raw" { " class=\"raw\"" } else { "" };
            let cells = table::cells(row);
            let cells: String =
                cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell.trim()))).collect();
            table += &format!("<tr{class}><td>{}</td>{cells}</tr>\n", escaped(&row.backend));
        }
    }
    table + "</tbody>\n</table>\n"
}
