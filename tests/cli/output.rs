//! What stands on stdout: fields, ranges, and what happens when nobody reads it any more.

use std::io::{BufRead, BufReader, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::{backends, field_names, json_lines, prkdb, run_err, run_ok};

#[test]
fn cat_prints_json_lines_with_the_bytes_in_base64() {
    let root = tempfile::tempdir().unwrap();
    let every_byte: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let input = [&b"one\n\n"[..], &every_byte].concat();
    run_ok("append", root.path(), &[], &input);
    let told = run_ok("cat", root.path(), &["--json"], b"");
    let first = std::str::from_utf8(&told).unwrap().lines().next().unwrap();
    assert_eq!(field_names(first), ["lsn", "time_us", "len", "data_base64"]);
    let records = json_lines(&told);
    assert_eq!(records.len(), 3);
    for ((record, lsn), data) in records.iter().zip(1..).zip([b"one", &b""[..], &every_byte]) {
        assert_eq!(record["lsn"], lsn);
        assert_eq!(record["len"], data.len());
        assert!(record["time_us"].as_u64().unwrap() > 0);
        assert_eq!(STANDARD.decode(record["data_base64"].as_str().unwrap()).unwrap(), data);
    }
}

#[test]
fn cat_prints_the_range_that_was_asked_for() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &["--batch", "2"], b"a\nb\nc\nd\ne\n");
    let cat = |args: &[&str]| String::from_utf8(run_ok("cat", root.path(), args, b"")).unwrap();
    assert_eq!(cat(&["--from", "4"]), "d\ne\n");
    assert_eq!(cat(&["--from", "2", "--limit", "2"]), "b\nc\n");
    assert_eq!(cat(&["--limit", "0"]), "");
    assert_eq!(cat(&["--from", "6"]), "");
}

#[test]
fn stat_has_the_promised_fields() {
    let root = tempfile::tempdir().unwrap();
    let backends = backends(root.path());
    let stat = || String::from_utf8(run_ok("stat", root.path(), &["--json"], b"")).unwrap();
    run_ok("append", root.path(), &["--backend", "pwrite"], b"");
    let empty = stat();
    let value = &json_lines(empty.as_bytes())[0];
    for field in ["first_lsn", "next_lsn", "durable_lsn"] {
        assert!(value[field].is_null(), "{empty}");
    }
    run_ok("append", root.path(), &["--backend", "pwrite"], b"a\nb\n");
    let full = stat();
    for line in [&empty, &full] {
        let names = field_names(line);
        assert_eq!(names[..5].join(" "), "backend backend_reason remedy last_backend sync_method");
        assert_eq!(names[5..8].join(" "), "first_lsn next_lsn durable_lsn");
        let rest = names[8..14].join(" ");
        assert_eq!(rest, "segments size_bytes format_version promised_lsn holes metrics");
    }
    let value = &json_lines(full.as_bytes())[0];
    assert_eq!((&value["first_lsn"], &value["next_lsn"]), (&1.into(), &3.into()));
    assert_eq!((&value["durable_lsn"], &value["promised_lsn"]), (&2.into(), &2.into()));
    assert_eq!(value["last_backend"], "pwrite");
    assert_eq!(value["backend"], backends[0]);
    assert!(value["segments"].as_u64().unwrap() >= 1);
    let text = String::from_utf8(run_ok("stat", root.path(), &[], b"")).unwrap();
    assert!(text.contains("\nnext_lsn       3\n"), "{text}");
}

