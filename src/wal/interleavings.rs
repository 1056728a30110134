//! Every order in which the threads of one log can meet, as far as loom explores: no wake-up is
//! lost, no answer stays out, no watermark is ahead of what it stands for.
//!
//! ```text
//! caller --room--> queue --bell--> writer --watermark--> reader      2 or 3 threads, at most 2
//!    ^-------------ticket-------------'  ^--mailbox--> maker         preemptions an order
//! ```
//!
//! A wait that nothing ends is a deadlock to loom, which panics. Run with
//! `RUSTFLAGS="--cfg prkdb_loom" cargo test --lib interleavings`; `LOOM_MAX_PREEMPTIONS=3` looks at
//! more orders.

use std::any::Any;
use std::io;
use std::panic;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::thread;

use crate::error::{Error, ErrorKind};
use crate::format::SegmentId;
use crate::format::footer::IndexEntry;
use crate::io::{File, Host, MakeMachine, Running};
use crate::lsn::Lsn;
use crate::segment::{Geometry, Made, SegmentFile, SparseIndex};
use crate::sync::{AtomicUsize, Condvar, Mutex};

use super::absence::Absence;
use super::catalog::{Catalog, Listing, Segment};
use super::mailbox::{Job, Mailbox, Taken};
use super::room::Room;
use super::shared::Bell;
use super::ticket::{Cells, Ticket, pair};

/// Explores `run`; loom has read its variable by then, if it is set.
fn explore(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(run);
}

/// Wakes tasks on the thread that asks for it.
#[derive(Debug)]
struct Direct;

impl Host for Direct {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_us(&self) -> u64 {
        0
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        Ok([0; 16])
    }

    fn start(&self, _name: &str, _make: MakeMachine) -> io::Result<Box<dyn Running>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn run(&self, _name: &str, job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()> {
        job();
        Ok(())
    }

    fn wake(&self, waker: Waker) {
        waker.wake();
    }

    fn step(&self) -> bool {
        false
    }
}

fn host() -> Arc<dyn Host> {
    Arc::new(Direct)
}

/// Where a thread waits to be woken: what `reap` and an executor are to writer, maker and tasks.
#[derive(Default)]
struct Park {
    woken: Mutex<bool>,
    wakes: Condvar,
}

impl Park {
    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.wakes.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Park {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.wakes.notify_all();
    }
}

fn park() -> (Arc<Park>, Waker) {
    let park = Arc::new(Park::default());
    let waker = Waker::from(Arc::clone(&park));
    (park, waker)
}

fn block_on<T>(mut ticket: Ticket<T>) -> crate::error::Result<T> {
    let (park, waker) = park();
    loop {
        match Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => park.wait(),
        }
    }
}

// ---- tickets ----------------------------------------------------------------------------------

#[test]
fn an_answer_reaches_who_blocks_and_who_polls() {
    for polls in [false, true] {
        explore(move || {
            let (answer, ticket) = pair(&host(), "test");
            let waiting = thread::spawn(move || match polls {
                true => block_on(ticket),
                false => ticket.wait(),
            });
            answer.ok(7);
            assert_eq!(waiting.join().unwrap().unwrap(), 7);
        });
    }
}

#[test]
fn a_dropped_answer_is_an_answer() {
    explore(|| {
        let (mut answer, ticket) = pair::<u8>(&host(), "test");
        answer.submitted();
        let dropping = thread::spawn(move || drop(answer));
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::NotConfirmed);
        dropping.join().unwrap();
    });
}

