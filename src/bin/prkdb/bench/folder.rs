//! The temporary folder that holds everything, and the signals that end the work early.
//!
//! ```text
//! SIGINT, SIGTERM, SIGHUP --1st--> stop flag --> callers stop --> logs close --> folder goes
//!                         --2nd--> folder goes --> exit, whatever else hangs
//! ```
//!
//! Invariant: the folder is fresh, so that nothing in it is anybody else's; it is removed on every
//! way out but a signal that ends the process at once (SIGKILL, SIGQUIT).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use crate::outcome::{Stop, say};

/// A flag that signals set, and the folder they remove in the end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    folder: Arc<OnceLock<PathBuf>>,
}

impl Interrupt {
    /// Takes the signals from here on.
    pub fn watch() -> Result<Interrupt, Stop> {
        let interrupt = Interrupt::default();
        let on_signal = interrupt.clone();
        ctrlc::set_handler(move || on_signal.signalled())
            .map_err(|e| Stop::Failed(format!("signals can't be caught: {e}")))?;
        Ok(interrupt)
    }

    fn signalled(&self) {
        // Relaxed: nothing else is published with it.
        if !self.stop.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(folder) = self.folder.get()
            && let Err(e) = std::fs::remove_dir_all(folder)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            say(format_args!("prkdb bench: {} stays: {e}", folder.display()));
        }
        std::process::exit(1);
    }

    /// The flag.
    pub fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Ends the work if there was a signal.
    pub fn check(&self) -> Result<(), Stop> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stop::Failed("interrupted before all figures were complete".into()));
        }
        Ok(())
    }
}

/// A fresh folder, removed with all that is in it.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// A folder below `dir`.
    pub fn below(dir: &Path, interrupt: &Interrupt) -> Result<Folder, Stop> {
        let made = tempfile::Builder::new().prefix("prkdb-bench-").tempdir_in(dir);
        let failed = |e| Stop::Failed(format!("no folder can be made in {}: {e}", dir.display()));
        let folder = Folder(made.map_err(failed)?);
        interrupt.folder.get_or_init(|| folder.path().to_path_buf());
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes it; dropping it does so too, but can't say that it failed.
    pub fn remove(self) -> Result<(), Stop> {
        let path = self.path().to_path_buf();
        let failed = |e| Stop::Failed(format!("{} could not be removed: {e}", path.display()));
        self.0.close().map_err(failed)
    }
}
