//! A file system that is shut down under the log, as by a power cut: what was acknowledged is there
//! after the next mount, and nobody waits for ever.
//!
//! ```text
//! cycle: mount -> open -> append, acks ... shutdown (journal not flushed) -> every ticket ends
//!        -> close -> unmount -> mount: replays its journal -> read all -> next cycle, same log
//! ```
//!
//! A store into a mapped file whose file system goes at that moment is SIGBUS, as the README says:
//! that backend appends in a child, which may die of it, and tells what was acknowledged:
//!
//! ```text
//! cycle: mount -> child opens, appends --acks--> test .. shutdown, at any moment
//!        child: SIGBUS, or an error --> unmount -> mount -> read all -> next cycle, same log
//! ```
//!
//! Needs root and loop devices; says so and tests nothing where they are missing.
//! `PRKDB_SHUTDOWN_CYCLES` asks for another number of cycles than 10 for each file system.
//! Source: FS_IOC_SHUTDOWN, as fstests use it (`godown`).
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prkdb_core::io::{DiskOptions, ThreadHost, World, open_disk};
use prkdb_core::{Append, Backend, Durability, ErrorKind, Lsn, ReadOnlyWal, Wal};

mod support;

use support::disk::{Image, Kind};
use support::{Random, backends, config, config_in_turn, read_all, record};

/// `_IOR('X', 125, u32)`: from now on the mounted file system answers nothing but errors.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither data nor journal is flushed before.
const NO_LOG_FLUSH: u32 = 2;
/// Tickets that are left out while records are appended.
const OUTSTANDING: usize = 16;
/// What the child is to do: `LIFE FIRST DIR`, FIRST being the first record to be kept.
const JOB: &str = "PRKDB_TEST_SHUTDOWN";

