//! Files that fail: errno, short counts and late answers of a real kernel, on every backend.
//!
//! ```text
//! cycle: the n-th write | sync | read is to fail so, once or from then on
//!        append, 12 tickets out -> refused, or poisoned: no ack after that, no call hangs
//!        -> the files work again -> resume, or just go on -> all that was acked, nothing else
//! ```
//!
//! The files are a FUSE file system of the test's own. A sync that fails loses some of what it
//! should have saved, and the next one succeeds, as on ext4, XFS and btrfs.
//!
//! What can't be had on this kernel (6.18), and what was seen instead:
//! 1. O_DIRECT: behind FUSE the log does not use it, since this suite found what becomes of it on a
//!    ring. RWF_DSYNC is a flag of the write, no sync follows (28 forced writes, 9 syncs), and
//!    records that had been acknowledged were gone. Of a write that the server answers short the
//!    ring writes the rest at the place where the first part stands, and counts it as whole. An
//!    errno of a direct write is `powercut`'s part: there the FUSE file is a disk, and the files
//!    of the log are on ext4, XFS or btrfs upon it.
//! 2. A short count where the kernel does not wait for the request (FUSE_ASYNC_DIO): it is EIO.
//! 3. A short count of a file that is not FOPEN_DIRECT_IO is against the protocol, and so is one of
//!    mapped pages: they come from files that are all direct, and not for mappings.
//! 4. Mapped files whose server is killed: the next page that is not there is SIGBUS.
//! 5. One failed read: the kernel may have read ahead, and reads again; a read that goes on failing
//!    has to refuse.
//!
//! Needs root and /dev/fuse; says so and tests nothing where they are missing.
//! `PRKDB_FUSEFAULT_CYCLES` asks for another number than 60, of which each backend fails a sixth of
//! its syncs with each of two methods, and for eight kinds of errno instead of three.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use prkdb_core::{Backend, BackendReason, ErrorKind, SyncMethod};

#[path = "../support/failing.rs"]
mod failing;
#[path = "../support/fuse.rs"]
mod fuse;
#[cfg(not(prkdb_portable))]
mod ring;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tree;

use failing::{Fault, How, Life, Outcome};
use fuse::Served;
use support::watchdog::Watchdog;

/// Longer than any step takes on a busy machine.
const HANGS: Duration = Duration::from_secs(60);
/// The tests that serve in a child.
const FILES: &str = "files_in_a_child";
const DIRECT_FILES: &str = "direct_files_in_a_child";
const METHODS: [SyncMethod; 2] = [SyncMethod::Dsync, SyncMethod::Fdatasync];

