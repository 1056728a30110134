//! What runs while a log is open: the lock, recovery, the threads of writer and maker, their end.
//!
//! ```text
//! lock -> recovery -> maker, writer ... -> writer ends -> META clean -> maker ends -> unlock
//! ```
//!
//! Invariants: nothing of the log is written outside threads that block SIGXFSZ; the lock outlives
//! both queues; after `close` nothing runs. Called by `Wal` under its engine lock.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::cast::len;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Buf, FlowMachine, LockGuard, Running, World, block_on};
use crate::lsn::Lsn;

use super::mailbox::Job;
use super::maker::Maker;
use super::meta::{self, META};
use super::recovery::{LOCK, Recovered, Wanted, recover};
use super::shared::{Control, GROUP_BYTES, Shared, poisoned};
use super::ticket::pair;
use super::writer::{QUEUE_DEPTH, Start, Writer};

/// Buffers that are registered with the kernel by count and bytes, for a pipeline of 8 groups: nine
/// groups, one of them gathering, and what callers encode large batches into. 7.5 MiB in all,
/// within the 8 MiB that a user may usually lock. Batches of 1000 x 100 B made 0.94 of the bare
/// ring with their buffers registered and 0.86 without.
const REGISTERED: [(usize, usize); 3] = [(9, GROUP_BYTES), (16, MEDIUM), (4, 256 << 10)];
/// Bytes of a buffer for a batch of some hundred records.
const MEDIUM: usize = 128 << 10;
/// So many more of those for each group that may be in flight beyond 8.
const FOR_EACH_MORE: usize = 2;

/// Requests in flight of recovery, and of the maker's two flows: each waits for its own.
pub(super) const CHORES_DEPTH: usize = 2;

/// What runs while the log is open.
#[derive(Default)]
pub(super) struct Engine {
    writer: Option<Box<dyn Running>>,
    maker: Option<Box<dyn Running>>,
    lock: Option<LockGuard>,
    /// What was answered as durable, once a `resume` failed.
    known: Option<Lsn>,
}

impl Engine {
    /// Locks the log, recovers it, starts writing.
    pub(super) fn open(shared: &Arc<Shared>) -> Result<Engine> {
        let lock = take_lock(&shared.world, &shared.dir)?;
        let mut engine = Engine { lock: Some(lock), ..Engine::default() };
        let wanted = if shared.config.create_new { Wanted::New } else { Wanted::Any };
        engine.start(shared, wanted)?;
        Ok(engine)
    }

    /// Ends a poisoned engine and starts it again after recovery, under the same lock.
    pub(super) fn restart(&mut self, shared: &Arc<Shared>) -> Result<()> {
        self.stop(shared, Control::Stop);
        // A file system that gave up after the failure may show less than it holds (btrfs), which
        // must not be called damage: nothing is judged where nothing can be written.
        let path = shared.dir.join(META);
        let opened = shared.world.disk.open(&path, Access::Write);
        opened.map_err(|e| Error::io("resume", &path, None, e))?;
        shared.expect_ours("resume")?;
        let known = self.answered(shared)?;
        let started = self.start(shared, Wanted::Ours(known));
        // What a recovery that failed wrote down itself takes nothing back.
        self.known = started.is_err().then_some(known);
        started
    }

    /// Up to where records were answered as durable and not cut since.
    fn answered(&self, shared: &Shared) -> Result<Lsn> {
        if let Some(known) = self.known {
            return Ok(known);
        }
        let known = shared.catalog.durable();
        let now = meta::load(&*shared.world.disk, &shared.dir)?;
        let cut = now.and_then(|now| shared.cut_since_seen(&now.meta));
        // A cut that failed may be in META all the same.
        Ok(cut.map_or(known, |cut| known.min(cut.prev())))
    }

    /// Recovers the log and starts the threads that write it.
    fn start(&mut self, shared: &Arc<Shared>, wanted: Wanted) -> Result<()> {
        let recovered = recovered(shared, wanted)?;
        shared.saw(recovered.meta.meta());
        shared.report(recovered.report.clone());
        shared.set_user_state(recovered.meta.meta().user_state.clone());
        // Before the threads run: a writer that finds the latch set poisons itself, and when one
        // fails at once nobody may undo that.
        shared.writer_comes();
        shared.latch.reset();
        shared.room.refuse(None);
        if let Err(e) = self.start_threads(shared, recovered) {
            let error = Error::io("open", &shared.dir, None, e);
            shared.latch.set(error.clone());
            shared.room.refuse(Some(poisoned("append", &error)));
            self.stop(shared, Control::Stop);
            shared.writer_leaves();
            return Err(error);
        }
        Ok(())
    }

