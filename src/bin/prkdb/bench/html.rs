//! The page: machine, charts, table and notes in one file that needs no network and no script.
//!
//! Invariants: text is escaped; nothing refers to anything outside the file; the file appears whole
//! or not at all.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;

use crate::outcome::Stop;

use super::chart::Drawn;
use super::figures::Row;
use super::panels;
use super::table::{self, COLUMNS};
use super::workload::Workload;
use super::{Args, Outcome};

const STYLE: &str = include_str!("page.css");

/// Finds out whether `path` can be written before minutes are spent on what goes into it. It is
/// replaced by a rename, so only a regular file may be there: no device, no link.
pub fn check(path: &Path) -> Result<(), Stop> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(Stop::Failed(format!("{} is no regular file", path.display())));
        }
        _ => {}
    }
    temporary(path).map(drop)
}

/// Writes the page to `path`.
pub fn write(path: &Path, args: &Args, outcome: &Outcome) -> Result<(), Stop> {
    let failed = |e: &dyn std::fmt::Display| Stop::Failed(format!("{}: {e}", path.display()));
    let page = page(args, outcome).map_err(|e| failed(&e))?;
    let mut file = temporary(path)?;
    file.write_all(page.as_bytes()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    Ok(())
}

fn temporary(path: &Path) -> Result<NamedTempFile, Stop> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    let builder = builder.permissions(Permissions::from_mode(0o666)).prefix(".prkdb-bench-");
    let made = builder.tempfile_in(parent.unwrap_or(Path::new(".")));
    made.map_err(|e| Stop::Failed(format!("{} can't be written: {e}", path.display())))
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
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>prkdb bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>prkdb bench</h1>\n<p class=\"machine\">{machine}</p>\n\
         <p class=\"soft\">Raw loop: {method}. {date}; {rounds} interleaved rounds of {seconds} s \
         each.</p>\n\
         {}\n<h2>All figures</h2>\n<div class=\"wide\">\n{table}</div>\n\
         <h2>How it was measured</h2>\n<div class=\"notes\">\n{notes}</div>\n</body>\n</html>\n",
        panels.concat()
    ))
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

/// `text` as it may stand in a page, between tags or in quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Day and minute in UTC. After Howard Hinnant, "chrono-compatible low-level date algorithms".
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, minutes) = (seconds / 86_400 + 719_468, seconds % 86_400 / 60);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_can_not_become_markup() {
        let text = escaped("<b a=\"1\" c='2'>&</b>");
        assert_eq!(text, "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;&lt;/b&gt;");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59 UTC");
    }
}
