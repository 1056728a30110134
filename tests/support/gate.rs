//! A hook that holds calls and answers back, gives others, or refuses, by what they are for.
//!
//! ```text
//! log -- call, request --> Gate --> disk        hold:   waits until it is freed
//!     <----- answer ------      <--             answer: never made, answered like that
//! ```

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use prkdb_core::io::{Op, ThreadHost, World, open_disk};
use prkdb_core::{Backend, SyncMethod, Wal, WalConfig};

use super::through::{Hook, Through};

/// What a request is for: `meta`, `frames`, `footer`, `sync` of a segment, `wipe`, or `other`.
fn role(op: &Op) -> &'static str {
    let (file, at) = match op {
        Op::Write { file, at, .. } => (file, Some(*at)),
        Op::Sync { file } => (file, None),
        Op::Read { .. } => return "other",
    };
    let extension = file.path().extension().and_then(|extension| extension.to_str());
    match (extension, at) {
        _ if file.path().ends_with("META") => "meta",
        (Some("seg"), None) => "sync",
        (Some("seg"), Some(at)) if at + 4096 == file.size().unwrap() => "footer",
        (Some("seg"), Some(_)) => "frames",
        (Some("free"), Some(_)) => "wipe",
        _ => "other",
    }
}

/// Nobody waits longer: a test that fails must end.
const MINUTE: Duration = Duration::from_secs(60);

pub type Answer = fn() -> io::Result<usize>;

#[derive(Default)]
struct State {
    held: Vec<(&'static str, &'static str)>,
    answers: Vec<(&'static str, Answer)>,
    refused: Vec<(&'static str, &'static str)>,
    /// All that came by and is held, answered or refused by now or was when it came.
    met: Vec<&'static str>,
}

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

fn fits(list: &[(&'static str, &'static str)], name: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    list.iter().any(|(held, ending)| *held == name && path.ends_with(ending))
}

impl Gate {
    /// Requests of this role get no answer, or calls of this name on paths with this ending wait.
    pub fn hold(&self, name: &'static str, ending: &'static str) {
        self.state.lock().unwrap().held.push((name, ending));
    }

    /// They go on.
    pub fn free(&self, name: &'static str) {
        self.state.lock().unwrap().held.retain(|(held, _)| *held != name);
        self.changed.notify_all();
    }

    /// Requests of this role are not made and answered like that.
    pub fn answer(&self, role: &'static str, answer: Answer) {
        self.state.lock().unwrap().answers.push((role, answer));
    }

    /// They fail as a broken device does.
    pub fn fail(&self, role: &'static str) {
        self.answer(role, || Err(io::Error::from_raw_os_error(libc::EIO)));
    }

    /// Calls of this name on paths with this ending are refused.
    pub fn refuse(&self, call: &'static str, ending: &'static str) {
        self.state.lock().unwrap().refused.push((call, ending));
    }

    /// All goes well again.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        (state.held, state.answers, state.refused) = (Vec::new(), Vec::new(), Vec::new());
        self.changed.notify_all();
    }

    /// Waits until one of that name is held, and was since the last time this was asked.
    pub fn wait_for(&self, name: &'static str) {
        let state = self.state.lock().unwrap();
        let come = |state: &mut State| !state.met.contains(&name);
        let (mut state, over) = self.changed.wait_timeout_while(state, MINUTE, come).unwrap();
        let came = !over.timed_out();
        state.met.retain(|met| *met != name);
        // The log's threads use it too, and must not die of this one.
        drop(state);
        assert!(came, "no {name} came");
    }
}

/// Opens a log behind a gate, with forced writes: what measures would meet the faults first.
pub fn open(gate: &Arc<Gate>, config: WalConfig) -> Wal {
    let disk = Through::new(open_disk(&config.log_dir, Backend::Pwrite).unwrap().0, gate);
    let world = World { disk: Arc::new(disk), host: Arc::new(ThreadHost::new()) };
    let (backend, sync_method) = (Backend::Pwrite, SyncMethod::Dsync);
    Wal::open_in(world, WalConfig { backend, sync_method, ..config }).unwrap()
}

/// Long enough for a thread to queue what it was started for; where it is not, less is tested.
pub fn a_moment() {
    std::thread::sleep(Duration::from_millis(100));
}

impl Hook for Gate {
    fn before(&self, call: &'static str, path: &Path) {
        let maker = std::thread::current().name() == Some("prkdb-maker");
        let call = if call == "queue" && maker { "queue of the maker" } else { call };
        let mut state = self.state.lock().unwrap();
        if fits(&state.held, call, path) {
            state.met.push(call);
            self.changed.notify_all();
            let held = |state: &mut State| fits(&state.held, call, path);
            drop(self.changed.wait_timeout_while(state, MINUTE, held).unwrap());
        }
    }

    fn fails(&self, call: &'static str, path: &Path) -> bool {
        fits(&self.state.lock().unwrap().refused, call, path)
    }

    fn submit(&self, op: &Op) -> Option<&'static str> {
        Some(role(op))
    }

    fn answer(&self, op: &Op) -> Option<io::Result<usize>> {
        let (role, state) = (role(op), self.state.lock().unwrap());
        state.answers.iter().find(|(name, _)| *name == role).map(|(_, answer)| answer())
    }

    fn holds(&self, role: &'static str) -> bool {
        fits(&self.state.lock().unwrap().held, role, Path::new(""))
    }

    /// One that was on its way before it was to be held is held as well, and counts as met.
    fn keeps(&self, role: &'static str) -> bool {
        let mut state = self.state.lock().unwrap();
        let held = fits(&state.held, role, Path::new(""));
        if held {
            state.met.push(role);
            self.changed.notify_all();
        }
        held
    }
}
