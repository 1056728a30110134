//! A disk that is full again and again: nothing acknowledged is lost, and the process goes on.
//!
//! ```text
//! cycle: append, 16 tickets out -> StorageFull -> what is there is what was acknowledged
//!        -> space: cut the start | take the ballast away | reopen and cut
//!        -> is there room for a segment? an append is acknowledged
//!           none? refused, at most: all is given back, then it is acknowledged
//! ```
//!
//! Where each overwrite takes new blocks (btrfs), any write may fail, those of a cut and of `open`
//! too: there others make space first, and `resume` recovers in the process.
//! Needs root; says so and tests nothing where it can't mount.
//! `PRKDB_FULL_CYCLES` asks for another number than 15 for each file system and backend, and adds
//! XFS and, a twentieth of it because a cycle takes seconds there, btrfs; `PRKDB_FULL_ON` names one
//! of the four and leaves the others out.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prkdb_core::{Append, Backend, ErrorKind, Lsn, ReadOnlyWal, Wal};

mod support;

use support::disk::{Image, Kind, Mount};
use support::watchdog::within_reason;
use support::{Random, backends, config, config_in_turn, record};

/// Tickets that are left out while records are appended.
const OUTSTANDING: usize = 16;
/// Free bytes in which a segment of 1 MiB fits, with what the file system notes of it.
const ROOM: u64 = 3 << 19;

/// Longer than any cycle takes on a busy machine: those on btrfs take seconds.
const HANGS: Duration = Duration::from_secs(300);

type Batch = Vec<Vec<u8>>;

/// A log on a small disk, and what is known of it.
struct Life {
    wal: Wal,
    ballast: PathBuf,
    /// Each overwrite takes new blocks, so that any write may fail; elsewhere none does.
    copies: bool,
    /// What takes up the space that the log is not to have, and how much that is.
    rest: Option<(PathBuf, u64)>,
    random: Random,
    /// By LSN what was acknowledged and not cut.
    acked: BTreeMap<u64, Vec<u8>>,
    /// What a failed write left open: there whole, or not at all.
    unsure: Vec<Batch>,
    /// Batches made so far: each has its own content.
    made: u64,
    refused: u64,
    poisoned: u64,
    /// Batches that were acknowledged.
    served: u64,
}

impl Life {
    fn new(dir: &Path, backend: Backend, seed: u64, volume: &Volume) -> Life {
        let wal = Wal::open(config(&dir.join("log"), backend)).unwrap();
        let (ballast, random) = (dir.join("ballast"), Random(seed));
        let rest = volume.spare.map(|spare| (dir.join("rest"), spare));
        let copies = volume.copies;
        let (acked, unsure) = (BTreeMap::new(), Vec::new());
        let (made, refused, poisoned, served) = (0, 0, 0, 0);
        let life = Life {
            wal,
            ballast,
            copies,
            rest,
            random,
            acked,
            unsure,
            made,
            refused,
            poisoned,
            served,
        };
        life.take_space();
        life
    }

    /// Leaves no more than the spare bytes.
    fn take_space(&self) {
        let Some((path, spare)) = &self.rest else { return };
        let free = self.free_bytes();
        drop(File::create(path).and_then(|file| grow(&file, free.saturating_sub(*spare))));
    }

    fn free_bytes(&self) -> u64 {
        let free = nix::sys::statvfs::statvfs(self.ballast.parent().unwrap()).unwrap();
        free.blocks_available() * free.fragment_size()
    }

    /// Others free what they took.
    fn make_space(&self) {
        drop(std::fs::remove_file(&self.ballast));
        if let Some((path, _)) = &self.rest {
            drop(std::fs::remove_file(path));
            // What a removed file took is free with the next transaction.
            let root = self.ballast.parent().unwrap();
            let synced = Command::new("sync").arg("-f").arg(root).status().unwrap();
            assert!(synced.success(), "space can't be made");
        }
    }

    fn batch(&mut self) -> Batch {
        self.made += 1;
        let count = 1 + self.random.below(6);
        (0..count).map(|number| record(self.made, number)).collect()
    }

    /// Appends until the disk is full; false if a write failed, which only some file systems may.
    fn fill_up(&mut self) -> bool {
        let mut tickets: VecDeque<(Batch, Append)> = VecDeque::new();
        let (mut full, mut healthy) = (false, true);
        while !full && healthy || !tickets.is_empty() {
            if !full && healthy {
                let batch = self.batch();
                match self.wal.append_batch(&batch) {
                    Ok(ticket) => tickets.push_back((batch, ticket)),
                    Err(e) => (full, healthy) = self.refusal(&e, batch),
                }
            }
            if tickets.len() >= OUTSTANDING || full || !healthy {
                let Some((batch, ticket)) = tickets.pop_front() else { continue };
                match ticket.wait() {
                    Ok(lsns) => {
                        assert_eq!(lsns.count() as usize, batch.len());
                        self.acknowledged(lsns.first(), batch);
                    }
                    Err(e) => {
                        let (is_full, is_healthy) = self.refusal(&e, batch);
                        (full, healthy) = (full | is_full, healthy & is_healthy);
                    }
                }
            }
        }
        healthy
    }

