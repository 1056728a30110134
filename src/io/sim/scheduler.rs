//! The host of a simulated world: whoever waits lets one thing happen, drawn by seed.
//!
//! ```text
//! advance --> a machine that can act   take it out, unlock, reap + step, lock, put it back
//!         --> a request that is due    complete it
//!         --> neither                  the clock goes to the next timer; none: deadlock, panic
//! ```
//!
//! Machines run on the caller's thread, one at a time, and may call back into the world: a nested
//! wait steps the others.

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::queue::{QueueState, micros};
use super::state::{PATIENCE, Shared, State};
use crate::io::{Completion, Host, Machine, MakeMachine, Next, Queue, Running, Until};

/// Where the wall clock stands when a world is made, microseconds since 1970.
const WALL_START: u64 = 1_700_000_000_000_000;
/// How much time one step may take, microseconds.
const STEP_TIME: u64 = 16;

/// A machine that was started.
pub(super) struct Task {
    id: u64,
    name: String,
    queue: u64,
    next: Next,
    /// None while it is being stepped.
    parts: Option<Parts>,
}

struct Parts {
    machine: Box<dyn Machine>,
    queue: Box<dyn Queue>,
    events: Vec<Completion>,
}

enum Choice {
    Machine(usize),
    Request(usize),
    Time(u64),
    Nothing,
}

impl State {
    fn can_act(&self, task: &Task) -> bool {
        let due = match task.next {
            Next::Now => true,
            Next::At(time) => micros(time) <= self.now,
            Next::Idle | Next::Done => false,
        };
        let called =
            |queue: &QueueState| queue.bell.rung() || queue.broken || !queue.ready.is_empty();
        task.parts.is_some() && (due || self.queues.get(&task.queue).is_some_and(called))
    }

    fn choose(&mut self, deadline: Option<u64>) -> Choice {
        let machines = self.tasks.iter().filter(|task| self.can_act(task)).count();
        let requests = self.requests.iter().filter(|r| self.is_due(r)).count();
        let machine = match (machines, requests) {
            (0, 0) => return self.next_time(deadline).map_or(Choice::Nothing, Choice::Time),
            (_, 0) => true,
            (0, _) => false,
            _ => self.rng.chance(self.machines_first),
        };
        let pick = self.rng.index(if machine { machines } else { requests });
        let found = if machine {
            let able = self.tasks.iter().enumerate().filter(|(_, task)| self.can_act(task));
            able.map(|(i, _)| Choice::Machine(i)).nth(pick)
        } else {
            let due = self.requests.iter().enumerate().filter(|(_, r)| self.is_due(r));
            due.map(|(i, _)| Choice::Request(i)).nth(pick)
        };
        found.expect("counted above")
    }

    /// The next time at which something can happen. All of them lie ahead, else it had been chosen.
    fn next_time(&self, deadline: Option<u64>) -> Option<u64> {
        let timers = self.tasks.iter().filter_map(|task| match task.next {
            Next::At(time) if task.parts.is_some() => Some(micros(time)),
            _ => None,
        });
        let requests = self.requests.iter().filter(|r| r.started).map(|r| r.due);
        timers.chain(requests).chain(deadline).min()
    }

    /// What everything waits for.
    fn report(&self) -> String {
        let mut text = format!("seed {}, operation {}, {} us", self.seed, self.ops, self.now);
        for task in &self.tasks {
            let state = if task.parts.is_none() { "being stepped" } else { "waiting" };
            let in_flight = self.queues.get(&task.queue).map_or(0, |queue| queue.in_flight);
            write!(text, "\n  {}: {state}, {:?}, {in_flight} in flight", task.name, task.next)
                .expect("a string takes all");
        }
        let staged = self.requests.iter().filter(|r| !r.started).count();
        write!(text, "\n  {staged} requests that no reap has started").expect("a string takes all");
        text
    }
}

