//! Directories that are not as the log left them: refused with a clear error, nothing changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use prkdb_core::{Backend, ErrorKind, ReadOnlyWal, Wal, WalConfig};

use crate::support::format::{SLOT, change, fix_crc};
use crate::support::{
    config, contents, copy, fill, image, on_each_backend, open, record, segments,
};

/// A closed log over three segments with frames.
fn closed(dir: &Path, backend: Backend) {
    let wal = open(dir, backend);
    fill(&wal, 1, 1200, 30);
    wal.close().unwrap();
    assert!(segments(dir).len() >= 3);
}

fn assert_refused(dir: &Path, backend: Backend, kind: ErrorKind, what: &str) {
    let before = image(dir);
    let e = Wal::open(config(dir, backend)).expect_err(what);
    assert_eq!(e.kind(), kind, "{what}: {e}");
    assert!(e.path().is_some_and(|path| path.starts_with(dir)), "{what}: {e}");
    let e = ReadOnlyWal::open(dir).expect_err(what);
    assert_eq!(e.kind(), kind, "{what}, reading: {e}");
    assert!(image(dir) == before, "{what}: the refused open changed the directory");
}

type Damage = fn(&Path, &[PathBuf]);
type Maker = fn(&Path);

#[test]
fn segments_that_are_short_gone_or_swapped_are_corrupt() {
    let damages: [(&str, Damage); 7] = [
        ("a segment of no bytes", |_, s| fs::write(&s[1], "").unwrap()),
        ("a segment of one block", |_, s| {
            fs::write(&s[1], &fs::read(&s[1]).unwrap()[..4096]).unwrap();
        }),
        ("half of a segment", |_, s| {
            fs::File::options().write(true).open(&s[0]).unwrap().set_len(512 << 10).unwrap();
        }),
        ("a segment too long", |_, s| {
            fs::File::options().write(true).open(&s[0]).unwrap().set_len(2 << 20).unwrap();
        }),
        ("the first segment is gone", |_, s| fs::remove_file(&s[0]).unwrap()),
        ("a middle segment is gone", |_, s| fs::remove_file(&s[1]).unwrap()),
        ("two segments swapped names", |dir, s| {
            let aside = dir.join("aside");
            fs::rename(&s[0], &aside).unwrap();
            fs::rename(&s[1], &s[0]).unwrap();
            fs::rename(&aside, &s[1]).unwrap();
        }),
    ];
    on_each_backend(|dir, backend| {
        let log = dir.join("log");
        closed(&log, backend);
        for (number, (what, damage)) in damages.iter().enumerate() {
            let dir = dir.join(number.to_string());
            copy(&log, &dir);
            damage(&dir, &segments(&dir));
            assert_refused(&dir, backend, ErrorKind::Corrupt, what);
        }
        let other = dir.join("other");
        closed(&other, backend);
        fs::copy(&segments(&other)[1], &segments(&log)[1]).unwrap();
        assert_refused(&log, backend, ErrorKind::Corrupt, "a segment of another log");
    });
}

#[test]
fn a_log_without_meta_is_corrupt() {
    on_each_backend(|dir, backend| {
        closed(dir, backend);
        fs::remove_file(dir.join("META")).unwrap();
        assert_refused(dir, backend, ErrorKind::Corrupt, "segments without META");
        fs::write(dir.join("META"), "").unwrap();
        assert_refused(dir, backend, ErrorKind::Corrupt, "META of no bytes");
    });
}

#[test]
fn a_newer_format_is_unsupported_not_damage() {
    on_each_backend(|dir, backend| {
        let log = dir.join("log");
        closed(&log, backend);
        let newer = |bytes: &mut [u8]| {
            bytes[8] = 2;
            fix_crc(bytes);
        };
        let meta = dir.join("meta");
        copy(&log, &meta);
        change(&meta.join("META"), 0..SLOT, newer);
        change(&meta.join("META"), SLOT..2 * SLOT, newer);
        assert_refused(&meta, backend, ErrorKind::Unsupported, "META of version 2");
        change(&segments(&log)[1], 0..4096, newer);
        assert_refused(&log, backend, ErrorKind::Unsupported, "a segment of version 2");
    });
}

