//! The suite where io_uring is forbidden, as containers do: all of it passes but for what names a
//! ring, which is refused; a log that names no backend (`auto`) is on the fallback.
//!
//! ```text
//! test --> this binary, `the_launcher_execs_under_a_filter`: applies the filter, then execs
//!            this binary again: `auto::`, which must find `mmap` and the reason; under Docker's
//!                               filter all backends, in their own modules
//!            the command: `stat`, which must tell reason and remedy
//! ```

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use nix::libc;
use prkdb_core::{Backend, Wal};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::place::EXPECTED;
use crate::support;

/// What the launcher is to do: `CALLS ERRNO PROGRAM ARGS..`, one a line.
const JOB: &str = "PRKDB_TEST_FORBIDDEN";
const LAUNCHER: &str = "forbidden::the_launcher_execs_under_a_filter";

const CALLS: &[(&str, &[i64])] = &[
    ("io_uring_setup", &[libc::SYS_io_uring_setup]),
    ("io_uring_enter", &[libc::SYS_io_uring_enter]),
    ("io_uring_register", &[libc::SYS_io_uring_register]),
    ("all", &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]),
];
/// What a call is answered with, and what `Auto` must find then.
const ERRNOS: [(&str, i32, &str); 4] = [
    ("EPERM", libc::EPERM, "mmap seccomp"),
    ("ENOSYS", libc::ENOSYS, "mmap seccomp"),
    ("EACCES", libc::EACCES, "mmap seccomp"),
    ("ENOMEM", libc::ENOMEM, "mmap memlock"),
];

/// Docker's default profile answers all three calls so.
const DOCKER: (&str, &str) = ("all", "EPERM");
/// Every module but this one and those that name a ring: there each test would skip.
const ALL_BUT_RINGS: &[&str] = &["--skip", "forbidden::", "--skip", "uring"];
/// The cases of `auto`, and those of the five modules that run without a ring in every build.
const AUTO_CASES: usize = 45;
const ALL_CASES: usize = 5 * AUTO_CASES;

/// Those rings that this build knows by name.
const RINGS: &[Backend] = &[
    Backend::Uring,
    #[cfg(feature = "tokio-uring")]
    Backend::TokioUring,
];

/// Does nothing unless another test runs it as its child.
#[test]
fn the_launcher_execs_under_a_filter() {
    let Ok(job) = std::env::var(JOB) else { return };
    let mut lines = job.lines();
    let mut next = || lines.next().unwrap();
    let (calls, errno, program) = (next(), next().parse().unwrap(), next());
    let (_, calls) = CALLS.iter().find(|(name, _)| *name == calls).unwrap();
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch);
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&filter).unwrap();
    panic!("{}", Command::new(program).args(lines).env_remove(JOB).exec());
}

/// Runs a program under a filter that answers `calls` with `errno`.
fn forbidden(calls: &str, errno: i32, expected: &str, program: &str, args: &[&str]) -> Output {
    let job = [&[calls, &errno.to_string(), program], args].concat().join("\n");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", LAUNCHER, "--nocapture"])
        .env(JOB, job)
        .env(EXPECTED, expected)
        .output()
        .unwrap()
}

/// Why this machine can't show it, if that is so.
fn can_show() -> bool {
    let found = prkdb_core::probe(&std::env::temp_dir(), Backend::Uring);
    if let Err(e) = &found {
        support::skip("under a filter: io_uring is forbidden already", e);
    }
    found.is_ok()
}

/// Runs the suite under filters that answer `calls` with each errno.
fn passes_without(calls: &str) {
    if !can_show() {
        return;
    }
    let suite = std::env::current_exe().unwrap();
    for (name, errno, expected) in ERRNOS {
        let (cases, least) = match (calls, name) == DOCKER {
            true => (ALL_BUT_RINGS, ALL_CASES),
            false => (&["auto::"][..], AUTO_CASES),
        };
        let run = forbidden(calls, errno, expected, suite.to_str().unwrap(), cases);
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{calls} {name}: {said}");
        let passed = said.split_once("test result: ok. ").expect("a closing line").1;
        let passed: usize = passed.split(' ').next().unwrap().parse().unwrap();
        assert!(passed >= least, "{calls} {name}: only {passed} of {least} ran");
        // Else it passed by not running.
        let talk = String::from_utf8_lossy(&run.stderr);
        let mut skipped = talk.lines().filter(|line| line.starts_with("SKIPPED"));
        assert!(skipped.all(|line| line.contains("uring")), "{calls} {name}: {talk}");
        println!("{calls} {name}: {passed} passed ({})", cases.join(" "));
    }
}

// One a row of the table, for they run side by side.

#[test]
fn the_suite_passes_on_the_fallback_where_no_ring_is_made() {
    passes_without("io_uring_setup");
}

#[test]
fn the_suite_passes_on_the_fallback_where_no_ring_is_entered() {
    passes_without("io_uring_enter");
}

#[test]
fn the_suite_passes_on_the_fallback_where_nothing_is_registered() {
    passes_without("io_uring_register");
}

#[test]
fn the_whole_suite_passes_on_the_fallback_where_all_calls_are_forbidden() {
    passes_without("all");
}

#[cfg(feature = "cli")]
#[test]
fn stat_tells_reason_and_remedy() {
    if !can_show() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    Wal::open(support::config(&dir, Backend::Mmap)).unwrap().close().unwrap();
    for (calls, _) in CALLS {
        for (name, errno, expected) in ERRNOS {
            let args = ["stat", dir.to_str().unwrap(), "--json"];
            let run = forbidden(calls, errno, expected, env!("CARGO_BIN_EXE_prkdb"), &args);
            let said = String::from_utf8_lossy(&run.stdout);
            // Behind what the test runner said before the launcher was replaced.
            let stat = &said[said.find('{').expect("an object")..];
            let stat: serde_json::Value = serde_json::from_str(stat.trim()).unwrap();
            let text = |field: &str| stat[field].as_str().unwrap();
            let found = format!("{} {}", text("backend"), text("backend_reason"));
            assert_eq!(found, expected, "{calls} {name}");
            let helps = if errno == libc::ENOMEM { "ulimit -l" } else { "allow io_uring_setup" };
            assert!(text("remedy").contains(helps), "{}", text("remedy"));
        }
    }
}

#[test]
fn a_named_ring_is_refused_with_reason_and_remedy() {
    if !can_show() {
        return;
    }
    let suite = std::env::current_exe().unwrap();
    let args = ["--exact", "forbidden::child_names_the_ring", "--nocapture"];
    for (calls, _) in CALLS {
        let run = forbidden(calls, libc::EPERM, "mmap seccomp", suite.to_str().unwrap(), &args);
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{calls}: {said}");
        let refusals = said.matches("does not work here (seccomp): allow io_uring_setup").count();
        assert_eq!(refusals, RINGS.len(), "{calls}: {said}");
    }
}

/// Says what a named ring is answered with; run by the test above under a filter.
#[test]
fn child_names_the_ring() {
    if std::env::var(EXPECTED).is_err() {
        return;
    }
    for ring in RINGS {
        let root = tempfile::tempdir().unwrap();
        let refused = Wal::open(support::config(root.path(), *ring)).unwrap_err();
        assert_eq!(refused.kind(), prkdb_core::ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().contains(ring.name()), "{refused}");
        assert!(!root.path().join("META").exists(), "{ring} was refused, and a log made");
        println!("{refused}");
    }
}
