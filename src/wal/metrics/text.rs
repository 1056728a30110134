//! Metrics as text: a table for people, and the content of the file METRICS.
//!
//! The file's form is specified in FORMAT.md. Reading it takes any bytes: what does not keep the
//! form is no metrics, never an error and never a panic.

use std::fmt;

use crate::io::SystemCalls;

use super::histogram::BUCKETS;
use super::{Histogram, Metrics};

/// The first line, up to its checksum.
const TITLE: &str = "prkdb-metrics 1 ";

impl Metrics {
    /// The content of the file, without padding.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = vec![("at_us", self.at_us), ("open_us", self.open_us)];
        lines.extend(self.counts());
        if let Some(calls) = self.calls {
            lines.extend(call_names().map(|(name, of)| (name, *of(&mut calls.clone()))));
        }
        let mut body: String =
            lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        for (name, histogram) in self.histograms() {
            body.push_str(&format!("{name} {} {}", histogram.sum(), histogram.max()));
            for (bucket, count) in histogram.filled() {
                body.push_str(&format!(" {bucket}:{count}"));
            }
            body.push('\n');
        }
        format!("{TITLE}{:08x}\n{body}", crc32fast::hash(body.as_bytes()))
    }

    /// The metrics in such a content, padded or not; none if it is something else.
    pub(crate) fn from_text(bytes: &[u8]) -> Option<Metrics> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\n');
        let (crc, lines) = text.strip_prefix(TITLE)?.split_once('\n')?;
        // The newline that ends the last line went with the padding.
        let body = format!("{lines}\n");
        if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(body.as_bytes()) {
            return None;
        }
        let mut metrics = Metrics::default();
        for (name, rest) in lines.lines().filter_map(|line| line.split_once(' ')) {
            if let Some(histogram) = metrics.histogram_mut(name) {
                *histogram = histogram_of(rest)?;
                continue;
            }
            let of_call = call_names().find(|(call, _)| *call == name);
            let count = match (name, of_call) {
                ("at_us", _) => Some(&mut metrics.at_us),
                ("open_us", _) => Some(&mut metrics.open_us),
                (_, Some((_, of))) => Some(of(metrics.calls.get_or_insert_default())),
                _ => metrics.count_mut(name),
            };
            // None: a name of a newer build.
            if let Some(count) = count {
                *count = rest.parse().ok()?;
            }
        }
        Some(metrics)
    }
}

type Of = fn(&mut SystemCalls) -> &mut u64;

fn call_names() -> impl Iterator<Item = (&'static str, Of)> {
    let names: [(&'static str, Of); 6] = [
        ("call_enters", |calls| &mut calls.enters),
        ("call_reads", |calls| &mut calls.reads),
        ("call_writes", |calls| &mut calls.writes),
        ("call_syncs", |calls| &mut calls.syncs),
        ("call_maps", |calls| &mut calls.maps),
        ("call_wakes", |calls| &mut calls.wakes),
    ];
    names.into_iter()
}

fn histogram_of(text: &str) -> Option<Histogram> {
    let mut words = text.split(' ');
    let (sum, max) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut buckets = vec![0; BUCKETS];
    for word in words {
        let (bucket, count) = word.split_once(':')?;
        *buckets.get_mut(bucket.parse::<usize>().ok()?)? = count.parse().ok()?;
    }
    Some(Histogram::of(buckets, sum, max))
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.counts() {
            writeln!(f, "{name:18} {count}")?;
        }
        if let Some(calls) = self.calls {
            writeln!(f, "{:18} {}", "system_calls", calls.total())?;
        }
        let row = |name: &str, cells: [String; 5]| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:>12}")).collect();
            format!("{name:14}{cells}")
        };
        let heads = ["count", "mean", "p50", "p99", "max"].map(String::from);
        write!(f, "{}", row("", heads))?;
        for (name, histogram) in self.histograms() {
            let (name, unit): (_, fn(f64) -> String) = match name.strip_suffix("_ns") {
                Some(name) => (name, time),
                None => (name, plain),
            };
            let values = [0.5, 0.99, 1.0].map(|q| exact(histogram.quantile(q)));
            let [p50, p99, max] = values.map(unit);
            let cells = [histogram.count().to_string(), unit(histogram.mean()), p50, p99, max];
            write!(f, "\n{}", row(name, cells))?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn exact(value: u64) -> f64 {
    value as f64
}

/// A time for people, in the unit that suits it.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::{Meters, add};
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Metrics {
        let meters = Meters::default();
        add(&meters.groups, 3);
        add(&meters.bytes, u64::MAX);
        [0, 7, 1_000, 123_456_789].iter().for_each(|ns| meters.queue_ns.record(*ns));
        let mut metrics = meters.look();
        metrics.at_us = 1_700_000_000_000_000;
        metrics.calls = Some(SystemCalls { wakes: 9, ..SystemCalls::default() });
        metrics
    }

    #[test]
    fn what_is_written_is_read_back_padded_or_not() {
        let text = sample().to_text();
        assert_eq!(Metrics::from_text(text.as_bytes()), Some(sample()));
        let padded = format!("{text}{}", "\n".repeat(4096));
        assert_eq!(Metrics::from_text(padded.as_bytes()), Some(sample()));
        let uncounted = Metrics { calls: None, ..sample() };
        assert_eq!(Metrics::from_text(uncounted.to_text().as_bytes()), Some(uncounted));
    }

    #[test]
    fn a_time_is_told_in_the_unit_that_suits_it() {
        let told = [7.0, 7_100.0, 7_150_000.0, 71e9].map(time);
        assert_eq!(told, ["7 ns", "7.1 us", "7.2 ms", "71.0 s"]);
    }

    #[test]
    fn names_of_a_newer_build_are_passed_over() {
        let body = "groups 3\ncolour 7\nshape round or so\nsplines 1 2 3:4\nqueue_ns 5 5 5:1\n";
        let text = format!("{TITLE}{:08x}\n{body}", crc32fast::hash(body.as_bytes()));
        let read = Metrics::from_text(text.as_bytes()).unwrap();
        assert_eq!((read.groups, read.calls, read.queue_ns.count()), (3, None, 1));
    }

    #[test]
    fn a_changed_byte_is_no_metrics() {
        let text = sample().to_text().into_bytes();
        for at in 0..text.len() {
            let mut bytes = text.clone();
            bytes[at] ^= 1;
            assert_eq!(Metrics::from_text(&bytes), None, "byte {at}");
        }
        // Without its last newline it is whole.
        for at in 0..text.len() - 1 {
            assert_eq!(Metrics::from_text(&text[..at]), None, "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Metrics::from_text(&bytes), None);
        }

        #[test]
        fn any_lines_under_a_good_checksum_are_read_without_a_panic(
            lines in "((groups|at_us|queue_ns|call_maps|x) ?[0-9: ]{0,40}\n){0,6}",
        ) {
            let crc = crc32fast::hash(lines.as_bytes());
            let text = format!("{TITLE}{crc:08x}\n{lines}");
            if let Some(metrics) = Metrics::from_text(text.as_bytes()) {
                prop_assert!(!metrics.to_string().is_empty());
            }
        }
    }

    #[test]
    fn the_table_names_everything_once() {
        let table = sample().to_string();
        assert!(table.starts_with("groups             3\n"), "{table}");
        let queue = table.lines().find(|line| line.starts_with("queue ")).unwrap();
        assert!(queue.contains(" 4 ") && queue.ends_with("123.5 ms"), "{queue}");
        let lines = sample().counts().len() + 1 + 1 + sample().histograms().len();
        assert_eq!(table.lines().count(), lines);
    }
}
