//! What kills its own process at the n-th call of one kind, just before or just after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use nix::sys::signal::{Signal, raise};
use prkdb_core::io::Op;

use crate::support::through::Hook;

/// Kinds of calls. `new-..` is of a segment that has no number yet.
pub const STEPS: [&str; 14] = [
    "create-dir",
    "lock",
    "create",
    "rename",
    "unlink",
    "sync-dir",
    "meta-write",
    "meta-sync",
    "new-write",
    "new-sync",
    "frame",
    "footer",
    "segment-sync",
    "queue",
];

/// Where the process is to end, and how far it is.
#[derive(Debug)]
pub struct Steps {
    step: String,
    before: bool,
    /// The call that is the last.
    n: u64,
    calls: Mutex<BTreeMap<(&'static str, bool), u64>>,
}

impl Steps {
    pub fn new(step: &str, before: bool, n: u64) -> Steps {
        Steps { step: step.into(), before, n, calls: Mutex::default() }
    }

    /// A process that only reads changes nothing: `open` is no step.
    fn meet(&self, step: &'static str, before: bool) {
        if !STEPS.contains(&step) {
            return;
        }
        let mut calls = self.calls.lock().unwrap();
        let count = calls.entry((step, before)).or_default();
        *count += 1;
        if step == self.step && before == self.before && *count == self.n {
            raise(Signal::SIGKILL).unwrap();
        }
    }

    /// How many calls of each kind there were.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|((_, before), _)| !before).map(|((s, _), n)| (*s, *n)).collect()
    }
}

impl Hook for Steps {
    fn before(&self, call: &'static str, _path: &Path) {
        self.meet(call, true);
    }

    fn after(&self, call: &'static str) {
        self.meet(call, false);
    }

    fn submit(&self, op: &Op) -> Option<&'static str> {
        let step = step(op)?;
        self.meet(step, true);
        Some(step)
    }
}

/// The kind of a request; none of a read.
fn step(op: &Op) -> Option<&'static str> {
    let (file, end) = match op {
        Op::Write { file, at, buf, .. } => (file, Some(at + buf.len() as u64)),
        Op::Sync { file } => (file, None),
        Op::Read { .. } => return None,
    };
    let name = file.path().file_name().unwrap().to_str().unwrap();
    Some(match (name, end) {
        ("META" | "META.tmp", Some(_)) => "meta-write",
        ("META" | "META.tmp", None) => "meta-sync",
        // The footer is the last block.
        (_, Some(end)) if name.ends_with(".seg") => match file.size() {
            Ok(size) if size == end => "footer",
            _ => "frame",
        },
        (_, None) if name.ends_with(".seg") => "segment-sync",
        (_, Some(_)) => "new-write",
        (_, None) => "new-sync",
    })
}
