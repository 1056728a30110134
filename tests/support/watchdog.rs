//! Ends the test binary when one of its steps hangs, and names the step.
//!
//! A thread that waits for a disk that does not answer can't be ended, and neither can its process:
//! first the file system goes, whose server is another process, with what is mounted from its
//! files, then the tests. Where there is no server what the tests mounted goes.

use std::fmt::{Arguments, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

struct State {
    step: String,
    since: Instant,
    /// The process that goes first, and where it is mounted.
    server: u32,
    mounted: PathBuf,
    is_over: bool,
}

/// Watches from its creation until it is dropped.
pub struct Watchdog(Arc<(Mutex<State>, Condvar)>);

impl Watchdog {
    /// No step may take longer than `limit`.
    pub fn new(limit: Duration, server: u32, mounted: PathBuf) -> Watchdog {
        let step = "start".to_string();
        let state = State { step, since: Instant::now(), server, mounted, is_over: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || watch(&watched.0, &watched.1, limit));
        Watchdog(shared)
    }

    /// What is done from now on.
    pub fn step(&self, step: Arguments<'_>) {
        let mut state = self.0.0.lock().unwrap();
        (state.step, state.since) = (step.to_string(), Instant::now());
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.0.lock() {
            state.is_over = true;
        }
        self.0.1.notify_all();
    }
}

fn watch(state: &Mutex<State>, over: &Condvar, limit: Duration) {
    let mut state = state.lock().unwrap();
    while !state.is_over {
        let passed = state.since.elapsed();
        if passed >= limit {
            eprintln!("HANGS for {} s: {}", passed.as_secs(), state.step);
            drop(Command::new("kill").args(["-9", &state.server.to_string()]).status());
            unmount_from(&state.mounted);
            drop(Command::new("umount").arg("-l").arg(&state.mounted).status());
            std::process::exit(101);
        }
        state = over.wait_timeout(state, limit - passed).unwrap().0;
    }
}

/// Runs what must end; when it takes longer than `limit` the test binary ends, and says what hangs.
pub fn within_reason<T>(what: impl Display, limit: Duration, run: impl FnOnce() -> T) -> T {
    let (done, over) = mpsc::channel::<()>();
    let what = what.to_string();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("HANGS for {} s: {what}", limit.as_secs());
                super::disk::unmount_all();
                std::process::exit(101);
            }
        });
        let outcome = run();
        drop(done);
        outcome
    })
}

/// Unmounts what is mounted through loop devices on files in `served`.
fn unmount_from(served: &Path) {
    let Ok(list) = Command::new("losetup").args(["-n", "-l", "-O", "NAME,BACK-FILE"]).output()
    else {
        return;
    };
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        if let Some((device, file)) = line.split_once(' ')
            && Path::new(file.trim()).starts_with(served)
        {
            drop(Command::new("umount").args(["-l", device]).status());
            drop(Command::new("losetup").args(["-d", device]).status());
        }
    }
}
