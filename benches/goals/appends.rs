//! Appending: against memory, against the bare ring, and one backend against another.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use prkdb_core::io::{ThreadHost, World, open_disk};
use prkdb_core::{Backend, Durability, Wal, WalConfig};

use crate::bench::load::{self, Pace as Timing, Raw, Sample};
use crate::bench::log::{Log, SEGMENT_BYTES};
use crate::bench::reading;
use crate::bench::workload::Workload;
use crate::null::Null;
use crate::numbers;
use crate::outcome::Stop;
use crate::yardstick::memory::Memory;
use crate::yardstick::{self, Load, Method, RawFile, Window};

/// Nothing ends a measurement early: the folder of an interrupted one stays below `target/tmp`.
static STOP: AtomicBool = AtomicBool::new(false);
const RAW_BYTES: u64 = 256 << 20;
/// Cuts after which a log writes into segments that it wrote before.
const WARM_CUTS: u64 = 2;
/// Tasks that append, each waiting for its own answer.
const TASKS: usize = 10_000;

fn timing(length: Duration) -> Timing {
    Timing { lead_in: length / 10, length }
}

/// A window that opens soon.
pub fn window(length: Duration) -> Window<'static> {
    Window::after(length / 10, length, &STOP)
}

/// Records a second.
pub fn rate(sample: &Sample) -> f64 {
    numbers::float(sample.records) / sample.seconds
}

/// The median latency, microseconds.
pub fn p50(sample: &mut Sample) -> f64 {
    latency(sample, 500)
}

/// The latency that so many of a thousand appends do not exceed, microseconds.
pub fn latency(sample: &mut Sample, per_mille: usize) -> f64 {
    let latencies = &mut sample.latencies_ns;
    if latencies.is_empty() {
        return f64::NAN;
    }
    let at = (latencies.len() * per_mille / 1000).min(latencies.len() - 1);
    numbers::float(*latencies.select_nth_unstable(at).1) / 1e3
}

/// How a log of the goals is set.
pub fn config(dir: &Path, backend: Backend) -> WalConfig {
    WalConfig { backend, segment_bytes: SEGMENT_BYTES, ..WalConfig::new(dir) }.create_new()
}

/// A log that writes into segments that it wrote before, with large batches, whatever it is for.
pub fn warm(name: &'static str, config: WalConfig) -> Result<Log, Stop> {
    let log = Log::new(name, Wal::open(config)?)?;
    let workload = Workload::named("unsynced-1000x100").expect("the bench has it");
    let records = workload.records();
    while log.cuts() < WARM_CUTS {
        log.append(Durability::Written, &records, workload.batch_bytes())?.wait()?;
    }
    log.settle()?;
    Ok(log)
}

/// The workload on `log` in one window.
pub fn on_log(log: &Log, workload: &Workload, length: Duration) -> Result<Sample, Stop> {
    load::on_log(log, workload, &workload.records(), timing(length), &STOP)
}

/// The file of the raw loop.
pub fn raw_file(dir: &Path) -> Result<Raw, Stop> {
    let file = RawFile::create(&dir.join("raw"), RAW_BYTES, true);
    let file = file.map_err(|e| Stop::Failed(format!("the raw loop's file: {e}")))?;
    let means = yardstick::Means::of(&file);
    Ok(Raw { file, means })
}

/// How the raw loop writes: what it was found to do most with, before it is measured.
#[derive(Clone, Copy)]
pub struct Means {
    pub method: Method,
    pub depth: usize,
}

/// The raw loop of the same blocks in one window.
pub fn raw(
    raw: &Raw,
    workload: &Workload,
    Means { method, depth }: Means,
    length: Duration,
) -> Result<Sample, Stop> {
    let load = Load { write_bytes: workload.batch_bytes(), depth, method };
    load::raw_loop(raw, workload, load, timing(length), &STOP)
}