/// Lets one thing happen. With a `deadline`, on the world's clock in microseconds, at the latest
/// that.
///
/// # Panics
/// If nothing can ever happen again, or nothing but timers for very long: a hang was found.
pub(super) fn advance(shared: &Arc<Shared>, life: u64, deadline: Option<u64>) {
    let mut state = shared.lock();
    if state.alive(life).is_err() {
        // Their drops answer whoever waits on them.
        let ended = if state.life == life { std::mem::take(&mut state.tasks) } else { Vec::new() };
        drop(state);
        drop(ended);
        return;
    }
    state.quiet += 1;
    if state.quiet >= PATIENCE {
        let report = state.report();
        drop(state);
        panic!("simulated hang: {PATIENCE} steps without any I/O\n{report}");
    }
    match state.choose(deadline) {
        Choice::Time(time) => state.now = state.now.max(time),
        Choice::Request(index) => {
            state.now += 1 + state.rng.below(STEP_TIME);
            state.complete(index);
        }
        Choice::Machine(index) => {
            state.now += 1 + state.rng.below(STEP_TIME);
            let task = &mut state.tasks[index];
            let (id, parts) = (task.id, task.parts.take().expect("only such can act"));
            state.note(&[id]);
            drop(state);
            step_machine(shared, life, id, parts);
        }
        Choice::Nothing => {
            let report = state.report();
            drop(state);
            panic!("simulated deadlock: nothing can ever happen again\n{report}");
        }
    }
}

/// Does for one machine, once, what the loop of a thread does.
fn step_machine(shared: &Arc<Shared>, life: u64, id: u64, mut parts: Parts) {
    if let Err(e) = parts.queue.reap(&mut parts.events, Until::Now) {
        parts.machine.broken(e);
    }
    let next = parts.machine.step(&mut *parts.queue, &mut parts.events);
    debug_assert!(parts.events.is_empty());
    let mut state = shared.lock();
    let alive = !state.dead(life);
    let index = state.tasks.iter().position(|task| task.id == id);
    match index {
        Some(index) if alive && next != Next::Done => {
            let task = &mut state.tasks[index];
            task.next = next;
            task.parts = Some(parts);
            let queue = task.queue;
            state.start_requests(queue);
        }
        _ => {
            let task = index.map(|i| state.tasks.remove(i));
            drop(state);
            // The machine first: what it drops may still want its queue's files.
            drop((parts, task));
        }
    }
}

/// Clock, randomness and machines of one life of a world.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    life: u64,
}

impl Scheduler {
    pub(super) fn new(shared: &Arc<Shared>, life: u64) -> Scheduler {
        Scheduler { shared: Arc::clone(shared), life }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Host for Scheduler {
    fn now(&self) -> Duration {
        Duration::from_micros(self.shared.lock().now)
    }

    fn wall_us(&self) -> u64 {
        WALL_START + self.shared.lock().now
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut state = self.shared.lock();
        state.alive(self.life)?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&state.entropy.bits().to_le_bytes());
        bytes[8..].copy_from_slice(&state.entropy.bits().to_le_bytes());
        Ok(bytes)
    }

    fn start(&self, name: &str, make: MakeMachine) -> io::Result<Box<dyn Running>> {
        self.shared.lock().alive(self.life)?;
        let (machine, queue) = make()?;
        let waker = queue.waker();
        let mut state = self.shared.lock();
        state.alive(self.life)?;
        // By its waker, so that a queue may be wrapped in one that counts or checks; by what that
        // wakes, for its table of functions may be there twice.
        let same = |q: &Waker| std::ptr::eq(q.data(), waker.data());
        let found = state.queues.iter().find(|(_, q)| same(&q.waker)).map(|(q, _)| *q);
        let Some(found) = found else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a queue of another disk"));
        };
        let id = state.fresh_id();
        let parts = Some(Parts { machine, queue, events: Vec::new() });
        state.tasks.push(Task { id, name: name.into(), queue: found, next: Next::Now, parts });
        // A thread that was started may have come far before its starter goes on.
        let (ahead, now) = (state.rng.pick(&[0, 0, 1, 4]), state.now);
        drop(state);
        for _ in 0..ahead {
            advance(&self.shared, self.life, Some(now));
        }
        Ok(Box::new(Started { shared: Arc::clone(&self.shared), life: self.life, id }))
    }

    fn run(&self, _name: &str, job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()> {
        self.shared.lock().alive(self.life)?;
        job();
        Ok(())
    }

    fn wake(&self, waker: Waker) {
        waker.wake();
    }

    fn step(&self) -> bool {
        advance(&self.shared, self.life, None);
        true
    }
}

/// A machine among those of its world.
struct Started {
    shared: Arc<Shared>,
    life: u64,
    id: u64,
}

impl Running for Started {
    fn join(self: Box<Self>) {
        while self.shared.lock().tasks.iter().any(|task| task.id == self.id) {
            advance(&self.shared, self.life, None);
        }
    }
}
