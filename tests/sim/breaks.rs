//! A queue that breaks in mid-run: nobody hears what becomes of its requests, those in flight land
//! or not, and no other call fails.
//!
//! ```text
//! for n in 1..: log -> appends, a state; a queue breaks at operation n -> each ticket is answered,
//!               nothing is confirmed any more -> resume, or crash, open -> what was promised
//! ```

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{Append, Error, ErrorKind, Lsn, SyncMethod, Wal, WalConfig};

use crate::{WAYS, Way};

/// Batches that are appended at once; 14 fill a segment.
const BATCHES: u64 = 24;

fn config(lanes: usize, sync_method: SyncMethod) -> WalConfig {
    let config = WalConfig { segment_bytes: 1 << 20, sync_method, ..WalConfig::new("/log") };
    WalConfig { num_segments: lanes, ..config }
}

fn record(lsn: u64) -> Vec<u8> {
    let mut record = format!("record {lsn}.").into_bytes();
    record.resize(70_000, b' ');
    record
}

/// All that is there is what was appended, without a gap; up to where.
fn last(wal: &Wal, at: &str) -> u64 {
    let read = wal.reader(Lsn::FIRST).expect("it starts there").zip(1..).map(|(read, lsn)| {
        let read = read.unwrap_or_else(|e| panic!("{at}: {e}"));
        assert!(read.lsn.get() == lsn && *read.data == record(lsn)[..], "{at}: I4 at {lsn}");
    });
    let count = read.count() as u64;
    assert_eq!(wal.next_lsn().get(), count + 1, "{at}: I2");
    count
}

fn expect_poison(e: &Error, at: &str) {
    let kinds = [ErrorKind::Poisoned, ErrorKind::NotConfirmed];
    assert!(kinds.contains(&e.kind()), "{at}: a queue that broke is no reason for {e}");
}

/// Appends, and waits for all; the last that was answered as durable, and whether one failed.
fn append(wal: &Wal, at: &str) -> (u64, bool) {
    let next = wal.next_lsn().get();
    let (mut owed, mut failed) = (0, false);
    let mut take = |outcome: prkdb_core::Result<u64>| match outcome {
        Ok(lsn) => owed = owed.max(lsn),
        Err(e) => {
            expect_poison(&e, at);
            failed = true;
        }
    };
    let tickets: Vec<Option<Append>> = (next..next + BATCHES)
        .map(|lsn| wal.append_batch([record(lsn)]).map_err(|e| take(Err(e))).ok())
        .collect();
    for ticket in tickets.into_iter().flatten() {
        take(ticket.wait().map(|range| range.last().get()));
    }
    (owed, failed)
}

/// Breaks a queue at operation `n`; whether one was left to break.
fn break_at((seed, direct, kind): Way, lanes: usize, method: SyncMethod, n: u64) -> (bool, bool) {
    let at = format!("direct {direct}, {kind:?}, {lanes} lanes, {method:?}, operation {n}");
    let sim = Sim::new(seed, Model::weak(direct), Faults::default());
    let open = || Wal::open_in(sim.world(), config(lanes, method));
    let wal = open().expect("a healthy world opens");
    sim.set_faults(Faults { break_at: Some(sim.ops() + n), ..Faults::default() });
    let (mut owed, failed) = append(&wal, &at);
    let state = wal.set_user_state(b"a state");
    let met = sim.faults().break_at.is_none();
    sim.set_faults(Faults::default());
    let poisoned = !wal.health().is_ok();
    assert!(met || (!failed && state.is_ok() && !poisoned), "{at}: {state:?}");
    assert!(!failed || poisoned, "{at}: an append failed, and the log is not poisoned");
    if poisoned {
        // I8: nothing is confirmed any more.
        for outcome in [wal.append_batch(["x"]).map(drop), wal.set_user_state(b"late")] {
            expect_poison(&outcome.expect_err("it is poisoned"), &at);
        }
        assert!(wal.durable_lsn().get() >= owed, "{at}: {owed} was answered");
    }
    owed = owed.max(wal.durable_lsn().get());
    let wal = if n.is_multiple_of(2) {
        wal.resume().unwrap_or_else(|e| panic!("{at}: resume: {e}"));
        wal
    } else {
        sim.crash(kind);
        drop(wal);
        open().unwrap_or_else(|e| panic!("{at}: {e}"))
    };
    let found = last(&wal, &at);
    assert!(found >= owed, "{at}: I1: {owed} was answered, {found} are there");
    assert!(state.is_err() || wal.user_state() == b"a state", "{at}: a confirmed state is gone");
    wal.append_batch([record(found + 1)]).expect("room").wait().expect("a healthy world");
    sim.crash(CrashKind::Power);
    drop(wal);
    let wal = open().unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(last(&wal, &at), found + 1, "{at}: I5");
    wal.close().unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(sim.held(), Default::default(), "{at}: I10");
    (met, poisoned)
}

#[test]
fn wherever_a_queue_breaks_all_that_was_answered_is_there() {
    let (mut runs, mut poisoned) = (0, 0);
    for way in WAYS {
        let methods = [SyncMethod::Fdatasync, SyncMethod::Dsync];
        for (lanes, method) in [1, 4].into_iter().flat_map(|l| methods.map(|m| (l, m))) {
            for n in 1.. {
                let (met, is_poisoned) = break_at(way, lanes, method, n);
                if !met {
                    break;
                }
                runs += 1;
                poisoned += u64::from(is_poisoned);
            }
        }
    }
    eprintln!("{runs} queues broke, {poisoned} logs were poisoned");
    assert!(runs > 500 && poisoned * 2 > runs, "{runs} queues broke, {poisoned} poisoned");
}