/// The method and the depth, of these, that make the most writes durable, by windows of their own,
/// forwards and backwards in turn.
pub fn calibrated(
    file: &Raw,
    workload: &Workload,
    depths: &[usize],
    length: Duration,
) -> Result<Means, Stop> {
    let methods = [Method::Dsync, Method::WriteThenFdatasync];
    let each = |depth: &usize| methods.map(|method| Means { method, depth: *depth });
    let all: Vec<Means> = depths.iter().flat_map(each).collect();
    let mut rates = vec![Vec::new(); all.len()];
    for round in 0..4 {
        for i in 0..all.len() {
            let at = if round % 2 == 0 { i } else { all.len() - 1 - i };
            let sample = raw(file, workload, all[at], length / 5)?;
            rates[at].push(Some(rate(&sample)));
        }
    }
    let median = |at: &usize| numbers::median(&rates[*at]).unwrap_or(0.0);
    let best = (0..all.len()).max_by(|a, b| median(a).total_cmp(&median(b)));
    Ok(all[best.expect("there are some")])
}

/// A log whose writes go nowhere.
pub fn on_null(dir: &Path) -> Result<Log, Stop> {
    let config = config(dir, Backend::Auto);
    let disk = open_disk(dir, config.backend)?.0;
    let world = World { disk: Arc::new(Null(disk)), host: Arc::new(ThreadHost::new()) };
    Log::new("null", Wal::open_in(world, config)?)
}

/// Batches a second that have their place and no more.
pub fn queued(log: &Log, workload: &Workload, length: Duration) -> Result<f64, Stop> {
    let (records, window) = (workload.records(), window(length));
    let caller = || load::append(log, workload, Durability::Queued, &records, &window);
    let (counts, ..) = load::watch(&window, 1, Some(log), caller)?;
    log.settle()?;
    let batches: u64 = counts.iter().map(|(batches, _)| batches).sum();
    Ok(numbers::float(batches * workload.batch as u64) / window.length().as_secs_f64())
}

/// The same records copied and checksummed in memory.
pub fn memory(workload: &Workload, length: Duration) -> f64 {
    let (records, window) = (workload.records(), window(length));
    let batches = Memory::new(&records).run(&[&records], &window);
    numbers::float(batches * workload.batch as u64) / window.length().as_secs_f64()
}

/// As many as are read, copied and checksummed in memory.
pub fn many(workload: &Workload, length: Duration) -> Result<f64, Stop> {
    Ok(rate(&reading::memory(workload, &workload.records(), timing(length), &STOP)?))
}

/// Records a second of a log that is never cut.
pub fn uncut(wal: &Wal, workload: &Workload, length: Duration) -> Result<f64, Stop> {
    let (records, window) = (workload.records(), window(length));
    let (mut tickets, mut batches) = (VecDeque::new(), 0);
    while !window.is_over(Instant::now()) {
        tickets.push_back(wal.append_batch(&records)?);
        if tickets.len() >= workload.tickets
            && let Some(ticket) = tickets.pop_front()
        {
            ticket.wait()?;
            batches += u64::from(window.contains(Instant::now()));
        }
    }
    for ticket in tickets {
        ticket.wait()?;
    }
    Ok(numbers::float(batches * workload.batch as u64) / window.length().as_secs_f64())
}

/// Single records a second that tasks append, each waiting for its answer.
pub fn tasks(log: &Arc<Log>, workload: &Workload, length: Duration) -> Result<f64, Stop> {
    let failed = |e| Stop::Failed(format!("a runtime: {e}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().build().map_err(failed)?;
    let (window, records) = (window(length), Arc::new(workload.records()));
    let cost = workload.batch_bytes();
    let task = |log: Arc<Log>, records: Arc<Vec<Vec<u8>>>| async move {
        let mut answered = 0;
        while !window.is_over(Instant::now()) {
            log.count_in(cost)?;
            log.wal().append_batch_async(&*records).await?.await?;
            answered += u64::from(window.contains(Instant::now()));
        }
        Ok::<u64, Stop>(answered)
    };
    let start = |_| runtime.spawn(task(Arc::clone(log), Arc::clone(&records)));
    let tasks: Vec<_> = (0..TASKS).map(start).collect();
    let mut answered = 0;
    for task in tasks {
        let ended = runtime.block_on(task);
        answered += ended.map_err(|e| Stop::Failed(format!("a task: {e}")))??;
    }
    log.settle()?;
    Ok(numbers::float(answered) / window.length().as_secs_f64())
}
