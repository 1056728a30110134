//! A log in use on a recorded disk, all that its interface offers; and the check of what is left.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use prkdb_core::io::{DiskOptions, ThreadHost, World, open_disk};
use prkdb_core::{Append, Backend, Durability, Lsn, ReadOnlyWal, SyncMethod, Wal, WalConfig};

use crate::history::{Expected, Found, History, Op, content};
use crate::recorder::Recorder;
use crate::support::{self, Random, read_all};

/// How it is written: as it should be, or so that the harness has something to find.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    Honest,
    /// Writes into the page cache, and calls them promised when they are there.
    WithoutSyncs,
}

/// One user of a log.
pub struct Life<'a> {
    recorder: &'a Recorder,
    disk: usize,
    dir: &'a Path,
    backends: &'a [Backend],
    writer: Writer,
    random: &'a mut Random,
    /// Which one opened the log.
    pub backend: Backend,
    wal: Option<Wal>,
    tickets: VecDeque<(Durability, u64, Append)>,
    pub history: History,
    version: u64,
    next: u64,
    state: u64,
}

impl<'a> Life<'a> {
    /// Opens the log and finds what is there; `version` is the content of what is appended now.
    pub fn open(
        (recorder, disk): (&'a Recorder, usize),
        (dir, backends): (&'a Path, &'a [Backend]),
        writer: Writer,
        (start, version): (Expected, u64),
        random: &'a mut Random,
    ) -> (Life<'a>, Found) {
        let (wal, tickets) = (None, VecDeque::new());
        let history = History::new(start);
        let mut life = Life {
            recorder,
            disk,
            dir,
            backends,
            writer,
            random,
            backend: Backend::Pwrite,
            wal,
            tickets,
            history,
            version,
            next: 0,
            state: 0,
        };
        let found = life.reopen();
        (life, found)
    }

    fn position(&self) -> u64 {
        self.recorder.position(self.disk)
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.random.below(from.len() as u64)).unwrap()]
    }

    /// Opens it with other options each time; what is there.
    pub fn reopen(&mut self) -> Found {
        let backend = self.pick(self.backends);
        let config = WalConfig {
            sync_method: self.pick(&[SyncMethod::Dsync, SyncMethod::Fdatasync]),
            depth: self.pick(&[1, 3, 8, 32]),
            num_segments: self.pick(&[1, 1, 2, 4]),
            ..support::config(self.dir, backend)
        };
        let wal = match self.writer {
            Writer::Honest => {
                self.backend = backend;
                Wal::open(config).unwrap()
            }
            Writer::WithoutSyncs => {
                let buffered = DiskOptions { backend: Backend::Pwrite, direct: false };
                let (disk, _) = open_disk(self.dir, buffered).unwrap();
                Wal::open_in(World { disk, host: Arc::new(ThreadHost::new()) }, config).unwrap()
            }
        };
        let found = found(&wal);
        self.next = wal.next_lsn().get();
        assert_eq!(self.next, found.last() + 1, "it serves less than it has");
        let (first, last, state) = (found.first, found.last(), found.state);
        self.state = state;
        self.wal = Some(wal);
        let done = self.position();
        self.history.ops.push(Op::Served { first, last, state, done });
        found
    }

    pub fn close(&mut self) {
        self.wait_all();
        self.wal.take().unwrap().close().unwrap();
        let (last, done) = (self.next - 1, self.position());
        self.history.ops.push(Op::Durable { last, done });
    }

    pub fn append(&mut self, count: u64, durability: Durability) {
        let (first, last, version) = (self.next, self.next + count - 1, self.version);
        let records: Vec<_> = (first..=last).map(|lsn| content(version, lsn)).collect();
        let begun = self.position();
        self.history.ops.push(Op::Append { first, last, version, begun });
        let durability = match self.writer {
            Writer::Honest => durability,
            Writer::WithoutSyncs => Durability::Written,
        };
        let ticket = self.wal().with(durability).append_batch(&records).unwrap();
        self.tickets.push_back((durability, last, ticket));
        self.next += count;
    }

    fn wait_one(&mut self) {
        let Some((durability, last, ticket)) = self.tickets.pop_front() else { return };
        assert_eq!(ticket.wait().unwrap().last().get(), last);
        if durability == Durability::Sync || self.writer == Writer::WithoutSyncs {
            let done = self.position();
            self.history.ops.push(Op::Durable { last, done });
        }
    }

    pub fn wait_all(&mut self) {
        while !self.tickets.is_empty() {
            self.wait_one();
        }
    }

    fn cut_before(&mut self) {
        let (first, begun) = (self.wal().first_lsn().get(), self.position());
        // What is only queued has no LSN yet.
        let next = self.wal().next_lsn().get();
        let first = first + self.random.below((next - first) / 2 + 1);
        self.wal().truncate_before(Lsn::new(first)).unwrap();
        // What is cut is durable, up to the cut.
        let done = self.position();
        self.history.ops.push(Op::CutBefore { first, begun, done });
    }

    fn cut_after(&mut self) {
        self.wait_all();
        let last = (self.next - 1).saturating_sub(self.random.below(30));
        let last = last.max(self.wal().first_lsn().get() - 1);
        let begun = self.position();
        self.wal().truncate_after(Lsn::new(last)).unwrap();
        let done = self.position();
        self.history.ops.push(Op::CutAfter { last, begun, done });
        self.next = last + 1;
        self.version += 1;
    }

    fn set_state(&mut self) {
        let (number, begun) = (self.state + 1, self.position());
        self.wal().set_user_state(number.to_string()).unwrap();
        self.state = number;
        let done = self.position();
        self.history.ops.push(Op::State { number, begun, done });
    }

    fn make_durable(&mut self) {
        let last = self.next - 1;
        if last > 0 {
            self.wal().wait_durable(Lsn::new(last)).unwrap().wait().unwrap();
            let done = self.position();
            self.history.ops.push(Op::Durable { last, done });
        }
    }

    /// Uses the log for `steps` calls.
    pub fn work(&mut self, steps: u64) {
        let outstanding = self.pick(&[1, 4, 16, 32]);
        for _ in 0..steps {
            match self.random.below(100) {
                0..80 => {
                    let (sync, written) = (Durability::Sync, Durability::Written);
                    let durability = self.pick(&[sync, sync, sync, written, Durability::Queued]);
                    let count = 1 + self.random.below(8);
                    self.append(count, durability);
                }
                80..83 => self.append(64, Durability::Sync),
                83..86 => self.wait_all(),
                86..89 => self.cut_before(),
                89..91 => self.cut_after(),
                91..95 => self.set_state(),
                95..98 => self.make_durable(),
                _ if self.writer == Writer::Honest => {
                    self.close();
                    self.reopen();
                }
                _ => {}
            }
            while self.tickets.len() >= outstanding {
                self.wait_one();
            }
        }
    }
}

fn found(wal: &Wal) -> Found {
    let first = wal.first_lsn().get();
    let records = read_all(wal.reader(Lsn::new(first)).unwrap(), first);
    let state = String::from_utf8(wal.user_state()).unwrap();
    Found { first, records, state: if state.is_empty() { 0 } else { state.parse().unwrap() } }
}

/// Nothing that is there is damaged.
pub fn verify(dir: &Path) {
    ReadOnlyWal::verify(dir, &mut |f| assert!(!f.is_damage(), "{f:?}"), &mut |_, _| {}).unwrap();
}
