//! The process that is killed: a life of a log, each call told before and after it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{Append, Backend, Durability, Lsn, Wal};

use crate::history::content;
use crate::steps::Steps;
use crate::support::through::Through;
use crate::support::{config, read_all};

/// What it is to do: `BACKEND SCRIPT STEP BEFORE N VERSION DIR`.
pub const JOB: &str = "PRKDB_TEST_KILL_STEP";
const OUTSTANDING: usize = 4;
const BATCH: u64 = 20;

struct Life {
    backend: Backend,
    dir: PathBuf,
    steps: Arc<Steps>,
    wal: Option<Wal>,
    tickets: VecDeque<(u64, Append)>,
    next: u64,
    version: u64,
    state: u64,
}

impl Life {
    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn open(&mut self) {
        let (disk, _) = open_disk(&self.dir, self.backend).unwrap();
        let disk = Arc::new(Through::new(disk, &self.steps));
        let world = World { disk, host: Arc::new(ThreadHost::new()) };
        let wal = Wal::open_in(world, config(&self.dir, self.backend)).unwrap();
        let first = wal.first_lsn().get();
        self.next = first + read_all(wal.reader(Lsn::new(first)).unwrap(), first).len() as u64;
        assert_eq!(self.next, wal.next_lsn().get(), "it serves less than it has");
        let state = String::from_utf8(wal.user_state()).unwrap();
        self.state = if state.is_empty() { 0 } else { state.parse().unwrap() };
        self.wal = Some(wal);
        println!("+ served {first} {} {}", self.next - 1, self.state);
    }

    fn append(&mut self, batches: u64) {
        for number in 0..batches {
            let (first, last, version) = (self.next, self.next + BATCH - 1, self.version);
            println!("+ append {first} {last} {version}");
            let records: Vec<_> = (first..=last).map(|lsn| content(version, lsn)).collect();
            // Both survive a killed process.
            let level = if number % 3 == 0 { Durability::Written } else { Durability::Sync };
            let ticket = self.wal().with(level).append_batch(&records).unwrap();
            self.tickets.push_back((last, ticket));
            self.next += BATCH;
            if self.tickets.len() == OUTSTANDING {
                self.wait();
            }
        }
        while !self.tickets.is_empty() {
            self.wait();
        }
    }

    fn wait(&mut self) {
        let Some((last, ticket)) = self.tickets.pop_front() else { return };
        assert_eq!(ticket.wait().unwrap().last().get(), last);
        println!("+ durable {last}");
    }

    fn cut_before(&mut self, first: u64) {
        println!("+ cut-before {first}");
        self.wal().truncate_before(Lsn::new(first)).unwrap();
        println!("+ done");
    }

    fn cut_after(&mut self, last: u64) {
        println!("+ cut-after {last}");
        self.wal().truncate_after(Lsn::new(last)).unwrap();
        println!("+ done");
        (self.next, self.version) = (last + 1, self.version + 1);
    }

    fn set_state(&mut self) {
        self.state += 1;
        println!("+ state {}", self.state);
        self.wal().set_user_state(self.state.to_string()).unwrap();
        println!("+ done");
    }

    fn close(&mut self) {
        self.wal.take().unwrap().close().unwrap();
    }

    /// All that a log does: segments are made, sealed, retired, used again, cut.
    fn whole(&mut self) {
        self.open();
        self.append(30);
        self.set_state();
        self.cut_before(self.next - 100);
        self.append(30);
        // In the middle of a batch.
        self.cut_after(self.next - 50);
        self.append(20);
        self.close();
        self.after();
    }

    /// Recovery of what is there, and a little more.
    fn after(&mut self) {
        self.open();
        self.append(4);
        self.set_state();
        self.close();
    }
}

/// Does nothing unless a test started it.
pub fn live() {
    let Ok(job) = std::env::var(JOB) else { return };
    let [backend, script, step, before, n, version, dir] =
        job.splitn(7, ' ').collect::<Vec<_>>()[..]
    else {
        panic!("no job: {job}")
    };
    let backend = *crate::support::BACKENDS.iter().find(|b| b.to_string() == backend).unwrap();
    let mut life = Life {
        backend,
        dir: Path::new(dir).to_path_buf(),
        steps: Arc::new(Steps::new(step, before == "before", n.parse().unwrap())),
        wal: None,
        tickets: VecDeque::new(),
        next: 0,
        version: version.parse().unwrap(),
        state: 0,
    };
    match script {
        "whole" => life.whole(),
        _ => life.after(),
    }
    for (step, count) in life.steps.counts() {
        println!("+ count {step} {count}");
    }
}
