//! The README's transcript of damage and repair, run as it stands there.

use std::path::Path;
use std::process::Command;

#[test]
fn the_readmes_transcript_is_what_happens() {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next());
    let transcripts: Vec<_> = blocks.filter(|block| block.starts_with("$ ")).collect();
    assert!(!transcripts.is_empty(), "the README has a transcript");
    let prkdb = Path::new(env!("CARGO_BIN_EXE_prkdb"));
    let mut path = prkdb.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    for transcript in transcripts {
        let dir = tempfile::tempdir().unwrap();
        for step in transcript.strip_prefix("$ ").unwrap().split("\n$ ") {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).current_dir(dir.path()).env("PATH", &path);
            let said = shell.output().unwrap();
            let talk = String::from_utf8_lossy(&said.stderr);
            let said = String::from_utf8(said.stdout).unwrap();
            assert_eq!(said.trim_end(), expected.trim_end(), "{command}: {talk}");
        }
    }
}
