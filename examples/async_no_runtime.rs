//! How do tasks share a log without any runtime?
//!
//! A ticket is a plain `Future`: it leaves a waker and is woken by a thread of the log's. Here the
//! executor is twenty lines: it polls, and parks its thread until a waker unparks it.
//!
//! Run with `cargo run --example async_no_runtime [DIR]`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use prkdb_core::{Durability, LsnRange, Result, Wal, WalConfig};

const TASKS: usize = 50;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future to its end on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            // Woken between the poll and here, it does not park.
            Poll::Pending => thread::park(),
        }
    }
}

/// All outputs, in the order of the futures. Each wake looks at every one that is not done.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    poll_fn(|cx| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        match futures.iter().all(|(_, output)| output.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/async-no-runtime".into());
    let wal = Wal::open(WalConfig::new(dir))?;

    let places = block_on(join_all((0..TASKS).map(|task| append(&wal, task))));
    let places = places.into_iter().collect::<Result<Vec<_>>>()?;
    println!("{TASKS} tasks on one thread are durable, in {} groups", wal.metrics().groups);
    for (task, lsns) in places.iter().enumerate() {
        assert_eq!(&*wal.read(lsns.first())?.data, format!("task {task} begins").as_bytes());
        assert_eq!(&*wal.read(lsns.last())?.data, format!("task {task} ends").as_bytes());
    }
    println!("{} records read, each where its ticket said", 2 * places.len());

    // Two kinds of futures in one: what was only queued, then a wait for its durability.
    let last = block_on(async {
        let queued = wal.with(Durability::Queued).append_batch_async(["a metric"]).await?.await?;
        wal.wait_durable(queued.last())?.await?;
        Ok(queued.last())
    })?;
    assert!(wal.durable_lsn() >= last);
    wal.close()
}

/// Appends two records that live or die together, and is done when they are durable.
async fn append(wal: &Wal, task: usize) -> Result<LsnRange> {
    let pair = [format!("task {task} begins"), format!("task {task} ends")];
    // The first await is for room in the queue, the second for durability.
    wal.append_batch_async(&pair).await?.await
}
