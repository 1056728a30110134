//! `prkdb cat`: the records of a log, byte for byte or as JSON lines.
//!
//! Nothing in the directory is changed, so it may be used beside a process that writes the log: it
//! then shows what that process has promised so far.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use prkdb_core::{ErrorKind, Lsn, ReadOnlyWal, Reader, Record};

use crate::outcome::{Stop, say};

const BUFFER_BYTES: usize = 1 << 20;
/// How long `--follow` sleeps when there was nothing new, milliseconds.
const FOLLOW_PAUSE_MS: u16 = 100;

/// Print the records, a newline after each.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
    /// The first record to print; by default the first there is.
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Print at most so many records.
    #[arg(long, value_name = "RECORDS")]
    limit: Option<u64>,
    /// Go on with records that another process appends, until stopped.
    #[arg(long)]
    follow: bool,
    /// Stop before records that a writer who died had written and promised to nobody: a power cut
    /// can take those until another one opens the log.
    #[arg(long)]
    promised: bool,
    /// Print JSON lines: lsn, time_us (microseconds since 1970), len, data_base64.
    #[arg(long)]
    json: bool,
}

/// Prints the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let mut wal = ReadOnlyWal::open(&args.dir)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let start = args.from.map(Lsn::new).or(wal.first_lsn()).unwrap_or(wal.next_lsn());
    let mut printer = Printer::new(args.json);
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    // One reader to the end: it knows what it gave, so that a cut below that is an error, not a
    // seam between two histories.
    let mut reader = wal.reader(start)?;
    if start >= wal.next_lsn() && args.from.is_some() && !args.follow {
        say(format_args!("prkdb cat: nothing from {start} on; the next LSN is {}", wal.next_lsn()));
    }
    loop {
        let before = left;
        // Where all is promised the reader ends by itself, and hears of cuts.
        let bounded = args.promised && wal.promised_lsn() < wal.durable_lsn();
        let last = if bounded { wal.promised_lsn() } else { Lsn::MAX };
        if start > last && args.from.is_some() && !args.follow {
            say(format_args!("prkdb cat: nothing from {start} on is promised; {last} is the last"));
        }
        let read = copy(&mut reader, last, &mut left, &mut printer);
        // What was read before an error is right, so it is shown before the error is.
        printer.flush()?;
        read?;
        if !args.follow || left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        if left == before {
            pause()?;
        }
        // Whether it brought more or not: also a log that was only cut is news.
        wal.refresh()?;
    }
}

/// Prints to the end of what is served, up to `last`, at most `left` records.
fn copy(reader: &mut Reader, last: Lsn, left: &mut u64, printer: &mut Printer) -> Result<(), Stop> {
    while *left > 0
        && reader.next_lsn() <= last
        && let Some(record) = reader.next()
    {
        match record {
            // Told once, and the reader goes on behind it.
            Err(e) if e.kind() == ErrorKind::Lost => say(format_args!("prkdb cat: {e}")),
            record => {
                printer.print(&record?)?;
                *left -= 1;
            }
        }
    }
    Ok(())
}

/// Waits until it is time to look again; ends the command if nobody reads stdout any more, which
/// no write would tell while there is nothing to write.
fn pause() -> Result<(), Stop> {
    let stdout = io::stdout();
    // No event is asked for: that the other end of a pipe was closed is told all the same.
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut fds, FOLLOW_PAUSE_MS) {
        // A signal that does not end the process: look earlier.
        Ok(0) | Err(Errno::EINTR) => Ok(()),
        Ok(_) => Err(Stop::PipeClosed),
        Err(e) => Err(Stop::stdout(&e.into())),
    }
}

/// Writes records to stdout in large pieces.
struct Printer {
    out: BufWriter<io::StdoutLock<'static>>,
    json: bool,
    base64: String,
}

impl Printer {
    fn new(json: bool) -> Printer {
        let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
        Printer { out, json, base64: String::new() }
    }

    fn print(&mut self, record: &Record) -> Result<(), Stop> {
        let written = if self.json {
            self.base64.clear();
            STANDARD.encode_string(&record.data, &mut self.base64);
            let (lsn, time_us, len) = (record.lsn, record.time_us, record.data.len());
            writeln!(
                self.out,
                r#"{{"lsn":{lsn},"time_us":{time_us},"len":{len},"data_base64":"{}"}}"#,
                self.base64
            )
        } else {
            self.out.write_all(&record.data).and_then(|()| self.out.write_all(b"\n"))
        };
        written.map_err(|e| Stop::stdout(&e))
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(|e| Stop::stdout(&e))
    }
}
