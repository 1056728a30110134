//! `prkdb append`: lines of stdin into the log, many batches in flight.
//!
//! ```text
//!  feeder thread                                    main thread
//!  stdin -> Feed -> Batch -> wal.append_batch --+
//!       (waits for more lines, for room)        | ticket --> wait() -> `acked FIRST LAST`
//!                                               +-- bounded queue, in order
//! ```
//!
//! Invariants: (1) tickets are waited for in the order of the lines, so what is said to be
//! acknowledged is a prefix of the input; (2) at most `MAX_TICKETS` are outstanding; (3) the main
//! thread never waits for stdin: a failure is told while the input stands still.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use prkdb_core::{
    Append, Backend, Batch, CompressionType, Durability, Lsn, LsnRange, MAX_BATCH_RECORDS, Wal,
    WalConfig,
};

use crate::feed::Feed;
use crate::outcome::{Stop, print, say};
use crate::{backend, json, progress};

const MAX_TICKETS: usize = 4096;

/// Append each line of stdin as a record (without its newline; any other byte is kept).
///
/// Creates the log if there is none. When it ends with status 0 every record survives power loss,
/// whatever the durability each batch was acknowledged with.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory; missing parents are made.
    dir: PathBuf,
    /// How bytes get to the disk.
    #[arg(long, default_value = "auto", value_parser = backend::any())]
    backend: Backend,
    /// What a batch waits for before it is acknowledged.
    #[arg(long, value_enum, default_value_t)]
    durability: Level,
    /// Records in a batch at most, which is in the log whole or not at all. Fewer where stdin ends,
    /// or a second after its first line.
    #[arg(long, value_name = "RECORDS", default_value_t = 1000, value_parser = batch_size)]
    batch: usize,
    /// How batches are compressed; cat, verify and stat read all of them.
    #[arg(long, default_value = "none", value_parser = codec())]
    codec: CompressionType,
    /// Print `acked FIRST LAST` (inclusive) as soon as these records are acknowledged.
    #[arg(long)]
    acks: bool,
    /// End with one line of figures as JSON; seconds run until all is durable, without opening.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Level {
    /// it is on stable storage: survives power loss
    #[default]
    Sync,
    /// its write completed: survives a killed process
    Written,
    /// its place in the log is reserved: survives nothing
    Queued,
}

impl From<Level> for Durability {
    fn from(level: Level) -> Durability {
        match level {
            Level::Sync => Durability::Sync,
            Level::Written => Durability::Written,
            Level::Queued => Durability::Queued,
        }
    }
}

/// Takes the name of a codec.
fn codec() -> impl TypedValueParser<Value = CompressionType> {
    let value = |kind: &CompressionType| match kind {
        CompressionType::None => PossibleValue::new(kind.name()).help("as they are"),
        CompressionType::Lz4 => PossibleValue::new(kind.name()).help("little CPU time"),
        CompressionType::Snappy => PossibleValue::new(kind.name()).help("for other programs"),
        _ => PossibleValue::new(kind.name()).help("fewer bytes, more CPU time"),
    };
    PossibleValuesParser::new(CompressionType::ALL.iter().map(value))
        .try_map(|name| name.parse::<CompressionType>())
}

fn batch_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(records) if (1..=MAX_BATCH_RECORDS).contains(&records) => Ok(records),
        _ => Err(format!("must be a number from 1 to {MAX_BATCH_RECORDS}")),
    }
}

/// A batch on its way, and the bytes of its records.
type Ticket = (Append, u64);

/// What was acknowledged so far.
#[derive(Default)]
struct Acked {
    records: u64,
    bytes: u64,
    first: Option<Lsn>,
    last: Option<Lsn>,
}

impl Acked {
    fn add(&mut self, range: LsnRange, bytes: u64) {
        self.records += u64::from(range.count());
        self.bytes += bytes;
        self.first.get_or_insert(range.first());
        self.last = Some(range.last());
    }

    /// For people.
    fn told(&self) -> String {
        let Acked { records, bytes, .. } = self;
        match (self.first, self.last) {
            (Some(first), Some(last)) if first == last => {
                format!("{records} record, {bytes} bytes, LSN {first}")
            }
            (Some(first), Some(last)) => {
                format!("{records} records, {bytes} bytes, LSN {first} to {last}")
            }
            _ => "no record".into(),
        }
    }
}