#[expect(unsafe_code, reason = "no crate of ours wraps this call")]
fn shut_down(mounted: &Path) {
    let dir = File::open(mounted).unwrap();
    let flags = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open, and the kernel reads one u32 where the pointer says.
    let done = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_SHUTDOWN as _, &raw const flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// What is certain of a log after some lives.
#[derive(Default)]
struct Known {
    /// The first record that is kept, and the content of all from there that were acknowledged.
    first: u64,
    acked: Vec<Vec<u8>>,
}

impl Known {
    fn next(&self) -> u64 {
        self.first + self.acked.len() as u64
    }

    /// Forgets the older half in every fourth life; the first record that is kept.
    fn cut(&mut self, life: u64) -> u64 {
        if life % 4 == 3 {
            let half = self.acked.len() / 2;
            self.acked.drain(..half);
            self.first += half as u64;
        }
        self.first
    }
}

/// Appends until something fails, and tells `acks` the LSN after the last record that was
/// acknowledged each time, which it gives in the end.
fn append_until_it_fails(wal: &Wal, life: u64, durability: Durability, acks: impl Fn(u64)) -> u64 {
    let mut next = wal.next_lsn().get();
    let mut acked = next;
    let mut tickets: VecDeque<Append> = VecDeque::new();
    let mut healthy = true;
    while healthy || !tickets.is_empty() {
        if healthy {
            let records: Vec<_> = (next..next + 5).map(|lsn| record(life, lsn)).collect();
            match wal.with(durability).append_batch(&records) {
                Ok(ticket) => tickets.push_back(ticket),
                Err(e) => healthy = failed(&e),
            }
            next += 5;
        }
        if tickets.len() == OUTSTANDING || !healthy {
            match tickets.pop_front().map(Append::wait) {
                Some(Ok(lsns)) => {
                    acked = lsns.end().get();
                    acks(acked);
                }
                Some(Err(e)) => healthy = failed(&e),
                None => {}
            }
        }
    }
    acked
}

/// Not healthy any more: `Io` is a segment that could not be made, the others a failed write.
fn failed(e: &prkdb_core::Error) -> bool {
    // The disk is full where the shutdown comes late.
    let kinds =
        [ErrorKind::NotConfirmed, ErrorKind::Poisoned, ErrorKind::Io, ErrorKind::StorageFull];
    assert!(kinds.contains(&e.kind()), "{e}");
    false
}

/// One life on a mounted image, and what the next mount finds of it; how many acknowledged records
/// are missing.
fn cycle(
    image: &Image,
    open: impl FnOnce(&Path) -> Wal,
    life: u64,
    durability: Durability,
    known: &mut Known,
    random: &mut Random,
) -> u64 {
    let mount = image.mount().expect("it was mounted before");
    let dir = mount.path().join("log");
    let wal = open(&dir);
    wal.truncate_before(Lsn::new(known.cut(life))).unwrap();
    // What recovery served stays, acknowledged in that life or not.
    let served = read_all(wal.reader(Lsn::new(known.first)).unwrap(), known.first);
    assert!(served[..known.acked.len()] == known.acked[..], "life {life}: records changed");
    known.acked = served;
    let pause = Duration::from_micros(random.below(150_000));
    let acked = std::thread::scope(|scope| {
        let appending = scope.spawn(|| append_until_it_fails(&wal, life, durability, |_| {}));
        std::thread::sleep(pause);
        shut_down(mount.path());
        appending.join().unwrap()
    });
    assert!(wal.close().is_err(), "a log that can't be written was closed whole");
    mount.unmount();
    let next = known.next();
    known.acked.extend((next..acked).map(|lsn| record(life, lsn)));
    lost(image, life, known)
}

/// How many records that were acknowledged are not there; all others are what was appended, and
/// from now on they stay.
fn lost(image: &Image, life: u64, known: &mut Known) -> u64 {
    let mount = image.mount().expect("the journal can be replayed");
    let dir = mount.path().join("log");
    let log = ReadOnlyWal::open(&dir).unwrap();
    let found = read_all(log.reader(Lsn::new(known.first)).unwrap(), known.first);
    for (at, bytes) in found.iter().enumerate() {
        match known.acked.get(at) {
            Some(acked) => assert!(bytes == acked, "life {life}: record {at} is another"),
            None => assert!(*bytes == record(life, known.first + at as u64), "life {life}: {at}"),
        }
    }
    drop(log);
    ReadOnlyWal::verify(&dir, &mut |f| assert!(!f.is_damage(), "{f:?}"), &mut |_, _| {}).unwrap();
    mount.unmount();
    let lost = known.acked.len().saturating_sub(found.len());
    known.acked.extend(found.into_iter().skip(known.acked.len()));
    lost as u64
}

fn cycles(kind: Kind) {
    let root = tempfile::tempdir().unwrap();
    let Some(image) = Image::new(root.path(), kind) else { return };
    let Some(mount) = image.mount() else { return };
    let mut backends = backends(mount.path());
    backends.retain(|backend| *backend != Backend::Mmap);
    mount.unmount();
    let count = std::env::var("PRKDB_SHUTDOWN_CYCLES").map_or(10, |count| count.parse().unwrap());
    let mut random = Random(support::seed());
    println!("{kind:?}: seed {}", random.0);
    let mut known = Known { first: 1, ..Known::default() };
    for life in 1..=count {
        let backend = backends[usize::try_from(life).unwrap() % backends.len()];
        let turn = life / backends.len() as u64;
        let config = |dir: &Path| config_in_turn(dir, backend, turn, &[1, 2, 4]);
        let open = |dir: &Path| Wal::open(config(dir)).unwrap();
        let lost = cycle(&image, open, life, Durability::Sync, &mut known, &mut random);
        assert_eq!(lost, 0, "life {life} on {backend}: acknowledged records are gone");
    }
    println!("{kind:?}: {} records", known.next() - 1);
    support::tally(format_args!("shutdown {kind:?}"), count, count);
}

#[test]
fn acknowledged_records_survive_a_shutdown_of_ext4() {
    cycles(Kind::Ext4);
}

#[test]
fn acknowledged_records_survive_a_shutdown_of_xfs() {
    cycles(Kind::Xfs);
}

/// Does nothing unless a test below started it: opens, cuts, and appends on mapped files until that
/// fails or kills it.
#[test]
fn child_appends_on_mapped_files() {
    let Ok(job) = std::env::var(JOB) else { return };
    let [life, first, dir] = job.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let ready = Wal::open(config(dir.as_ref(), Backend::Mmap)).and_then(|wal| {
        wal.truncate_before(Lsn::new(first.parse().unwrap()))?;
        Ok(wal)
    });
    match ready {
        Err(e) => println!("\nrefused {e}"),
        Ok(wal) => {
            println!("\nopened {}", wal.next_lsn());
            let acks = |next| println!("acked {next}");
            append_until_it_fails(&wal, life.parse().unwrap(), Durability::Sync, acks);
            assert!(wal.close().is_err(), "a log that can't be written was closed whole");
        }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Killed by SIGBUS.
    Bus,
    /// The log said what failed while it was written.
    Error,
    /// While it was opened.
    Refused,
}

/// Lets a child append to `known` on the file system mounted at `mounted` and shuts that down: once
/// the log is open, but in each fourth life at any moment.
fn append_in_a_child(mounted: &Path, life: u64, known: &mut Known, random: &mut Random) -> End {
    let dir = mounted.join("log");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_on_mapped_files", "--nocapture"])
        .env(JOB, format!("{life} {} {}", known.cut(life), dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let opened = |line: &String| line.starts_with("opened ");
    let mut said: Vec<String> = Vec::new();
    let pause = if life % 4 == 2 {
        random.below(150_000)
    } else {
        said.extend(lines.by_ref().find(opened));
        random.below(150_000)
    };
    let watch = std::thread::spawn(move || {
        said.extend(lines);
        said
    });
    std::thread::sleep(Duration::from_micros(pause));
    shut_down(mounted);
    let said = watch.join().unwrap();
    let status = child.wait().unwrap();
    let numbers = |word: &str| {
        let numbers = said.iter().filter_map(|line| line.strip_prefix(word)?.parse::<u64>().ok());
        numbers.collect::<Vec<_>>()
    };
    let (opened, acked) = (numbers("opened "), numbers("acked "));
    // What the look in between found is what this life begins with.
    assert!(opened.iter().all(|next| *next == known.next()), "{opened:?}, not {}", known.next());
    let (next, acked) = (known.next(), acked.last().copied().unwrap_or(0));
    known.acked.extend((next..acked).map(|lsn| record(life, lsn)));
    match (status.signal(), status.success(), opened.is_empty()) {
        (Some(libc::SIGBUS), _, _) => End::Bus,
        (None, true, false) => End::Error,
        (None, true, true) => End::Refused,
        _ => panic!("life {life}: {status}: {said:?}"),
    }
}

fn mapped_cycles(kind: Kind) {
    let root = tempfile::tempdir().unwrap();
    let Some(image) = Image::new(root.path(), kind) else { return };
    match image.mount() {
        Some(mount) => mount.unmount(),
        None => return,
    }
    let count = std::env::var("PRKDB_SHUTDOWN_CYCLES").map_or(10, |count| count.parse().unwrap());
    let mut random = Random(support::seed());
    println!("{kind:?}, mapped: seed {}", random.0);
    let mut known = Known { first: 1, ..Known::default() };
    let mut ends = Vec::new();
    for life in 1..=count {
        let mount = image.mount().expect("it was mounted before");
        ends.push(append_in_a_child(mount.path(), life, &mut known, &mut random));
        mount.unmount();
        let lost = lost(&image, life, &mut known);
        assert_eq!(lost, 0, "life {life} on mapped files: acknowledged records are gone");
    }
    let ended = |end| ends.iter().filter(|other| **other == end).count();
    println!(
        "{kind:?}, mapped: {} records; {count} children: {} killed by SIGBUS, {} ended with an \
         error, {} while they opened",
        known.next() - 1,
        ended(End::Bus),
        ended(End::Error),
        ended(End::Refused),
    );
    support::tally(format_args!("shutdown {kind:?}, mapped"), count, count);
}

#[test]
fn acknowledged_records_survive_a_shutdown_of_ext4_under_mapped_files() {
    mapped_cycles(Kind::Ext4);
}

#[test]
fn acknowledged_records_survive_a_shutdown_of_xfs_under_mapped_files() {
    mapped_cycles(Kind::Xfs);
}

/// The harness can tell: what was only written, and into the page cache, is lost in it.
#[test]
fn without_syncs_a_shutdown_loses_records() {
    let root = tempfile::tempdir().unwrap();
    let buffered = DiskOptions { backend: Backend::Pwrite, direct: false };
    let open = |dir: &Path| {
        let (disk, _) = open_disk(dir, buffered).unwrap();
        let world = World { disk, host: Arc::new(ThreadHost::new()) };
        Wal::open_in(world, config(dir, Backend::Pwrite)).unwrap()
    };
    let mut random = Random(support::seed());
    let mut total = 0;
    for life in 1..=10 {
        let Some(image) = Image::new(root.path(), Kind::Ext4) else { return };
        match image.mount() {
            Some(mount) => mount.unmount(),
            None => return,
        }
        let mut known = Known { first: 1, ..Known::default() };
        total += cycle(&image, open, life, Durability::Written, &mut known, &mut random);
    }
    println!("{total} records that were not synced are lost");
    assert!(total > 0, "nothing was lost without syncs: this proves nothing about syncs");
}
