//! A thread that makes calls which block, for tasks that must not: one after the other, in order.
//!
//! ```text
//! task --call(f)--> channel --> prkdb-blocking: f() --> answer --> task woken
//! ```
//!
//! A long call, such as a scan of a large log, delays those behind it.
//!
//! Invariants: each call is answered exactly once, also when the thread is gone; a call whose
//! future was dropped is made all the same, and its result dropped there. What waits here is
//! bounded by the tasks that ask: each waits for one call, or gave up on it.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{ForkGuard, Host, ThreadHost};
use crate::log::{Ticket, pair};

type Call = Box<dyn FnOnce() + Send>;

/// The thread; it ends when this is dropped and all that was asked for is done.
pub(super) struct Blocking {
    /// Wakes tasks.
    host: Arc<dyn Host>,
    calls: Sender<Call>,
    thread: JoinHandle<()>,
    fork: ForkGuard,
}

impl Blocking {
    /// Starts the thread.
    pub(super) fn start() -> Result<Blocking> {
        let (calls, asked) = crossbeam_channel::unbounded::<Call>();
        let thread = std::thread::Builder::new().name("prkdb-blocking".into());
        let thread = thread.spawn(move || asked.iter().for_each(|call| call()));
        let thread = thread.map_err(|e| {
            Error::new(ErrorKind::Io, "open", format!("no thread can be started ({e})"))
        })?;
        Ok(Blocking { host: Arc::new(ThreadHost::new()), calls, thread, fork: ForkGuard::new() })
    }

    /// Makes `call` there; the ticket has what it returned.
    pub(super) fn call<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let (answer, ticket) = pair(&self.host, op);
        if self.fork.is_child() {
            let why = "this is a forked child; the log belongs to its parent";
            answer.fail(Error::new(ErrorKind::Closed, op, why));
            return ticket;
        }
        let call = move || match call() {
            Ok(value) => answer.ok(value),
            Err(error) => answer.fail(error),
        };
        // Refused if an earlier call panicked: then the answer, dropped here, says that it is lost.
        drop(self.calls.send(Box::new(call)));
        ticket
    }

    /// Waits until all that was asked for is done, and the thread with it.
    pub(super) fn finish(self) {
        if self.fork.is_child() {
            // What a thread of the parent held at that moment stays locked here for ever.
            return std::mem::forget(self);
        }
        drop(self.calls);
        if self.thread.join().is_err() {
            tracing::error!("a call to the log panicked");
        }
    }
}