/// The backends that work on a FUSE file system, and a log on each with each way to sync.
fn on_each(child: &str, test: impl Fn(&mut Life<'_>, &Watchdog, Backend, SyncMethod)) {
    let Some(served) = Served::start(child) else { return };
    let watchdog = Watchdog::new(HANGS, served.pid(), served.path());
    for backend in support::backends(&served.path()) {
        for method in METHODS {
            watchdog.step(format_args!("{backend} {method:?}: open"));
            let dir = served.path().join(format!("{backend}-{method:?}"));
            let mut life = Life::new(&served, &dir, backend, method);
            println!("{backend} {method:?}: seed {}", life.random.0);
            test(&mut life, &watchdog, backend, method);
            watchdog.step(format_args!("{backend} {method:?}: close"));
            life.close().unwrap();
        }
    }
}

fn asked() -> Option<u64> {
    std::env::var("PRKDB_FUSEFAULT_CYCLES").ok().map(|count| count.parse().unwrap())
}

/// One fault, what came of it, and the way back.
fn cycle(life: &mut Life<'_>, fault: &Fault, due: impl Fn(&[String]) -> Due) -> (Outcome, u64) {
    let mut first = Vec::new();
    let mut outcome = life.strike(fault, |life| {
        first = life.struck();
        due(&first) == Due::Poisoned
    });
    let all = life.struck();
    match (due(&first), outcome) {
        (Due::Well, Outcome::Well) | (Due::Poisoned, Outcome::Poisoned) => {}
        (Due::Healthy, Outcome::Well | Outcome::Refused) | (Due::Either, _) => {}
        // More was struck meanwhile.
        (Due::Healthy, Outcome::Poisoned) if due(&all) == Due::Poisoned => {}
        (due, outcome) => panic!("{fault} struck {all:?}: {outcome:?}, not {due:?}"),
    }
    let is_poisoned = outcome == Outcome::Poisoned;
    if is_poisoned {
        life.check_poisoned();
        life.check_reads().unwrap();
    }
    if is_poisoned && fault.sticky && life.wal().resume().is_ok() {
        // What fails is needed again only later.
        outcome = outcome.max(life.append(1));
    }
    let fired = life.heal();
    life.resume();
    life.check();
    assert_eq!(life.append(8), Outcome::Well, "{fault}: after that");
    life.check();
    life.cut();
    (outcome, fired)
}

#[test]
fn a_sync_that_failed_is_never_acknowledged_and_resume_goes_on() {
    let cycles = asked().unwrap_or(60).div_ceil(6);
    on_each(FILES, |life, watchdog, backend, method| {
        let (mut poisoned, mut faults) = (0, 0);
        for number in 0..cycles {
            let after = life.random.below(40);
            let how = How::Errno(libc::EIO);
            let fault = Fault { what: "sync", how, suffix: ".seg", after, sticky: false };
            watchdog.step(format_args!("{backend} {method:?}: cycle {number}: {fault}"));
            let (outcome, fired) = cycle(life, &fault, |_| Due::Poisoned);
            poisoned += u64::from(outcome == Outcome::Poisoned);
            faults += fired;
        }
        println!("{backend} {method:?}: {faults} failed syncs, {poisoned} of {cycles} poisoned");
        assert_eq!((faults, poisoned), (cycles, cycles), "a failed sync was believed");
        support::tally(format_args!("failed syncs {backend} {method:?}"), cycles, faults);
    });
}

/// What fails, of which files, and whether it goes on failing.
const FAULTS: [(&str, &str, bool); 12] = [
    ("write", ".seg", false),
    ("write", ".seg", true),
    ("write", "META", false),
    ("write", "META", true),
    ("write", "", false),
    ("write", "", true),
    ("sync", ".seg", false),
    ("sync", ".seg", true),
    ("sync", "META", false),
    ("sync", "META", true),
    ("sync", "", false),
    ("sync", "", true),
];

/// What a failure must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Well,
    Poisoned,
    /// What was to be made may be missed, but nothing is in doubt.
    Healthy,
    /// That, or poison: it depends on the file's blocks, see `POPULATES`.
    Either,
}

/// Whether holes in a mapped file can be stored into. Where they can't, the zeros of a new segment
/// are written by position, and an error is told at once; its header is stored like any other
/// block, and written by the sync.
const POPULATES: bool = cfg!(all(target_os = "linux", not(prkdb_portable)));

/// What a failure of the files of these names must come to: what holds promises is a segment in use
/// or META, half of which may be another; all else is in the making, retired, or a directory in
/// which a name is to be made durable before anything is promised under it. If such a thing can't
/// be synced, and not for want of space, what else the disk lost with it nobody knows.
fn due(fault: &Fault, errno: i32, backend: Backend, struck: &[String]) -> Due {
    let promised = struck.iter().any(|name| name.ends_with(".seg") || name == "META");
    let full = matches!(errno, libc::ENOSPC | libc::EDQUOT);
    let synced = fault.what == "sync" || backend == Backend::Mmap;
    if !promised && !full && !POPULATES && backend == Backend::Mmap && fault.what == "write" {
        return Due::Either;
    }
    if !promised && (full || !synced || struck.iter().all(|name| name == "METRICS")) {
        return Due::Healthy;
    }
    let on_ring = !matches!(backend, Backend::Mmap | Backend::Pwrite);
    match (fault.what, errno, fault.sticky) {
        // Mapped pages are written by a sync, whose failure is final.
        ("write", libc::EINTR | libc::EAGAIN, false) if backend != Backend::Mmap => Due::Well,
        // A worker of the ring could not be had, it seems: one plain sync follows. Directories are
        // synced by plain calls on each backend.
        ("sync", libc::ECANCELED, false) if on_ring && !struck.iter().any(|name| name == "/") => {
            Due::Well
        }
        _ => Due::Poisoned,
    }
}