#[test]
fn stat_tells_what_the_last_writer_counted() {
    let root = tempfile::tempdir().unwrap();
    let stat = |args: &[&str]| String::from_utf8(run_ok("stat", root.path(), args, b"")).unwrap();
    run_ok("append", root.path(), &["--batch", "2"], b"one\ntwo\nthree\n");
    let metrics = &json_lines(stat(&["--json"]).as_bytes())[0]["metrics"];
    assert_eq!((&metrics["batches"], &metrics["records"]), (&2.into(), &3.into()), "{metrics}");
    assert_eq!((&metrics["bytes"], &metrics["failed"]), (&11.into(), &0.into()), "{metrics}");
    assert!(metrics["written_bytes"].as_u64().unwrap().is_multiple_of(4096));
    let answer = &metrics["answer_ns"];
    assert_eq!(answer["count"], 2);
    let of = |name: &str| answer[name].as_u64().unwrap();
    assert!(of("p50") > 0 && of("p50") <= of("p99") && of("p99") <= of("max"), "{answer}");
    let text = stat(&[]);
    assert!(text.contains("\nmetrics of the last writer, "), "{text}");
    assert!(text.contains("\nrecords            3\n"), "{text}");
    // Advisory: whatever stands in it, the log is described.
    for junk in [&b""[..], b"prkdb-metrics 1 00000000\ngroups 1\n", &[0xff; 300_000]] {
        std::fs::write(root.path().join("METRICS"), junk).unwrap();
        assert!(json_lines(stat(&["--json"]).as_bytes())[0]["metrics"].is_null());
        assert!(!stat(&[]).contains("metrics"));
    }
    std::fs::remove_file(root.path().join("METRICS")).unwrap();
    assert!(json_lines(stat(&["--json"]).as_bytes())[0]["metrics"].is_null());
}

#[test]
fn a_closed_pipe_ends_cat_quietly() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], &b"0123456789abcdef\n".repeat(200_000));
    let mut cat = prkdb(["cat", root.path().to_str().unwrap()]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "0123456789abcdef\n");
    let ended = cat.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn a_closed_pipe_ends_append_and_keeps_what_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_str().unwrap();
    let mut append = prkdb(["append", dir, "--acks", "--batch", "1"]).spawn().unwrap();
    let (mut stdin, stdout) = (append.stdin.take().unwrap(), append.stdout.take().unwrap());
    let mut acks = BufReader::new(stdout);
    let mut ack = String::new();
    stdin.write_all(b"one\n").unwrap();
    acks.read_line(&mut ack).unwrap();
    assert_eq!(ack, "acked 1 1\n");
    drop(acks);
    // Stdin stays open: the command must end although more input could come.
    stdin.write_all(b"two\n").unwrap();
    assert_eq!(append.wait().unwrap().code(), Some(1), "not all of stdin was appended");
    let mut talk = String::new();
    append.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
    assert!(talk.contains("acknowledged: "), "{talk}");
    assert!(talk.contains("stdout was closed"), "{talk}");
    drop(stdin);
    let kept = run_ok("cat", root.path(), &[], b"");
    assert!(kept.starts_with(b"one\n"), "{kept:?}");
    assert_eq!(run_ok("append", root.path(), &[], b"three\n"), b"");
    let kept = String::from_utf8(run_ok("cat", root.path(), &[], b"")).unwrap();
    assert!(["one\nthree\n", "one\ntwo\nthree\n"].contains(&kept.as_str()), "{kept}");
}

#[test]
fn from_below_the_first_record_is_truncated() {
    let root = tempfile::tempdir().unwrap();
    let mut config = prkdb_core::WalConfig::new(root.path());
    config.segment_bytes = prkdb_core::MIN_SEGMENT_BYTES;
    let wal = prkdb_core::Wal::open(config).unwrap();
    for _ in 0..8 {
        wal.append_batch([vec![b'x'; 500_000]]).unwrap().wait().unwrap();
    }
    wal.truncate_before(prkdb_core::Lsn::new(8)).unwrap();
    let first = wal.first_lsn();
    wal.close().unwrap();
    assert!(first > prkdb_core::Lsn::FIRST, "nothing was cut");
    assert!(run_err(1, "cat", root.path(), &["--from", "1"], b"").contains("truncated"));
    let kept = run_ok("cat", root.path(), &["--json"], b"");
    assert_eq!(json_lines(&kept)[0]["lsn"], first.get());
}
