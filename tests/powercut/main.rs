//! Power cuts, on real file systems: what was promised is there, whatever the disk lost since.
//!
//! ```text
//! life:   log -> ext4 | XFS | btrfs -> loop device -> FUSE file: each write and flush is recorded
//!         a call returns --> note the position of the recording: from here on it is promised
//! image:  a position; writes that a flush covers, and of the others some: lost, torn, reordered
//!         mount (journal replay) -> open (recovery) -> all that was promised, nothing else
//!         -> append -> close -> reopen; a part of them is cut again in the middle of that
//! ```
//!
//! A flush covers the writes that were answered before it came in; some writes are held back, so
//! that one that should have been waited for is overtaken. A control that does not sync must lose.
//! Needs root, /dev/fuse, loop devices and mkfs; says so and tests nothing where they are missing.
//! Mapped files are left out on btrfs, where the backend refuses to work.
//! `PRKDB_POWERCUT_IMAGES` asks for another number of images than 200 in all. `eio` is the other
//! thing that such a disk can do: fail one write or flush. `late` is a third: a write that lands
//! after the process that asked for it was killed.
//! Source: block-level replay as in CrashMonkey (Mohan et al., OSDI 2018) and dm-log-writes.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use prkdb_core::{Backend, Durability};

mod eio;
#[path = "../support/failing.rs"]
mod failing;
mod fault;
#[path = "../support/fuse.rs"]
mod fuse;
#[path = "../support/history.rs"]
mod history;
mod late;
mod life;
mod names;
mod recorder;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tape;

use history::{Expected, History, Verdict};
use life::{Life, Writer};
use recorder::{Kind, Recorder};
use support::Random;
use support::watchdog::Watchdog;

/// Images made of one life.
const IMAGES_A_LIFE: u64 = 20;
/// So many moments are drawn for an image until one has something to lose.
const DRAWS: u64 = 3;
/// Longer than any step takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Sums {
    images: u64,
    /// By the backend that recovered: images, and those of them in which the cut dropped or tore a
    /// write.
    by_backend: BTreeMap<String, (u64, u64)>,
    again: u64,
    /// Writes that were not done yet when a flush came.
    overtaken: u64,
    verdict: Verdict,
}

impl Sums {
    fn add(&mut self, verdict: Verdict, backend: Backend, struck: bool) {
        self.images += 1;
        let (images, hit) = self.by_backend.entry(backend.to_string()).or_default();
        (*images, *hit) = (*images + 1, *hit + u64::from(struck));
        self.verdict.promised += verdict.promised;
        self.verdict.lost += verdict.lost;
        self.verdict.more += verdict.more;
    }
}

struct Run<'a> {
    recorder: &'a Recorder,
    watchdog: &'a Watchdog,
    kind: Kind,
    backends: Vec<Backend>,
    writer: Writer,
    random: Random,
    sums: Sums,
}

impl Run<'_> {
    /// A log from its first moment to the end of a life; what was promised when.
    fn life(&mut self) -> (History, u64) {
        self.watchdog.step(format_args!("{:?}: a life", self.kind));
        let disk = self.recorder.mount(0, self.kind).expect("it was mounted before");
        let dir = disk.path().join("log");
        let place = (self.recorder, 0);
        let start = (Expected::nothing(), 1);
        let how = (dir.as_path(), &self.backends[..]);
        let (mut life, _) = Life::open(place, how, self.writer, start, &mut self.random);
        let steps = 50 + life_steps(self.writer);
        life.work(steps);
        life.wait_all();
        let end = self.recorder.position(0);
        life.close();
        let history = life.history;
        disk.unmount();
        self.sums.overtaken += self.recorder.overtaken(0);
        (history, end)
    }

    /// A position: any, or one at which something was promised just before.
    fn moment(&mut self, history: &History, end: u64) -> u64 {
        let promises = history.promises();
        match self.random.below(2) {
            0 if !promises.is_empty() => {
                let at = usize::try_from(self.random.below(promises.len() as u64)).unwrap();
                promises[at].min(end)
            }
            _ => self.random.below(end + 1),
        }
    }

    /// Cuts disk `from`, mounts what is left, opens the log, and goes on with it.
    fn image(&mut self, from: usize, history: &History, end: u64, version: u64) -> (History, u64) {
        let to = from + 1;
        let (mut position, mut what, mut struck) = (0, String::new(), false);
        // At most moments all is durable: the file system waits for each flush.
        for _ in 0..DRAWS {
            position = self.moment(history, end);
            let (unit, seed) = (self.kind.unit(&mut self.random), self.random.next());
            what = format!("{:?} disk {from} at {position}, seed {seed}", self.kind);
            self.watchdog.step(format_args!("{what}"));
            struck = self.recorder.cut(from, to, position, unit, seed) > 0;
            if struck {
                break;
            }
        }
        let expected = history.expected(position);
        let disk = self.recorder.mount(to, self.kind).expect("a journal that can be replayed");
        let dir = disk.path().join("log");
        let place = (self.recorder, to);
        let start = (expected.clone(), version);
        let how = (dir.as_path(), &self.backends[..]);
        self.watchdog.step(format_args!("{what}: recovery"));
        let (mut life, found) = Life::open(place, how, Writer::Honest, start, &mut self.random);
        let (verdict, backend) = (expected.check(&found), life.backend);
        life.close();
        assert!(life.reopen() == found, "{what}: another opening finds something else");
        self.sums.add(verdict, backend, struck);
        if self.writer == Writer::Honest {
            assert_eq!(verdict.lost, 0, "{what}: promised records are gone");
        }
        for durability in [Durability::Written, Durability::Sync, Durability::Sync] {
            life.append(3, durability);
        }
        life.wait_all();
        let end = self.recorder.position(to);
        life.close();
        self.watchdog.step(format_args!("{what}: verify"));
        life::verify(&dir);
        let history = life.history;
        disk.unmount();
        (history, end)
    }

    fn images(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let base = self.recorder.make(self.kind).expect("it was made before");
            self.recorder.load(&base);
            let (history, end) = self.life();
            for _ in 0..left.min(IMAGES_A_LIFE) {
                let (after, its_end) = self.image(0, &history, end, 1 << 16);
                left -= 1;
                // The power fails once more, in recovery or just after it.
                if left > 0 && self.writer == Writer::Honest && self.random.below(4) == 0 {
                    self.image(1, &after, its_end, 2 << 16);
                    self.sums.again += 1;
                    left -= 1;
                }
                if left == 0 {
                    break;
                }
            }
        }
    }
}