#[test]
fn each_errno_has_its_outcome() {
    const ALL: [i32; 8] = [
        libc::EIO,
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EINTR,
        libc::EAGAIN,
        libc::ECANCELED,
        libc::EFBIG,
        libc::EROFS,
    ];
    let (errnos, rounds) = match asked() {
        None => (&ALL[..3], 1),
        Some(count) => (&ALL[..], count.div_ceil(100)),
    };
    on_each(FILES, |life, watchdog, backend, method| {
        let (mut cycles, mut faults, mut outcomes) = (0, 0, [0; 3]);
        for _ in 0..rounds {
            for errno in errnos {
                for (what, suffix, sticky) in FAULTS {
                    // META is written less often.
                    let after = life.random.below(if suffix == "META" { 4 } else { 40 });
                    let fault = Fault { what, how: How::Errno(*errno), suffix, after, sticky };
                    watchdog.step(format_args!("{backend} {method:?}: {fault}"));
                    let due = |struck: &[String]| due(&fault, *errno, backend, struck);
                    let (outcome, fired) = cycle(life, &fault, due);
                    assert!(fired > 0, "{fault}: it never came to that");
                    cycles += 1;
                    faults += fired;
                    outcomes[outcome as usize] += 1;
                }
            }
        }
        let [well, refused, poisoned] = outcomes;
        println!("{backend} {method:?}: {well} went well, {refused} refused, {poisoned} poisoned");
        support::tally(format_args!("errno {backend} {method:?}"), cycles, faults);
    });
}

#[test]
fn a_segment_that_can_not_be_made_poisons_nothing_but_by_a_failed_sync() {
    on_each(FILES, |life, watchdog, backend, method| {
        for (errno, kind) in [
            (libc::ENOSPC, ErrorKind::StorageFull),
            (libc::EDQUOT, ErrorKind::StorageFull),
            (libc::EIO, ErrorKind::Io),
        ] {
            for what in ["write", "sync"] {
                let how = How::Errno(errno);
                let fault = Fault { what, how, suffix: ".making", after: 0, sticky: true };
                watchdog.step(format_args!("{backend} {method:?}: {fault}"));
                life.arm(&fault);
                let mut outcome = Outcome::Well;
                while outcome == Outcome::Well {
                    outcome = life.append(16);
                }
                // What else of the disk's cache went with it nobody knows. Mapped pages are
                // written when they are synced.
                let unsynced = what == "sync" || backend == Backend::Mmap && POPULATES;
                if errno == libc::EIO && unsynced {
                    assert_eq!(outcome, Outcome::Poisoned, "{backend} {method:?}: {fault}");
                    assert!(life.heal() > 0);
                    life.wal().resume().unwrap();
                    assert_eq!(life.append(16), Outcome::Well, "{backend} {method:?}: {fault}");
                    life.check();
                    life.cut();
                    continue;
                }
                assert_eq!(outcome, Outcome::Refused, "{backend} {method:?}: {fault}");
                assert_eq!(life.refused_as, Some(kind), "{backend} {method:?}: {fault}");
                assert!(life.wal().health().is_ok(), "{backend} {method:?}: {fault}");
                assert!(life.heal() > 0);
                assert_eq!(life.append(16), Outcome::Well, "{backend} {method:?}: {fault}");
                life.check();
                life.cut();
            }
        }
    });
}

#[test]
fn a_read_that_fails_refuses_the_log_and_cuts_nothing() {
    on_each(FILES, |life, watchdog, backend, method| {
        let (mut refused, mut faults) = (0, 0);
        for number in 0..6 * asked().unwrap_or(60).div_ceil(60) {
            assert_eq!(life.append(20), Outcome::Well);
            if number % 2 == 0 {
                life.close().unwrap();
            } else {
                // As after a crash: the tail is searched.
                let (what, how) = ("sync", How::Errno(libc::EIO));
                life.arm(&Fault { what, how, suffix: ".seg", after: 0, sticky: false });
                assert_eq!(life.append(20), Outcome::Poisoned);
                life.heal();
                life.close().unwrap_err();
            }
            let (after, how) = (life.random.below(4), How::Errno(libc::EIO));
            let fault = Fault { what: "read", how, suffix: ".seg", after, sticky: number % 3 > 0 };
            watchdog.step(format_args!("{backend} {method:?}: {number}: {fault}"));
            life.arm(&fault);
            let opened = life.open();
            let fired = life.heal();
            faults += fired;
            match opened {
                // What the kernel reads ahead and fails, it reads again when it is asked for.
                Ok(()) => assert!(fired == 0 || !fault.sticky, "{fault}: read and not missed"),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
                    refused += 1;
                    life.open().unwrap();
                }
            }
            life.check();
            life.cut();
        }
        println!("{backend} {method:?}: {faults} failed reads, {refused} times refused");
        assert!(refused > 0, "no read failed");
    });
}

