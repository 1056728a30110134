//! What a crash left to be wiped is wiped in the background: nothing waits for all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::io::{Op, World};
use prkdb_core::{CompactionPolicy, Lsn, Verdict, Wal, WalConfig};

use crate::through::{Hook, Through};

const CANARY: &[u8] = b"what is cut and must not stay";
const KEPT: Lsn = Lsn::new(600);

fn config() -> WalConfig {
    WalConfig { segment_bytes: 1 << 20, wipe_retired: true, ..WalConfig::new("/log") }
}

/// Counts writes to files that wait to be wiped; if that is armed the disk ends with the first.
struct Wipes {
    sim: Sim,
    crashes: AtomicBool,
    writes: AtomicUsize,
}

impl Hook for Wipes {
    fn submit(&self, op: &Op) -> Option<&'static str> {
        if let Op::Write { file, .. } = op
            && file.path().extension().is_some_and(|ext| ext == "free")
        {
            self.writes.fetch_add(1, Ordering::Relaxed);
            if self.crashes.load(Ordering::Relaxed) {
                let now = Some(self.sim.ops() + 1);
                self.sim.set_faults(Faults { crash_at: now, ..Faults::default() });
            }
        }
        None
    }
}

fn open(hook: &Arc<Wipes>, config: WalConfig) -> Wal {
    let world = hook.sim.world();
    let disk = Arc::new(Through::new(world.disk, hook));
    Wal::open_in(World { disk, host: world.host }, config).expect("a healthy world")
}

/// A log that crashed just when what a large cut took out was to be wiped.
fn crashed(seed: u64) -> Arc<Wipes> {
    let sim = Sim::new(seed, Model::weak(true), Faults::default());
    let (crashes, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let hook = Arc::new(Wipes { sim: sim.clone(), crashes, writes });
    let wal = open(&hook, config());
    for _ in 1..=KEPT.get() + 10 {
        wal.append_batch([CANARY.repeat(1300)]).expect("healthy").wait().expect("healthy");
    }
    hook.crashes.store(true, Ordering::Relaxed);
    wal.truncate_before(KEPT).expect_err("it crashed");
    hook.crashes.store(false, Ordering::Relaxed);
    sim.set_faults(Faults::default());
    sim.crash(CrashKind::Kill);
    drop(wal);
    hook.writes.store(0, Ordering::Relaxed);
    hook
}

/// Files in the pool that hold what was cut.
fn unwiped(sim: &Sim) -> Vec<PathBuf> {
    let pooled = |path: &Path| path.starts_with("/log/pool");
    let told = |path: &Path| {
        sim.peek(path).expect("it is listed").windows(CANARY.len()).any(|w| w == CANARY)
    };
    let files = sim.files().into_iter().map(|(path, _)| path);
    files.filter(|path| pooled(path) && told(path)).collect()
}

#[test]
fn a_close_does_not_wait_for_all_that_is_to_be_wiped() {
    for seed in 0..8 {
        let hook = crashed(seed);
        let sim = &hook.sim;
        let before = unwiped(sim).len();
        assert!(before >= 20, "only {before} are to be wiped");
        open(&hook, config()).close().unwrap();
        let writes = hook.writes.load(Ordering::Relaxed);
        assert!(writes < before / 2, "seed {seed}: {writes} of {before} were wiped first");
        // The next life goes on with it, whatever it is asked to do meanwhile.
        let wal = open(&hook, config());
        assert!(wal.recovery().verdict == Verdict::Clean, "seed {seed}");
        let left = unwiped(sim).len();
        wal.set_user_state("meanwhile").unwrap();
        let still = unwiped(sim).len();
        assert!(left > 0 && still > left / 2, "seed {seed}: {still} of {left} while a job waited");
        sim.pass(Duration::from_secs(60));
        assert_eq!(unwiped(sim), Vec::<PathBuf>::new(), "seed {seed}");
        assert_eq!(wal.first_lsn(), KEPT);
        wal.close().unwrap();
    }
}

#[test]
fn what_waits_to_be_wiped_costs_no_record() {
    for seed in 0..8 {
        let hook = crashed(seed);
        // What is in the log fits, what waits to be wiped does not.
        let compaction = CompactionPolicy::SizeWindow(8 << 20);
        let wal = open(&hook, WalConfig { compaction, ..config() });
        for _ in 0..40 {
            wal.append_batch([vec![0; 30_000]]).unwrap().wait().unwrap();
        }
        wal.compact().unwrap();
        assert_eq!(wal.first_lsn(), KEPT, "seed {seed}");
        wal.close().unwrap();
    }
}

#[test]
fn what_a_crash_left_is_never_used_again_after_a_close() {
    for seed in 0..8 {
        let hook = crashed(seed);
        let mut names = unwiped(&hook.sim);
        // A directory sync before the crash may have failed: the device may know them as segments.
        open(&hook, config()).close().unwrap();
        let left = unwiped(&hook.sim);
        assert!(!left.is_empty());
        names.extend(left);
        let wal = open(&hook, config());
        hook.sim.pass(Duration::from_secs(60));
        let kept = hook.sim.files().into_iter().filter(|(path, _)| names.contains(path)).count();
        assert_eq!(kept, 0, "seed {seed}: some are to be used again");
        wal.close().unwrap();
    }
}
