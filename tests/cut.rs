//! SIGKILL while a log is appended to and cut from its end: what was cut never comes back.
//!
//! ```text
//! child: op 0, "done 0", op 1, "done 1" .. SIGKILL     the ops follow from the life's number
//! test:  the same ops on a Vec; after "done k" the log is as after op k, or as after op k + 1
//! ```
//!
//! `PRKDB_CUT_KILLS` asks for another number of kills than 100, shared among the backends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use prkdb_core::{Backend, Lsn, Wal};

mod support;

use support::watchdog::within_reason;
use support::{Random, backends, contents, open};

/// Longer than a life takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);
const CHILD: &str = "PRKDB_CUT_CHILD";

/// What a life does next.
enum Op {
    Append(Vec<Vec<u8>>),
    /// Keep this many records.
    Cut(usize),
}

/// The operations of a life that starts with `len` records.
struct Ops {
    life: u64,
    random: Random,
    number: u64,
    len: usize,
}

impl Ops {
    fn new(life: u64, len: usize) -> Ops {
        Ops { life, random: Random(life * 7919 + 1), number: 0, len }
    }

    fn next(&mut self) -> Op {
        self.number += 1;
        if self.number.is_multiple_of(4) && self.len > 0 {
            // Most cuts are short; some go back over several segments.
            let most = if self.random.below(5) == 0 { self.len } else { self.len.min(30) };
            let cut = usize::try_from(self.random.below(most as u64)).unwrap() + 1;
            self.len -= cut;
            return Op::Cut(self.len);
        }
        let count = 1 + self.random.below(30);
        let records = (0..count).map(|i| {
            let mut record = format!("{} {} {i} ", self.life, self.number).into_bytes();
            record.resize(record.len() + usize::try_from(self.random.below(4000)).unwrap(), b'-');
            record
        });
        let records: Vec<_> = records.collect();
        self.len += records.len();
        Op::Append(records)
    }
}

fn apply(log: &mut Vec<Vec<u8>>, op: Op) {
    match op {
        Op::Append(records) => log.extend(records),
        Op::Cut(keep) => log.truncate(keep),
    }
}

#[test]
fn child_cuts_until_it_is_killed() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let (life, dir) = job.split_once(' ').unwrap();
    let life: u64 = life.parse().unwrap();
    let wal = open(dir.as_ref(), backend_of(dir.as_ref(), life));
    println!("open");
    let mut ops = Ops::new(life, records_in(&wal));
    for number in 0.. {
        match ops.next() {
            Op::Append(records) => {
                wal.append_batch(&records).unwrap().wait().unwrap();
            }
            Op::Cut(keep) => wal.truncate_after(Lsn::new(keep as u64)).unwrap(),
        }
        println!("done {number}");
    }
}

fn backend_of(dir: &Path, life: u64) -> Backend {
    let all = backends(dir.parent().unwrap());
    all[usize::try_from(life).unwrap() % all.len()]
}

fn records_in(wal: &Wal) -> usize {
    usize::try_from(wal.next_lsn().get() - 1).unwrap()
}

/// Lets a child work in `life` for a while after `least` operations; how many were done for
/// certain.
fn work_and_kill(dir: &Path, life: u64, least: usize, pause: Duration) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_cuts_until_it_is_killed", "--nocapture"])
        .env(CHILD, format!("{life} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("open")), "the child did not open the log");
    let mut done = lines.filter(|line| line.starts_with("done "));
    let first = done.by_ref().take(least).count();
    std::thread::sleep(pause);
    child.kill().unwrap();
    let done = first + done.count();
    assert_eq!(child.wait().unwrap().code(), None, "it ended by itself");
    done
}

#[test]
fn what_was_cut_never_comes_back_after_sigkill() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let kills = std::env::var("PRKDB_CUT_KILLS").map_or(100, |kills| kills.parse().unwrap());
    let mut random = Random(support::seed());
    let (mut log, mut cuts, mut under_way) = (Vec::new(), 0, 0);
    for life in 0..kills {
        let least = usize::try_from(random.below(12)).unwrap();
        let pause = Duration::from_micros(random.below(5000));
        let what = format!("life {life}");
        let work = || work_and_kill(&dir, life, least, pause);
        let done = within_reason(&what, HANGS, work);
        let mut ops = Ops::new(life, log.len());
        for _ in 0..done {
            let op = ops.next();
            cuts += u64::from(matches!(op, Op::Cut(_)));
            apply(&mut log, op);
        }
        let found = within_reason(&what, HANGS, || contents(&dir));
        if found != log {
            under_way += 1;
            apply(&mut log, ops.next());
        }
        assert!(found == log, "life {life}: after {done} operations neither they nor one more");
    }
    println!("{kills} kills, {cuts} cuts confirmed, {under_way} times one more was done");
    // A kill strikes when an operation is half done: its outcome was open, and it was found done.
    support::tally("cut", kills, under_way);
    assert!(cuts > kills / 2, "{cuts} cuts in {kills} lives: too few to say anything");
}
