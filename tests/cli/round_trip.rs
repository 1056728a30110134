//! What goes in comes out: real lines, every backend, durability and batch size.

use crate::support::{backends, count_lines, json_lines, prkdb, real_lines, run_ok};

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn every_line_comes_back_from_every_backend_durability_and_batch_size() {
    let input = real_lines();
    let lines = count_lines(&input);
    let root = tempfile::tempdir().unwrap();
    for backend in backends(root.path()) {
        for durability in ["sync", "written", "queued"] {
            for batch in ["1", "7", "1000"] {
                let dir = root.path().join([backend, durability, batch].join("-"));
                let options = ["--backend", backend, "--durability", durability];
                let args = [&options[..], &["--batch", batch, "--json"]].concat();
                let told = json_lines(&run_ok("append", &dir, &args, &input));
                assert_eq!(told.len(), 1);
                let told = &told[0];
                assert_eq!(told["records"], lines);
                assert_eq!(told["bytes"], input.len() as u64 - lines);
                assert_eq!((&told["first_lsn"], &told["last_lsn"]), (&1.into(), &lines.into()));
                assert_eq!(told["backend"], backend);
                let batches = lines.div_ceil(batch.parse().unwrap());
                assert!((1..=batches).contains(&told["groups"].as_u64().unwrap()), "{told}");
                assert!(told["seconds"].is_f64(), "{told}");
                assert!(run_ok("cat", &dir, &[], b"") == input, "{args:?}: other bytes");
                assert_eq!(run_ok("verify", &dir, &[], b""), b"");
            }
        }
    }
}

#[test]
fn every_line_comes_back_from_every_codec_and_from_all_in_one_log() {
    let input = real_lines();
    let root = tempfile::tempdir().unwrap();
    let all = root.path().join("all");
    let mut expected: Vec<u8> = Vec::new();
    for codec in ["none", "lz4", "snappy", "zstd", "none"] {
        for batch in ["7", "1000"] {
            run_ok("append", &all, &["--codec", codec, "--batch", batch], &input);
            expected.extend(&input);
        }
        assert!(run_ok("cat", &all, &[], b"") == expected, "{codec}: other bytes");
        let alone = root.path().join(codec);
        run_ok("append", &alone, &["--codec", codec], &b"the same words again\n".repeat(100));
        let words = b"the same words again".repeat(2);
        let found = stored(&alone).windows(words.len()).any(|window| window == words);
        assert_eq!(found, codec == "none", "{codec}");
    }
    assert_eq!(run_ok("verify", &all, &[], b""), b"");
}

/// All bytes of a log's segments.
fn stored(dir: &Path) -> Vec<u8> {
    crate::segments(dir).iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn a_log_is_read_and_continued_by_the_other_backend() {
    let input = real_lines();
    let root = tempfile::tempdir().unwrap();
    let backends = backends(root.path());
    for first in &backends {
        let dir = root.path().join(first);
        let mut expected = Vec::new();
        for backend in [first, &backends[0], &backends[backends.len() - 1], first] {
            run_ok("append", &dir, &["--backend", backend, "--batch", "7"], &input);
            expected.extend(&input);
            assert!(run_ok("cat", &dir, &[], b"") == expected, "{backend}: other bytes");
            let stat = json_lines(&run_ok("stat", &dir, &["--json"], b""));
            assert_eq!(stat[0]["last_backend"], *backend);
            assert_eq!(stat[0]["next_lsn"], count_lines(&expected) + 1);
        }
        assert_eq!(run_ok("verify", &dir, &[], b""), b"");
    }
}

#[test]
fn a_last_line_without_newline_is_a_record() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], b"one\n\n\ntwo");
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\n\n\ntwo\n");
}

#[test]
fn a_megabyte_without_newline_is_one_record() {
    let root = tempfile::tempdir().unwrap();
    let line = vec![0; 3 << 20];
    run_ok("append", root.path(), &[], &line);
    assert!(run_ok("cat", root.path(), &[], b"") == [&line[..], b"\n"].concat());
}

#[test]
fn no_input_makes_an_empty_log() {
    let root = tempfile::tempdir().unwrap();
    let told = json_lines(&run_ok("append", root.path(), &["--json"], b""));
    assert_eq!((&told[0]["records"], &told[0]["groups"]), (&0.into(), &0.into()));
    assert!(told[0]["first_lsn"].is_null() && told[0]["last_lsn"].is_null());
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"");
    assert_eq!(run_ok("verify", root.path(), &[], b""), b"");
}

#[test]
fn acks_are_dense_ranges_in_the_order_of_the_lines() {
    let root = tempfile::tempdir().unwrap();
    for backend in backends(root.path()) {
        let dir = root.path().join(backend);
        let args = ["--acks", "--json", "--batch", "7", "--backend", backend];
        let told = run_ok("append", &dir, &args, &b"x\n".repeat(100));
        let lines: Vec<_> = std::str::from_utf8(&told).unwrap().lines().collect();
        let (json, acks) = lines.split_last().unwrap();
        assert_eq!(json_lines(json.as_bytes())[0]["last_lsn"], 100);
        let ack = |first: u64| format!("acked {first} {}", (first + 6).min(100));
        assert_eq!(acks, (1..=100).step_by(7).map(ack).collect::<Vec<_>>());
    }
}

