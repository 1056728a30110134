//! One write or one flush of a disk fails, and it is healthy again: nothing is acknowledged after
//! that, and all that was before is there.
//!
//! ```text
//! cycle: the n-th frame | write | flush of the disk gets EIO, once
//!        append, 12 tickets out -> NotConfirmed, Poisoned, health says so; reads go on
//!        -> resume in the process, if the file system lives -> append
//!        -> close -> unmount -> mount -> open: all that was acked, nothing that was refused
//! ```
//!
//! Unlike behind FUSE alone (`fusefault`), what is written here is what is written on a user's
//! disk: O_DIRECT, and with RWF_DSYNC a flush after it. A write that fails may be there in part.
//! A flush that fails takes some of the log's writes since the last good one with it, for good, and
//! the next one succeeds. What the file systems wrote for themselves stays: their journals trust
//! that a later flush covers it, so that a mount may find them damaged, no fault of the log's. And
//! of a flush that may be a journal's own nothing goes: the log would not hear of it.
//!
//! Seen on 6.18: the loop device is in direct mode (`loop/dio`, asserted) and swallows nothing. The
//! EIO of a FUSE write comes out of the write of a ring, or of `pwritev2`, to a file on ext4, XFS
//! and btrfs; that of a FUSE fsync out of the same call with RWF_DSYNC, or out of fdatasync.
//! A flush that their journals needed turns ext4 read-only and shuts XFS down; btrfs turns
//! read-only at most failed flushes, and then some new names are missing from its directories.
//! `resume` says `Io` until the next mount, which finds all.
//!
//! `PRKDB_POWERCUT_FAULTS` asks for more than one of each for each backend and method; without it
//! XFS and btrfs are tried with one method, drawn anew each time.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use prkdb_core::{Backend, ErrorKind, SyncMethod};

use crate::failing::{Fault, How, Life, Outcome};
use crate::recorder::{Disk, Kind, Recorder};
use crate::support::Random;
use crate::support::watchdog::Watchdog;
use crate::{HANGS, support};

const FAULTS: [&str; 3] = ["frame", "write", "flush"];

/// What became of the cycles.
#[derive(Debug, Default)]
struct Sums {
    cycles: u64,
    faults: u64,
    /// Writes of the log's that went with a flush that failed.
    lost: u64,
    well: u64,
    refused: u64,
    poisoned: u64,
    /// The file system gave up by itself.
    gave_up: u64,
    resumed: u64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.cycles += other.cycles;
        self.faults += other.faults;
        self.lost += other.lost;
        self.well += other.well;
        self.refused += other.refused;
        self.poisoned += other.poisoned;
        self.gave_up += other.gave_up;
        self.resumed += other.resumed;
    }
}

/// Whether a file system still takes files.
fn lives(mounted: &Path) -> bool {
    let path = mounted.join("lives");
    let made = File::create(&path).and_then(|mut file| {
        file.write_all(b"lives")?;
        file.sync_all()
    });
    made.and_then(|()| std::fs::remove_file(&path)).is_ok()
}

/// One fault, what came of it, and the way back.
fn cycle(life: &mut Life<'_>, fault: &Fault, mounted: &Path, sums: &mut Sums) {
    let poisons = fault.what == "frame";
    let outcome = life.strike(fault, |_| poisons);
    assert!(!poisons || outcome == Outcome::Poisoned, "{fault}: a failed write was believed");
    let read = life.check_reads();
    if outcome == Outcome::Poisoned {
        life.check_poisoned();
    }
    sums.cycles += 1;
    let lost = life.ask("lost");
    let fired = life.heal();
    assert_eq!(fired, 1, "{fault}: it never came to that");
    sums.faults += fired;
    sums.lost += lost;
    match outcome {
        Outcome::Well => sums.well += 1,
        Outcome::Refused => sums.refused += 1,
        Outcome::Poisoned => sums.poisoned += 1,
    }
    if lives(mounted) {
        read.unwrap();
        life.resume();
        life.check();
        assert_eq!(life.append(8), Outcome::Well, "{fault}: after that");
        life.check();
        life.cut();
        life.close().unwrap();
        sums.resumed += u64::from(outcome == Outcome::Poisoned);
        return;
    }
    sums.gave_up += 1;
    if let Err(e) = read {
        assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    }
    if outcome == Outcome::Poisoned {
        let refused = life.wal().resume().unwrap_err();
        println!("{fault}: the file system gave up: {refused}");
        // Also where names are missing: nothing is damaged.
        assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
        life.close().unwrap_err();
    } else if let Err(e) = life.close() {
        println!("{fault}: the file system gave up: {e}");
    }
}

/// The cycles of one backend with one way to sync, on a file system of their own.
fn cycles(
    (recorder, watchdog): (&Recorder, &Watchdog),
    (kind, backend, method): (Kind, Backend, SyncMethod),
    rounds: u64,
) -> Sums {
    let mut sums = Sums::default();
    let who = format!("{kind:?} {backend} {method:?}");
    let mount = || recorder.mount(0, kind).expect("it was mounted before");
    let mut disk = mount();
    let log = |disk: &Disk<'_>| disk.path().join("log");
    let mut life = Life::new(recorder.served(), &log(&disk), backend, method);
    println!("{who}: seed {}", life.random.0);
    for number in 0..rounds * FAULTS.len() as u64 {
        let what = FAULTS[usize::try_from(number).unwrap() % FAULTS.len()];
        let after = life.random.below(if what == "write" { 40 } else { 16 });
        let fault = Fault { what, how: How::Errno(libc::EIO), suffix: "", after, sticky: false };
        watchdog.step(format_args!("{who}: {number}: {fault}"));
        cycle(&mut life, &fault, disk.path(), &mut sums);
        watchdog.step(format_args!("{who}: {number}: {fault}: the next mount"));
        disk.unmount();
        disk = mount();
        life.open_in(&log(&disk)).unwrap();
        life.check();
        assert_eq!(life.append(8), Outcome::Well, "{who}: {fault}: after the next mount");
        life.check();
    }
    life.close().unwrap();
    disk.unmount();
    println!("{who}: {sums:?}");
    sums
}