    fn acknowledged(&mut self, first: Lsn, batch: Batch) {
        self.acked.extend((first.get()..).zip(batch));
        self.served += 1;
    }

    /// Whether the disk is full, and whether the log can still be written.
    fn refusal(&mut self, e: &prkdb_core::Error, batch: Batch) -> (bool, bool) {
        match e.kind() {
            ErrorKind::StorageFull => self.refused += 1,
            // Mapped pages of written blocks are populated without taking any either.
            kind if !self.copies => panic!("{kind:?} where an overwrite takes no space: {e}"),
            ErrorKind::NotConfirmed => self.unsure.push(batch),
            ErrorKind::Poisoned => {}
            kind => panic!("{kind:?}: {e}"),
        }
        let full = e.kind() == ErrorKind::StorageFull;
        (full, full)
    }

    /// All that was acknowledged is there, and nothing that was refused.
    fn check(&mut self, reader: prkdb_core::Reader) {
        let mut expected = std::mem::take(&mut self.acked).into_iter();
        let mut unsure: BTreeMap<_, _> =
            self.unsure.drain(..).map(|batch| (batch[0].clone(), batch)).collect();
        let mut whole: VecDeque<Vec<u8>> = VecDeque::new();
        let mut next = expected.next();
        for found in reader {
            let found = found.unwrap();
            let (lsn, bytes) = (found.lsn.get(), found.data.to_vec());
            if next.as_ref().is_some_and(|(acked, _)| *acked == lsn) {
                assert!(next.is_some_and(|(_, acked)| acked == bytes), "record {lsn} is another");
                next = expected.next();
            } else {
                if whole.is_empty() {
                    whole =
                        unsure.remove(&bytes).expect("nobody appended this, or it is twice").into();
                }
                assert_eq!(whole.pop_front().as_ref(), Some(&bytes), "half a batch at {lsn}");
            }
            self.acked.insert(lsn, bytes);
        }
        assert!(next.is_none(), "{:?} and later were acknowledged and are gone", next.map(|n| n.0));
        assert!(whole.is_empty(), "half a batch at the end");
    }

    /// Cuts the start somewhere.
    fn cut(&mut self) {
        let keep = self.somewhere();
        self.cut_to(keep);
    }

    fn cut_to(&mut self, mut keep: Lsn) {
        let mut cut = self.wal.truncate_before(keep);
        // There a footer may have found no room either, after the last answer.
        if self.copies && cut.as_ref().is_err_and(|e| e.kind() == ErrorKind::Poisoned) {
            self.resume();
            // What nobody was promised may be there or not: the next LSN can be another.
            keep = keep.min(self.wal.next_lsn());
            cut = self.wal.truncate_before(keep);
        }
        cut.unwrap();
        self.acked = self.acked.split_off(&keep.get());
    }

    /// Goes on in the process after a write that failed, when there is space again.
    fn resume(&mut self) {
        self.poisoned += 1;
        self.make_space();
        self.wal.resume().unwrap();
        let reader = self.wal.reader(self.wal.first_lsn()).unwrap();
        self.check(reader);
    }

    /// A record of the second half, or the end.
    fn somewhere(&mut self) -> Lsn {
        let (first, next) = (self.wal.first_lsn().get(), self.wal.next_lsn().get());
        Lsn::new(first + (next - first) / 2 + self.random.below((next - first) / 2 + 1))
    }

    /// Appends on a log for which space was made, or for which there may be none yet.
    fn serve(&mut self) {
        let has_room = self.free_bytes() >= ROOM;
        let Err(e) = self.append_one() else { return };
        let kind = e.kind();
        match kind {
            // Somebody else took what the cut had freed, or it freed no whole segment.
            ErrorKind::StorageFull => assert!(!has_room, "refused with {ROOM} bytes free: {e}"),
            _ => self.resume(),
        }
        self.make_space();
        self.cut_to(self.wal.next_lsn());
        self.append_one().unwrap_or_else(|e| panic!("all space was given back: {e}"));
    }

    fn append_one(&mut self) -> prkdb_core::Result<()> {
        let batch = self.batch();
        match self.wal.append_batch(&batch).and_then(Append::wait) {
            Ok(lsns) => self.acknowledged(lsns.first(), batch),
            Err(e) => {
                self.refusal(&e, batch);
                return Err(e);
            }
        }
        Ok(())
    }