fn life_steps(writer: Writer) -> u64 {
    match writer {
        Writer::Honest => 150,
        Writer::WithoutSyncs => 50,
    }
}

/// Runs `count` images; none if this machine can't.
fn cuts(kind: Kind, writer: Writer, count: u64) -> Option<Sums> {
    let recorder = Recorder::start()?;
    let watchdog = recorder.watchdog(HANGS);
    let base = recorder.make(kind)?;
    recorder.load(&base);
    let disk = recorder.mount(0, kind)?;
    let backends = support::backends(disk.path());
    disk.unmount();
    let random = Random(support::seed());
    println!("{kind:?}: seed {}", random.0);
    let (recorder, watchdog) = (&recorder, &watchdog);
    let sums = Sums::default();
    let mut run = Run { recorder, watchdog, kind, backends, writer, random, sums };
    run.images(count);
    Some(run.sums)
}

fn promised_records_survive(kind: Kind, share: u64) {
    let images = std::env::var("PRKDB_POWERCUT_IMAGES").map_or(200, |count| count.parse().unwrap());
    let count = (images * share).div_ceil(10);
    let Some(sums) = cuts(kind, Writer::Honest, count) else { return };
    let Verdict { promised, lost, more } = sums.verdict;
    println!(
        "{kind:?}: {} images, {} of them cut twice: {promised} records promised, {lost} lost, \
         {more} more survived; {} writes were overtaken by a flush",
        sums.images, sums.again, sums.overtaken
    );
    assert!(promised > 0, "nothing was promised: this proves nothing");
    let enough = kind != Kind::Ext4 || sums.images < 100 || sums.overtaken > 0;
    assert!(enough, "no flush overtook a write: this proves nothing about waiting for it");
    let struck: u64 = sums.by_backend.values().map(|(_, struck)| struck).sum();
    let enough = sums.images < 20 || struck * 4 >= sums.images;
    assert!(enough, "of {} images {struck} lost anything: too few to say anything", sums.images);
    for (backend, (images, struck)) in sums.by_backend {
        support::tally(format_args!("powercut {kind:?} {backend}"), images, struck);
    }
}

#[test]
fn promised_records_survive_power_cuts_of_ext4() {
    promised_records_survive(Kind::Ext4, 8);
}

#[test]
fn promised_records_survive_power_cuts_of_xfs() {
    promised_records_survive(Kind::Xfs, 1);
}

#[test]
fn promised_records_survive_power_cuts_of_btrfs() {
    promised_records_survive(Kind::Btrfs, 1);
}

/// The harness can tell: what is only written, into the page cache, is lost in it.
fn without_syncs_records_are_lost(kind: Kind) {
    let Some(sums) = cuts(kind, Writer::WithoutSyncs, 20) else { return };
    let Verdict { promised, lost, .. } = sums.verdict;
    println!("{kind:?} without syncs: {} images, {lost} of {promised} records lost", sums.images);
    assert!(lost > 0, "nothing was lost without syncs: this proves nothing about syncs");
}

#[test]
fn without_syncs_power_cuts_of_ext4_lose_records() {
    without_syncs_records_are_lost(Kind::Ext4);
}

#[test]
fn without_syncs_power_cuts_of_xfs_lose_records() {
    without_syncs_records_are_lost(Kind::Xfs);
}

#[test]
fn without_syncs_power_cuts_of_btrfs_lose_records() {
    without_syncs_records_are_lost(Kind::Btrfs);
}

/// The simulator's model `ordered` says so of ext4.
#[test]
fn names_of_ext4_survive_in_the_order_of_a_journal() {
    let Some(recorder) = Recorder::start() else { return };
    let (watchdog, mut random) = (recorder.watchdog(HANGS), Random(support::seed()));
    println!("names: seed {}", random.0);
    let found = names::outcomes(&recorder, &watchdog, Kind::Ext4, 60, &mut random);
    let Some(found) = found else { return };
    println!("{found:?}");
    assert_eq!((found.out_of_order, found.too_old), (0, 0), "{found:?}");
    assert_eq!((found.foreign, found.partial), (0, 0), "{found:?}");
    assert!(found.survived > 0 && found.lost > 0, "{found:?}");
}

/// Does nothing unless another test runs it as its child.
#[test]
fn child_appends_until_it_is_killed() {
    support::child_main();
}

/// What the recorder does when this binary is executed again.
#[test]
fn recorder_in_a_child() {
    server::serve();
}