    fn start_threads(&mut self, shared: &Arc<Shared>, recovered: Recovered) -> io::Result<()> {
        let Recovered { meta, stock, next_lsn, time_us, tail, .. } = recovered;
        let host = &shared.world.host;
        let of_maker = Arc::clone(shared);
        self.maker = Some(host.start(
            "prkdb-maker",
            Box::new(move || {
                let queue = of_maker.world.disk.queue(CHORES_DEPTH, &[])?;
                of_maker.mailbox.install(queue.waker());
                let log_id = meta.meta().log_id;
                let maker = Maker::new(of_maker, log_id, stock);
                let machine = FlowMachine::new(|flow| maker.run(flow, meta));
                Ok((Box::new(machine), queue))
            }),
        )?);
        let of_writer = Arc::clone(shared);
        self.writer = Some(host.start(
            "prkdb-writer",
            Box::new(move || {
                let align = len(of_writer.block);
                let deeper = of_writer.config.depth.saturating_sub(8) * FOR_EACH_MORE;
                let make = |(count, bytes)| (0..count).map(move |_| Buf::mapped(bytes, align));
                let mut residents: Vec<Buf> = REGISTERED.into_iter().flat_map(make).collect();
                // The last ones: where not so many may be registered these are left out.
                residents.extend(make((deeper, MEDIUM)));
                let queue = of_writer.world.disk.queue(QUEUE_DEPTH, &residents)?;
                of_writer.pool.house(residents);
                of_writer.bell.install(queue.waker());
                let marked = next_lsn.prev();
                let start = Start { next_lsn, time_us, marked, tail };
                Ok((Box::new(Writer::new(of_writer, start)), queue))
            }),
        )?);
        Ok(())
    }

    /// Ends both threads; the writer as `control` says.
    fn stop(&mut self, shared: &Shared, control: Control) {
        if let Some(writer) = self.writer.take() {
            shared.control(control);
            writer.join();
        }
        if let Some(maker) = self.maker.take() {
            shared.mailbox.stop();
            maker.join();
        }
    }

    pub(super) fn close(&mut self, shared: &Shared) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        shared.room.refuse(Some(Error::new(ErrorKind::Closed, "append", "the log is closed")));
        let mut outcome = match self.writer.take() {
            Some(writer) => {
                let (answer, ticket) = pair(&shared.world.host, "close");
                shared.control(Control::Close(answer));
                let outcome = ticket.wait();
                writer.join();
                outcome
            }
            None => Err(Error::new(ErrorKind::Poisoned, "close", "the log has no writer")),
        };
        shared.mailbox.enough();
        if shared.latch.get().is_none() && outcome_is_whole(&outcome) {
            let (answer, ticket) = pair(&shared.world.host, "close");
            shared.mailbox.job(Job::MarkClean(answer));
            outcome = outcome.and(ticket.wait());
        }
        self.stop(shared, Control::Stop);
        // A reader that outlives the log hears of nothing that the next writer cuts.
        shared.catalog.follow();
        // Everything was reaped and both queues are gone: nothing of ours can land any more.
        self.lock = None;
        outcome
    }
}

/// Whether the log itself is whole: batches that found no space were never part of it.
fn outcome_is_whole(outcome: &Result<()>) -> bool {
    outcome.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::StorageFull)
}

/// Takes the lock, on a thread that may write: the holder's id goes into the file.
pub(super) fn take_lock(world: &World, dir: &Path) -> Result<LockGuard> {
    let path = dir.join(LOCK);
    let mut outcome = None;
    let slot = &mut outcome;
    let job = Box::new(|| *slot = Some(world.disk.lock(&path)));
    world.host.run("prkdb-open", job).map_err(|e| Error::io("open", dir, None, e))?;
    outcome.expect("the job ran to its end").map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => {
            Error::new(ErrorKind::Locked, "open", e.to_string()).at(dir, None)
        }
        _ => Error::io("open", &path, None, e),
    })
}

/// Runs recovery on a thread that may write.
fn recovered(shared: &Arc<Shared>, wanted: Wanted) -> Result<Recovered> {
    let mut outcome = None;
    let (world, slot) = (&shared.world, &mut outcome);
    let job = Box::new(move || *slot = Some(recover_on_queue(shared, wanted)));
    world.host.run("prkdb-open", job).map_err(|e| Error::io("open", &shared.dir, None, e))?;
    outcome.expect("the job ran to its end")
}

fn recover_on_queue(shared: &Shared, wanted: Wanted) -> Result<Recovered> {
    let World { disk, host } = &shared.world;
    let queue = disk.queue(CHORES_DEPTH, &[]);
    let mut queue = queue.map_err(|e| Error::io("open", &shared.dir, None, e))?;
    let hear = |done, of| {
        if let Some(hook) = &shared.config.recovery_progress {
            hook.tell(done, of);
        }
    };
    let log = |flow| recover(flow, &**disk, &**host, shared, wanted, &hear);
    block_on(&mut *queue, log)
}
