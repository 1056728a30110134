//! A log on files that fail: what was acknowledged, what may or may not be there.
//!
//! ```text
//! arm --> append, 12 tickets out --> Ok: must be there | NotConfirmed: whole or absent | absent
//! heal --> resume, or open --> check: nothing is missing, nothing is there that was refused
//! ```
#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

use prkdb_core::{
    Append, Backend, Durability, Error, ErrorKind, Finding, Lsn, ReadOnlyWal, Reader, SyncMethod,
    Wal, WalConfig,
};

use crate::fuse::Served;
use crate::support::{self, Random, record};

/// Tickets that are left out while records are appended.
const OUTSTANDING: usize = 12;

type Batch = Vec<Vec<u8>>;

/// What the file system is to do wrong.
#[derive(Clone)]
pub struct Fault {
    /// `write`, `sync`, `read`, or what else the server knows.
    pub what: &'static str,
    pub how: How,
    /// How the names of the files end that it concerns; empty: all.
    pub suffix: &'static str,
    /// So many requests pass before.
    pub after: u64,
    pub sticky: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Errno(i32),
    Short,
    /// Up to so many microseconds.
    Late(u64),
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, value) = match self.how {
            How::Errno(errno) => ("errno", u64::from(errno.unsigned_abs())),
            How::Short => ("short", 0),
            How::Late(micros) => ("late", micros),
        };
        let sticky = if self.sticky { "sticky" } else { "once" };
        write!(f, "{} {how} {value} *{} {} {sticky}", self.what, self.suffix, self.after)
    }
}

/// How a round of appends ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All was acknowledged.
    Well,
    /// No segment could be made; the log is not poisoned.
    Refused,
    Poisoned,
}

/// A log, and what is known of it.
pub struct Life<'a> {
    served: &'a Served,
    config: WalConfig,
    pub wal: Option<Wal>,
    pub random: Random,
    /// By LSN what was acknowledged and not cut.
    acked: BTreeMap<u64, Vec<u8>>,
    /// What a failed write left open: there whole, or not at all.
    unsure: Vec<Batch>,
    made: u64,
    state: u64,
    unsure_state: Option<u64>,
    pub acks: u64,
    resumed: u64,
    /// How the last batch was refused for which no segment could be made.
    pub refused_as: Option<ErrorKind>,
}

