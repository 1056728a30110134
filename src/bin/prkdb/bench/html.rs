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

use super::chart::{self, Bars, Drawn, Line, Tick};
use super::figures::{Row, Series};
use super::table::{self, COLUMNS};
use super::workload::Workload;
use super::{Args, Outcome};

const STYLE: &str = include_str!("page.css");
/// The workload whose latencies are drawn, if it was measured.
const LATENCIES_OF: &str = "single-8";
/// Percentiles that are marked, by their number of nines: -log10(1 - share).
const SHARES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];
/// Points of a line of latencies.
const STEPS: u32 = 240;

/// Finds out whether `path` can be written before minutes are spent on what goes into it.
pub fn check(path: &Path) -> Result<(), Stop> {
    if path.is_dir() {
        return Err(Stop::Failed(format!("{} is a directory", path.display())));
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
    let figures = [throughput(&rows, &names)?, latencies(outcome, &names)?, calls(&rows, &names)?];
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
         <p class=\"soft\">Raw loop: {method}. {date}; {rounds} interleaved rounds of {seconds} s each.</p>\n\
         {}\n<h2>All figures</h2>\n<div class=\"wide\">\n{table}</div>\n\
         <h2>How it was measured</h2>\n<div class=\"notes\">\n{notes}</div>\n</body>\n</html>\n",
        figures.concat()
    ))
}

