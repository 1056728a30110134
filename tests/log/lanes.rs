//! SIGKILL while groups are in flight on four open segments, on a real kernel.
//!
//! ```text
//! life: append on four lanes, acks -> SIGKILL -> read without a writer: all that was acknowledged,
//!       each record whole, none of it another's  -> open with other lanes, close, verify
//! ```
//!
//! And damage in one of them is told of that one.
//!
//! `PRKDB_LANE_KILLS` asks for another number of kills than 24, shared among the backends.

use prkdb_core::{Backend, ErrorKind, Lsn, ReadOnlyWal, Wal, WalConfig};

use crate::support::{self, append_and_kill, config, contents, fill, format, record};

#[test]
fn what_was_acknowledged_on_four_lanes_survives_sigkill() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let kills = std::env::var("PRKDB_LANE_KILLS").map_or(24, |kills| kills.parse().unwrap());
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for life in 4..4 + kills {
        let acks = usize::try_from(life % 30 * 3 + 1).unwrap();
        let acked = append_and_kill(&dir, life, acks);
        let after = contents(&dir);
        assert!(after.len() as u64 >= acked, "life {life}: {acked} acknowledged");
        assert!(after.len() > kept.len(), "life {life}: its records are gone");
        assert!(after[..kept.len()] == kept[..], "life {life}: older records changed");
        for (at, bytes) in after.iter().enumerate().skip(kept.len()) {
            assert!(*bytes == record(life, at as u64 + 1), "life {life}: record {}", at + 1);
        }
        if life % 3 == 0 {
            let num_segments = 1 + usize::try_from(life % 5).unwrap();
            let config = WalConfig { num_segments, ..config(&dir, Backend::Auto) };
            Wal::open(config).unwrap().close().unwrap();
            ReadOnlyWal::verify(&dir, &mut |f| panic!("life {life}: {f:?}"), &mut |_, _| {})
                .unwrap();
            assert!(contents(&dir) == after, "life {life}: opening changed records");
        }
        kept = after;
    }
}

/// The others show a later record there, as they should.
#[test]
fn a_frame_that_became_zeros_is_missed_in_its_own_segment() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let config = WalConfig { num_segments: 4, ..config(&dir, Backend::Auto) };
    let wal = Wal::open(config).unwrap();
    fill(&wal, 1, 3000, 10);
    wal.close().unwrap();
    let segments = support::segments(&dir);
    let frames = segments.iter().flat_map(|path| format::frames(path).0);
    let frames: Vec<_> = frames.filter(|frame| frame.sealed).collect();
    assert!(frames.len() > 100, "{} frames", frames.len());
    for frame in frames.iter().step_by(7) {
        let before = std::fs::read(&frame.path).unwrap();
        format::change(&frame.path, frame.offset..frame.offset + frame.len, |b| b.fill(0));
        let log = ReadOnlyWal::open(&dir);
        let read = log.and_then(|log| log.read(Lsn::new(frame.first)));
        std::fs::write(&frame.path, before).unwrap();
        let missed = read.unwrap_err();
        assert_eq!(missed.kind(), ErrorKind::Corrupt, "{missed}");
        assert_eq!(missed.path(), Some(frame.path.as_path()), "{frame:?}: {missed}");
    }
}
