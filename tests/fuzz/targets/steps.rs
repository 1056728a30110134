//! What may happen in the life of a log, as a fuzzer's bytes say it.

use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults};
use prkdb_core::{
    BatchConfig, CompressionConfig, CompressionType, Durability, SyncMethod, WalConfig,
};

use super::input::Input;

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    Append {
        records: Vec<Vec<u8>>,
        durability: Durability,
    },
    /// Wait for all answers.
    Wait,
    Pass(Duration),
    Read,
    /// Cut before the first record and so many.
    TruncateBefore(u64),
    /// Cut all behind the last record less so many.
    TruncateAfter(u64),
    UserState(Vec<u8>),
    /// Close and open.
    Reopen,
    /// Drop and open.
    Drop,
    Crash(CrashKind),
    /// From now on.
    Faults(Box<Faults>),
}

impl Step {
    pub fn next(input: &mut Input<'_>) -> Step {
        match input.pick(16) {
            0..5 => append(input),
            5 => Step::Wait,
            6 => Step::Pass(Duration::from_micros(1 << input.pick(22))),
            7 => Step::Read,
            8 => Step::TruncateBefore(input.byte().into()),
            9 => Step::TruncateAfter(input.byte().into()),
            10 => {
                let len = input.size(1);
                Step::UserState(input.take(len).to_vec())
            }
            11 => Step::Reopen,
            12 => Step::Drop,
            13 => Step::Crash(CrashKind::Kill),
            14 => Step::Crash(CrashKind::Power),
            _ => Step::Faults(Box::new(faults(input))),
        }
    }
}

/// A batch: how many records, how long, of which byte.
fn append(input: &mut Input<'_>) -> Step {
    let durability = [Durability::Sync, Durability::Written, Durability::Queued][input.pick(3)];
    let (count, len) = (1 + input.pick(8), input.byte());
    // Mostly small; from 224 on up to 96 KiB, so that segments are rolled.
    let len = if len < 224 { usize::from(len) } else { usize::from(len - 223) * 3072 };
    let fill = input.byte();
    let records = (0..count).map(|i| vec![fill.wrapping_add(i.to_le_bytes()[0]); len]).collect();
    Step::Append { records, durability }
}

/// Rates in steps of 4 per mille, and where the world ends, counted from here.
fn faults(input: &mut Input<'_>) -> Faults {
    let mut rates = [0; 7];
    let which = input.byte();
    for (i, rate) in rates.iter_mut().enumerate() {
        if which & 1 << i != 0 {
            *rate = u32::from(input.byte()) * 4;
        }
    }
    let [short_write, interrupted, late, write_eio, sync_eio, read_eio, enospc] = rates;
    let crash_at = (which & 128 != 0).then(|| 1 + input.number(2) % 500);
    let rates = Faults { short_write, interrupted, late, write_eio, sync_eio, ..Faults::default() };
    Faults { read_eio, enospc, crash_at, ..rates }
}

/// How a log is opened.
pub fn config(input: &mut Input<'_>, dir: &str) -> WalConfig {
    let kind = CompressionType::ALL[input.pick(4)];
    let methods = [SyncMethod::Auto, SyncMethod::Dsync, SyncMethod::Fdatasync];
    WalConfig {
        segment_bytes: 1 << 20,
        num_segments: [1, 1, 2, 5][input.pick(4)],
        depth: [1, 2, 8, 32][input.pick(4)],
        sync_method: methods[input.pick(3)],
        batch_config: BatchConfig {
            linger_ms: [0, 1, 10][input.pick(3)],
            max_buffer_bytes: [1, 8 << 10, 1 << 20][input.pick(3)],
            ..BatchConfig::default()
        },
        compression: CompressionConfig {
            compression_type: if kind.is_built_in() { kind } else { CompressionType::None },
            min_compress_bytes: 64,
            ..CompressionConfig::none()
        },
        ..WalConfig::new(dir)
    }
}
