//! Which commit a figure is of.

use std::process::Command;

/// What is tested, for whoever gathers figures of many runs.
pub fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let named = git.ok().filter(|git| git.status.success());
    let name = named.and_then(|git| String::from_utf8(git.stdout).ok());
    name.map_or("unknown".into(), |name| name.trim().into())
}
