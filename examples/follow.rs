//! How do I follow a log that somebody else writes?
//!
//! A child process writes events and cuts old ones. This process follows with a `ReadOnlyWal`: no
//! lock, no connection to the writer. Once it is held up until the writer has cut what it would
//! have read next: it is told `Truncated`, and starts anew from the first record there is.
//!
//! Run with `cargo run --example follow [DIR]`; its folder under DIR (default `target`) is removed
//! at the end.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use prkdb_core::{ErrorKind, ReadOnlyWal, Reader, Wal, WalConfig};

const EVENTS: u64 = 200;
/// The writer cuts after so many events, all but the last few.
const CUT_EVERY: u64 = 50;
const KEPT: u64 = 20;
const END: &str = "the end";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = &args[..]
        && role == "--writer"
    {
        return Ok(write(dir)?);
    }
    let root = Path::new(args.first().map_or("target", String::as_str));
    let dir = root.join(format!("follow-{}", std::process::id()));
    // So that there is a log to follow before its writer runs.
    Wal::open(WalConfig::new(&dir))?.close()?;
    let log = ReadOnlyWal::open(&dir)?;
    let mut writer = Command::new(std::env::current_exe()?).arg("--writer").arg(&dir).spawn()?;
    let outcome = follow(log, &mut writer);
    if outcome.is_err() {
        writer.kill()?;
    }
    writer.wait()?;
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn write(dir: &str) -> prkdb_core::Result<()> {
    let wal = Wal::open(WalConfig::new(dir))?;
    for number in 1..=EVENTS {
        let end = wal.append_batch([format!("event {number}")])?.wait()?.end();
        if number % CUT_EVERY == 0 {
            wal.truncate_before((end.get() - KEPT).into())?;
        }
        sleep(Duration::from_millis(2));
    }
    wal.append_batch([END])?.wait()?;
    wal.close()
}

fn follow(mut log: ReadOnlyWal, writer: &mut Child) -> Result<(), Box<dyn Error>> {
    // At its end it gives none, and after a `refresh` that saw more it goes on.
    let mut reader = start(&log)?;
    let (mut read, mut missed) = (0, 0);
    loop {
        let before = reader.next_lsn();
        let looked = look(&mut reader);
        let next = reader.next_lsn();
        read += next.get() - before.get();
        match looked {
            Ok(true) => break,
            Ok(false) if next > before => println!("read {before} to {}", next.prev()),
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::Truncated => {
                log.refresh()?;
                reader = start(&log)?;
                missed += reader.next_lsn().get() - next.get();
                println!("{e}: missed {next} to {}", reader.next_lsn().prev());
                continue;
            }
            Err(e) => return Err(e.into()),
        }
        // Held up once, or it would keep pace.
        while !log.refresh()?
            || (missed == 0 && read > 0 && log.first_lsn().is_none_or(|first| first <= next))
        {
            match writer.try_wait()? {
                Some(status) if !status.success() => {
                    return Err(format!("the writer failed: {status}").into());
                }
                Some(_) => {
                    log.refresh()?;
                    break;
                }
                None => sleep(Duration::from_millis(20)),
            }
        }
    }
    assert_eq!(read + missed, EVENTS + 1);
    println!("followed to the end: read {read} records, missed {missed}");
    Ok(())
}

/// A reader at the first record there is, or there will be.
fn start(log: &ReadOnlyWal) -> prkdb_core::Result<Reader> {
    log.reader(log.first_lsn().unwrap_or(log.next_lsn()))
}

/// Reads what there is; true if the last record of all was among it.
fn look(reader: &mut Reader) -> prkdb_core::Result<bool> {
    for record in reader {
        if *record?.data == *END.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}
