//! SIGKILL while groups are in flight on four open segments, on a real kernel.
//!
//! ```text
//! life: append on four lanes, acks -> SIGKILL -> read without a writer: all that was acknowledged,
//!       each record whole, none of it another's  -> open with other lanes, close, verify
//! ```
//!
//! `PRKDB_LANE_KILLS` asks for another number of kills than 24, shared among the backends.

use prkdb_core::{Backend, ReadOnlyWal, Wal, WalConfig};

use crate::support::{append_and_kill, config, contents, record};

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