/// Appends stdin to the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let mut config = WalConfig::new(&args.dir);
    config.backend = args.backend;
    config.durability = args.durability.into();
    config.compression.compression_type = args.codec;
    let wal = Arc::new(Wal::open(config)?);
    tell_opening(&wal);

    let started = Instant::now();
    let (sender, tickets) = sync_channel(MAX_TICKETS);
    let feeder = {
        let (wal, batch) = (Arc::clone(&wal), args.batch);
        let feed = move || feed(io::stdin().lock(), &wal, batch, &sender);
        let thread = std::thread::Builder::new().name("prkdb-stdin".into());
        thread.spawn(feed).map_err(|e| Stop::Failed(format!("starting a thread: {e}")))?
    };
    let mut acked = Acked::default();
    let result = collect(args, &tickets, &mut acked);
    // Reached also by what was acknowledged as queued or written only.
    let durable = acked.last.map_or(Ok(()), |last| wal.wait_durable(last)?.wait().map(drop));
    if let Err(stop) = result.and_then(|()| Ok(durable?)) {
        // The feeder may be waiting for stdin for ever, so it is not joined and `wal` not closed:
        // the next open finds what is on disk, as after a kill.
        let why = match stop {
            Stop::Failed(why) => why,
            // Not the end of the work: more of stdin may have come, and nobody would know.
            Stop::PipeClosed => "stdout was closed before the end of stdin".into(),
        };
        if acked.records > 0 {
            say(format_args!("acknowledged: {}", acked.told()));
        }
        return Err(Stop::Failed(why));
    }
    feeder.join().map_err(|_| Stop::Failed("the thread that reads stdin panicked".into()))?;
    let seconds = started.elapsed().as_secs_f64();
    let (groups, backend) = (wal.metrics().groups, wal.backend().name);
    Arc::into_inner(wal).expect("the feeder, joined, had the only other one").close()?;
    finish(args, &acked, groups, seconds, backend)
}

/// Says what opening found that its user would want to know.
fn tell_opening(wal: &Wal) {
    let recovery = wal.recovery();
    for lost in &recovery.given_up {
        say(format_args!(
            "recovered: kept through LSN {}; {} bytes of {} from offset {} were never promised \
             and are cut",
            recovery.kept_through,
            lost.bytes,
            lost.path.display(),
            lost.offset,
        ));
    }
    let backend = wal.backend();
    if let Some(remedy) = backend.remedy {
        say(format_args!("writing with {} ({}): {remedy}", backend.name, backend.reason));
    }
}

/// Appends `input` batch by batch and hands the tickets on; ends with the input, at the first
/// error, or when nobody takes tickets any more.
fn feed(
    input: impl Read,
    wal: &Wal,
    batch_records: usize,
    tickets: &SyncSender<Result<Ticket, Stop>>,
) {
    let mut feed = Feed::new(input, stands_still, batch_records);
    let mut batch = Batch::new();
    loop {
        let filled = feed.fill(&mut batch);
        if !batch.is_empty() {
            let bytes = batch.record_bytes() as u64;
            let ticket = wal.append_batch(&batch).map(|ticket| (ticket, bytes));
            let failed = ticket.is_err();
            if tickets.send(ticket.map_err(Stop::from)).is_err() || failed {
                return;
            }
        }
        match filled {
            Ok(()) if batch.is_empty() => return,
            Ok(()) => {}
            Err(e) => {
                // Unheard only if the main thread has already ended with an error of its own.
                tickets.send(Err(Stop::Failed(format!("stdin: {e}")))).ok();
                return;
            }
        }
    }
}

/// Whether nothing comes from stdin for so long; the end of it comes too.
fn stands_still(time: Duration) -> bool {
    // Rounded up, for with 0 nothing is waited for.
    let timeout = u16::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            // What can't be waited for is read.
            polled => return polled == Ok(0),
        }
    }
}

/// Waits for each ticket in turn and says so.
fn collect(
    args: &Args,
    tickets: &Receiver<Result<Ticket, Stop>>,
    acked: &mut Acked,
) -> Result<(), Stop> {
    let bar = if args.acks { progress::hidden() } else { progress::of_stdin() };
    let result = tickets.iter().try_for_each(|item| {
        let (ticket, bytes) = item?;
        let range = ticket.wait()?;
        acked.add(range, bytes);
        bar.inc(bytes + u64::from(range.count()));
        if args.acks {
            print(&format!("acked {} {}", range.first(), range.last()))?;
        }
        Ok(())
    });
    bar.finish_and_clear();
    result
}

/// The closing figures: JSON on stdout if asked for, else a sentence on stderr.
fn finish(
    args: &Args,
    acked: &Acked,
    groups: u64,
    seconds: f64,
    backend: &str,
) -> Result<ExitCode, Stop> {
    if args.json {
        print(&json::object(&[
            ("records", acked.records.into()),
            ("bytes", acked.bytes.into()),
            ("first_lsn", json::lsn(acked.first)),
            ("last_lsn", json::lsn(acked.last)),
            ("groups", groups.into()),
            ("seconds", seconds.into()),
            ("backend", backend.into()),
        ]))?;
    } else {
        say(format_args!("appended {} ({backend})", acked.told()));
    }
    Ok(ExitCode::SUCCESS)
}
