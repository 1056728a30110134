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
use support::watchdog::within_reason;
use support::{Random, backends, config, config_in_turn, read_all, record};

/// `_IOR('X', 125, u32)`: from now on the mounted file system answers nothing but errors.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither data nor journal is flushed before.
const NO_LOG_FLUSH: u32 = 2;
/// Longer than any life takes on a busy machine.
const HANGS: Duration = Duration::from_secs(180);
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

/// What some lives came to, so that a suite in which nothing happened is told from a good one.
#[derive(Default)]
struct Sums {
    lives: u64,
    /// Lives that acknowledged something.
    with_acks: u64,
    /// Lives in which the shutdown came while a ticket was out.
    struck: u64,
}

impl Sums {
    fn add(&mut self, with_acks: bool, struck: bool) {
        self.lives += 1;
        self.with_acks += u64::from(with_acks);
        self.struck += u64::from(struck);
    }

    /// Most lives are shut down once they are open, and get some milliseconds.
    fn tell(&self, suite: std::fmt::Arguments<'_>) {
        let Sums { lives, with_acks, struck } = *self;
        println!("{suite}: {with_acks} of {lives} lives had acknowledgements");
        support::tally(suite, lives, struck);
        assert!(with_acks * 4 >= lives, "{with_acks} of {lives}: too few to say anything");
    }
}

/// How appending ended.
struct Appended {
    /// The LSN after the last record that was acknowledged.
    acked: u64,
    /// Tickets that were out when the first one failed, itself among them.
    outstanding: usize,
}

/// Appends until something fails, and tells `acks` the LSN after the last record that was
/// acknowledged each time.
fn append_until_it_fails(
    wal: &Wal,
    life: u64,
    durability: Durability,
    acks: impl Fn(u64),
) -> Appended {
    let mut next = wal.next_lsn().get();
    let mut acked = next;
    let mut tickets: VecDeque<Append> = VecDeque::new();
    let (mut healthy, mut outstanding) = (true, 0);
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
            let out = tickets.len();
            match tickets.pop_front().map(Append::wait) {
                Some(Ok(lsns)) => {
                    acked = lsns.end().get();
                    acks(acked);
                }
                Some(Err(e)) => {
                    healthy = failed(&e);
                    outstanding = outstanding.max(out);
                }
                None => {}
            }
        }
    }
    Appended { acked, outstanding }
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
/// are missing. Of the life itself `sums` hears.
fn cycle(
    image: &Image,
    open: impl FnOnce(&Path) -> Wal,
    life: u64,
    durability: Durability,
    (known, sums): (&mut Known, &mut Sums),
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
    let Appended { acked, outstanding } = std::thread::scope(|scope| {
        let appending = scope.spawn(|| append_until_it_fails(&wal, life, durability, |_| {}));
        std::thread::sleep(pause);
        shut_down(mount.path());
        appending.join().unwrap()
    });
    assert!(wal.close().is_err(), "a log that can't be written was closed whole");
    mount.unmount();
    let next = known.next();
    sums.add(acked > next, outstanding > 0);
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
    let (mut known, mut sums) = (Known { first: 1, ..Known::default() }, Sums::default());
    for life in 1..=count {
        let backend = backends[usize::try_from(life).unwrap() % backends.len()];
        let turn = life / backends.len() as u64;
        let config = |dir: &Path| config_in_turn(dir, backend, turn, &[1, 2, 4]);
        let open = |dir: &Path| Wal::open(config(dir)).unwrap();
        let lost = within_reason(format_args!("life {life} on {backend}"), HANGS, || {
            let of = (&mut known, &mut sums);
            cycle(&image, open, life, Durability::Sync, of, &mut random)
        });
        assert_eq!(lost, 0, "life {life} on {backend}: acknowledged records are gone");
    }
    println!("{kind:?}: {} records", known.next() - 1);
    sums.tell(format_args!("shutdown {kind:?}"));
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
            let life = life.parse().unwrap();
            let Appended { outstanding, .. } =
                append_until_it_fails(&wal, life, Durability::Sync, acks);
            println!("outstanding {outstanding}");
            assert!(wal.close().is_err(), "a log that can't be written was closed whole");
        }
    }
}

/// What became of a child.
struct Child {
    end: End,
    with_acks: bool,
    /// The shutdown came when it had something to lose.
    struck: bool,
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
fn append_in_a_child(mounted: &Path, life: u64, known: &mut Known, random: &mut Random) -> Child {
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
    let end = match (status.signal(), status.success(), opened.is_empty()) {
        (Some(libc::SIGBUS), _, _) => End::Bus,
        (None, true, false) => End::Error,
        (None, true, true) => End::Refused,
        _ => panic!("life {life}: {status}: {said:?}"),
    };
    // It dies of a store, and is refused what it was about to do.
    let struck = end != End::Error || numbers("outstanding ").iter().any(|out| *out > 0);
    Child { end, with_acks: acked > next, struck }
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
    let (mut known, mut sums) = (Known { first: 1, ..Known::default() }, Sums::default());
    let mut ends = Vec::new();
    for life in 1..=count {
        let lost = within_reason(format_args!("life {life} on mapped files"), HANGS, || {
            let mount = image.mount().expect("it was mounted before");
            let child = append_in_a_child(mount.path(), life, &mut known, &mut random);
            sums.add(child.with_acks, child.struck);
            ends.push(child.end);
            mount.unmount();
            lost(&image, life, &mut known)
        });
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
    sums.tell(format_args!("shutdown {kind:?}, mapped"));
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
    let buffered = DiskOptions { backend: Backend::Pwrite, direct: false };
    let open = |dir: &Path| {
        let (disk, _) = open_disk(dir, buffered).unwrap();
        let world = World { disk, host: Arc::new(ThreadHost::new()) };
        Wal::open_in(world, config(dir, Backend::Pwrite)).unwrap()
    };
    let mut random = Random(support::seed());
    let mut total = 0;
    for life in 1..=10 {
        // Another file each time: the loop device of the last one may not have let go of it yet,
        // and then shows its blocks.
        let root = tempfile::tempdir().unwrap();
        let Some(image) = Image::new(root.path(), Kind::Ext4) else { return };
        match image.mount() {
            Some(mount) => mount.unmount(),
            None => {
                assert_eq!(life, 1, "it was mounted before");
                return;
            }
        }
        let mut known = Known { first: 1, ..Known::default() };
        let mut sums = Sums::default();
        total += within_reason(format_args!("life {life} without syncs"), HANGS, || {
            let of = (&mut known, &mut sums);
            cycle(&image, open, life, Durability::Written, of, &mut random)
        });
    }
    println!("{total} records that were not synced are lost");
    assert!(total > 0, "nothing was lost without syncs: this proves nothing about syncs");
}
