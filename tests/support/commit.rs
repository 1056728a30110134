//! Which commit a figure is of.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// What is tested, for whoever gathers figures of many runs.
pub fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let named = git.ok().filter(|git| git.status.success());
    let name = named.and_then(|git| String::from_utf8(git.stdout).ok());
    let name = name.map_or("unknown".into(), |name| name.trim().to_string());
    let built = std::env::current_exe().and_then(fs::metadata).and_then(|exe| exe.modified());
    match built {
        // Another commit may have come, or another edit, since this was built.
        Ok(built) if SOURCES.iter().any(|dir| newest(Path::new(dir)) > Some(built)) => {
            format!("older than {name}")
        }
        _ => name,
    }
}

/// What each suite is built from, and this one's own.
const SOURCES: [&str; 3] = ["src", "tests/support", concat!("tests/", env!("CARGO_CRATE_NAME"))];

/// When a file in `dir` was last changed.
fn newest(dir: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let changed = entries.filter_map(|entry| match entry.file_type().ok()?.is_dir() {
        true => newest(&entry.path()),
        false => entry.metadata().ok()?.modified().ok(),
    });
    changed.max()
}