impl<'a> Life<'a> {
    /// Makes the log; `served` is whom to ask for faults.
    pub fn new(served: &'a Served, dir: &Path, backend: Backend, method: SyncMethod) -> Life<'a> {
        let config = WalConfig { sync_method: method, ..support::config(dir, backend) };
        let wal = Some(Wal::open(config.clone()).unwrap());
        let random = Random(support::seed());
        let (acked, unsure) = (BTreeMap::new(), Vec::new());
        let (made, state, unsure_state, acks) = (0, 0, None, 0);
        let refused_as = None;
        Life {
            served,
            config,
            wal,
            random,
            acked,
            unsure,
            made,
            state,
            unsure_state,
            acks,
            resumed: 0,
            refused_as,
        }
    }

    pub fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    pub fn arm(&mut self, fault: &Fault) {
        let seed = self.random.next();
        self.served.ask(format_args!("arm {fault} {seed}"));
    }

    /// The file system works again; how often it had failed.
    pub fn heal(&self) -> u64 {
        self.served.ask(format_args!("heal")).parse().unwrap()
    }

    /// What the server answers to a word that it knows.
    pub fn ask(&self, word: &str) -> u64 {
        self.served.ask(format_args!("{word}")).parse().unwrap()
    }

    pub fn has_fired(&self) -> bool {
        self.served.ask(format_args!("fired")) != "0"
    }

    fn batch(&mut self) -> Batch {
        self.made += 1;
        let count = 1 + self.random.below(6);
        (0..count).map(|number| record(self.made, number)).collect()
    }

    /// Appends `count` batches, or fewer if something fails.
    pub fn append(&mut self, count: u64) -> Outcome {
        let mut tickets: VecDeque<(Batch, Durability, Append)> = VecDeque::new();
        let (mut left, mut outcome, mut broke) = (count, Outcome::Well, false);
        while left > 0 || !tickets.is_empty() {
            if left > 0 {
                left -= 1;
                let batch = self.batch();
                let written = self.random.below(4) == 0;
                let durability = if written { Durability::Written } else { Durability::Sync };
                match self.wal().with(durability).append_batch(&batch) {
                    Ok(ticket) => tickets.push_back((batch, durability, ticket)),
                    Err(e) => outcome = self.refusal(&e, batch, outcome),
                }
            }
            if outcome != Outcome::Well {
                left = 0;
            }
            if tickets.len() >= OUTSTANDING || left == 0 {
                let Some((batch, durability, ticket)) = tickets.pop_front() else { continue };
                match ticket.wait() {
                    Ok(lsns) => {
                        // A write may have been answered before the failure; what is durable
                        // is a prefix.
                        let may = !broke || durability != Durability::Sync;
                        assert!(may, "{lsns:?} acknowledged after that");
                        self.acks += 1;
                        self.acked.extend((lsns.first().get()..).zip(batch));
                    }
                    Err(e) => {
                        outcome = self.refusal(&e, batch, outcome);
                        broke = outcome == Outcome::Poisoned;
                    }
                }
            }
        }
        // `Written` survives a killed process, not a failed sync: what is counted on is durable.
        if outcome == Outcome::Well {
            let last = self.wal().next_lsn().prev();
            if let Err(e) = self.wal().wait_durable(last).and_then(|ticket| ticket.wait()) {
                outcome = self.refusal(&e, Vec::new(), outcome);
            }
        }
        let durable = self.wal().durable_lsn().get();
        let mut open = self.acked.split_off(&(durable + 1));
        while let Some((_, bytes)) = open.pop_first() {
            self.unsure.push(vec![bytes]);
        }
        outcome
    }

    /// The names of the files that were struck, where the server tells.
    pub fn struck(&self) -> Vec<String> {
        let names = self.served.ask(format_args!("struck"));
        names.split(' ').map(String::from).collect()
    }

    /// Appends, and sets the user slot, until `fault` has struck, and a little more. `poisons`,
    /// asked then: the log has to hear of it.
    pub fn strike(&mut self, fault: &Fault, poisons: impl FnOnce(&Self) -> bool) -> Outcome {
        self.arm(fault);
        let mut outcome = Outcome::Well;
        while outcome == Outcome::Well && !self.has_fired() {
            outcome = match self.random.below(8) {
                0 => self.set_state(),
                _ => self.append(16),
            };
        }
        if outcome == Outcome::Well {
            outcome = self.append(4);
        }
        let poisons = poisons(self);
        // Nobody waits for a footer: that it failed may be heard of a little later.
        for _ in 0..1000 {
            if !poisons || !self.wal().health().is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_poisoned = !self.wal().health().is_ok();
        assert!(is_poisoned || outcome != Outcome::Poisoned, "{fault}: health says it is well");
        if is_poisoned { Outcome::Poisoned } else { outcome }
    }

    fn refusal(&mut self, e: &Error, batch: Batch, before: Outcome) -> Outcome {
        match e.kind() {
            ErrorKind::NotConfirmed => {
                self.unsure.push(batch);
                Outcome::Poisoned
            }
            ErrorKind::Poisoned => Outcome::Poisoned,
            ErrorKind::StorageFull | ErrorKind::Io if before == Outcome::Poisoned => before,
            kind @ (ErrorKind::StorageFull | ErrorKind::Io) => {
                self.refused_as = Some(kind);
                Outcome::Refused
            }
            kind => panic!("{kind:?}: {e}"),
        }
    }

    /// No call changes a poisoned log.
    pub fn check_poisoned(&mut self) {
        for _ in 0..3 {
            let batch = self.batch();
            let refused = self.wal().append_batch(&batch).and_then(Append::wait).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Poisoned, "{refused}");
        }
        let first = self.wal().first_lsn();
        self.wal().truncate_before(first).unwrap_err();
        self.wal().set_user_state("never").unwrap_err();
    }

    /// What was acknowledged is still served, also by a log that is poisoned.
    pub fn check_reads(&self) -> Result<(), Error> {
        let mut left = self.acked.len();
        for found in self.wal().reader(self.wal().first_lsn())? {
            let found = found?;
            let Some(acked) = self.acked.get(&found.lsn.get()) else { continue };
            assert!(*acked == found.data[..], "record {} is another", found.lsn);
            left -= 1;
        }
        assert_eq!(left, 0, "acknowledged records are not served any more");
        Ok(())
    }

    /// Recovers in the process, on files that work again.
    pub fn resume(&mut self) {
        // Pages that could not be written back after the failure are told of once more, by each
        // file that has some in the page cache, and by none twice.
        let mut told = BTreeSet::new();
        loop {
            let Err(e) = self.wal().resume() else { return self.verify_now_and_then() };
            println!("once more: {e}");
            assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::StorageFull), "{e}");
            let path = e.path().map(Path::to_path_buf);
            assert!(told.insert(path), "told twice: {e}; files that told: {told:?}");
        }
    }

    /// Nothing that is there is damaged, as the library sees it from outside: at the first resume
    /// of a log and at each eighth, for it takes longer than all else of a cycle.
    fn verify_now_and_then(&mut self) {
        self.resumed += 1;
        if self.resumed % 8 != 1 {
            return;
        }
        let mut finding = |f: Finding| assert!(!f.is_damage(), "{f:?}");
        ReadOnlyWal::verify(&self.config.log_dir, &mut finding, &mut |_, _| {}).unwrap();
    }

    /// Sets the user slot.
    pub fn set_state(&mut self) -> Outcome {
        let state = self.state + 1;
        match self.wal().set_user_state(state.to_string()) {
            Ok(()) => {
                self.state = state;
                Outcome::Well
            }
            Err(e) => {
                let kinds = [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Poisoned];
                assert!(kinds.contains(&e.kind()), "{e}");
                assert!(!self.wal().health().is_ok(), "half of META is another: {e}");
                self.unsure_state = Some(state);
                Outcome::Poisoned
            }
        }
    }

    /// Cuts the older half away.
    pub fn cut(&mut self) {
        let (first, next) = (self.wal().first_lsn().get(), self.wal().next_lsn().get());
        let keep = first + (next - first) / 2;
        self.wal().truncate_before(Lsn::new(keep)).unwrap();
        self.acked = self.acked.split_off(&keep);
    }

    /// Closes the log, which may say that it could not be closed whole.
    pub fn close(&mut self) -> Result<(), Error> {
        self.wal.take().unwrap().close()
    }

    /// Opens the log that was closed.
    pub fn open(&mut self) -> Result<(), Error> {
        self.wal = Some(Wal::open(self.config.clone())?);
        Ok(())
    }

    /// The same, where its files are now.
    pub fn open_in(&mut self, dir: &Path) -> Result<(), Error> {
        self.config.log_dir = dir.to_path_buf();
        self.open()
    }

    /// All that was acknowledged is there, and nothing that was refused.
    pub fn check(&mut self) {
        let wal = self.wal();
        let state = String::from_utf8(wal.user_state()).unwrap();
        let state: u64 = if state.is_empty() { 0 } else { state.parse().unwrap() };
        let reader = wal.reader(wal.first_lsn()).unwrap();
        let one_of = [Some(self.state), self.unsure_state.take()];
        assert!(one_of.contains(&Some(state)), "user state {state}, not of {one_of:?}");
        self.state = state;
        self.check_records(reader);
    }

    fn check_records(&mut self, reader: Reader) {
        let mut expected = std::mem::take(&mut self.acked);
        let unsure = self.unsure.drain(..).filter(|batch| !batch.is_empty());
        let mut unsure: BTreeMap<_, _> = unsure.map(|batch| (batch[0].clone(), batch)).collect();
        let mut whole: VecDeque<Vec<u8>> = VecDeque::new();
        for found in reader {
            let found = found.unwrap();
            let (lsn, bytes) = (found.lsn.get(), found.data.to_vec());
            if let Some(acked) = expected.remove(&lsn) {
                assert!(whole.is_empty(), "half a batch before {lsn}");
                assert!(acked == bytes, "record {lsn} is another");
            } else {
                if whole.is_empty() {
                    let batch = unsure.remove(&bytes);
                    whole = batch.expect("nobody appended this, or it is twice").into();
                }
                assert_eq!(whole.pop_front().as_ref(), Some(&bytes), "half a batch at {lsn}");
            }
            self.acked.insert(lsn, bytes);
        }
        let lost = expected.len();
        assert!(expected.is_empty(), "{lost} acknowledged records are gone");
        assert!(whole.is_empty(), "half a batch at the end");
    }
}