    fn cycle(mut self, dir: &Path, backend: Backend) -> Life {
        let healthy = self.fill_up();
        if healthy {
            let reader = self.wal.reader(self.wal.first_lsn()).unwrap();
            self.check(reader);
        }
        if self.rest.is_some() {
            self.make_space();
        }
        match self.random.below(4) {
            _ if !healthy => {
                self.resume();
                self.cut();
            }
            0 if std::fs::remove_file(&self.ballast).is_ok() => {}
            1 => {
                self.wal.close().unwrap();
                let log = dir.join("log");
                let read_only = ReadOnlyWal::open(&log).unwrap();
                let first = read_only.first_lsn().unwrap_or(read_only.next_lsn());
                let (reader, acked) = (read_only.reader(first).unwrap(), self.acked);
                let turn = self.random.below(6);
                self.wal = Wal::open(config_in_turn(&log, backend, turn, &[1, 2])).unwrap();
                self.acked = acked;
                self.check(reader);
                self.cut();
            }
            _ => {
                self.cut();
                // Somebody else takes what is free, or a part of it.
                if self.random.below(2) == 0 {
                    drop(File::create(&self.ballast).and_then(|file| grow(&file, 1 << 20)));
                }
            }
        }
        self.serve();
        self.take_space();
        self
    }
}

/// Allocates `bytes` for a file, or as much as there is.
fn grow(file: &File, bytes: u64) -> std::io::Result<()> {
    let chunk = vec![1; 1 << 20];
    for _ in 0..bytes.div_ceil(chunk.len() as u64) {
        std::io::Write::write_all(&mut &*file, &chunk)?;
    }
    file.sync_all()
}

/// The file system that is filled.
struct Volume {
    name: &'static str,
    copies: bool,
    /// What is left for the log, bytes, where it is larger than that.
    spare: Option<u64>,
}

fn cycles(volume: &Volume, mount: impl Fn() -> Option<Mount>, count: u64) {
    let name = volume.name;
    let Some(first) = mount() else { return };
    let all = backends(first.path());
    first.unmount();
    for backend in all {
        let Some(mount) = mount() else { return };
        let seed = support::seed();
        println!("{backend} on {name}: seed {seed}");
        let mut life = Life::new(mount.path(), backend, seed, volume);
        for number in 0..count {
            let before = life.served;
            let what = format!("{backend} on {name}: cycle {number}");
            life = within_reason(what, HANGS, || life.cycle(mount.path(), backend));
            assert!(life.served > before, "a cycle in which nothing was acknowledged");
        }
        println!("{backend} on {name}: {} batches acknowledged", life.served);
        let (refused, poisoned) = (life.refused, life.poisoned);
        assert!(volume.copies || poisoned == 0, "{poisoned} times poisoned");
        assert!(refused + poisoned >= count, "{refused} refusals in {count} cycles");
        drop(life);
        support::tally(format_args!("full {name} {backend}"), count, refused + poisoned);
        mount.unmount();
    }
}

#[test]
fn a_disk_that_is_full_again_and_again_loses_nothing() {
    let asked: Option<u64> =
        std::env::var("PRKDB_FULL_CYCLES").ok().map(|count| count.parse().unwrap());
    let count = asked.unwrap_or(15);
    let only = std::env::var("PRKDB_FULL_ON").ok();
    let names = ["tmpfs", "ext4", "xfs", "btrfs"];
    assert!(only.as_deref().is_none_or(|only| names.contains(&only)), "one of {names:?}");
    let wanted = |name, always: bool| only.as_ref().map_or(always, |only| only == name);
    let root = tempfile::tempdir().unwrap();
    let in_place = |name, spare| Volume { name, copies: false, spare };
    if wanted("tmpfs", true) {
        cycles(&in_place("tmpfs", None), || Mount::tmpfs("4m"), count);
    }
    if wanted("ext4", true) {
        let image = root.path().join("ext4.image");
        cycles(&in_place("ext4", None), || Mount::ext4(&image, 16 << 20), count);
    }
    if wanted("xfs", asked.is_some()) {
        let mount = || Image::new(root.path(), Kind::Xfs)?.mount();
        cycles(&in_place("xfs", Some(12 << 20)), mount, count);
    }
    if wanted("btrfs", asked.is_some()) {
        let image = root.path().join("btrfs.image");
        let count = if only.is_some() { count } else { count.div_ceil(20) };
        let btrfs = Volume { name: "btrfs", copies: true, spare: Some(24 << 20) };
        cycles(&btrfs, || Mount::btrfs(&image, 128 << 20), count);
    }
}
