//! The raw loop by positional writes, a thread for each write in flight: where there is no ring.
//!
//! Invariant: each thread has places of its own in the file, so that one that is late never meets
//! another that has come round.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::file::Aligned;
use super::{Count, Load, Method, RawFile, Window};

/// Runs `load` on as many threads as it has writes in flight.
pub(super) fn run(file: &RawFile, load: Load, window: &Window<'_>) -> io::Result<Count> {
    let counts: Vec<io::Result<Count>> = std::thread::scope(|scope| {
        let start = |thread| scope.spawn(move || write(file, load, window, thread));
        let threads: Vec<_> = (0..load.depth as u64).map(start).collect();
        let panicked = || io::Error::other("a thread of the raw loop panicked");
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let mut sum = Count::default();
    for count in counts {
        let count = count?;
        sum.writes += count.writes;
        sum.calls += count.calls;
        sum.latencies_ns.extend(count.latencies_ns);
    }
    Ok(sum)
}

fn write(file: &RawFile, load: Load, window: &Window<'_>, thread: u64) -> io::Result<Count> {
    let own = file.open_for(load.method)?;
    let mut buf = Aligned::noise(load.write_bytes);
    let mut count = Count::default();
    let places = file.places(load.write_bytes);
    let each = places / load.depth as u64;
    let mut next = 0;
    loop {
        let start = Instant::now();
        if window.is_over(start) {
            return Ok(count);
        }
        let (lap, place) = (next / each, thread * each + next % each);
        next += 1;
        buf.stamp(lap * places + place);
        let written = own.write_at(buf.bytes(), place * load.write_bytes as u64)?;
        if written != load.write_bytes {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "a raw write came back short"));
        }
        let syncs = load.method == Method::WriteThenFdatasync;
        if syncs {
            own.sync_data()?;
        }
        let now = Instant::now();
        if window.contains(now) {
            count.writes += 1;
            count.calls += 1 + u64::from(syncs);
        }
        if window.contains(start) {
            count.latencies_ns.push(u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX));
        }
    }
}
