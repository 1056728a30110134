//! SIGKILL at named steps, before or after the n-th call of each kind: what was acknowledged is
//! there.
//!
//! ```text
//! child:  log -> Through<Steps>: the n-th rename | footer | write of META .. --> SIGKILL
//!           '--> a line before each call and after it --> History
//! test:   open what is left on the same backend: all that was promised, nothing else; append;
//!         verify
//! ```
//!
//! A whole life, and the recovery of one that was killed with groups in flight. `kill` does it at
//! random moments. `PRKDB_KILL_STEPS` asks for more kills at each step than one, n drawn anew; with
//! `all` n goes up, before and after, until a life gets to its end.
#![cfg(all(target_os = "linux", not(prkdb_portable)))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use prkdb_core::{Backend, Lsn, ReadOnlyWal};

mod child;
#[path = "../support/history.rs"]
mod history;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use history::{Expected, Found, History, Op};
use steps::STEPS;
use support::Random;

const SIGKILL: i32 = 9;
/// How often n may be drawn beyond the last call: their number depends on threads.
const TRIES: u64 = 20;
/// How many calls of each kind a life makes.
type Counts = BTreeMap<&'static str, u64>;

/// Where a child is to be killed.
struct Kill<'a> {
    script: &'a str,
    step: &'a str,
    before: bool,
    n: u64,
}

/// Lets a child live in `dir`; what it did there, and its calls if it was not killed.
fn live(
    dir: &Path,
    backend: Backend,
    kill: &Kill<'_>,
    start: Expected,
) -> (History, Option<Counts>) {
    let Kill { script, step, n, .. } = kill;
    let when = if kill.before { "before" } else { "after" };
    let version = if *script == "whole" { 1 } else { 100 };
    let job = format!("{backend} {script} {step} {when} {n} {version} {}", dir.display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_is_killed_at_a_step", "--nocapture"])
        .env(child::JOB, &job)
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(SIGKILL);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "{job}: {}: {talk}", output.status);
    let mut history = History::new(start);
    let said = String::from_utf8_lossy(&output.stdout);
    let told = said.lines().filter_map(|line| line.split_once("+ "));
    let mut counts = Counts::new();
    for (position, (_, line)) in (1..).zip(told) {
        match line.strip_prefix("count ").and_then(|count| count.split_once(' ')) {
            Some((step, count)) => {
                let step = STEPS.into_iter().find(|known| *known == step).expect("a known step");
                counts.insert(step, count.parse().unwrap());
            }
            None => note(&mut history.ops, position, line),
        }
    }
    (history, (!killed).then_some(counts))
}

/// Takes in one line: a call that begins, or the end of the one before.
fn note(ops: &mut Vec<Op>, position: u64, line: &str) {
    let mut words = line.split(' ');
    let word = words.next().unwrap();
    let numbers: Vec<u64> = words.map(|n| n.parse().unwrap()).collect();
    let (begun, done) = (position, u64::MAX);
    match (word, &numbers[..]) {
        ("append", &[first, last, version]) => {
            ops.push(Op::Append { first, last, version, begun });
        }
        ("durable", &[last]) => ops.push(Op::Durable { last, done: position }),
        ("served", &[first, last, state]) => {
            ops.push(Op::Served { first, last, state, done: position });
        }
        ("cut-before", &[first]) => ops.push(Op::CutBefore { first, begun, done }),
        ("cut-after", &[last]) => ops.push(Op::CutAfter { last, begun, done }),
        ("state", &[number]) => ops.push(Op::State { number, begun, done }),
        ("done", []) => match ops.last_mut() {
            Some(
                Op::CutBefore { done, .. } | Op::CutAfter { done, .. } | Op::State { done, .. },
            ) => *done = position,
            _ => panic!("nothing was under way"),
        },
        _ => panic!("nobody says {line}"),
    }
}

/// All that was promised is there, nothing else, and the log goes on.
fn check(dir: &Path, backend: Backend, expected: &Expected, what: &str) {
    let wal = support::open(dir, backend);
    let first = wal.first_lsn().get();
    let records = support::read_all(wal.reader(Lsn::new(first)).unwrap(), first);
    let state = String::from_utf8(wal.user_state()).unwrap();
    let state = if state.is_empty() { 0 } else { state.parse().unwrap() };
    let verdict = expected.check(&Found { first, records, state });
    assert_eq!(verdict.lost, 0, "{what}: acknowledged records are gone");
    wal.append_batch(["after"]).unwrap().wait().unwrap();
    wal.close().unwrap();
    ReadOnlyWal::verify(dir, &mut |f| assert!(!f.is_damage(), "{what}: {f:?}"), &mut |_, _| {})
        .unwrap();
}

