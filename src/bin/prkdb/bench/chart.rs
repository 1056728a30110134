//! Charts as SVG: lines over callers, latencies by percentile, bars of system calls.
//!
//! ```text
//! values --log10 where an axis is one--> plotters (places, shapes) --> SVG text for the page
//! ```
//!
//! Colours are those of Okabe and Ito, told apart by colour-blind readers too. Text and grid have
//! colours of their own, which the page's style sheet turns round where the reader wants it dark.

use std::error::Error;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What goes wrong while drawing; nothing of it is expected.
pub type Drawn<T> = Result<T, Box<dyn Error>>;
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const WIDTH: u32 = 680;
const HEIGHT: u32 = 380;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const GREY: RGBColor = RGBColor(0x88, 0x88, 0x88);
const FONT: u32 = 17;

/// One contestant's line: its name and its points.
pub struct Line {
    /// Who.
    pub name: String,
    /// Where; on logarithmic axes as they are, above zero.
    pub points: Vec<(f64, f64)>,
}

/// A place on an axis and what is written there.
pub type Tick = (f64, String);

/// The colour of a contestant: a backend, or another log in `benches/peers`.
pub fn colour(name: &str) -> RGBColor {
    match name {
        "uring" | "prkdb" => RGBColor(0x00, 0x72, 0xb2),
        "mmap" | "prkdb-mmap" => RGBColor(0xe6, 0x9f, 0x00),
        "pwrite" | "prkdb-pwrite" => RGBColor(0x00, 0x9e, 0x73),
        "tokio-uring" | "okaywal" => RGBColor(0xcc, 0x79, 0xa7),
        "raft-engine" => RGBColor(0xd5, 0x5e, 0x00),
        "nodedb-wal" => RGBColor(0x56, 0xb4, 0xe9),
        "walrus" => RGBColor(0xb8, 0xa9, 0x00),
        "wal-db" => RGBColor(0x8c, 0x6b, 0xb1),
        "commitlog" => RGBColor(0x9c, 0x5a, 0x3c),
        _ => GREY,
    }
}

/// Lines with marks over named places, such as numbers of callers; `y` is logarithmic.
pub fn lines(lines: &[Line], x: &[Tick], y_name: &str, x_name: &str, marks: bool) -> Drawn<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let ticks = log_ticks(low, high);
    let (bottom, top) = (
        ticks.first().map_or(low, |t| t.0).min(low).log10(),
        ticks.last().map_or(high, |t| t.0).max(high).log10(),
    );
    let (left, right) = (x.first().map_or(0.0, |t| t.0), x.last().map_or(1.0, |t| t.0));
    let margin = if marks { (right - left).max(1.0) * 0.06 } else { 0.0 };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let mut plot = ChartBuilder::on(&root)
            .margin_top(32)
            .margin_right(34)
            .x_label_area_size(54)
            .y_label_area_size(70)
            .build_cartesian_2d(left - margin..right + margin, bottom..top)?;
        for (value, label) in &ticks {
            horizontal(&mut plot, (left - margin, right + margin), value.log10(), label)?;
        }
        for (value, label) in x {
            vertical(&mut plot, *value, (bottom, top), label)?;
        }
        for line in lines {
            let points = line.points.iter().map(|(x, y)| (*x, y.log10()));
            draw(&mut plot, &line.name, points.collect(), marks)?;
        }
        let (y_style, x_style) = (style(HPos::Left, VPos::Top), style(HPos::Right, VPos::Bottom));
        root.draw(&Text::new(y_name, (2, 4), y_style))?;
        root.draw(&Text::new(x_name, (pixels(WIDTH) - 34, pixels(HEIGHT) - 2), x_style))?;
        root.present()?;
    }
    Ok(svg)
}

fn draw(plot: &mut Plot, name: &str, points: Vec<(f64, f64)>, marks: bool) -> Drawn<()> {
    let colour = colour(name);
    let line = colour.stroke_width(3);
    if name == "raw" {
        plot.draw_series(DashedLineSeries::new(points.clone(), 8, 6, line))?;
    } else {
        plot.draw_series(LineSeries::new(points.clone(), line))?;
    }
    if marks {
        plot.draw_series(points.into_iter().map(|at| Circle::new(at, 5, colour.filled())))?;
    }
    Ok(())
}

/// One group of bars: its name and a value for each contestant that has one.
pub struct Bars {
    /// What.
    pub name: String,
    /// Who, and how much.
    pub values: Vec<(String, f64)>,
}

