//! What was never appended is never on disk: freed memory, other logs, the records of other groups.
//!
//! ```text
//! a canary in freed memory, in another log, in an earlier segment  -->  small groups, padded
//! every file of the log, every byte  -->  no canary but where it was appended
//! ```

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use prkdb_core::{Backend, CompressionConfig, Lsn, Wal, WalConfig};

use crate::support;
use crate::support::{config, image, on_each_backend};

const CANARY: &[u8; 16] = b"canary--yranac--";

/// Puts the canary all over memory that is given back.
fn litter() {
    for size in [100, 4096, 5000, 64 << 10, 512 << 10, 1 << 20, 4 << 20] {
        let filled: Vec<_> = (0..2).map(|_| CANARY.repeat(size / CANARY.len())).collect();
        std::hint::black_box(&filled);
    }
}

/// How often the canary stands in a file of the log whose name `counts`.
fn found(dir: &Path, counts: impl Fn(&str) -> bool) -> usize {
    let files = image(dir).into_iter().filter(|(path, _)| counts(path.to_str().unwrap()));
    let count = |bytes: &[u8]| bytes.windows(CANARY.len()).filter(|w| w == CANARY).count();
    files.map(|(_, bytes)| count(&bytes)).sum()
}

fn few_small_groups(wal: &Wal) {
    for number in 0..30_usize {
        let records = vec![vec![b'-'; number * 97 % 700]; 1 + number % 5];
        wal.append_batch(&records).unwrap().wait().unwrap();
    }
    wal.set_user_state(b"state").unwrap();
}

fn codecs() -> Vec<CompressionConfig> {
    let all = [CompressionConfig::none(), CompressionConfig::balanced()];
    [&all[..], &[CompressionConfig::compression_optimized()]].concat()
}

#[test]
fn freed_memory_is_in_no_file() {
    on_each_backend(|dir, backend| {
        for (number, codec) in codecs().into_iter().enumerate() {
            let dir = dir.join(number.to_string());
            let config = WalConfig { compression: codec, ..config(&dir, backend) };
            litter();
            let wal = Wal::open(config.clone()).unwrap();
            few_small_groups(&wal);
            litter();
            wal.truncate_after(Lsn::new(50)).unwrap();
            few_small_groups(&wal);
            wal.close().unwrap();
            litter();
            let wal = Wal::open(config).unwrap();
            few_small_groups(&wal);
            // Without a close: what recovery writes counts too.
            drop(wal);
            assert_eq!(found(&dir, |_| true), 0, "{backend:?}: freed memory is on disk");
        }
    });
}

#[test]
fn records_are_only_where_they_were_appended() {
    on_each_backend(|dir, backend| {
        let (one, other) = (dir.join("one"), dir.join("other"));
        let wal = Wal::open(config(&one, backend)).unwrap();
        let beside = Wal::open(config(&other, backend)).unwrap();
        let large = CANARY.repeat(30_000 / CANARY.len());
        for _ in 0..60 {
            wal.append_batch([&large; 3]).unwrap().wait().unwrap();
            beside.append_batch([[b'-'; 100]]).unwrap().wait().unwrap();
        }
        let segments = support::segments(&one);
        let last = segments.last().unwrap().file_name().unwrap().to_owned();
        // Into buffers that held large groups go small ones.
        let roll = vec![b'-'; 3000];
        while support::segments(&one).last().unwrap().file_name().unwrap() <= &*last {
            wal.append_batch([&roll]).unwrap().wait().unwrap();
        }
        few_small_groups(&wal);
        wal.close().unwrap();
        beside.close().unwrap();
        assert!(found(&one, |_| true) > 60 * 3 * 1000, "what was appended is not found");
        assert_eq!(found(&other, |_| true), 0, "{backend:?}: another log's records");
        let last = last.to_str().unwrap();
        let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let later = |path: &str| name(path).is_some_and(|n| n.ends_with(".seg") && *n > *last);
        assert_eq!(found(&one, later), 0, "{backend:?}: records of earlier segments");
    });
}

/// A log of some segments with canaries, and the record up to which they can be cut.
fn with_canaries(config: &WalConfig) -> (Wal, Lsn) {
    let wal = Wal::open(config.clone()).unwrap();
    let large = CANARY.repeat(30_000 / CANARY.len());
    for _ in 0..60 {
        wal.append_batch([&large; 3]).unwrap().wait().unwrap();
    }
    let (used, roll) = (wal.segment_count(), vec![b'-'; 30_000]);
    loop {
        let lsn = wal.append_batch([&roll]).unwrap().wait().unwrap().first();
        if wal.segment_count() > used {
            return (wal, lsn);
        }
    }
}