#[test]
fn what_is_named_like_a_segment_and_is_no_file_is_refused() {
    let makers: [(&str, Maker); 3] = [
        ("a symlink", |path| symlink("/etc/hostname", path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a FIFO", |path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
    ];
    on_each_backend(|dir, backend| {
        for (number, (what, make)) in makers.iter().enumerate() {
            for name in ["00000000000000000009.seg", "META", "LOCK"] {
                let dir = dir.join(format!("{number}-{name}"));
                closed(&dir, backend);
                let path = dir.join(name);
                fs::remove_file(&path).unwrap_or_default();
                make(&path);
                let e = Wal::open(config(&dir, backend)).expect_err(what);
                assert!(e.path() == Some(&*path), "{what} named {name}: {e}");
                assert!(path.symlink_metadata().is_ok(), "{what} named {name} was removed");
                fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
                if name != "META" {
                    assert_eq!(contents(&dir).len(), 1200, "without {what} named {name}");
                }
            }
        }
    });
}

#[test]
fn a_pool_that_leads_elsewhere_is_refused_and_nothing_there_is_touched() {
    on_each_backend(|dir, backend| {
        let (log, elsewhere) = (dir.join("log"), dir.join("elsewhere"));
        closed(&log, backend);
        fs::remove_dir_all(log.join("pool")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        // Names that the log would use again or remove in a pool of its own.
        for name in ["00000000000000000007.free", "00000000000000000008.making", "reserve"] {
            fs::write(elsewhere.join(name), "keep").unwrap();
        }
        symlink(&elsewhere, log.join("pool")).unwrap();
        for wipe_retired in [false, true] {
            let config = WalConfig { wipe_retired, ..config(&log, backend) };
            let e = Wal::open(config).unwrap_err();
            assert_eq!((e.kind(), e.path()), (ErrorKind::Invalid, Some(&*log.join("pool"))), "{e}");
        }
        // Who reads needs no pool.
        assert_eq!(contents(&log).len(), 1200);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 3);
        for found in fs::read_dir(&elsewhere).unwrap() {
            assert_eq!(fs::read(found.unwrap().path()).unwrap(), b"keep");
        }
        fs::remove_file(log.join("pool")).unwrap();
        open(&log, backend).close().unwrap();
    });
}

#[test]
fn strangers_are_left_alone_and_a_directory_of_strangers_gets_no_log() {
    on_each_backend(|dir, backend| {
        let theirs = dir.join("theirs");
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join("notes.txt"), "keep").unwrap();
        let e = Wal::open(config(&theirs, backend)).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::Invalid, Some(&*theirs)));
        assert!(e.to_string().contains("`notes.txt`"), "{e}");
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1, "something was made");

        let log = dir.join("log/with/missing/parents");
        closed(&log, backend);
        fs::write(log.join("notes.txt"), "keep").unwrap();
        fs::write(log.join("1.seg"), "keep").unwrap();
        let pooled = ["notes.txt", "notes.making", "7.free", "+0000000000000000007.free"];
        for name in pooled {
            fs::write(log.join("pool").join(name), "keep").unwrap();
        }
        for name in ["x.making", "00000000000000000777.making", "00000000000000000778.free"] {
            fs::create_dir(log.join("pool").join(name)).unwrap();
        }
        let wal = open(&log, backend);
        fill(&wal, 1, 10, 10);
        wal.truncate_before(wal.next_lsn()).unwrap();
        wal.close().unwrap();
        assert_eq!(contents(&log), Vec::<Vec<u8>>::new());
        let pooled = pooled.map(|name| format!("pool/{name}"));
        for name in pooled.iter().map(|name| &**name).chain(["notes.txt", "1.seg"]) {
            assert_eq!(fs::read(log.join(name)).unwrap(), b"keep", "{name}");
        }
        assert!(log.join("pool/00000000000000000778.free").is_dir());

        let file = dir.join("file");
        fs::write(&file, "keep").unwrap();
        for path in [file.clone(), file.join("below")] {
            let e = Wal::open(config(&path, backend)).unwrap_err();
            assert!(e.path().is_some_and(|p| p.starts_with(&file)), "{e}");
            ReadOnlyWal::open(&path).unwrap_err();
        }
        assert_eq!(fs::read(&file).unwrap(), b"keep");
        let e = ReadOnlyWal::open(dir.join("nothing")).unwrap_err();
        assert!(e.path().is_some(), "{e}");
        assert!(!dir.join("nothing").exists(), "reading made a directory");
    });
}

