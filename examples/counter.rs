//! How do I keep state that survives a crash?
//!
//! A counter. The log holds the increments; the user slot holds a snapshot: the value and the last
//! record that is in it. After a crash the value is the snapshot plus the records behind it, so
//! nothing is lost and nothing counted twice, wherever it was killed. What the snapshot covers is
//! cut from the log.
//!
//! Shown by doing it: this program starts itself as a child that counts, kills it (SIGKILL) at a
//! random moment, and looks at what is there. What this can't show is a power cut; an increment is
//! waited for with `Sync`, so it would be the same.
//!
//! Run with `cargo run --example counter [DIR] [--quick]`. Run again, it counts on.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use prkdb_core::{Lsn, Result, Wal, WalConfig};

/// So many records are replayed at most after a crash.
const SNAPSHOT_EVERY: u64 = 20;

struct Counter {
    wal: Wal,
    value: u64,
    /// The last record that is in `value`.
    counted: Lsn,
    /// The last record that is in the snapshot.
    covered: Lsn,
}

impl Counter {
    fn open(dir: &str) -> Result<Counter> {
        let wal = Wal::open(WalConfig::new(dir))?;
        // The slot is replaced whole or not at all; empty if there was no snapshot yet.
        let state = wal.user_state();
        let (mut value, covered) = (number(&state, 0), Lsn::new(number(&state, 1)));
        let mut counted = covered;
        // What the snapshot has in it may still be in the log: killed before it was cut.
        for record in wal.reader(covered.next())? {
            let record = record?;
            value += number(&record.data, 0);
            counted = record.lsn;
        }
        Ok(Counter { wal, value, counted, covered })
    }

    /// Adds `amount`; when it returns, the increment survives.
    fn add(&mut self, amount: u64) -> Result<u64> {
        self.counted = self.wal.append_batch([amount.to_le_bytes()])?.wait()?.last();
        self.value += amount;
        if self.counted.get() - self.covered.get() >= SNAPSHOT_EVERY {
            self.snapshot()?;
        }
        Ok(self.value)
    }

    /// First the snapshot, then the cut: killed in between, the records are there and skipped.
    fn snapshot(&mut self) -> Result<()> {
        let state = [self.value.to_le_bytes(), self.counted.get().to_le_bytes()].concat();
        self.wal.set_user_state(state)?;
        self.covered = self.counted;
        self.wal.truncate_before(self.covered.next())
    }
}

/// The `i`th number in `bytes`; 0 where there is none.
fn number(bytes: &[u8], i: usize) -> u64 {
    bytes.as_chunks().0.get(i).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = args.iter().find(|arg| !arg.starts_with("--"));
    let dir = dir.map_or("target/counter", String::as_str);
    if args.iter().any(|arg| arg == "--child") {
        return count_until_killed(dir);
    }
    let rounds = if args.iter().any(|arg| arg == "--quick") { 5 } else { 20 };
    let mut value = Counter::open(dir)?.value;
    let begin = value;
    for round in 1..=rounds {
        let acknowledged = kill_a_child(dir)?.unwrap_or(value);
        let counter = Counter::open(dir)?;
        let replayed = counter.counted.get() - counter.covered.get();
        let found = counter.value;
        println!("round {round}: said {acknowledged}, killed; found {found}, {replayed} replayed");
        // One more: it was durable, and the child was killed before it could say so.
        assert!((acknowledged..=acknowledged + 1).contains(&found));
        value = found;
    }
    println!("every acknowledged increment is counted once: {begin} to {value} in {rounds} kills");
    Ok(())
}

fn count_until_killed(dir: &str) -> std::result::Result<(), Box<dyn Error>> {
    let mut counter = Counter::open(dir)?;
    let mut out = std::io::stdout().lock();
    loop {
        // Said only when it is durable. Fails, and ends the child, if the parent is gone.
        writeln!(out, "{}", counter.add(1)?)?;
    }
}

/// The last value that a child said before it was killed, if it came that far.
fn kill_a_child(dir: &str) -> std::result::Result<Option<u64>, Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([dir, "--child"])
        .stdout(Stdio::piped())
        .spawn()?;
    let random = RandomState::new().hash_one(0);
    std::thread::sleep(Duration::from_micros(random % 300_000));
    child.kill()?;
    let output = child.wait_with_output()?;
    assert!(output.status.code().is_none(), "the child ended by itself");
    let said = String::from_utf8(output.stdout)?;
    Ok(said.lines().next_back().map(str::parse).transpose()?)
}
