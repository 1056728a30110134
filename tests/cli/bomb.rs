//! A few bytes that would be many: they may cost an error, never the memory. Nor may many bytes
//! that are read one after the other.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use prkdb_core::{Durability, ReadOnlyWal, Wal, WalConfig};

use crate::format::{self, forge};
use crate::support::run_ok;
use crate::{segments, zeros};

const BOMB: usize = 256 << 20;
/// The longest body of one record.
const MOST: usize = (32 << 20) + 8;
/// All the memory that the command gets: its address space, KiB.
const LITTLE: usize = 192 << 10;

/// Runs the command with less memory than a bomb would fill.
fn run_in_little_memory(command: &str, dir: &Path) -> Output {
    let limited = format!("ulimit -v {LITTLE}; exec \"$0\" \"$@\"");
    let prkdb = env!("CARGO_BIN_EXE_prkdb");
    Command::new("sh").args(["-c", &limited, prkdb, command]).arg(dir).output().unwrap()
}

#[test]
fn a_bomb_is_corrupt_and_takes_no_memory() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], &vec![b'x'; 2_000_000]);
    let found = segments(root.path()).into_iter().flat_map(|path| format::frames(&path).0);
    let frame = found.last().unwrap();
    let whole = fs::read(&frame.path).unwrap();
    for (codec, stored) in [
        (1, zeros::lz4(BOMB)),
        (2, zeros::snappy(BOMB / 8, MOST)),
        (3, zeros::zstd(BOMB, BOMB)),
        (3, zeros::zstd(BOMB, MOST)),
    ] {
        let mut forged = whole.clone();
        forge(&mut forged, &frame, codec, MOST, &stored);
        fs::write(&frame.path, &forged).unwrap();
        for command in ["cat", "verify"] {
            let output = run_in_little_memory(command, root.path());
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert_eq!(output.status.code(), Some(1), "{command}, codec {codec}: {told}");
            let place = frame.path.to_str().unwrap();
            assert!(told.contains(place) && told.contains("corrupt"), "{command}: {told}");
        }
    }
    // A body of that size, if it is one, is read in that memory.
    fs::write(&frame.path, &whole).unwrap();
    assert_eq!(run_in_little_memory("verify", root.path()).status.code(), Some(0));
}

/// Two of its segments hold more than `verify` may take, and so would a kilobyte for each frame.
#[test]
fn verify_of_a_large_log_takes_little_memory() {
    const LARGE: usize = 1 << 20;
    const SMALL: usize = 100;
    let root = tempfile::tempdir().unwrap();
    let config = WalConfig { segment_bytes: 112 << 20, ..WalConfig::new(root.path()) };
    let wal = Wal::open(config).unwrap();
    let (record, mut records) = (vec![7; LARGE], 0u64);
    for _ in 0..320 {
        // Each record is a frame.
        for size in [LARGE].into_iter().chain([SMALL; 1000]) {
            drop(wal.with(Durability::Queued).append_batch([&record[..size]]).unwrap());
            records += 1;
        }
    }
    wal.close().unwrap();
    let size = ReadOnlyWal::open(root.path()).unwrap().stat().size_bytes;
    assert!(size > (LITTLE as u64) * 3 / 2 * 1024, "{size} bytes: this proves nothing");
    let output = run_in_little_memory("verify", root.path());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let all = format!("{records} records in {records} frames");
    assert!(told.contains(&all), "not {all}: {told}");
}
