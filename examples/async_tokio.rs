//! How do tokio tasks share a log?
//!
//! Fifty tasks append at once and await their tickets; few writes carry them all. Then one task
//! awaits the durability of what was only queued, and all is read back, on a thread that may block.
//!
//! Run with `cargo run --example async_tokio [DIR]`.

use std::error::Error;
use std::sync::Arc;

use prkdb_core::{Durability, Lsn, Wal, WalConfig};
use tokio::task::{JoinSet, spawn_blocking};

const TASKS: usize = 50;
const BATCHES: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/async-tokio".into());
    // Opening may recover, reading waits for the disk, closing for the writer: these block.
    let wal = Arc::new(spawn_blocking(|| Wal::open(WalConfig::new(dir))).await??);

    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(append(Arc::clone(&wal), task));
    }
    let mut written = Vec::new();
    while let Some(task) = tasks.join_next().await {
        written.extend(task??);
    }
    let groups = wal.metrics().groups;
    println!("{TASKS} tasks: {} batches are durable, in {groups} groups", written.len());

    // Answered when its place is reserved; durable when one asks for it.
    let queued = wal.with(Durability::Queued).append_batch_async(["a metric"]).await?.await?;
    wal.wait_durable(queued.last())?.await?;
    assert!(wal.durable_lsn() >= queued.last());
    written.push((queued.first(), "a metric".into()));

    let count = written.len();
    let shared = Arc::clone(&wal);
    spawn_blocking(move || check(&shared, written)).await??;
    println!("{count} records read, each where its ticket said");

    let wal = Arc::into_inner(wal).ok_or("a task still holds the log")?;
    spawn_blocking(|| wal.close()).await??;
    Ok(())
}

/// Appends batches of one record, one after the other; gives each with its place.
async fn append(wal: Arc<Wal>, task: usize) -> prkdb_core::Result<Vec<(Lsn, String)>> {
    let mut written = Vec::new();
    for number in 0..BATCHES {
        let event = format!("event {number} of task {task}");
        // The first await is for room in the queue, the second for durability.
        let lsns = wal.append_batch_async([&event]).await?.await?;
        written.push((lsns.first(), event));
    }
    Ok(written)
}

fn check(wal: &Wal, mut written: Vec<(Lsn, String)>) -> prkdb_core::Result<()> {
    written.sort();
    let first = written.first().map_or(wal.next_lsn(), |(lsn, _)| *lsn);
    let mut reader = wal.reader(first)?;
    for (lsn, event) in written {
        let record = reader.next().expect("it is durable")?;
        assert_eq!((record.lsn, &*record.data), (lsn, event.as_bytes()));
    }
    assert!(reader.next().is_none(), "nobody else writes this log");
    Ok(())
}
