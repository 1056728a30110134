//! The same calls on other disks with other options: the same log.
//!
//! ```text
//! calls drawn by seed --fold--> what the log must be
//!        '--> 4 times: model, faults that pass, options drawn anew at each open --> what it is
//! ```

use prkdb_core::io::sim::{CrashKind, Faults, Model, Rng, Sim};
use prkdb_core::{
    Append, CompressionType, Durability, Lsn, RecoveryPolicy, SyncMethod, Wal, WalConfig,
};

/// What a log holds: its first LSN, its records, the user's state.
type Content = (u64, Vec<Vec<u8>>, Vec<u8>);

/// A call that changes a log.
#[derive(Clone, Debug)]
enum Call {
    Append(Vec<Vec<u8>>, Durability),
    Before(u64),
    After(u64),
    Reset(u64),
    State(Vec<u8>),
    Reopen { crash: bool },
}

/// Calls that are all legal, and the log they make.
fn draw_calls(rng: &mut Rng) -> (Vec<Call>, Content) {
    let (mut first, mut log, mut state) = (1, Vec::new(), Vec::new());
    let calls = (0..30).map(|i| {
        let next = first + log.len() as u64;
        match rng.below(20) {
            0 => {
                let to = first + rng.below(next + 1 - first);
                log.drain(..usize::try_from(to - first).expect("a small log"));
                first = to;
                Call::Before(to)
            }
            1 => {
                let keep = first - 1 + rng.below(next + 1 - first);
                log.truncate(usize::try_from(keep + 1 - first).expect("a small log"));
                Call::After(keep)
            }
            2 if rng.chance(300) => {
                (first, log) = (1 + rng.below(next + 20), Vec::new());
                Call::Reset(first)
            }
            3 => {
                state = format!("term {i}").into_bytes();
                Call::State(state.clone())
            }
            4 => Call::Reopen { crash: rng.chance(500) },
            _ => {
                let len = rng.pick(&[0, 1, 100, 5000, 120_000]);
                let count = 1 + rng.below(4);
                let fill = |j: u64| vec![rng_byte(i, j); len];
                let batch: Vec<Vec<u8>> = (0..count).map(fill).collect();
                log.extend(batch.iter().cloned());
                let levels = [Durability::Sync, Durability::Written, Durability::Queued];
                Call::Append(batch, rng.pick(&levels))
            }
        }
    });
    let calls = calls.collect();
    (calls, (first, log, state))
}

fn rng_byte(i: u64, j: u64) -> u8 {
    (i * 7 + j).to_le_bytes()[0]
}

fn wait_all(tickets: &mut Vec<Append>) {
    for ticket in tickets.drain(..) {
        ticket.wait().expect("nothing fails");
    }
}

/// Anything that must not matter.
fn options(rng: &mut Rng) -> WalConfig {
    let mut config = WalConfig::new(crate::life::DIR);
    config.num_segments = rng.pick(&[1, 2, 4]);
    config.depth = rng.pick(&[1, 2, 8, 32]);
    config.segment_bytes = rng.pick(&[1 << 20, 2 << 20]);
    config.sync_method = rng.pick(&[SyncMethod::Dsync, SyncMethod::Fdatasync]);
    config.batch_config.linger_ms = rng.pick(&[0, 5]);
    config.batch_config.max_batch_size = rng.pick(&[1, 10, 1000]);
    config.batch_config.max_buffer_bytes = rng.pick(&[1, 8 << 10, 1 << 20]);
    let codec = rng.pick(&CompressionType::ALL);
    if codec.is_built_in() {
        config.compression.compression_type = codec;
        config.compression.min_compress_bytes = rng.pick(&[0, 256]);
    }
    config.index_interval_bytes = rng.pick(&[1, 4 << 10, 64 << 10]);
    config.wipe_retired = rng.chance(300);
    config.recovery =
        rng.pick(&[RecoveryPolicy::TornTail, RecoveryPolicy::PointInTime, RecoveryPolicy::Salvage]);
    config
}

/// Makes the calls on a disk and with options drawn for `variant`.
fn carry_out(seed: u64, variant: u64, calls: &[Call]) -> Content {
    let mut rng = Rng::stream(seed, 10 + variant);
    let faults = Faults {
        short_write: rng.pick(&[0, 100]),
        interrupted: rng.pick(&[0, 100]),
        late: rng.pick(&[0, 200]),
        ..Faults::default()
    };
    let sim = Sim::new(seed * 100 + variant, Model::draw(&mut rng), faults);
    let mut wal = Wal::open_in(sim.world(), options(&mut rng)).expect("nothing is in the way");
    let mut tickets: Vec<Append> = Vec::new();
    for call in calls {
        let done = match call {
            Call::Append(batch, level) => {
                wal.with(*level).append_batch(batch).map(|ticket| tickets.push(ticket))
            }
            Call::Before(lsn) => {
                // Only what has its place can be cut.
                wait_all(&mut tickets);
                wal.truncate_before(Lsn::new(*lsn))
            }
            Call::After(keep) => wal.truncate_after(Lsn::new(*keep)),
            Call::Reset(next) => wal.reset_to(Lsn::new(*next)),
            Call::State(state) => wal.set_user_state(state),
            Call::Reopen { crash } => {
                let old = wal;
                let done = if *crash {
                    old.append_batch([b""])
                        .and_then(|t| t.wait())
                        .and_then(|range| old.truncate_after(range.first().prev()))
                } else {
                    old.close()
                };
                if *crash {
                    sim.crash(rng.pick(&[CrashKind::Kill, CrashKind::Power]));
                }
                wal = Wal::open_in(sim.world(), options(&mut rng)).expect("nothing is in the way");
                done
            }
        };
        done.unwrap_or_else(|e| panic!("seed {seed}, variant {variant}, {call:?}: {e}"));
    }
    wait_all(&mut tickets);
    let all = wal.next_lsn().prev();
    wal.wait_durable(all).expect("it is there").wait().expect("nothing fails");
    let first = wal.first_lsn();
    let read = wal.reader(first).expect("it starts there");
    let log = read.map(|read| read.expect("nothing is damaged").data.to_vec()).collect();
    let content = (first.get(), log, wal.user_state());
    wal.close().expect("a healthy world closes");
    assert_eq!(sim.held(), Default::default(), "I10: seed {seed}, variant {variant}");
    content
}

#[test]
fn the_same_calls_make_the_same_log_on_every_disk_with_any_options() {
    // Others each night.
    let start = crate::number("PRKDB_SIM_START").unwrap_or(0);
    for seed in start..start + 60 {
        let (calls, expected) = draw_calls(&mut Rng::stream(seed, 9));
        for variant in 0..4 {
            let (first, log, state) = carry_out(seed, variant, &calls);
            let sizes = |log: &[Vec<u8>]| log.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(first, expected.0, "seed {seed}, variant {variant}: {calls:?}");
            let same = log == expected.1 && state == expected.2;
            let (got, want) = (sizes(&log), sizes(&expected.1));
            assert!(same, "seed {seed}, variant {variant}: {got:?}, not {want:?}");
        }
    }
}
