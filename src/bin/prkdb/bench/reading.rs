//! Reading records back, and its yardstick: the same records copied and checksummed in memory.
//!
//! ```text
//! appended:  | read over and over, from the page cache | so much more that those are sealed |
//! ```
//!
//! Invariant: before anything is measured each record was compared with what was appended.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use prkdb_core::{Durability, Lsn, Record};

use crate::outcome::Stop;
use crate::yardstick::Window;
use crate::yardstick::memory::Memory;

use super::load::{Pace, Sample, watch};
use super::log::{Log, SEGMENT_BYTES};
use super::workload::{Kind, Workload};

/// So many batches are read; as many bytes as a segment may hold lie behind them.
const READ_BATCHES: usize = 300;
/// Records between two looks at the clock.
const READ_CHUNK: u64 = 1000;

/// Appends, checks every byte once and so fills the page cache; then reads until the end.
pub fn run(
    log: &Log,
    workload: &Workload,
    records: &[Vec<u8>],
    pace: Pace,
    stop: &AtomicBool,
) -> Result<Sample, Stop> {
    log.cut()?;
    let first = log.next_lsn();
    let behind = SEGMENT_BYTES.div_ceil(workload.batch_bytes() as u64);
    for _ in 0..READ_BATCHES as u64 + behind {
        drop(log.append(Durability::Written, records, workload.batch_bytes())?);
    }
    log.settle()?;
    let mut checked = 0;
    for (record, expected) in kept(log, first, workload)?.zip(records.iter().cycle()) {
        if *record?.data != expected[..] {
            return Err(Stop::Failed(format!("{}: record {checked} is not as written", log.name)));
        }
        checked += 1;
    }
    if checked != READ_BATCHES * workload.batch {
        return Err(Stop::Failed(format!("{}: only {checked} records came back", log.name)));
    }
    let window = Window::after(pace.lead_in, pace.length, stop);
    let reader = || read(log, first, workload, &window);
    let (counts, before, after) = watch(&window, 1, None, reader)?;
    let records: u64 = counts.iter().sum();
    Ok(Sample {
        seconds: window.length().as_secs_f64(),
        batches: records / workload.batch as u64,
        records,
        looked: (after.at - before.at).as_secs_f64(),
        cpu: after.cpu.since(before.cpu),
        ..Sample::default()
    })
}

/// The records that are read.
fn kept(
    log: &Log,
    first: Lsn,
    workload: &Workload,
) -> Result<impl Iterator<Item = prkdb_core::Result<Record>> + use<>, Stop> {
    Ok(log.reader(first)?.take(READ_BATCHES * workload.batch))
}

/// Counts what was read while the window was open.
struct Counted<'a> {
    window: &'a Window<'a>,
    records: u64,
    /// Those since the last look at the clock.
    chunk: u64,
}

impl Counted<'_> {
    /// So many more were read; false once the window is over.
    fn add(&mut self, records: u64) -> bool {
        self.chunk += records;
        if self.chunk < READ_CHUNK {
            return true;
        }
        let now = Instant::now();
        self.records += if self.window.contains(now) { self.chunk } else { 0 };
        self.chunk = 0;
        !self.window.is_over(now)
    }
}

/// Reads over and over; how many records came in the window.
fn read(log: &Log, first: Lsn, workload: &Workload, window: &Window<'_>) -> Result<u64, Stop> {
    let mut counted = Counted { window, records: 0, chunk: 0 };
    loop {
        if workload.kind == Kind::ReadBatches {
            let mut reader = log.reader(first)?;
            for _ in 0..READ_BATCHES {
                let Some(batch) = reader.next_batch() else { break };
                let batch = batch?;
                batch.iter().for_each(|record| {
                    black_box(record);
                });
                if !counted.add(batch.iter().len() as u64) {
                    return Ok(counted.records);
                }
            }
            continue;
        }
        for record in kept(log, first, workload)? {
            black_box(&record?.data[..]);
            if !counted.add(1) {
                return Ok(counted.records);
            }
        }
    }
}

/// Copies and checksums as many records in memory: the yardstick of reading. As many, because what
/// fits the CPU's cache is copied ten times as fast as what is read from the page cache.
pub fn memory(
    workload: &Workload,
    records: &[Vec<u8>],
    pace: Pace,
    stop: &AtomicBool,
) -> Result<Sample, Stop> {
    let bytes = records.concat().repeat(READ_BATCHES);
    let records: Vec<&[u8]> = bytes.chunks(workload.record_bytes).collect();
    let batches: Vec<_> = records.chunks(workload.batch).collect();
    let window = Window::after(pace.lead_in, pace.length, stop);
    let body = || Ok(Memory::new(batches[0]).run(&batches, &window));
    let (counts, before, after) = watch(&window, 1, None, body)?;
    let batches = counts.iter().sum();
    Ok(Sample {
        seconds: window.length().as_secs_f64(),
        batches,
        records: batches * workload.batch as u64,
        looked: (after.at - before.at).as_secs_f64(),
        cpu: after.cpu.since(before.cpu),
        ..Sample::default()
    })
}
