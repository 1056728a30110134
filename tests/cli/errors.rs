//! What a user can get wrong, and what a disk can: one clear line, the right exit status, nothing
//! made and nothing lost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use crate::support::{json_lines, prkdb, run, run_err, run_ok};

const READERS: [&str; 3] = ["cat", "verify", "stat"];

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bad_usage_is_status_2() {
    let root = tempfile::tempdir().unwrap();
    for args in [
        &["--batch", "0"][..],
        &["--batch", "2000000"],
        &["--backend", "floppy"],
        &["--durability", "maybe"],
        &["--codec", "gzip"],
        &["--no-such-option"],
    ] {
        run_err(2, "append", root.path(), args, b"");
    }
    run_err(2, "cat", root.path(), &["--from", "0"], b"");
    run_err(2, "no-such-command", root.path(), &[], b"");
    assert_eq!(prkdb(["append"]).output().unwrap().status.code(), Some(2));
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_missing_parent_is_made_by_append_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b/log");
    for reader in READERS {
        let talk = run_err(1, reader, &dir, &[], b"");
        assert!(talk.contains(dir.to_str().unwrap()), "{talk}");
    }
    assert!(names(root.path()).is_empty());
    run_ok("append", &dir, &[], b"one\n");
    assert_eq!(run_ok("cat", &dir, &[], b""), b"one\n");
}

#[test]
fn a_file_where_the_directory_should_be_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("log");
    fs::write(&file, "precious").unwrap();
    for command in ["append", "cat", "verify", "stat"] {
        let talk = run_err(1, command, &file, &[], b"one\n");
        assert!(talk.contains(file.to_str().unwrap()), "{talk}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(names(root.path()), ["log"]);
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("holiday.jpg"), "precious").unwrap();
    for command in ["append", "cat", "verify", "stat"] {
        let talk = run_err(1, command, root.path(), &[], b"one\n");
        assert!(talk.contains("invalid"), "{talk}");
    }
    assert_eq!(names(root.path()), ["holiday.jpg"]);
}

#[test]
fn foreign_files_beside_a_log_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], b"one\n");
    fs::write(root.path().join("holiday.jpg"), "precious").unwrap();
    run_ok("append", root.path(), &[], b"two\n");
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\ntwo\n");
    assert_eq!(run_ok("verify", root.path(), &[], b""), b"");
    assert_eq!(fs::read(root.path().join("holiday.jpg")).unwrap(), b"precious");
}

#[test]
fn a_second_writer_is_refused_while_readers_are_not() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_str().unwrap();
    let mut writer = prkdb(["append", dir, "--acks", "--batch", "1"]).spawn().unwrap();
    let mut stdin = writer.stdin.take().unwrap();
    let mut ack = String::new();
    stdin.write_all(b"one\n").unwrap();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut ack).unwrap();
    assert_eq!(ack, "acked 1 1\n");

    let talk = run_err(1, "append", root.path(), &[], b"intruder\n");
    assert!(talk.contains("locked"), "{talk}");
    for reader in READERS {
        run_ok(reader, root.path(), &[], b"");
    }
    stdin.write_all(b"two\n").unwrap();
    drop(stdin);
    assert!(writer.wait_with_output().unwrap().status.success());
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\ntwo\n");
}

#[test]
fn a_line_longer_than_a_record_is_named_and_those_before_it_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let long = vec![b'x'; prkdb_core::MAX_RECORD_BYTES + 1];
    let talk = run_err(1, "append", root.path(), &[], &[&b"one\ntwo\n"[..], &long].concat());
    assert!(talk.contains("line 3 is longer"), "{talk}");
    assert!(talk.contains("acknowledged: 2 records, "), "{talk}");
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\ntwo\n");
}

#[test]
fn a_changed_byte_is_named_and_never_served() {
    let root = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (1..=500).map(|n| format!("this is line {n} of 500\n")).collect();
    run_ok("append", root.path(), &["--batch", "7"], lines.concat().as_bytes());
    let (segment, offset) = find(root.path(), b"this is line 250 of");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[offset] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let verified = run("verify", root.path(), &["--json"], b"");
    assert_eq!(verified.status.code(), Some(1));
    let findings = json_lines(&verified.stdout);
    let named = findings.iter().find(|finding| finding["damage"] == true).unwrap();
    assert_eq!(named["file"], segment.to_str().unwrap());
    assert!(named["offset"].as_u64().unwrap() <= offset as u64, "{named}");
    let text = String::from_utf8(run("verify", root.path(), &[], b"").stdout).unwrap();
    let fields: Vec<_> = text.lines().next().unwrap().split(' ').collect();
    assert_eq!((fields.len(), fields[0]), (4, segment.to_str().unwrap()), "{text}");

    let read = run("cat", root.path(), &[], b"");
    assert_eq!(read.status.code(), Some(1));
    let talk = String::from_utf8(read.stderr).unwrap();
    assert!(talk.contains(segment.to_str().unwrap()) && talk.contains("corrupt"), "{talk}");
    let next = format!("`prkdb repair {} --to NEW`", root.path().display());
    assert!(talk.contains(&next), "{talk}");
    let shown = String::from_utf8(read.stdout).unwrap();
    assert!(shown.len() < lines[..250].concat().len(), "the damaged record was served");
    assert!(lines.concat().starts_with(&shown), "other records were served");
}

/// Nothing is lost with a length: no error says that it is to be given up.
#[test]
fn a_segment_of_another_length_is_to_be_given_its_own() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], b"one\ntwo\n");
    let (segment, _) = find(root.path(), b"two");
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size + 1).unwrap();
    for command in ["cat", "stat", "repair"] {
        let refused = run(command, root.path(), &[], b"");
        assert_eq!(refused.status.code(), Some(1), "{command}");
        let talk = String::from_utf8(refused.stderr).unwrap();
        let next = talk.contains(&format!("truncate -s {size}")) && !talk.contains("prkdb repair ");
        assert!(next, "{command}: {talk}");
    }
    file.set_len(size).unwrap();
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\ntwo\n");
}

/// The segment and the offset where `needle` stands.
fn find(dir: &Path, needle: &[u8]) -> (std::path::PathBuf, usize) {
    for name in names(dir).into_iter().filter(|name| name.ends_with(".seg")) {
        let bytes = fs::read(dir.join(&name)).unwrap();
        if let Some(offset) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (dir.join(name), offset);
        }
    }
    panic!("no segment holds the record");
}
