//! Bits that rot: after the last life one is flipped, and nothing wrong may be served (I7).
//!
//! A flip in a promised frame has to be reported where it is. One anywhere else in a closed log may
//! be survived or refused, never more.

use std::ops::Range;

use prkdb_core::{Error, ErrorKind, Wal};

use crate::damage::{self, HEADER_LEN, Spot};
use crate::life::{Life, Open, say};

impl Life {
    /// I7: one flipped bit in a promised frame is found where it is, or nothing wrong is served.
    pub fn damage(&mut self, wal: Open) {
        let (first, promised) = (wal.first_lsn().get(), wal.durable_lsn().get());
        self.calm_down();
        match self.rng.below(10) {
            0..4 => {
                self.append(&wal);
                self.crash(Some(wal));
            }
            4..7 => wal.close_healthy(),
            _ => {
                wal.close_healthy();
                return self.rot_anywhere(first..promised + 1);
            }
        }
        let spots = damage::promised_frames(&self.sim, &self.promises, promised);
        if spots.is_empty() {
            self.tally.spotless += 1;
            return;
        }
        self.tally.flips += 1;
        let spot = &spots[self.rng.index(spots.len())];
        let header = self.rng.chance(300);
        let within = if header { HEADER_LEN as u64 } else { spot.len };
        let at = self.rng.below(within);
        let bit = 1 << self.rng.below(8);
        self.sim.flip(&spot.path, spot.offset + at, bit).expect("it is inside");
        say!(self, "flipped byte {at}, bits {bit:#x} of {spot:?}");
        // A tag that became zero looks like padding: the damage is noticed at the next frame.
        let exact = at > 0 || bit != 1;
        let config = self.config();
        match Wal::open_in(self.sim.world(), config) {
            Err(e) => self.expect_damage(&e, spot, at, exact),
            Ok(wal) => {
                let wal = Open(Some(wal));
                self.read_damaged(&wal, spot, at, exact);
            }
        }
        self.tally.cycles += 1;
    }

    /// Flips a bit of META, of a block that holds a header or footer, or of any other byte.
    fn rot_anywhere(&mut self, promised: Range<u64>) {
        let ours = |name: &std::path::Path| {
            name.ends_with("META") || name.extension().is_some_and(|ext| ext == "seg")
        };
        let files: Vec<_> = self.sim.files().into_iter().filter(|(path, _)| ours(path)).collect();
        let (path, size) = &files[self.rng.index(files.len())];
        let block = self.rng.below(120);
        let at = match self.rng.below(5) {
            0 | 1 => block,
            2 | 3 => size - 4096 + block,
            _ => self.rng.below(*size),
        };
        let bit = 1 << self.rng.below(8);
        self.sim.flip(path, at, bit).expect("it is inside");
        self.tally.flips_anywhere += 1;
        say!(self, "flipped byte {at}, bits {bit:#x} of {}", path.display());
        let config = self.config();
        let refused = |e: &Error| {
            let kind = matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
            assert!(kind && e.path() == Some(path), "I7: {} was damaged: {e}", path.display());
        };
        let wal = match Wal::open_in(self.sim.world(), config) {
            Err(e) => {
                self.tally.told += 1;
                refused(&e);
                return self.tally.cycles += 1;
            }
            Ok(wal) => Open(Some(wal)),
        };
        let found = wal.first_lsn().get()..wal.next_lsn().get();
        assert_eq!(found, promised, "I7: records are gone in silence");
        assert_eq!(wal.durable_lsn().next().get(), promised.end, "I7: what was promised is not");
        let mut next = found.start;
        for record in wal.reader(wal.first_lsn()).expect("the log has a start") {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), next, "I7: a gap in reading");
                    self.promises.learn(next, &record.data);
                    next += 1;
                }
                Err(e) => {
                    self.tally.told += 1;
                    refused(&e);
                    return self.tally.cycles += 1;
                }
            }
        }
        assert_eq!(next, promised.end, "I7: reading ends in silence");
        self.tally.cycles += 1;
    }

    fn read_damaged(&mut self, wal: &Wal, spot: &Spot, at: u64, exact: bool) {
        let reader = wal.reader(wal.first_lsn()).expect("the log has a start");
        for (lsn, record) in (wal.first_lsn().get()..).zip(reader) {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn.get(), lsn, "I7: records are missing");
                    assert!(!(spot.first..=spot.last).contains(&lsn), "I7: damage was served");
                    self.promises.learn(lsn, &record.data);
                }
                Err(e) => {
                    assert!((spot.first..=spot.last).contains(&lsn), "I7: at {lsn}: {e}");
                    return self.expect_damage(&e, spot, at, exact);
                }
            }
        }
        panic!("I7: record {} ended in silence", spot.first);
    }

    fn expect_damage(&self, e: &Error, spot: &Spot, at: u64, exact: bool) {
        assert_eq!(e.kind(), ErrorKind::Corrupt, "I7: {e}");
        if !exact {
            return;
        }
        let place = (e.path(), e.offset());
        assert_eq!(place, (Some(&*spot.path), Some(spot.offset)), "I7: another place: {e}");
        let told = e.to_string().contains("its checksum does not match");
        assert!(told || at >= HEADER_LEN as u64, "I7: a header's bit passed: {e}");
    }
}