/// A chart under its heading, with key and caption; without a chart the caption says why.
fn figure(title: &str, svg: Option<&str>, names: &[&str], caption: &str) -> String {
    let (title, caption) = (escaped(title), escaped(caption));
    let Some(svg) = svg else {
        return format!("<h2>{title}</h2>\n<p class=\"soft\">{caption}</p>\n");
    };
    let described = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    let svg = svg.replacen("<svg ", &described, 1);
    let key: String = names.iter().map(|name| key(name)).collect();
    format!(
        "<h2>{title}</h2>\n<figure>\n<ul class=\"key\">{key}</ul>\n{svg}\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )
}

fn key(name: &str) -> String {
    let name = escaped(name);
    format!("<li><i class=\"{name}\"></i>{name}</li>")
}

fn throughput(rows: &[Vec<Row>], names: &[&str]) -> Drawn<String> {
    const TITLE: &str = "Durable single records by number of callers";
    let singles: Vec<&Vec<Row>> = rows
        .iter()
        .filter(|rows| rows.iter().any(|r| r.workload.name.starts_with("single-")))
        .collect();
    if singles.is_empty() {
        let why = "Not drawn: none of single-1, single-8 and single-64 was measured.";
        return Ok(figure(TITLE, None, names, why));
    }
    let callers = |rows: &[Row]| rows.first().map_or(0, |row| row.workload.callers);
    let place = |rows: &[Row]| f64::from(u32::try_from(callers(rows)).unwrap_or(1)).log2();
    let ticks: Vec<Tick> =
        singles.iter().map(|rows| (place(rows), callers(rows).to_string())).collect();
    let line = |name: &&str| {
        let found = singles.iter().filter_map(|rows| {
            let row = rows.iter().find(|row| row.backend == **name)?;
            Some((place(rows), row.records_per_s.filter(|rate| *rate > 0.0)?))
        });
        Line { name: (*name).to_string(), points: found.collect() }
    };
    let lines: Vec<Line> = names.iter().map(line).collect();
    let svg = chart::lines(&lines, &ticks, "records/s", "callers", true)?;
    let most = singles.last().map_or(&[][..], |rows| &rows[..]);
    let told = most.iter().map(|row| format!("{} {}", row.backend, table::cells(row)[0]));
    let caption = format!(
        "Records of 100 B a second, each durable before its caller goes on; both axes are \
         logarithmic. Lines rise because callers who wait at the same time share a write; the \
         dashed raw loop makes one write for each of them, at most 32 at a time, and shares none. \
         With {}: {}.",
        plural(callers(most), "caller"),
        told.collect::<Vec<_>>().join(", ")
    );
    Ok(figure(TITLE, Some(&svg), names, &caption))
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn latencies(outcome: &Outcome, names: &[&str]) -> Drawn<String> {
    let answered =
        |series: &[Series]| series.iter().any(|s| s.latency_us(0.5).is_some_and(|us| us > 0.0));
    let mut measured = outcome.board.iter().filter(|(_, series)| answered(series));
    let chosen = measured.clone().find(|(workload, _)| workload.name == LATENCIES_OF);
    let Some((workload, series)) = chosen.or_else(|| measured.next()) else {
        let why = "Not drawn: no workload with answers was measured.";
        return Ok(figure("Latency distribution", None, names, why));
    };
    let most = series.iter().map(Series::answers).max().unwrap_or(1);
    let most = f64::from(u32::try_from(most).unwrap_or(u32::MAX)).log10().min(4.0);
    let ticks: Vec<Tick> = SHARES
        .map(|share| (nines(share), share))
        .into_iter()
        .filter(|(at, _)| *at <= most.max(1.0) + 1e-9)
        // The least of all is a place to start from, no percentile that anybody asks for.
        .map(|(at, share)| match at > 0.0 {
            true => (at, format!("{} %", percent(share))),
            false => (at, String::new()),
        })
        .collect();
    let end = ticks.last().map_or(1.0, |tick| tick.0);
    let lines: Vec<Line> = series.iter().map(|series| percentiles(series, end)).collect();
    let svg = chart::lines(&lines, &ticks, "microseconds", "answered within", false)?;
    let title = format!("Latency distribution: {}", workload.title);
    let caption = format!(
        "The time within which so many percent were answered, over all rounds of {}. Time is on a \
         logarithmic axis, and so is what is left over: each grid line from 90 % on leaves a tenth \
         of the one before. Lower is faster, flatter is steadier. Raw is the time of one write.",
        workload.name
    );
    Ok(figure(&title, Some(&svg), names, &caption))
}

/// The latencies of one contestant up to where single answers make the percentiles.
fn percentiles(series: &Series, end: f64) -> Line {
    let answers = f64::from(u32::try_from(series.answers()).unwrap_or(u32::MAX));
    let end = end.min(answers.max(1.0).log10());
    let at = |step: u32| end * f64::from(step) / f64::from(STEPS);
    let point = |x: f64| Some((x, series.latency_us(1.0 - 10f64.powf(-x))?.max(1e-3)));
    Line {
        name: series.backend.clone(),
        points: (0..=STEPS).filter_map(|step| point(at(step))).collect(),
    }
}

fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn calls(rows: &[Vec<Row>], names: &[&str]) -> Drawn<String> {
    const TITLE: &str = "System calls per group";
    let group = |rows: &Vec<Row>| {
        let value = |row: &Row| Some((row.backend.clone(), row.syscalls_per_group?));
        let name = rows.first().map_or("", |row| row.workload.name).to_string();
        Bars { name, values: rows.iter().filter_map(value).collect() }
    };
    let groups = rows.iter().map(group).filter(|group| !group.values.is_empty());
    let groups: Vec<Bars> = groups.collect();
    if groups.is_empty() {
        let why = "Not drawn: no group was written whose system calls are counted.";
        return Ok(figure(TITLE, None, names, why));
    }
    let svg = chart::bars(&groups, "system calls per group")?;
    let caption = "Calls of the I/O layer for each group of batches, a group being what is written \
                   and made durable as one; for raw, for each write. A ring can hand over and take \
                   back several groups in one call; threads need a call or two for each. What the \
                   log does to make and retire its files is counted in.";
    Ok(figure(TITLE, Some(&svg), names, caption))
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
fn escaped(text: &str) -> String {
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
        let drawn = figure("a < b", None, &[], "\"c\" & d");
        assert!(drawn.contains("a &lt; b") && drawn.contains("&quot;c&quot; &amp; d"), "{drawn}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn shares_have_as_many_nines_as_they_say() {
        assert!((nines(0.99) - 2.0).abs() < 1e-9);
        assert_eq!(SHARES.map(percent), ["0", "50", "90", "99", "99.9", "99.99"]);
    }
}