/// A script on a backend, and what it finds.
struct Run<'a> {
    root: &'a Path,
    backend: Backend,
    script: &'a str,
    base: Option<(&'a Path, &'a Expected)>,
    kills: Counts,
    lives: u64,
}

impl Run<'_> {
    /// One life, killed or not, and what is left; its calls if it was not.
    fn once(&mut self, step: &'static str, before: bool, n: u64) -> Option<Counts> {
        let Run { root, backend, script, base, .. } = *self;
        let dir = root.join("log");
        let start = base.map_or_else(Expected::nothing, |(from, expected)| {
            support::copy(from, &dir);
            expected.clone()
        });
        let (history, counts) = live(&dir, backend, &Kill { script, step, before, n }, start);
        let what = format!("{backend} {script}: {step} {before} {n}");
        check(&dir, backend, &history.expected(u64::MAX - 1), &what);
        std::fs::remove_dir_all(&dir).unwrap();
        self.lives += 1;
        *self.kills.entry(step).or_default() += u64::from(counts.is_none());
        counts
    }

    /// Some kills at a step that is met `count` times, about.
    fn some(&mut self, step: &'static str, mut count: u64, kills: u64, random: &mut Random) {
        let mut tries = 0;
        for _ in 0..kills {
            while let Some(now) = self.once(step, random.below(2) == 0, 1 + random.below(count)) {
                tries += 1;
                assert!(tries < kills * TRIES, "{step} is not met {count} times");
                // How often depends on the machine: so long as it is busy nothing is calibrated.
                count = now.get(step).copied().unwrap_or(1).clamp(1, count);
            }
        }
    }

    fn all(&mut self, step: &'static str) {
        for before in [true, false] {
            let mut n = 1;
            while self.once(step, before, n).is_none() {
                n += 1;
            }
        }
    }

    fn steps(&mut self, random: &mut Random) {
        let asked = std::env::var("PRKDB_KILL_STEPS").unwrap_or_else(|_| "1".into());
        let counts = self.once("none", true, 1).expect("nothing kills it");
        println!("{} {}: calls: {counts:?}", self.backend, self.script);
        for (step, count) in counts {
            match asked.as_str() {
                "all" => self.all(step),
                kills => self.some(step, count, kills.parse().unwrap(), random),
            }
        }
        self.kills.retain(|_, kills| *kills > 0);
        println!("{} {}: kills: {:?}", self.backend, self.script, self.kills);
    }
}

fn killed_at_each_step(backend: Backend) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    if let Err(e) = prkdb_core::probe(root, backend) {
        return support::must_be_missing(backend, &e);
    }
    let mut random = Random(support::seed());
    println!("{backend}: seed {}", random.0);
    let new = |script, base| Run { root, backend, script, base, kills: Counts::new(), lives: 0 };
    let mut whole = new("whole", None);
    whole.steps(&mut random);
    for step in STEPS {
        assert!(whole.kills.contains_key(step), "nothing was killed at {step}");
    }
    // The second segment is in use, the first is sealed. A busy machine makes fewer and larger
    // groups of the same batches.
    let torn = |n: u64| root.join(format!("torn-{n}"));
    let killed = [30, 24, 18, 12].into_iter().find_map(|n| {
        let kill = Kill { script: "whole", step: "frame", before: false, n };
        let (history, counts) = live(&torn(n), backend, &kill, Expected::nothing());
        counts.is_none().then_some((torn(n), history))
    });
    let (torn, history) = killed.expect("it writes a dozen groups");
    let base = history.expected(u64::MAX - 1);
    let base = Some((torn.as_path(), &base));
    let mut after = new("after", base);
    after.steps(&mut random);
    assert!(after.kills.len() > STEPS.len() / 2, "{:?}", after.kills);
    let kills: u64 = whole.kills.values().chain(after.kills.values()).sum();
    support::tally(format_args!("steps {backend}"), whole.lives + after.lives, kills);
}

#[test]
fn acknowledged_records_survive_sigkill_at_each_step_on_uring() {
    killed_at_each_step(Backend::Uring);
}

#[test]
fn acknowledged_records_survive_sigkill_at_each_step_on_mmap() {
    killed_at_each_step(Backend::Mmap);
}

#[test]
fn acknowledged_records_survive_sigkill_at_each_step_on_pwrite() {
    killed_at_each_step(Backend::Pwrite);
}

#[cfg(feature = "tokio-uring")]
#[test]
fn acknowledged_records_survive_sigkill_at_each_step_on_tokio_uring() {
    killed_at_each_step(Backend::TokioUring);
}

/// What this binary does when it is executed again.
#[test]
fn child_is_killed_at_a_step() {
    child::live();
}
