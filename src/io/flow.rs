//! Straight-line I/O code as a machine: an `async fn` whose awaits are a queue's completions.
//!
//! Recovery, the maker of segments and the updates of META are sequences with many crash points;
//! written as one function each they can be read. The compiler makes the state machine, this file
//! runs it: as a [`FlowMachine`] beside the caller, or by [`block_on`] in the caller.
//!
//! Short counts and interrupted requests are finished here; any other error is the caller's.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Buf, Completion, FileRef, Machine, Next, Op, OpId, Queue, Until};

/// How often an interrupted request is submitted again before it counts as failed.
const RETRIES: u32 = 64;
/// A sync that takes longer is told of.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// The handle through which a flow submits requests.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests not yet given to the queue, by token.
    outbox: Vec<(u64, Op)>,
    /// Those in the queue, and what it answered: few, each flow waits for its own.
    asked: Vec<(OpId, u64)>,
    answers: Vec<(u64, Completion)>,
    next_token: u64,
    /// Files nothing of the flow uses any more.
    released: Vec<FileRef>,
    /// When it wants to be polled though nothing happened.
    wake_at: Option<Duration>,
    /// Why the queue answers nothing any more.
    broken: Option<(io::ErrorKind, String)>,
}

impl Flow {
    fn new() -> Flow {
        Flow { state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits `op` and waits for its answer. Submitted at once, not at the first poll.
    fn request(&self, op: Op) -> impl Future<Output = Completion> + Send + use<> {
        let mut state = self.lock();
        let token = state.next_token;
        state.next_token += 1;
        if state.broken.is_none() {
            state.outbox.push((token, op));
        }
        drop(state);
        let flow = self.clone();
        std::future::poll_fn(move |_| {
            let mut state = flow.lock();
            match state.answers.iter().position(|(of, _)| *of == token) {
                Some(at) => Poll::Ready(state.answers.swap_remove(at).1),
                None => match &state.broken {
                    Some((kind, why)) => Poll::Ready(Completion {
                        id: OpId(token),
                        result: Err(io::Error::new(*kind, why.clone())),
                        buf: None,
                    }),
                    None => Poll::Pending,
                },
            }
        })
    }

    /// Writes all of `buf` at `at`; with `dsync` it is durable then. The buffer comes back.
    pub(crate) async fn write(
        &self,
        file: &FileRef,
        at: u64,
        buf: Buf,
        dsync: bool,
    ) -> io::Result<Buf> {
        let began = Instant::now();
        let (mut done, mut tries, mut short) = (0, 0, false);
        while done < buf.len() {
            let rest = buf.slice(done, buf.len() - done);
            let (file, at) = (Arc::clone(file), at + done as u64);
            let answer = self.request(Op::Write { file, at, buf: rest, dsync }).await;
            match answer.result {
                Ok(n) if n == buf.len() - done => done += n,
                Ok(n) => {
                    // Direct I/O goes on at a block. Nothing of it counts yet, so its start may be
                    // written twice.
                    short = true;
                    let whole = n - n % buf.align();
                    done += whole;
                    if whole == 0 {
                        again(io::ErrorKind::WouldBlock.into(), &mut tries)?;
                    }
                }
                Err(e) => again(e, &mut tries)?,
            }
        }
        if dsync {
            tell_if_slow(file.path(), began.elapsed());
        }
        if short && dsync {
            // A forced write that was cut short promises nothing.
            self.sync(file).await?;
        }
        Ok(buf)
    }

    /// Makes durable what was written to `file` before. A failure is final: it is not tried again.
    pub(crate) async fn sync(&self, file: &FileRef) -> io::Result<()> {
        let began = Instant::now();
        let outcome = self.sync_all(file).await;
        tell_if_slow(file.path(), began.elapsed());
        outcome
    }

    /// As `sync`, after so much was written that it may take its time: nothing is told of that.
    pub(crate) async fn sync_all(&self, file: &FileRef) -> io::Result<()> {
        self.request(Op::Sync { file: Arc::clone(file) }).await.result.map(drop)
    }

    /// Lets go of a file, so that an unlinked one gives its space back. Nothing of it is in flight.
    pub(crate) fn release(&self, file: &FileRef) {
        self.lock().released.push(Arc::clone(file));
    }

    /// Waits until `check` has something; it is asked again at each completion and each wake.
    pub(crate) fn until<T>(&self, mut check: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
        std::future::poll_fn(move |_| check().map_or(Poll::Pending, Poll::Ready))
    }

    /// At this time of the host's clock whatever `until` checks is asked again; none: never.
    pub(crate) fn wake_at(&self, time: Option<Duration>) {
        self.lock().wake_at = time;
    }

    /// Nothing is answered any more.
    fn broken(&self, error: &io::Error) {
        tracing::error!(%error, "an I/O queue of the log broke");
        // Made anew it breaks again, as where a filter came after the log was opened.
        let advice = "open the log in a new process, or on another backend";
        let why = format!("the I/O queue broke ({error}): {advice}");
        let kind = match error.kind() {
            // Those are asked again, and no queue answers them.
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => io::ErrorKind::Other,
            kind => kind,
        };
        self.lock().broken = Some((kind, why));
    }

    /// Takes in completions, polls once, submits what that asked for.
    fn turn<T>(
        &self,
        future: Pin<&mut (impl Future<Output = T> + ?Sized)>,
        queue: &mut dyn Queue,
        events: &mut Vec<Completion>,
    ) -> Poll<T> {
        let mut state = self.lock();
        for event in events.drain(..) {
            let at = state.asked.iter().position(|(id, _)| *id == event.id);
            let (_, token) = state.asked.swap_remove(at.expect("an answer to a request of ours"));
            state.answers.push((token, event));
        }
        drop(state);
        let polled = future.poll(&mut Context::from_waker(Waker::noop()));
        let mut state = self.lock();
        let State { outbox, asked, released, broken, .. } = &mut *state;
        for (token, op) in outbox.drain(..) {
            asked.push((queue.submit(op), token));
        }
        if broken.is_some() {
            // What was in flight when it broke may be of such a file, and still is.
            released.clear();
        }
        for file in released.drain(..) {
            queue.release(&file);
        }
        polled
    }
}

/// Logs a durable write or a sync of `file` that took so long that somebody should look at the
/// disk.
pub(crate) fn tell_if_slow(file: &Path, took: Duration) {
    if took > SLOW_SYNC {
        let (file, took_ms) = (file.display(), took.as_millis());
        tracing::warn!(%file, took_ms, "a sync took longer than a second");
    }
}

/// Decides whether a failed request may be submitted again.
fn again(e: io::Error, tries: &mut u32) -> io::Result<()> {
    *tries += 1;
    match e.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock if *tries < RETRIES => Ok(()),
        _ => Err(e),
    }
}

/// A flow that runs beside its caller.
pub(crate) struct FlowMachine {
    flow: Flow,
    body: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl FlowMachine {
    pub(crate) fn new<F>(body: impl FnOnce(Flow) -> F) -> FlowMachine
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let flow = Flow::new();
        FlowMachine { body: Box::pin(body(flow.clone())), flow }
    }
}

impl Machine for FlowMachine {
    fn step(&mut self, queue: &mut dyn Queue, events: &mut Vec<Completion>) -> Next {
        match self.flow.turn(self.body.as_mut(), queue, events) {
            Poll::Ready(()) => Next::Done,
            Poll::Pending => {
                let state = self.flow.lock();
                match state.wake_at {
                    _ if state.broken.is_some() => Next::Done,
                    Some(time) => Next::At(time),
                    None => Next::Idle,
                }
            }
        }
    }