/// All segments, opened: what is in them is seen also when their names are gone.
fn held(dir: &Path) -> Vec<fs::File> {
    support::segments(dir).iter().map(|path| fs::File::open(path).unwrap()).collect()
}

fn found_in(files: &[fs::File]) -> usize {
    let content = |mut file: &fs::File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let count = |bytes: Vec<u8>| bytes.windows(CANARY.len()).filter(|w| w == CANARY).count();
    files.iter().map(content).map(count).sum()
}

#[test]
fn what_was_cut_is_wiped_if_it_was_asked_for() {
    on_each_backend(|dir, backend| {
        for wipe_retired in [false, true] {
            let dir = dir.join(wipe_retired.to_string());
            let config = WalConfig { wipe_retired, ..config(&dir, backend) };
            let (wal, keep) = with_canaries(&config);
            let files = held(&dir);
            assert!(found_in(&files) > 60 * 3 * 1000, "what was appended is not found");
            wal.truncate_before(keep).unwrap();
            // The last of them may have had to wait for its footer.
            wal.close().unwrap();
            let left = (found(&dir, |_| true), found_in(&files));
            assert_eq!(left == (0, 0), wipe_retired, "{backend:?}: {left:?} are left");
            let wal = Wal::open(config).unwrap();
            assert_eq!(wal.first_lsn(), keep);
            let records = support::read_all(wal.reader(keep).unwrap(), keep.get());
            assert!(records.iter().all(|record| record[..] == [b'-'; 30_000]));
        }
    });
}

/// After a cut from the end, and where the cut was made by who did not ask for it.
#[test]
fn what_an_earlier_process_left_is_wiped_by_the_next() {
    on_each_backend(|dir, backend| {
        for clean in [false, true] {
            let dir = dir.join(clean.to_string());
            let (wal, _) = with_canaries(&config(&dir, backend));
            wal.reset_to(Lsn::new(1000)).unwrap();
            let open = fs::read(dir.join("META")).unwrap();
            wal.close().unwrap();
            if !clean {
                fs::write(dir.join("META"), open).unwrap();
            }
            let pooled = support::files(&dir.join("pool"), "free");
            let retired: Vec<_> = pooled.iter().map(|p| fs::File::open(p).unwrap()).collect();
            assert!(found_in(&retired) > 0, "the pool is empty");
            let asked = WalConfig { wipe_retired: true, ..config(&dir, backend) };
            let wal = Wal::open(asked).unwrap();
            // A close leaves what is not wiped by then to the next life; this waits for all of it.
            wal.compact().unwrap();
            wal.close().unwrap();
            let left = (found(&dir, |_| true), found_in(&retired));
            assert_eq!(left, (0, 0), "{backend:?}, clean: {clean}");
        }
    });
}

/// A second name is a checkpoint's: what is in the file is wanted there.
#[test]
fn a_segment_with_a_second_name_is_not_wiped() {
    on_each_backend(|dir, backend| {
        let config = WalConfig { wipe_retired: true, ..config(dir, backend) };
        let (wal, keep) = with_canaries(&config);
        let first = support::segments(dir).remove(0);
        let other = dir.with_extension("checkpoint");
        fs::hard_link(&first, &other).unwrap();
        let before = fs::read(&first).unwrap();
        wal.truncate_before(keep).unwrap();
        assert!(!first.exists());
        assert!(fs::read(&other).unwrap() == before, "{backend:?}: the checkpoint was changed");
        // Nor is it used again once it has no other name any more.
        fs::remove_file(other).unwrap();
        for _ in 0..150 {
            wal.append_batch([[b'-'; 30_000]]).unwrap().wait().unwrap();
        }
        wal.close().unwrap();
        assert_eq!(found(dir, |_| true), 0, "{backend:?}: old records are behind new ones");
    });
}

/// The search can tell.
#[test]
fn a_canary_that_was_appended_is_found() {
    let root = tempfile::tempdir().unwrap();
    let wal = Wal::open(config(root.path(), Backend::Auto)).unwrap();
    wal.append_batch([CANARY]).unwrap().wait().unwrap();
    wal.close().unwrap();
    assert_eq!(found(root.path(), |_| true), 1);
}
