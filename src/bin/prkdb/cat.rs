//! `prkdb cat`: the records of a log, byte for byte or as JSON lines.
//!
//! Nothing in the directory is changed, so it may be used beside a process that writes the log: it
//! then shows what that process has promised so far.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prkdb_core::{Lsn, ReadOnlyWal, Record};

use crate::outcome::Stop;

const BUFFER_BYTES: usize = 1 << 20;
/// How long `--follow` sleeps when there was nothing new.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

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
    /// Print JSON lines: lsn, time_us (microseconds since 1970), len, data_base64.
    #[arg(long)]
    json: bool,
}

/// Prints the log in `args.dir`.
pub fn run(args: &Args) -> Result<ExitCode, Stop> {
    let mut wal = ReadOnlyWal::open(&args.dir)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut next = args.from.map(Lsn::new).or(wal.first_lsn()).unwrap_or(Lsn::FIRST);
    let mut printer = Printer::new(args.json);
    loop {
        let read = copy(&wal, &mut next, &mut left, &mut printer);
        // What was read before an error is right, so it is shown before the error is.
        printer.flush()?;
        read?;
        if !args.follow || left == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        while !(wal.refresh()? && wal.durable_lsn() >= next) {
            std::thread::sleep(FOLLOW_PAUSE);
        }
    }
}

/// Prints from `next` to the end of what is durable, at most `left` records; moves both on.
fn copy(
    wal: &ReadOnlyWal,
    next: &mut Lsn,
    left: &mut u64,
    printer: &mut Printer,
) -> Result<(), Stop> {
    if *left == 0 {
        return Ok(());
    }
    for record in wal.reader(*next)? {
        let record = record?;
        printer.print(&record)?;
        *next = record.lsn.next();
        *left -= 1;
        if *left == 0 {
            break;
        }
    }
    Ok(())
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
