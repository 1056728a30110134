//! The three charts of the page: what is drawn, and what their captions say of it.
//!
//! Invariant: a caption tells what a chart means, and of what was found only what it is given.

use super::Outcome;
use super::chart::{self, Bars, Drawn, Line, Tick};
use super::figures::{Row, Series};
use super::page::figure;
use super::table;

/// The workload whose latencies are drawn, if it was measured.
const LATENCIES_OF: &str = "single-8";
/// Percentiles that are marked, by their number of nines: -log10(1 - share).
const SHARES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];
/// Points of a line of latencies.
const STEPS: u32 = 240;

/// The three charts, each with its heading, or with the reason why it is not drawn.
pub fn all(outcome: &Outcome, rows: &[Vec<Row>], names: &[&str]) -> Drawn<[String; 3]> {
    Ok([throughput(rows, names)?, latencies(outcome, names)?, calls(rows, names)?])
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
                   back several groups in one call; threads need a call or two for each. Writes \
                   and syncs that make and retire its files are counted in; opening, renaming and \
                   removing them is not.";
    Ok(figure(TITLE, Some(&svg), names, caption))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_as_many_nines_as_they_say() {
        assert!((nines(0.99) - 2.0).abs() < 1e-9);
        assert_eq!(SHARES.map(percent), ["0", "50", "90", "99", "99.9", "99.99"]);
    }
}