/// However late one half lets go of a cell: the next pair never hears of the last one.
#[test]
fn a_cell_is_never_in_two_pairs() {
    explore(|| {
        let cells = Cells::<u8>::new(host(), Duration::from_micros(1));
        let (answer, ticket) = cells.pair("test");
        let answering = thread::spawn(move || answer.ok(1));
        assert_eq!(ticket.wait().unwrap(), 1);
        let (answer, mut ticket) = cells.pair("test");
        assert!(ticket.try_wait().is_none(), "an answer to another pair");
        assert!(!answer.is_abandoned(), "its ticket is here");
        answering.join().unwrap();
        drop(answer);
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

// ---- room -------------------------------------------------------------------------------------

#[test]
fn who_waits_for_room_gets_it() {
    explore(|| {
        let room = Room::new(100, host());
        let first = room.try_take(60).unwrap().unwrap();
        let giving = thread::spawn(move || drop(first));
        let other = Arc::clone(&room);
        let large = thread::spawn(move || drop(other.take(80).wait().unwrap()));
        drop(room.take(50).wait().unwrap());
        giving.join().unwrap();
        large.join().unwrap();
        assert!(room.try_take(100).unwrap().is_some(), "not all was given back");
    });
}

#[test]
fn a_place_that_is_given_up_holds_nobody_back() {
    explore(|| {
        let room = Room::new(100, host());
        let all = room.try_take(100).unwrap().unwrap();
        let other = Arc::clone(&room);
        let leaving = thread::spawn(move || drop(other.take(100)));
        let giving = thread::spawn(move || drop(all));
        drop(block_on(room.take(100)).unwrap());
        leaving.join().unwrap();
        giving.join().unwrap();
        assert!(room.try_take(100).unwrap().is_some(), "not all was given back");
    });
}

#[test]
fn a_refusal_reaches_whoever_comes_before_or_after_it() {
    explore(|| {
        let room = Room::new(100, host());
        let all = room.try_take(100).unwrap().unwrap();
        let other = Arc::clone(&room);
        let refusing = thread::spawn(move || {
            other.refuse(Some(Error::new(ErrorKind::Closed, "append", "")));
        });
        let outcome = room.take(1).wait();
        assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Closed));
        refusing.join().unwrap();
        drop(all);
    });
}

// ---- the bell ---------------------------------------------------------------------------------

/// Callers queue a byte each, the writer takes them all, and waits when there is none. One that is
/// `blind` waits whatever was queued before it said so.
fn ring_the_bell(blind: bool) {
    let bell = Arc::new(Bell::default());
    let queue = Arc::new(AtomicUsize::new(0));
    let (park, waker) = park();
    bell.install(waker);
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (bell, queue) = (Arc::clone(&bell), Arc::clone(&queue));
            thread::spawn(move || {
                queue.fetch_add(1, Ordering::Release);
                bell.queued(1);
            })
        })
        .collect();
    let mut taken = 0;
    while taken < 2 {
        bell.taking();
        taken += queue.swap(0, Ordering::AcqRel);
        if taken < 2 && (bell.park(1) || blind) {
            park.wait();
        }
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

#[test]
fn the_writer_hears_of_all_that_is_queued() {
    explore(|| ring_the_bell(false));
}

#[test]
fn a_lost_wake_up_is_found() {
    let outcome = panic::catch_unwind(|| explore(|| ring_the_bell(true)));
    assert!(outcome.is_err(), "this writer sleeps over what was queued, and nobody saw it");
}

// ---- the writer's absence ----------------------------------------------------------------------

/// A writer leaves and the next one comes, while callers queue.
#[test]
fn what_is_queued_is_answered_or_the_next_writers() {
    explore(|| {
        let absence = Arc::new(Absence::default());
        let queue = Arc::new(Mutex::new(Vec::new()));
        let send = |absence: &Absence, queue: &Mutex<Vec<u32>>, batch| {
            queue.lock().unwrap().push(batch);
            absence.if_gone(|| std::mem::take(&mut *queue.lock().unwrap())).unwrap_or_default()
        };
        let caller = {
            let (absence, queue) = (Arc::clone(&absence), Arc::clone(&queue));
            thread::spawn(move || send(&absence, &queue, 1))
        };
        let mut refused =
            absence.begins(|| std::mem::take(&mut *queue.lock().unwrap())).unwrap_or_default();
        absence.ends();
        // It comes to a log that has a writer.
        let second = send(&absence, &queue, 2);
        refused.extend(caller.join().unwrap());
        let left = queue.lock().unwrap().clone();
        assert!(second.is_empty() && left.contains(&2), "{left:?} are queued, {refused:?} not");
        assert!(left.contains(&1) != refused.contains(&1), "{left:?} are queued, {refused:?} not");
    });
}

// ---- the mailbox ------------------------------------------------------------------------------

/// A file that nobody reads or writes.
#[derive(Debug)]
struct Nowhere;

impl File for Nowhere {
    fn path(&self) -> &Path {
        Path::new("nowhere")
    }

    fn size(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn links(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, _at: u64, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn segment() -> SegmentFile {
    let id = SegmentId { number: 1, epoch: 1, nonce: [0; 16] };
    SegmentFile { id, geometry: Geometry { size: 1 << 20, block: 4096 }, path: "nowhere".into() }
}

fn made() -> Made {
    Made { segment: segment(), file: Arc::new(Nowhere) }
}

/// The maker as far as the mailbox knows it: makes what is wanted, does jobs, ends when told.
fn make(mailbox: &Mailbox, park: &Park, writer: &Waker) {
    loop {
        match mailbox.next_job() {
            Some(Job::Stop) => {
                mailbox.close();
                return;
            }
            Some(Job::MarkClean(answer)) => answer.ok(()),
            Some(job) => drop(job),
            None => match mailbox.wanted() {
                Some(Some(bytes)) => {
                    mailbox.put(Ok(made()), bytes);
                    writer.wake_by_ref();
                }
                _ => park.wait(),
            },
        }
    }
}

#[test]
fn the_writer_gets_a_segment_and_the_maker_ends() {
    explore(|| {
        let mailbox = Arc::new(Mailbox::default());
        let (maker_park, maker_waker) = park();
        let (writer_park, writer_waker) = park();
        mailbox.install(maker_waker);
        let shared = Arc::clone(&mailbox);
        let maker = thread::spawn(move || make(&shared, &maker_park, &writer_waker));
        while let Taken::Wait = mailbox.take(4096) {
            writer_park.wait();
        }
        mailbox.stop();
        maker.join().unwrap();
    });
}

#[test]
fn a_job_is_answered_also_beside_the_makers_end() {
    explore(|| {
        let mailbox = Arc::new(Mailbox::default());
        let (maker_park, maker_waker) = park();
        let (_, writer_waker) = park();
        mailbox.install(maker_waker);
        let shared = Arc::clone(&mailbox);
        let maker = thread::spawn(move || make(&shared, &maker_park, &writer_waker));
        let shared = Arc::clone(&mailbox);
        let stopping = thread::spawn(move || shared.stop());
        let (answer, ticket) = pair(&host(), "test");
        mailbox.job(Job::MarkClean(answer));
        // Done, or refused because the maker was gone; it does not stay out.
        drop(ticket.wait());
        stopping.join().unwrap();
        maker.join().unwrap();
    });
}

// ---- the watermark ----------------------------------------------------------------------------

#[test]
fn what_is_promised_is_listed_and_below_the_end() {
    explore(|| {
        let catalog = Arc::new(Catalog::default());
        let (first, next) = (Lsn::FIRST, Lsn::FIRST);
        let empty = Listing { segments: Vec::new(), first, next, holes: Vec::new() };
        catalog.restart(empty, Lsn::FIRST);
        let writing = Arc::clone(&catalog);
        let writer = thread::spawn(move || {
            let file: Arc<dyn File> = Arc::new(Nowhere);
            let segment = Arc::new(Segment::new(
                segment(),
                Lsn::FIRST,
                Lsn::FIRST,
                Some(file),
                SparseIndex::default(),
            ));
            writing.insert(Arc::clone(&segment));
            writing.set_next(Lsn::new(3));
            segment.publish(IndexEntry { lsn: Lsn::FIRST, offset: 4096 }, Lsn::new(2), 4200, 0);
            writing.set_written(Lsn::new(2));
            writing.set_durable(Lsn::new(2));
        });
        let durable = catalog.durable();
        assert!(durable <= catalog.written(), "promised, and not written");
        if durable != Lsn::NONE {
            assert!(durable < catalog.next(), "promised, and not given");
            let found = catalog.find(durable);
            assert!(found.iter().any(|s| s.last() >= durable), "promised, and not listed");
        }
        writer.join().unwrap();
    });
}
