//! Where machines run: threads and clocks in a real process, one scheduler in a simulated one.
//!
//! A machine is a state machine that owns a queue's requests: it is given completions, acts, and
//! says how long it can wait. It never waits itself; the shell around it does, in `Queue::reap`.
//!
//! ```text
//! ThreadHost                              sim::Scheduler
//!   thread: loop { step; reap(wait) }       one caller: pick a machine or a completion by seed
//! ```

use std::fmt;
use std::io;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::notifier::Notifier;
use super::{Completion, Queue, Until};

/// How long a machine can wait before its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Not at all.
    Now,
    /// Until a completion, a wake, or this time of the host's clock.
    At(Duration),
    /// Until a completion or a wake.
    Idle,
    /// It is done and drops; nothing of it is in flight.
    Done,
}

/// A state machine on a queue.
pub trait Machine: Send {
    /// Acts on all of `events` (and empties it), and on whatever its callers left for it.
    fn step(&mut self, queue: &mut dyn Queue, events: &mut Vec<Completion>) -> Next;

    /// The queue broke: nothing more will complete. The next step ends it.
    fn broken(&mut self, error: io::Error);
}

/// Makes a machine and its queue on the thread that will run them.
pub type MakeMachine =
    Box<dyn FnOnce() -> io::Result<(Box<dyn Machine>, Box<dyn Queue>)> + Send + 'static>;

/// A machine that was started.
pub trait Running: Send + Sync {
    /// Waits until the machine is gone. Something else must have told it to end.
    fn join(self: Box<Self>);
}

/// Threads, clocks and randomness.
pub trait Host: Send + Sync + fmt::Debug {
    /// Time since some fixed moment; never runs backwards.
    fn now(&self) -> Duration;

    /// Wall clock, microseconds since 1970.
    fn wall_us(&self) -> u64;

    /// 128 bits that nobody can guess.
    ///
    /// # Errors
    /// The system's error.
    fn random(&self) -> io::Result<[u8; 16]>;

    /// Makes a machine, runs it beside the caller, and returns once it was made.
    ///
    /// # Errors
    /// What making it said, or that no thread could be had.
    fn start(&self, name: &str, make: MakeMachine) -> io::Result<Box<dyn Running>>;

    /// Runs `job` on a thread fit for writing files, to its end.
    ///
    /// # Errors
    /// No thread could be had.
    fn run(&self, name: &str, job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()>;

    /// Wakes a task of somebody else's, where it can't hold up or break the caller.
    fn wake(&self, waker: Waker);

    /// Looks for `ready` so much longer without giving up its core, where another one is free for
    /// whoever makes it so; whether it came. Asked before a wait that is likely to be short, for a
    /// sleeping thread takes as long to wake.
    fn spin(&self, ready: &dyn Fn() -> bool, _upto: Duration) -> bool {
        ready()
    }

    /// In a simulation: lets the world go on by one event and returns true. On threads: false; the
    /// caller waits by its own means.
    fn step(&self) -> bool;
}

/// What a thread that could not be started is answered with: what helps, and the same kind.
pub(super) fn no_thread(e: io::Error) -> io::Error {
    let text = format!("no thread can be started ({e}); raise the limit on processes (ulimit -u)");
    io::Error::new(e.kind(), text)
}

/// The host of a real process: a named thread per machine.
#[derive(Debug)]
pub struct ThreadHost {
    start: Instant,
    /// More than one thread runs at a time.
    parallel: bool,
    /// The thread that wakes tasks; it ends with the host.
    notifier: Notifier,
}

impl ThreadHost {
    /// A host whose clock starts now.
    pub fn new() -> ThreadHost {
        let parallel = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        ThreadHost { start: Instant::now(), parallel, notifier: Notifier::default() }
    }
}

impl Default for ThreadHost {
    fn default() -> ThreadHost {
        ThreadHost::new()
    }
}

impl Host for ThreadHost {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(bytes)
    }

    fn start(&self, name: &str, make: MakeMachine) -> io::Result<Box<dyn Running>> {
        let (made, answer) = crossbeam_channel::bounded(1);
        let start = self.start;
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            super::signal::block_file_size_signal();
            match make() {
                Ok((machine, queue)) => {
                    // The starter waits for this answer; it can't be gone.
                    made.send(Ok(())).ok();
                    drive(machine, queue, start);
                }
                Err(e) => drop(made.send(Err(e))),
            }
        });
        let thread = thread.map_err(no_thread)?;
        match answer.recv() {
            Ok(Ok(())) => Ok(Box::new(Thread(thread))),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::other(format!("thread {name} died while it started"))),
        }
    }

    fn run(&self, name: &str, job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name.into());
            let thread = thread.spawn_scoped(scope, || {
                super::signal::block_file_size_signal();
                job();
            });
            match thread.map_err(no_thread)?.join() {
                Ok(()) => Ok(()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn wake(&self, waker: Waker) {
        self.notifier.wake(waker);
    }

    fn spin(&self, ready: &dyn Fn() -> bool, upto: Duration) -> bool {
        let begun = Instant::now();
        while !ready() {
            if !self.parallel || begun.elapsed() >= upto {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    fn step(&self) -> bool {
        false
    }
}

struct Thread(JoinHandle<()>);

impl Running for Thread {
    fn join(self: Box<Self>) {
        if self.0.join().is_err() {
            tracing::error!("a thread of the log panicked; the log is poisoned");
        }
    }
}

fn drive(mut machine: Box<dyn Machine>, mut queue: Box<dyn Queue>, start: Instant) {
    let mut events = Vec::new();
    loop {
        let until = match machine.step(&mut *queue, &mut events) {
            Next::Now => Until::Now,
            Next::At(time) => Until::For(time.saturating_sub(start.elapsed())),
            Next::Idle => Until::Forever,
            Next::Done => return,
        };
        debug_assert!(events.is_empty());
        if let Err(e) = queue.reap(&mut events, until) {
            machine.broken(e);
        }
    }
}