#[test]
fn lines_do_not_wait_for_a_stdin_that_stands_still() {
    let root = tempfile::tempdir().unwrap();
    let mut append = prkdb(["append", root.path().to_str().unwrap(), "--acks"]).spawn().unwrap();
    let mut stdin = append.stdin.take().unwrap();
    let mut acks = BufReader::new(append.stdout.take().unwrap()).lines();
    for (lines, acked) in [("one\ntwo\nthr", "acked 1 2"), ("ee\n", "acked 3 3")] {
        stdin.write_all(lines.as_bytes()).unwrap();
        assert_eq!(acks.next().unwrap().unwrap(), acked);
    }
    drop(stdin);
    assert!(acks.next().is_none());
    assert!(append.wait().unwrap().success());
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"one\ntwo\nthree\n");
}

#[test]
fn follow_goes_on_with_what_is_appended_later() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_str().unwrap();
    run_ok("append", root.path(), &[], b"one\n");
    let mut cat = prkdb(["cat", dir, "--follow", "--limit", "4"]).spawn().unwrap();
    let mut lines = BufReader::new(cat.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    run_ok("append", root.path(), &[], b"two\nthree\n");
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    append_while_open(root.path(), b"four\nfive\n");
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    assert_eq!(lines.next().unwrap().unwrap(), "four");
    assert!(lines.next().is_none());
    assert!(cat.wait().unwrap().success());
}

#[test]
fn follow_ends_where_what_it_printed_was_cut() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_str().unwrap();
    // What is cut below the reader, and what stands there afterwards if anything does.
    for (keep, new) in [(1, &b"new\nnew\nnew\n"[..]), (2, &b""[..])] {
        run_ok("append", root.path(), &[], b"one\ntwo\nthree\n");
        let mut cat = prkdb(["cat", dir, "--follow"]).spawn().unwrap();
        let mut lines = BufReader::new(cat.stdout.take().unwrap()).lines();
        let old: Vec<_> = lines.by_ref().take(3).map(Result::unwrap).collect();
        assert_eq!(old, ["one", "two", "three"]);
        let wal = prkdb_core::Wal::open(prkdb_core::WalConfig::new(dir)).unwrap();
        wal.truncate_after(prkdb_core::Lsn::new(keep)).unwrap();
        wal.close().unwrap();
        run_ok("append", root.path(), &[], new);
        assert!(lines.next().is_none(), "it went on in another history");
        let ended = cat.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let talk = String::from_utf8(ended.stderr).unwrap();
        assert!(talk.contains("truncated"), "{talk}");
        let wal = prkdb_core::Wal::open(prkdb_core::WalConfig::new(dir)).unwrap();
        wal.reset_to(prkdb_core::Lsn::FIRST).unwrap();
        wal.close().unwrap();
    }
}

#[test]
fn follow_ends_when_nobody_reads_though_nothing_is_appended() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], b"one\n");
    let mut cat = prkdb(["cat", root.path().to_str().unwrap(), "--follow"]).spawn().unwrap();
    let mut stdout = BufReader::new(cat.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    drop(stdout);
    let ended = cat.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn cat_of_a_log_that_was_emptied_prints_nothing() {
    let root = tempfile::tempdir().unwrap();
    run_ok("append", root.path(), &[], b"one\ntwo\n");
    let wal = prkdb_core::Wal::open(prkdb_core::WalConfig::new(root.path())).unwrap();
    wal.reset_to(prkdb_core::Lsn::new(1000)).unwrap();
    wal.close().unwrap();
    assert_eq!(run_ok("cat", root.path(), &[], b""), b"");
}

/// Appends `lines` one by one and closes the log only after the last is acknowledged.
fn append_while_open(dir: &Path, lines: &[u8]) {
    let args = ["append", dir.to_str().unwrap(), "--acks", "--batch", "1"];
    let mut append = prkdb(args).spawn().unwrap();
    let mut stdin = append.stdin.take().unwrap();
    let mut acks = BufReader::new(append.stdout.take().unwrap()).lines();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        stdin.write_all(line).unwrap();
        assert!(acks.next().unwrap().unwrap().starts_with("acked "));
    }
    drop(stdin);
    assert!(append.wait().unwrap().success());
}

#[test]
fn cat_promised_stops_before_what_a_killed_writer_only_wrote() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let args = ["append", dir.to_str().unwrap(), "--acks", "--batch", "1"];
    let began = Instant::now();
    let mut append = prkdb(args.iter().chain(&["--durability", "written"])).spawn().unwrap();
    let mut acks = BufReader::new(append.stdout.take().unwrap()).lines();
    append.stdin.as_mut().unwrap().write_all(b"a\nb\nc\n").unwrap();
    assert_eq!(acks.by_ref().take(3).count(), 3);
    append.kill().unwrap();
    append.wait().unwrap();
    // After a second its writer syncs by itself.
    let quick = began.elapsed() < Duration::from_secs(1);
    assert_eq!(run_ok("cat", dir, &[], b""), b"a\nb\nc\n");
    let promised = run_ok("cat", dir, &["--promised"], b"");
    assert!(promised.is_empty() || promised == b"a\nb\nc\n" && !quick, "{promised:?}, {quick}");
    // Who opens it for writing makes it durable.
    run_ok("append", dir, &[], b"");
    assert_eq!(run_ok("cat", dir, &["--promised"], b""), b"a\nb\nc\n");
}
