//! `prkdb repair`, and what the other commands say of a damaged log and of a repaired one.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::format::{self, Frame, SLOT, flip};
use crate::support::{json_lines, run, run_err, run_ok};

/// A log of 400 lines in batches of ten, closed; its frames.
fn log(dir: &Path) -> Vec<Frame> {
    let lines: String = (1..=400).map(|n| format!("line {n}\n")).collect();
    run_ok("append", dir, &["--batch", "10"], lines.as_bytes());
    let path = crate::segments(dir).remove(0);
    let frames = format::frames(&path).0;
    assert!(frames.len() >= 40, "{} batches", frames.len());
    frames
}

fn totals(stdout: &[u8]) -> Value {
    json_lines(stdout).pop().unwrap()
}

fn all_but(first: u64, last: u64) -> Vec<u8> {
    let kept = (1..=400).filter(|n| !(first..=last).contains(n));
    kept.map(|n| format!("line {n}\n")).collect::<String>().into_bytes()
}

#[test]
fn a_damaged_log_is_named_repaired_and_read_on() {
    let root = tempfile::tempdir().unwrap();
    let (dir, to) = (root.path().join("log"), root.path().join("new"));
    let frame = log(&dir)[7].clone();
    flip(&frame.path, frame.offset + 30);
    for command in ["cat", "stat"] {
        let talk = run_err(1, command, &dir, &[], b"");
        assert!(talk.contains("prkdb verify") && talk.contains("prkdb repair"), "{talk}");
        assert!(talk.contains(frame.path.to_str().unwrap()), "{talk}");
    }
    let talk = run_err(1, "verify", &dir, &[], b"");
    assert!(talk.contains(&format!("prkdb repair {}", dir.display())), "{talk}");
    let told = run_ok("repair", &dir, &["--to", to.to_str().unwrap(), "--json"], b"");
    let lines = json_lines(&told);
    assert_eq!(lines[0]["file"], frame.path.to_str().unwrap());
    assert_eq!(lines[0]["offset"], frame.offset);
    assert_eq!(lines[0]["kind"], "frames");
    assert_eq!((&lines[0]["first_lsn"], &lines[0]["last_lsn"]), (&71.into(), &80.into()));
    let copied = totals(&told);
    assert_eq!((&copied["records_kept"], &copied["records_lost"]), (&390.into(), &10.into()));
    assert_eq!(copied["to"], to.to_str().unwrap());
    run_err(1, "cat", &dir, &[], b"");
    let text = String::from_utf8(run_ok("repair", &dir, &[], b"")).unwrap();
    let place = format!("{} {} ", frame.path.display(), frame.offset);
    assert!(text.starts_with(&place) && text.contains(" frames 71-80\n"), "{text}");
    assert!(
        text.ends_with("repaired: 390 records kept, 10 lost, holes 1, next LSN 401\n"),
        "{text}"
    );
    for dir in [&dir, &to] {
        let read = run("cat", dir, &[], b"");
        assert_eq!(read.status.code(), Some(0));
        assert!(read.stdout == all_but(71, 80));
        let talk = String::from_utf8(read.stderr).unwrap();
        assert!(talk.contains("records 71 to 80") && talk.lines().count() == 1, "{talk}");
        assert!(run_ok("cat", dir, &["--from", "75", "--limit", "1"], b"") == b"line 81\n");
        let verified = run_ok("verify", dir, &["--json"], b"");
        let found = json_lines(&verified);
        assert_eq!((&found[0]["kind"], &found[0]["lsn"]), (&"given-up".into(), &71.into()));
        assert_eq!(found[0]["damage"], false);
        assert_eq!(totals(&verified)["records"], 390);
        let again = run_ok("repair", dir, &["--json"], b"");
        assert_eq!(json_lines(&again).len(), 1);
        assert_eq!(totals(&again)["changed"], false);
        run_ok("append", dir, &[], b"line 401\n");
        assert!(run_ok("cat", dir, &["--from", "401"], b"") == b"line 401\n");
    }
}

#[test]
fn a_log_without_meta_is_rebuilt_and_the_old_one_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log(&dir);
    let meta = dir.join("META");
    for at in [9, SLOT + 9] {
        flip(&meta, at);
    }
    let damaged = fs::read(&meta).unwrap();
    let talk = run_err(1, "stat", &dir, &[], b"");
    assert!(talk.contains("prkdb repair"), "{talk}");
    let text = String::from_utf8(run_ok("repair", &dir, &[], b"")).unwrap();
    let kept = dir.join("META.given-up");
    assert!(text.contains(&format!("meta - kept as {}", kept.display())), "{text}");
    assert!(fs::read(kept).unwrap() == damaged);
    assert!(run_ok("cat", &dir, &[], b"") == all_but(0, 0));
}

#[test]
fn a_healthy_log_stays_as_it_is_and_bad_calls_are_told() {
    let root = tempfile::tempdir().unwrap();
    let (dir, full) = (root.path().join("log"), root.path().join("full"));
    log(&dir);
    let before = fs::read(dir.join("META")).unwrap();
    let text = String::from_utf8(run_ok("repair", &dir, &[], b"")).unwrap();
    assert_eq!(text, "nothing to repair: 400 records kept, 0 lost, holes 0, next LSN 401\n");
    assert!(fs::read(dir.join("META")).unwrap() == before);
    fs::create_dir(&full).unwrap();
    fs::write(full.join("a file"), "precious").unwrap();
    for to in [full.to_str().unwrap(), dir.join("inside").to_str().unwrap()] {
        run_err(1, "repair", &dir, &["--to", to], b"");
    }
    run_err(1, "repair", &full, &[], b"");
    run_err(1, "repair", &root.path().join("none"), &[], b"");
    run_err(2, "repair", &dir, &["--from", "7"], b"");
    run_err(2, "verify", &dir, &["--threads", "0"], b"");
    assert_eq!(fs::read(full.join("a file")).unwrap(), b"precious");
}
