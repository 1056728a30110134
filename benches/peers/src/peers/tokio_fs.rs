//! A writer as one would build it on `tokio::fs`: what a thread with a ring is compared with.
//!
//! ```text
//! callers --frames--> channel --all that wait--> task: write_all, sync_data --answers--> callers
//! ```
//!
//! No log of anybody's: the least that is one. A frame is its length, the CRC of its records, and
//! the records of one batch; frames that wait at the same time go into one write and one sync. The
//! file is written ahead with zeros, as in the other logs: a sync moves data only. Each call of
//! `tokio::fs` is a job for a thread of the runtime's pool, goes through the page cache, and the
//! next group waits for it: what is compared is all of that, not the task alone.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::peer::{Adapter, Answer, Outcome, Peer, Sink};
use crate::records::Flat;
use crate::workload::{Kind, Workload};

/// A task that writes through `tokio::fs`.
pub struct TokioFs;

/// Frames that wait at most; then callers do.
const QUEUE: usize = 1024;
const HEADER: usize = 8;
const MIB: usize = 1 << 20;

/// A frame and who wants to know that it is written.
type Request = (Vec<u8>, oneshot::Sender<std::io::Result<()>>);

struct Log {
    runtime: Runtime,
    /// None once it is closed.
    requests: RwLock<Option<mpsc::Sender<Request>>>,
    writer: tokio::task::JoinHandle<()>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("log")
}

impl Adapter for TokioFs {
    fn name(&self) -> &'static str {
        "tokio-fs"
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn setting(&self) -> &'static str {
        "tokio 1, a task that writes and syncs through tokio::fs, one file written ahead"
    }

    fn open(&self, dir: &Path, workload: &Workload) -> Outcome<Box<dyn Peer>> {
        prepare(&path(dir), workload.room_bytes())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let file = File::options().write(true).open(path(dir))?;
        let synced = workload.kind == Kind::Durable;
        let writer = runtime.spawn(write(tokio::fs::File::from_std(file), queue, synced));
        Ok(Box::new(Log { runtime, requests: RwLock::new(Some(requests)), writer }))
    }

    fn read(&self, dir: &Path, _workload: &Workload, sink: &Arc<Sink>) -> Outcome<()> {
        let mut file = std::io::BufReader::with_capacity(MIB, File::open(path(dir))?);
        sink.opened();
        let mut checker = sink.checker();
        let mut header = [0; HEADER];
        let mut frame = Vec::new();
        while file.read_exact(&mut header).is_ok() {
            let (len, crc) = (word(&header, 0), word(&header, 4));
            if len == 0 {
                break;
            }
            frame.resize(len as usize, 0);
            file.read_exact(&mut frame)?;
            if crc32fast::hash(&frame) != crc {
                return Err("a frame's checksum does not hold".into());
            }
            let mut rest = &frame[..];
            while let Some((len, more)) = rest.split_first_chunk::<4>() {
                let (record, more) = more.split_at(word(len, 0) as usize);
                checker.take(record);
                rest = more;
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}

/// Writes zeros, so that no write needs space or changes the size.
fn prepare(path: &Path, bytes: u64) -> Outcome<()> {
    let mut file = File::create_new(path)?;
    let zeros = vec![0; MIB];
    for _ in 0..bytes.div_ceil(MIB as u64) {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?)
}

/// The task: all that waits is one write and one sync.
async fn write(mut file: tokio::fs::File, mut queue: mpsc::Receiver<Request>, synced: bool) {
    let (mut waiting, mut group) = (Vec::new(), Vec::new());
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        group.clear();
        waiting.iter().for_each(|(frame, _)| group.extend_from_slice(frame));
        let outcome = put(&mut file, &group, synced).await;
        for (_, answer) in waiting.drain(..) {
            let outcome = outcome.as_ref().copied().map_err(|e| e.kind().into());
            // A caller that is gone does not want to know.
            answer.send(outcome).ok();
        }
    }
}

async fn put(file: &mut tokio::fs::File, group: &[u8], synced: bool) -> std::io::Result<()> {
    file.write_all(group).await?;
    file.flush().await?;
    if synced { file.sync_data().await } else { Ok(()) }
}

/// The frame of a batch.
fn frame(batch: Flat<'_>) -> Outcome<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    for record in batch.iter() {
        frame.extend_from_slice(&u32::try_from(record.len())?.to_le_bytes());
        frame.extend_from_slice(record);
    }
    let (header, records) = frame.split_at_mut(HEADER);
    header[..4].copy_from_slice(&u32::try_from(records.len())?.to_le_bytes());
    header[4..].copy_from_slice(&crc32fast::hash(records).to_le_bytes());
    Ok(frame)
}

impl Peer for Log {
    fn append(&self, _caller: usize, batch: Flat<'_>) -> Outcome<Answer> {
        let (sender, answer) = oneshot::channel();
        let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = requests.ok_or("it is closed")?;
        requests.blocking_send((frame(batch)?, sender))?;
        answer.blocking_recv()??;
        Ok(Answer::Now)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        *self.requests.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(self.runtime.block_on(self.writer)?)
    }
}
