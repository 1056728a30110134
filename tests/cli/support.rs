//! Running the built command, and input nobody wrote for these tests.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use prkdb_core::Backend;
use serde_json::Value;

/// The built command, its three streams piped.
pub fn prkdb<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prkdb"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `prkdb SUBCOMMAND DIR ARGS..` with `stdin` to its end.
pub fn run(subcommand: &str, dir: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let all = [OsStr::new(subcommand), dir.as_os_str()].into_iter();
    let mut child = prkdb(all.chain(args.iter().map(OsStr::new))).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The command may rightly end before it has read everything.
        scope.spawn(move || pipe.write_all(stdin).ok());
        child.wait_with_output().unwrap()
    })
}

/// As `run`, for what must end with status 0; its stdout.
pub fn run_ok(subcommand: &str, dir: &Path, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    let output = run(subcommand, dir, args, stdin);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{subcommand} {args:?}: {talk}");
    output.stdout
}

/// As `run`, for what must end with this status and talk; its stderr.
pub fn run_err(status: i32, subcommand: &str, dir: &Path, args: &[&str], stdin: &[u8]) -> String {
    let output = run(subcommand, dir, args, stdin);
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{subcommand} {args:?}: {talk}");
    assert!(!talk.is_empty(), "{subcommand} {args:?} failed without a word");
    assert!(!talk.contains("panicked"), "{talk}");
    talk
}

/// The JSON objects in `lines`.
pub fn json_lines(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of an object's fields, in the order of the text.
pub fn field_names(line: &str) -> Vec<String> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
    let mut names: Vec<String> = object.keys().cloned().collect();
    names.sort_by_key(|name| line.find(&format!("\"{name}\":")));
    names
}

/// The names of the backends that work where `dir` is, the best first; says so if one does not.
pub fn backends(dir: &Path) -> Vec<&'static str> {
    let all = [(Backend::Uring, "uring"), (Backend::Mmap, "mmap"), (Backend::Pwrite, "pwrite")];
    let works = |(backend, name): (Backend, &'static str)| match prkdb_core::probe(dir, backend) {
        Ok(_) => Some(name),
        Err(e) => {
            let missing = name == "uring" || e.to_string().contains("copies on write");
            assert!(missing, "the fallback is refused: {e}");
            writeln!(std::io::stderr().lock(), "SKIPPED on {name}: {e}").unwrap();
            None
        }
    };
    all.into_iter().filter_map(works).collect()
}

/// Text with empty lines, then every byte there is, ending with a newline.
pub fn real_lines() -> Vec<u8> {
    let mut lines = Vec::new();
    for text in ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(text);
        lines.extend(std::fs::read(path).unwrap());
    }
    // Multiplicative congruence: noise that is the same in every run.
    let mut state = 1u64;
    lines.extend((0..100_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    }));
    lines.push(b'\n');
    lines
}

/// How many lines there are in `text`, which ends with a newline.
pub fn count_lines(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}