/// A block that the fault takes for a frame of the log.
fn frame(lsn: u8) -> [u8; 4096] {
    let mut block = [lsn; 4096];
    block[..12].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    block[64..68].copy_from_slice(&[1, 0, 0, 0]);
    block
}

/// What a log must reckon with, without one: the error comes out of the loop device and the file
/// system, once; the next sync succeeds, the page cache shows the new bytes, the disk the old ones.
#[test]
fn a_failed_sync_says_so_once_and_what_it_lost_is_lost() {
    let Some(recorder) = Recorder::start() else { return };
    let watchdog = recorder.watchdog(HANGS);
    for kind in [Kind::Ext4, Kind::Xfs] {
        watchdog.step(format_args!("{kind:?}: a file"));
        let Some(base) = recorder.make(kind) else { continue };
        recorder.load(&base);
        let Some(disk) = recorder.mount(0, kind) else { return };
        let path = disk.path().join("file");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&[0; 8 * 4096]).unwrap();
        file.sync_all().unwrap();
        for number in 0..8 {
            recorder.served().ask(format_args!("arm frame errno 5 * 0 once {}", number + 1));
            file.write_all_at(&frame(number + 1), u64::from(number) * 4096).unwrap();
            let failed = file.sync_data().unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{kind:?}: {failed}");
            file.sync_data().unwrap();
            let mut cached = [0; 4096];
            file.read_exact_at(&mut cached, u64::from(number) * 4096).unwrap();
            assert!(cached == frame(number + 1), "{kind:?}: the cache tells");
            assert_eq!(recorder.served().ask(format_args!("heal")), "1");
        }
        recorder.served().ask(format_args!("arm flush errno 5 * 0 once 1"));
        file.write_all_at(&[9; 4096], 7 * 4096).unwrap();
        let failed = file.sync_data().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{kind:?}: {failed}");
        file.sync_data().unwrap();
        assert_eq!(recorder.served().ask(format_args!("heal")), "1");
        drop(file);
        disk.unmount();
        let disk = recorder.mount(0, kind).expect("it was mounted before");
        let found = std::fs::read(disk.path().join("file")).unwrap();
        let lost = (1..8).zip(found.chunks(4096)).filter(|(n, block)| *block != frame(*n)).count();
        println!("{kind:?}: {lost} of 7 blocks are lost whose second sync succeeded");
        assert!(lost > 0, "nothing is lost: this proves nothing");
        disk.unmount();
    }
}

fn one_failure_is_final(kind: Kind) {
    let Some(recorder) = Recorder::start() else { return };
    let watchdog = recorder.watchdog(HANGS);
    let Some(base) = recorder.make(kind) else { return };
    recorder.load(&base);
    let Some(disk) = recorder.mount(0, kind) else { return };
    assert!(disk.is_direct(), "the loop device writes through the page cache");
    let backends = support::backends(disk.path());
    disk.unmount();
    let asked = std::env::var("PRKDB_POWERCUT_FAULTS").ok();
    let rounds = asked.as_ref().map_or(1, |count| count.parse().unwrap());
    let mut random = Random(support::seed());
    let (mut all, mut flushes) = (Sums::default(), 0);
    for backend in backends {
        let drawn = random.below(2) == 0;
        for method in [SyncMethod::Dsync, SyncMethod::Fdatasync] {
            // Unless more is asked for, the slower file systems get one of the two.
            let is_drawn = (method == SyncMethod::Dsync) == drawn;
            if asked.is_none() && kind != Kind::Ext4 && !is_drawn {
                continue;
            }
            recorder.load(&base);
            let sums = cycles((&recorder, &watchdog), (kind, backend, method), rounds);
            assert_eq!(sums.faults, sums.cycles, "{sums:?}");
            assert!(sums.poisoned >= rounds, "{sums:?}");
            flushes += rounds;
            all.add(&sums);
        }
    }
    println!(
        "{kind:?}: of {} failures {} ended well, {} refused, {} poisoned; {} times the file \
         system gave up; {flushes} failed flushes took {} writes with them",
        all.faults, all.well, all.refused, all.poisoned, all.gave_up, all.lost
    );
    assert!(all.faults > 0, "nothing failed: this proves nothing");
    // Some come when there is nothing of the log's to lose.
    assert!(flushes < 24 || all.lost > 0, "failed flushes lost nothing: this proves nothing");
    support::tally(format_args!("one EIO of a disk {kind:?}"), all.cycles, all.faults);
}

#[test]
fn one_failed_write_or_flush_of_a_disk_is_final_on_ext4() {
    one_failure_is_final(Kind::Ext4);
}

#[test]
fn one_failed_write_or_flush_of_a_disk_is_final_on_xfs() {
    one_failure_is_final(Kind::Xfs);
}

#[test]
fn one_failed_write_or_flush_of_a_disk_is_final_on_btrfs() {
    one_failure_is_final(Kind::Btrfs);
}