/// A look at META that falls into two writes of it finds both slots torn.
#[test]
fn a_log_that_is_being_written_is_locked_also_with_a_torn_meta() {
    on_each_backend(|dir, backend| {
        closed(dir, backend);
        let meta = fs::read(dir.join("META")).unwrap();
        let wal = open(dir, backend);
        fs::write(dir.join("META"), vec![7; meta.len()]).unwrap();
        let e = Wal::open(config(dir, backend)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Locked, "{e}");
        drop(wal);
        fs::write(dir.join("META"), vec![7; meta.len()]).unwrap();
        assert_refused(dir, backend, ErrorKind::Corrupt, "a torn META that nobody writes");
    });
}

#[test]
fn what_an_unfinished_creation_left_is_a_fresh_log() {
    on_each_backend(|dir, backend| {
        fs::create_dir_all(dir.join("pool")).unwrap();
        fs::write(dir.join("LOCK"), "").unwrap();
        fs::write(dir.join("META.tmp"), [1; 1000]).unwrap();
        fs::write(dir.join("pool/00000000000000000001.making"), [1; 1000]).unwrap();
        let wal = open(dir, backend);
        fill(&wal, 1, 3, 1);
        wal.close().unwrap();
        assert_eq!(contents(dir), (1..4).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
        assert!(!dir.join("META.tmp").exists());
        assert!(!dir.join("pool/00000000000000000001.making").exists());
    });
}

/// A checkpoint links the files of a closed log: what is appended later is not in it.
#[test]
fn a_tail_that_a_checkpoint_links_is_not_written_on() {
    on_each_backend(|dir, backend| {
        let (log, snap) = (dir.join("log"), dir.join("snap"));
        let wal = open(&log, backend);
        fill(&wal, 1, 100, 5);
        wal.close().unwrap();
        // All but LOCK, which would lock both.
        for dir in [&snap, &snap.join("pool")] {
            fs::create_dir(dir).unwrap();
        }
        let pooled = fs::read_dir(log.join("pool")).unwrap().map(|entry| entry.unwrap().path());
        for path in pooled.chain(segments(&log)).chain(["META", "METRICS"].map(|f| log.join(f))) {
            fs::hard_link(&path, snap.join(path.strip_prefix(&log).unwrap())).unwrap();
        }
        let wal = open(&log, backend);
        fill(&wal, 1, 50, 5);
        wal.close().unwrap();
        let wal = open(&snap, backend);
        assert_eq!(wal.next_lsn().get(), 101, "{backend}");
        fill(&wal, 2, 50, 5);
        wal.close().unwrap();
        let life = |life, lsns: std::ops::Range<u64>| lsns.map(move |lsn| record(life, lsn));
        let ours: Vec<_> = life(1, 1..151).collect();
        let theirs: Vec<_> = life(1, 1..101).chain(life(2, 101..151)).collect();
        assert!(contents(&log) == ours && contents(&snap) == theirs, "{backend}");
    });
}
