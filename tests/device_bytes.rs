//! What a durable record costs in bytes that go to the device, as the kernel counts them.
//!
//! One process, one test: `/proc/self/io` counts for all of its threads. It counts what is written
//! by position through the page cache in whole folios, up to a MiB, of which the file system then
//! writes the dirty blocks only: such writes are left out.
#![cfg(all(target_os = "linux", not(prkdb_portable)))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use prkdb_core::{Backend, Wal, WalConfig};

mod support;

const APPENDS: u64 = 400;
const BLOCK: u64 = 4096;

/// Bytes that this process made dirty in the page cache or wrote past it.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse().unwrap()
}

/// Waits until nothing is made ahead any more.
fn settle() {
    let mut before = written();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let now = written();
        if now == before {
            return;
        }
        before = now;
    }
    panic!("something writes without end");
}

/// Bytes that `APPENDS` durable records cost.
fn cost(wal: &Wal) -> u64 {
    settle();
    let before = written();
    for _ in 0..APPENDS {
        wal.append_batch(["x"]).unwrap().wait().unwrap();
    }
    wal.truncate_before(wal.next_lsn()).unwrap();
    written() - before
}

#[test]
fn a_durable_record_costs_one_block() {
    if std::fs::read_to_string("/proc/self/io").is_err() {
        return support::skip("bytes to the device", "no /proc/self/io here");
    }
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for backend in support::backends(root.path()) {
        let (disk, _) = prkdb_core::io::open_disk(root.path(), backend).unwrap();
        if !disk.direct() && backend != Backend::Mmap {
            support::skip(format_args!("bytes to the device on {backend}"), "no O_DIRECT here");
            continue;
        }
        // Through several segments, cut, so that those that come next are made of old ones.
        let dir = root.path().join(backend.name());
        let config = WalConfig { backend, segment_bytes: 8 << 20, ..WalConfig::new(dir) };
        let wal = Wal::open(config).unwrap();
        for _ in 0..3 {
            support::fill(&wal, 1, 12_000, 50);
            wal.truncate_before(wal.next_lsn()).unwrap();
        }
        // A maker that got no core for a while may still write: the least of a few counts.
        let bytes = (0..3).map(|_| cost(&wal)).min().unwrap();
        println!("{backend}: {bytes} bytes for {APPENDS} durable records");
        if bytes == 0 {
            support::skip("bytes to the device", "this file system has none");
            continue;
        }
        assert!(bytes >= APPENDS * BLOCK, "{backend}: {bytes}: the kernel counts otherwise");
        // A few headers, footers and marks come in between.
        assert!(bytes <= (APPENDS + 40) * BLOCK, "{backend}: {bytes} for {APPENDS} records");
    }
}