#[test]
fn short_writes_and_late_answers_lose_nothing() {
    on_each(DIRECT_FILES, |life, watchdog, backend, method| {
        for (what, how) in [
            ("write", How::Short),
            ("write", How::Late(2000)),
            ("sync", How::Late(2000)),
            ("read", How::Late(500)),
        ] {
            let fault = Fault { what, how, suffix: "", after: 0, sticky: true };
            watchdog.step(format_args!("{backend} {method:?}: {fault}"));
            life.arm(&fault);
            let outcome = life.append(60);
            assert_eq!(outcome, Outcome::Well, "{backend} {method:?}: {fault}");
            life.check();
            let fired = life.heal();
            assert!(fired > 0, "{backend} {method:?}: {fault}");
            println!("{backend} {method:?}: {fault}: {fired} times, {outcome:?}");
            life.cut();
        }
    });
}

#[test]
fn files_that_go_away_leave_nobody_waiting() {
    for backend in [Backend::Uring, Backend::Pwrite] {
        let Some(served) = Served::start(FILES) else { return };
        if !support::backends(&served.path()).contains(&backend) {
            continue;
        }
        let watchdog = Watchdog::new(HANGS, served.pid(), served.path());
        watchdog.step(format_args!("{backend}: the server is killed"));
        let mut life = Life::new(&served, &served.path().join("log"), backend, SyncMethod::Auto);
        assert_eq!(life.append(20), Outcome::Well);
        let pause = Duration::from_millis(life.random.below(20));
        std::thread::scope(|scope| {
            let killed = scope.spawn(|| {
                std::thread::sleep(pause);
                served.kill();
            });
            // Refused, if nothing was in flight and the next segment could not be made.
            assert_ne!(life.append(1 << 20), Outcome::Well);
            killed.join().unwrap();
        });
        if !life.wal().health().is_ok() {
            life.check_poisoned();
        }
        watchdog.step(format_args!("{backend}: close without a server"));
        life.close().unwrap_err();
    }
}

#[test]
fn an_interruption_without_end_is_an_error() {
    on_each(FILES, |life, watchdog, backend, method| {
        for what in ["write", "sync", "read"] {
            let how = How::Errno(libc::EINTR);
            let fault = Fault { what, how, suffix: "", after: 0, sticky: true };
            assert_eq!(life.append(20), Outcome::Well);
            watchdog.step(format_args!("{backend} {method:?}: append, {fault}"));
            if what != "read" {
                life.arm(&fault);
                assert_eq!(life.append(20), Outcome::Poisoned);
                watchdog.step(format_args!("{backend} {method:?}: resume, {fault}"));
                life.wal().resume().unwrap_err();
                life.heal();
                life.resume();
                life.check();
            }
            life.close().unwrap();
            life.arm(&fault);
            watchdog.step(format_args!("{backend} {method:?}: open, {fault}"));
            let refused = life.open().unwrap_err();
            assert!(life.heal() > 0, "{refused}");
            life.open().unwrap();
            life.check();
        }
    });
}

#[test]
fn behind_fuse_writes_go_through_the_page_cache() {
    let Some(served) = Served::start(FILES) else { return };
    let report = prkdb_core::probe(&served.path(), Backend::Auto).unwrap();
    let without_rings = cfg!(prkdb_portable);
    let why = if without_rings { BackendReason::Kernel } else { BackendReason::Filesystem };
    assert_eq!((report.name, report.reason), ("pwrite", why));
}

/// What serves when this binary is executed again.
#[test]
fn files_in_a_child() {
    server::serve(false);
}

/// The same, where all goes past the page cache.
#[test]
fn direct_files_in_a_child() {
    server::serve(true);
}