    fn broken(&mut self, error: io::Error) {
        self.flow.broken(&error);
    }
}

/// Runs a flow to its end on the calling thread.
pub(crate) fn block_on<T, F>(queue: &mut dyn Queue, body: impl FnOnce(Flow) -> F) -> T
where
    F: Future<Output = T>,
{
    let flow = Flow::new();
    let mut future = pin!(body(flow.clone()));
    let mut events = Vec::new();
    loop {
        if let Poll::Ready(value) = flow.turn(future.as_mut(), queue, &mut events) {
            return value;
        }
        if let Err(e) = queue.reap(&mut events, Until::Forever) {
            flow.broken(&e);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::io::heard::Heard;
    use crate::io::wrapped::Wrapped;
    use crate::io::{Access, open_disk};
    use crate::options::Backend;

    /// A queue that takes one request and breaks.
    struct Broken {
        asked: u64,
    }

    impl Queue for Broken {
        fn submit(&mut self, _op: Op) -> OpId {
            self.asked += 1;
            assert_eq!(self.asked, 1, "nothing is asked of a queue that broke");
            OpId(self.asked)
        }

        fn reap(&mut self, _out: &mut Vec<Completion>, _until: Until) -> io::Result<()> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn waker(&self) -> Waker {
            Waker::noop().clone()
        }

        fn release(&mut self, _file: &FileRef) {
            panic!("a request of it is in flight");
        }

        fn in_flight(&self) -> usize {
            1
        }
    }

    #[test]
    fn what_is_waited_for_and_slow_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = open_disk(dir.path(), Backend::Pwrite).unwrap();
        let path = dir.path().join("file");
        let file = disk.create(&path, 4096).unwrap();
        let late = SLOW_SYNC + Duration::from_millis(20);
        let mut queue = Wrapped { queue: disk.queue(1, &[]).unwrap(), late };
        let heard = Heard::default();
        let told = || heard.0.lock().unwrap().drain(..).collect::<Vec<_>>();
        tracing::subscriber::with_default(heard.clone(), || {
            block_on(&mut queue, |flow| async move {
                let buf = || Buf::zeroed(4096, 4096);
                flow.write(&file, 0, buf(), true).await.unwrap();
                let [(Level::WARN, said)] = &told()[..] else { panic!("a forced write") };
                assert!(said.contains(&format!("file={} ", path.display())), "{said}");
                flow.sync(&file).await.unwrap();
                assert_eq!(told().len(), 1, "a sync");
                flow.write(&file, 0, buf(), false).await.unwrap();
                flow.sync_all(&file).await.unwrap();
                assert_eq!(told().len(), 0, "a plain write, and a sync of ever so much");
                flow.release(&file);
            });
        });
    }

    #[test]
    fn a_queue_that_breaks_with_a_passing_error_is_asked_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = open_disk(dir.path(), Backend::Pwrite).unwrap();
        let path = dir.path().join("file");
        drop(disk.create(&path, 4096).unwrap());
        let file = disk.open(&path, Access::Write).unwrap();
        let mut queue = Broken { asked: 0 };
        let outcome = block_on(&mut queue, |flow| async move {
            let written = flow.write(&file, 0, Buf::zeroed(4096, 4096), true).await;
            flow.release(&file);
            written.map(drop)
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert!(error.to_string().contains("the I/O queue broke"), "{error}");
    }
}