/// Groups of horizontal bars, each with its value behind it.
pub fn bars(groups: &[Bars], x_name: &str) -> Drawn<String> {
    const BAR: f64 = 18.0;
    const GAP: f64 = 14.0;
    let of = |group: &Bars| float(group.values.len()) * BAR + GAP;
    let rows: f64 = groups.iter().map(of).sum();
    let high = groups.iter().flat_map(|g| &g.values).map(|v| v.1).fold(0.0, f64::max);
    let ticks = linear_ticks(high);
    let right = ticks.last().map_or(1.0, |t| t.0).max(high) * 1.12;
    // A few hundred at most: workloads times contestants.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let height = rows as u32 + 66;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let mut plot = ChartBuilder::on(&root)
            .margin_top(4)
            .margin_right(16)
            .x_label_area_size(54)
            .y_label_area_size(230)
            .build_cartesian_2d(0.0..right, rows..0.0)?;
        for (value, label) in &ticks {
            vertical(&mut plot, *value, (rows, 0.0), label)?;
        }
        let mut y = GAP / 2.0;
        for group in groups {
            let middle = y + float(group.values.len()) * BAR / 2.0;
            text(&mut plot, &group.name, (0.0, middle), (-8, 0), (HPos::Right, VPos::Center))?;
            for (name, value) in &group.values {
                let area = [(0.0, y + 1.0), (*value, y + BAR - 1.0)];
                let bar = Rectangle::new(area, colour(name).filled());
                plot.draw_series(std::iter::once(bar))?;
                let (at, label) = ((*value, y + BAR / 2.0), format!("{value:.2}"));
                text(&mut plot, &label, at, (4, 0), (HPos::Left, VPos::Center))?;
                y += BAR;
            }
            y += GAP;
        }
        let style = style(HPos::Right, VPos::Bottom);
        root.draw(&Text::new(x_name, (pixels(WIDTH) - 16, pixels(height) - 2), style))?;
        root.present()?;
    }
    Ok(svg)
}

fn horizontal(plot: &mut Plot, x: (f64, f64), y: f64, label: &str) -> Drawn<()> {
    plot.draw_series(std::iter::once(PathElement::new([(x.0, y), (x.1, y)], GRID)))?;
    text(plot, label, (x.0, y), (-8, 0), (HPos::Right, VPos::Center))
}

fn vertical(plot: &mut Plot, x: f64, y: (f64, f64), label: &str) -> Drawn<()> {
    plot.draw_series(std::iter::once(PathElement::new([(x, y.0), (x, y.1)], GRID)))?;
    text(plot, label, (x, y.0), (0, 6), (HPos::Center, VPos::Top))
}

fn text(
    plot: &mut Plot,
    label: &str,
    at: (f64, f64),
    offset: (i32, i32),
    anchor: (HPos, VPos),
) -> Drawn<()> {
    let text = Text::new(label.to_string(), offset, style(anchor.0, anchor.1));
    plot.draw_series(std::iter::once(EmptyElement::at(at) + text))?;
    Ok(())
}

fn style(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let font = ("sans-serif", FONT).into_font();
    TextStyle::from(font).color(&INK).pos(Pos::new(horizontal, vertical))
}

fn pixels(length: u32) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn float(count: usize) -> f64 {
    count as f64
}

/// Ticks from at or below `low` to at or above `high`: each decade, and 2 and 5 where there is
/// room for them.
fn log_ticks(low: f64, high: f64) -> Vec<Tick> {
    if !(low > 0.0 && high >= low && high.is_finite()) {
        return Vec::new();
    }
    let steps: &[f64] = if (high / low).log10() < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    // Exponents of microseconds and of records a second.
    #[expect(clippy::cast_possible_truncation, reason = "far below an i32's range")]
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|n| steps.iter().map(move |step| step * 10f64.powi(n)));
    let all: Vec<f64> = all.collect();
    let start = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= high).unwrap_or(all.len() - 1);
    all[start..=end].iter().map(|tick| (*tick, si(*tick))).collect()
}

/// About five ticks from 0 to at or above `high`.
fn linear_ticks(high: f64) -> Vec<Tick> {
    if !(high > 0.0 && high.is_finite()) {
        return vec![(0.0, "0".into())];
    }
    let rough = high / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(rough);
    let count = (high / step).ceil();
    let ticks = std::iter::successors(Some(0.0), |n| (*n < count).then(|| n + 1.0));
    ticks.map(|n| (n * step, short(n * step))).collect()
}

/// A round number without the digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A number with k, M or G.
fn si(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{} G", short(v / 1e9)),
        v if v >= 1e6 => format!("{} M", short(v / 1e6)),
        v if v >= 1e3 => format!("{} k", short(v / 1e3)),
        v => short(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> String {
        ticks.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_enclose_what_is_drawn() {
        assert_eq!(labels(&log_ticks(3_000.0, 60_000.0)), "2 k 5 k 10 k 20 k 50 k 100 k");
        assert_eq!(labels(&log_ticks(1.0, 1e6)), "1 10 100 1 k 10 k 100 k 1 M");
        assert_eq!(labels(&log_ticks(20.0, 20.0)), "20");
        assert!(log_ticks(0.0, 1.0).is_empty());
        assert_eq!(labels(&linear_ticks(2.3)), "0 0.5 1 1.5 2 2.5");
        assert_eq!(labels(&linear_ticks(0.0)), "0");
    }

    #[test]
    fn a_chart_has_its_lines_and_escapes_its_text() {
        let line = Line { name: "uring".into(), points: vec![(0.0, 10.0), (1.0, 100.0)] };
        let ticks = [(0.0, "1 & <2>".to_string()), (1.0, "8".to_string())];
        let svg = lines(&[line], &ticks, "y", "x", true).unwrap();
        assert!(svg.contains("polyline") && svg.contains("#0072B2"), "{svg}");
        assert!(svg.contains("1 &amp; &lt;2&gt;"), "{svg}");
        let group = Bars { name: "all".into(), values: vec![("mmap".into(), 1.5)] };
        let svg = bars(&[group], "x").unwrap();
        assert!(svg.contains("1.50") && svg.contains("#E69F00"), "{svg}");
        bars(&[], "x").unwrap();
        lines(&[], &[], "y", "x", false).unwrap();
    }
}
