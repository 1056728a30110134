//! A child that appends in a given way, under strace, and what it called.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use prkdb_core::{Backend, SyncMethod, Wal, WalConfig};

use super::support;

const CHILD: &str = "PRKDB_SYSCALLS_DIR";
const WATCHED: &str = "io_uring_setup,io_uring_enter,io_uring_register,write,writev,pread64,\
                       pwrite64,pwritev,pwritev2,fsync,fdatasync,msync,madvise,mmap,futex";

/// Batches of one record that the child appends, unless it waits for each.
pub const BATCHES: u64 = 2000;
/// Those that are waited for, in one thread or several.
pub const WAITED: u64 = 480;

/// How the child appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appends {
    /// 64 KiB each, 64 tickets outstanding: the writer always has more to do.
    Outstanding,
    /// One waits for each, and rests before the next: the writer parks after each.
    InTurn,
    /// Eight threads wait, each for its own.
    Crowd,
}

/// What the child is to do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub backend: Backend,
    pub depth: usize,
    pub sync_method: SyncMethod,
    pub appends: Appends,
}

impl Job {
    /// Groups in flight as by default, tickets outstanding.
    pub fn on(backend: Backend) -> Job {
        let (depth, sync_method) = (WalConfig::default().depth, SyncMethod::Auto);
        Job { backend, depth, sync_method, appends: Appends::Outstanding }
    }

    /// As the child finds it in its environment.
    fn name(self) -> String {
        format!("{:?} {} {:?} {:?}", self.backend, self.depth, self.sync_method, self.appends)
    }

    fn named(job: &str) -> (Job, &str) {
        let mut words = job.splitn(5, ' ');
        let mut next = || words.next().unwrap();
        let (backend, depth, method, appends) = (next(), next(), next(), next());
        let job = Job {
            backend: *support::BACKENDS.iter().find(|b| format!("{b:?}") == backend).unwrap(),
            depth: depth.parse().unwrap(),
            sync_method: [SyncMethod::Auto, SyncMethod::Dsync, SyncMethod::Fdatasync]
                .into_iter()
                .find(|m| format!("{m:?}") == method)
                .unwrap(),
            appends: [Appends::Outstanding, Appends::InTurn, Appends::Crowd]
                .into_iter()
                .find(|a| format!("{a:?}") == appends)
                .unwrap(),
        };
        (job, next())
    }
}

pub fn record(number: u64) -> Vec<u8> {
    [&number.to_le_bytes()[..], &[7; (64 << 10) - 8]].concat()
}

/// Does nothing unless another test runs it under strace.
#[test]
fn child() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let (job, dir) = Job::named(&job);
    let Job { backend, depth, sync_method, appends } = job;
    // Nobody stays awake for an answer: each is a wake-up that can be counted.
    let mut config = WalConfig { backend, depth, sync_method, spin_us: 0, ..WalConfig::new(dir) };
    config.batch_config.max_buffer_bytes = 8 << 20;
    let wal = Wal::open(config).unwrap();
    match appends {
        Appends::Outstanding => outstanding(&wal),
        Appends::InTurn => {
            for _ in 0..WAITED {
                wal.append_batch(["one"]).unwrap().wait().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Appends::Crowd => std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..WAITED / 8 {
                        wal.append_batch(["one"]).unwrap().wait().unwrap();
                    }
                });
            }
        }),
    }
    let metrics = wal.metrics();
    println!("groups {}", metrics.groups);
    if let Some(calls) = metrics.calls {
        println!("enters {}", calls.enters);
        println!("reads {}", calls.reads);
        println!("writes {}", calls.writes);
        println!("syncs {}", calls.syncs);
    }
    wal.close().unwrap();
}

fn outstanding(wal: &Wal) {
    let mut tickets = VecDeque::new();
    for number in 0..BATCHES {
        tickets.push_back(wal.append_batch([record(number)]).unwrap());
        if tickets.len() > 64 {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

/// One call as strace wrote it.
#[derive(Debug)]
pub struct Call {
    /// The name of its thread.
    pub thread: String,
    pub name: String,
    /// From its opening bracket on.
    pub rest: String,
}

/// What one run of the child said and called.
pub struct Run {
    /// Figures by name.
    pub said: BTreeMap<String, u64>,
    pub calls: Vec<Call>,
}

impl Run {
    /// Runs the child; none, said aloud, where that can't be.
    pub fn of(job: Job) -> Option<Run> {
        Run::with(job, &[], |_| ())
    }

    /// The same where strace is told more; `look` sees the log afterwards.
    pub fn with(job: Job, more: &[&str], look: impl FnOnce(&Path)) -> Option<Run> {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        if let Err(e) = prkdb_core::probe(root.path(), job.backend) {
            support::must_be_missing(job.backend, &e);
            return None;
        }
        let trace = root.path().join("trace");
        let run = Command::new("strace")
            .args(["-f", "-y", "-Y", "--seccomp-bpf", "-e", &format!("trace={WATCHED}")])
            .args(more)
            .arg("-o")
            .arg(&trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "traced::child", "--nocapture"])
            .env(CHILD, format!("{} {}", job.name(), root.path().join("log").display()))
            .output();
        let run = match run {
            Ok(run) => run,
            Err(e) => {
                support::skip("counting system calls, which takes strace", e);
                return None;
            }
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        look(&root.path().join("log"));
        let said = String::from_utf8(run.stdout).unwrap();
        let figure = |line: &str| {
            let (name, number) = line.rsplit_once(' ')?;
            // The test runner may have begun the line.
            let name = name.rsplit(' ').next()?;
            Some((name.to_string(), number.parse().ok()?))
        };
        let said = said.lines().filter_map(figure).collect();
        let trace = std::fs::read_to_string(trace).unwrap();
        let call = |line: &str| {
            let (thread, call) = line.split_once('<')?.1.split_once("> ")?;
            // `<... resumed>`, exits and signals are no calls.
            if call.starts_with(['<', '+', '-']) {
                return None;
            }
            let (name, rest) = call.split_once('(')?;
            Some(Call { thread: thread.into(), name: name.into(), rest: rest.into() })
        };
        Some(Run { said, calls: trace.lines().filter_map(call).collect() })
    }

    /// How many of the calls are such.
    pub fn count(&self, is: impl Fn(&Call) -> bool) -> u64 {
        self.calls.iter().filter(|call| is(call)).count() as u64
    }

    /// How often any of `names` was called.
    pub fn named(&self, names: &[&str]) -> u64 {
        self.count(|call| names.contains(&&*call.name))
    }
}
