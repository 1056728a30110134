//! How a subcommand ends, and how it talks.
//!
//! A reader of stdout that went away is no failure: the work it asked for is done. Every other
//! error is one line on stderr and exit status 1.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use prkdb_core::{Error, ErrorKind};

/// Why a subcommand stopped before its end.
#[derive(Debug)]
pub enum Stop {
    /// Whoever read stdout has seen enough.
    PipeClosed,
    /// The reason, for people.
    Failed(String),
}

impl Stop {
    /// What a failed write to stdout means.
    pub fn stdout(e: &io::Error) -> Stop {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Stop::PipeClosed,
            _ => Stop::Failed(format!("stdout: {e}")),
        }
    }
}

impl From<prkdb_core::Error> for Stop {
    fn from(e: prkdb_core::Error) -> Stop {
        Stop::Failed(format!("{e}{}", next(&e)))
    }
}

/// What the user of a shell can do about it, where the error does not say so itself.
fn next(e: &Error) -> String {
    match e.kind() {
        // The error says it itself, and nothing is to be given up for it.
        ErrorKind::Corrupt if e.right_length().is_some() => String::new(),
        ErrorKind::Corrupt => {
            let of = |path: &Path| match path.is_dir() {
                true => Some(path.display().to_string()),
                false => path.parent().map(|dir| dir.display().to_string()),
            };
            let dir = e.path().and_then(of).unwrap_or("DIR".into());
            format!(
                "; `prkdb verify {dir}` names all that is damaged; `prkdb repair {dir} --to NEW` \
                 makes a new log of the rest and changes nothing, without `--to` it is given up in \
                 place"
            )
        }
        ErrorKind::Locked => {
            "; close it there first, or only read it: cat, stat and verify work beside a writer"
                .into()
        }
        ErrorKind::StorageFull => "; free some space, and go on".into(),
        _ => String::new(),
    }
}

/// Says `text` on stderr.
pub fn say(text: fmt::Arguments<'_>) {
    // Nobody is left to tell when stderr itself fails.
    writeln!(io::stderr(), "{text}").ok();
}

/// Writes `line` to stdout, flushed.
pub fn print(line: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| Stop::stdout(&e))
}

/// The exit status of the subcommand `name`, its error told.
pub fn finish(name: &str, result: Result<ExitCode, Stop>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(Stop::PipeClosed) => ExitCode::SUCCESS,
        Err(Stop::Failed(why)) => {
            // Most errors begin with what failed, which may be the command itself.
            let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why);
            say(format_args!("prkdb {name}: {why}"));
            ExitCode::FAILURE
        }
    }
}
