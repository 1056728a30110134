//! Progress bars: on stderr, and only where it is a terminal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(100);

/// A bar nobody sees.
pub fn hidden() -> ProgressBar {
    ProgressBar::hidden()
}

/// A bar over so many bytes.
pub fn of_bytes(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    draw(bar, "{bytes}/{total_bytes} [{bar:40}] {bytes_per_sec} {eta}")
}

/// A bar over the size of stdin where it is a file, else a count of bytes.
pub fn of_stdin() -> ProgressBar {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    match stdin.and_then(|stdin| stdin.metadata()) {
        Ok(stdin) if stdin.is_file() => of_bytes(stdin.len()),
        _ => draw(ProgressBar::no_length(), "{bytes} {spinner} {bytes_per_sec}"),
    }
}

/// What is being done, before it is known how many steps there will be.
pub fn of_preparations() -> ProgressBar {
    draw(ProgressBar::no_length(), "{spinner} {msg}")
}

/// Makes it a bar over so many steps, with what is being done.
pub fn over_steps(bar: &ProgressBar, steps: u64) {
    bar.set_style(style("{pos}/{len} [{bar:30}] {eta} {msg}"));
    bar.set_length(steps);
    bar.reset();
}

fn draw(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.set_style(style(template));
    bar.enable_steady_tick(REDRAW);
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template")
}
