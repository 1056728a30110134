//! A FUSE file system that a test serves itself: in a child, the test binary executed again.
//!
//! ```text
//! test process                                  child
//!   engine --- system calls --- kernel --FUSE-->  file system (4 threads)
//!   Served --- a line ------- socket on stdin -->  Service::answer
//! ```
//!
//! It lives in a process of its own: threads of the test that wait for the file system would keep
//! the descriptor of a server in the same process open for ever, and themselves with it. If the
//! test dies the socket ends, and so does the child, which cleans up behind it; if the child is
//! killed, what waits for its file system gets an error.
#![allow(dead_code, reason = "each test uses its own part")]

use std::fmt::Arguments;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::support;

/// Where the child is to mount itself.
pub const MOUNT_AT: &str = "PRKDB_TEST_FUSE";

/// How long a server may take to clean up.
const PATIENCE_MS: u64 = 20_000;

/// The test's side of it.
pub struct Served {
    child: Child,
    line: Mutex<(BufReader<UnixStream>, UnixStream)>,
    root: tempfile::TempDir,
}

impl Served {
    /// Executes this binary again for `test`, which calls [`serve`]; says why if it can't be.
    pub fn start(test: &str) -> Option<Served> {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("served");
        std::fs::create_dir(&at).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(MOUNT_AT, &at)
            // What ends the test from the terminal must not end what cleans up behind it.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let line = Mutex::new((BufReader::new(ours.try_clone().unwrap()), ours));
        let served = Served { child, line, root };
        let mut told = String::new();
        served.line.lock().unwrap().0.read_line(&mut told).unwrap();
        match told.trim() {
            "ready" => Some(served),
            "" => panic!("the child that should serve ended"),
            why => {
                support::skip("a FUSE file system", why);
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.root.path().join("served")
    }

    /// A directory beside it.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The process to kill so that requests that wait get an error.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server at once.
    pub fn kill(&self) {
        let killed = Command::new("kill").args(["-9", &self.pid().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    pub fn ask(&self, question: Arguments<'_>) -> String {
        let mut line = self.line.lock().unwrap();
        writeln!(line.1, "{question}").unwrap();
        let mut answer = String::new();
        line.0.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the child that serves is gone");
        answer.trim().to_string()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Ok(line) = self.line.get_mut() {
            drop(line.1.shutdown(std::net::Shutdown::Both));
        }
        // Whatever became of it: a server that does not end would keep the test for ever.
        for _ in 0..PATIENCE_MS / 10 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        // The child did it, unless it was killed.
        drop(Command::new("umount").args(["-q", "-l"]).arg(self.path()).output());
    }
}

/// What the child does beside serving the file system.
pub trait Service {
    fn answer(&mut self, words: &[&str]) -> String;

    /// The test is gone; the file system still works.
    fn end(&mut self) {}
}

/// What the test named to [`Served::start`] calls: serves until the other side goes away. Does
/// nothing in a process that was not started so.
pub fn serve(files: impl fuser::Filesystem, mut service: impl Service) {
    let Ok(at) = std::env::var(MOUNT_AT) else { return };
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin is a socket");
    let mut socket = UnixStream::from(socket);
    let mut config = fuser::Config::default();
    config.n_threads = Some(4);
    let session = match fuser::spawn_mount(files, &at, &config) {
        Ok(session) => session,
        Err(e) => return writeln!(socket, "it can't be mounted: {e}").expect("the test listens"),
    };
    writeln!(socket, "ready").expect("the test listens");
    for line in BufReader::new(socket.try_clone().expect("a descriptor")).lines() {
        let Ok(line) = line else { break };
        let answer = service.answer(&line.split(' ').collect::<Vec<_>>());
        if writeln!(socket, "{answer}").is_err() {
            break;
        }
    }
    service.end();
    // Whoever still has a file open gets errors from now on.
    drop(Command::new("umount").arg("-l").arg(&at).status());
    drop(session);
    std::process::exit(0);
}
