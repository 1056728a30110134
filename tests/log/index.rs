//! The sparse index of a segment is as fine as it was asked to be, and reads find their way by it.

use prkdb_core::{Lsn, Wal, WalConfig};

use crate::support::format::{block_size, u32_at};
use crate::support::{config, on_each_backend, record, segments};

/// Entries in the footer of each sealed segment, by the format's document.
fn entries(dir: &std::path::Path) -> Vec<usize> {
    let footer = |path| {
        let bytes = std::fs::read(path).unwrap();
        let at = bytes.len() - block_size(&bytes);
        bytes[at..].starts_with(b"PRKDBEND").then(|| u32_at(&bytes, at + 80))
    };
    segments(dir).iter().filter_map(footer).collect()
}

#[test]
fn a_shorter_interval_makes_more_entries() {
    on_each_backend(|dir, backend| {
        let mut counts = Vec::new();
        for every in [1 << 30, 64 << 10, 16 << 10] {
            let dir = dir.join(every.to_string());
            let config = WalConfig { index_interval_bytes: every, ..config(&dir, backend) };
            let wal = Wal::open(config).unwrap();
            // One group each, a block or two; three segments of a MiB.
            for lsn in 1..=400 {
                wal.append_batch([[&record(1, lsn)[..], &[0; 4096]].concat()])
                    .unwrap()
                    .wait()
                    .unwrap();
            }
            for lsn in [1, 57, 200, 400] {
                let data = wal.read(Lsn::new(lsn)).unwrap().data;
                assert!(data.starts_with(&record(1, lsn)));
            }
            wal.close().unwrap();
            counts.push(entries(&dir)[0]);
        }
        let [none, coarse, fine] = counts[..] else { panic!("three logs") };
        assert_eq!(none, 1);
        assert!((8..=17).contains(&coarse), "{coarse} entries, one every 64 KiB of a MiB");
        assert!((32..=64).contains(&fine), "{fine} entries, one every 16 KiB of a MiB");
    });
}
