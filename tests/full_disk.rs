//! A full disk is not poison: nothing promised is lost, and the same process goes on afterwards.
//!
//! Needs root for small file systems of its own; says so and tests nothing where it can't mount.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use prkdb_core::{Backend, ErrorKind, Lsn, ReadOnlyWal, Wal};

mod support;

use support::disk::Mount;
use support::{backends, contents, fill, open, read_all, record};

/// What is taken away and given back: so much that a segment fits in.
const BALLAST: u64 = 1 << 20;

/// Appends one record after the other until there is no space; the LSN after the last one.
fn fill_up(wal: &Wal) -> u64 {
    loop {
        let lsn = wal.next_lsn().get();
        match wal.append_batch([record(1, lsn)]).and_then(prkdb_core::Append::wait) {
            Ok(lsns) => assert_eq!(lsns.first().get(), lsn),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::StorageFull, "{e}");
                assert_eq!(wal.next_lsn().get(), lsn, "a refused batch got an LSN");
                return lsn;
            }
        }
    }
}

/// Every record from the first that is kept up to `next`.
fn assert_whole(wal: &Wal, next: u64) {
    let first = wal.first_lsn().get();
    let found = read_all(wal.reader(Lsn::new(first)).unwrap(), first);
    let expected: Vec<_> = (first..next).map(|lsn| record(1, lsn)).collect();
    assert!(found == expected, "{} records from {first}, not to {next}", found.len());
    assert_eq!(wal.durable_lsn().get(), next - 1);
}

fn a_full_disk(dir: &Path, backend: Backend) {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; usize::try_from(BALLAST).unwrap()]).unwrap();
    let log = dir.join("log");
    let wal = open(&log, backend);
    let next = fill_up(&wal);
    assert!(next > 100, "{next}: nothing fitted");
    assert_whole(&wal, next);
    // A record of any size that fits what is left goes in, another does not, the rest stays.
    let next = fill_up(&wal);
    assert_whole(&wal, next);
    wal.wait_durable(Lsn::new(next - 1)).unwrap().wait().unwrap();

    std::fs::remove_file(&ballast).unwrap();
    fill(&wal, 1, 10, 5);
    let next = fill_up(&wal);
    assert_whole(&wal, next);

    wal.truncate_before(Lsn::new(next / 2 + 1)).unwrap();
    assert_eq!(wal.first_lsn().get(), next / 2 + 1);
    fill(&wal, 1, 50, 5);
    assert_whole(&wal, next + 50);
    let next = fill_up(&wal);
    assert_whole(&wal, next);

    wal.close().unwrap();
    let wal = open(&log, backend);
    assert_whole(&wal, next);
    let next = fill_up(&wal);
    wal.truncate_before(Lsn::new(next)).unwrap();
    fill(&wal, 1, 50, 50);
    drop(wal);
    assert_eq!(contents(&log).len(), 50);
    let summary = ReadOnlyWal::verify(&log, &mut |f| panic!("{f:?}"), &mut |_, _| {}).unwrap();
    assert!(summary.records >= 50);
}

fn batches_refused_together(dir: &Path, backend: Backend) {
    let wal = open(&dir.join("log"), backend);
    // Larger than any hole that is left: half of a segment.
    let large = vec![7_u8; 500 << 10];
    let mut count = 0;
    while wal.append_batch([&large]).unwrap().wait().is_ok() {
        count += 1;
    }
    assert!(count > 0, "nothing fitted");
    let tickets: Vec<_> = (0..5).map(|_| wal.append_batch([&large]).unwrap()).collect();
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::StorageFull);
    }
    assert_eq!(wal.next_lsn().get(), count + 1);
    assert_eq!(wal.reader(Lsn::FIRST).unwrap().map(Result::unwrap).count() as u64, count);
    wal.truncate_before(wal.next_lsn()).unwrap();
    let lsn = wal.append_batch([&large]).unwrap().wait().unwrap().first();
    assert_eq!(lsn.get(), count + 1);
    wal.close().unwrap();
}

/// Blocks of zeros become holes, as in a copy made by a tool that likes holes.
fn punch(path: &Path) {
    use std::os::unix::fs::FileExt;
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (block, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at).unwrap();
        }
    }
}

/// A made segment that lost its blocks meets the full disk late: an error, no signal, no loss.
fn holes_on_a_full_disk(dir: &Path, backend: Backend) {
    let log = dir.join("log");
    let wal = open(&log, backend);
    fill(&wal, 1, 20, 5);
    wal.close().unwrap();
    support::segments(&log).iter().for_each(|path| punch(path));
    let ballast = dir.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|n| n > 0) {}
    drop(file);
    let wal = match Wal::open(support::config(&log, backend)) {
        Ok(wal) => wal,
        Err(e) => panic!("{backend:?}: {e}"),
    };
    let large = vec![7_u8; 200 << 10];
    let failed = wal.append_batch([&large]).unwrap().wait().unwrap_err();
    assert!(failed.to_string().contains("(os error 28)"), "{failed}");
    assert_eq!(failed.kind(), ErrorKind::NotConfirmed, "{failed}");
    assert_eq!(wal.append_batch([&large]).map(drop).unwrap_err().kind(), ErrorKind::Poisoned);
    std::fs::remove_file(&ballast).unwrap();
    wal.resume().unwrap();
    assert_whole(&wal, 21);
    fill(&wal, 1, 30, 5);
    assert_whole(&wal, 51);
    wal.close().unwrap();
    assert_eq!(contents(&log).len(), 50);
}

/// A log whose writer was killed in its first life needs no space to be opened again, and a cut is
/// all it takes to go on.
fn killed_in_its_first_life(dir: &Path, backend: Backend) {
    let (log, root) = (dir.join("log"), tempfile::tempdir().unwrap());
    let dead = root.path().join("dead");
    // Named, or META would be changed by what is measured.
    let sync_method = prkdb_core::SyncMethod::Dsync;
    let config = prkdb_core::WalConfig { sync_method, ..support::config(&log, backend) };
    let wal = Wal::open(config).unwrap();
    fill(&wal, 1, 100, 5);
    support::copy(&log, &dead);
    wal.close().unwrap();
    std::fs::remove_dir_all(&log).unwrap();
    support::copy(&dead, &log);
    let mut ballast = std::fs::File::create(dir.join("ballast")).unwrap();
    while std::io::Write::write(&mut ballast, &[1; 4096]).is_ok_and(|n| n > 0) {}
    let wal = Wal::open(support::config(&log, backend));
    let wal = wal.unwrap_or_else(|e| panic!("{backend:?}: {e}"));
    assert_whole(&wal, 101);
    assert!(!log.join("META.tmp").exists(), "what could not be finished takes space");
    let next = fill_up(&wal);
    wal.truncate_before(Lsn::new(next)).unwrap();
    drop(wal);
    let wal = open(&log, backend);
    assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (next, next));
    std::fs::remove_file(dir.join("ballast")).unwrap();
    fill(&wal, 1, 10, 5);
    wal.close().unwrap();
}

fn on_small_disks(mount: impl Fn() -> Option<Mount>) {
    let Some(first) = mount() else { return };
    for backend in backends(first.path()) {
        for test in
            [a_full_disk, batches_refused_together, holes_on_a_full_disk, killed_in_its_first_life]
        {
            let Some(fresh) = mount() else { return };
            println!("{backend:?} on {}", fresh.path().display());
            test(fresh.path(), backend);
        }
    }
}

#[test]
fn a_full_tmpfs_loses_nothing_and_service_goes_on_when_space_is_back() {
    on_small_disks(|| Mount::tmpfs("4m"));
}

#[test]
fn a_full_ext4_loses_nothing_and_service_goes_on_when_space_is_back() {
    let root = tempfile::tempdir().unwrap();
    let images = std::cell::Cell::new(0);
    on_small_disks(|| {
        images.set(images.get() + 1);
        Mount::ext4(&root.path().join(images.get().to_string()), 16 << 20)
    });
}

/// Beside somebody who fills the disk; on such a file system each overwrite takes new blocks.
fn a_disk_that_fills_up(dir: &Path, backend: Backend) {
    let wal = open(&dir.join("log"), backend);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ballast = std::fs::File::create(dir.join("ballast")).unwrap();
            let more = || !stop.load(std::sync::atomic::Ordering::Relaxed);
            while more() && std::io::Write::write(&mut ballast, &[1; 64 << 10]).is_ok() {}
        });
        let first = (0..100_000).find_map(|_| {
            let tickets: Vec<_> = (0..16).map(|_| wal.append_batch([vec![7; 8000]])).collect();
            let mut answers = tickets.into_iter().map(|t| t.and_then(prkdb_core::Append::wait));
            answers.find_map(Result::err)
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        first
    });
    let failed = failed.expect("a disk of 128 MiB has room for 12 GB");
    assert!(failed.to_string().contains("(os error 28)"), "{failed}");
    let promised = wal.durable_lsn().get();
    std::fs::remove_file(dir.join("ballast")).unwrap();
    // What was removed gives its space back with a commit.
    assert!(std::process::Command::new("sync").arg("-f").arg(dir).status().unwrap().success());
    wal.resume().unwrap();
    assert!(wal.durable_lsn().get() >= promised);
    fill(&wal, 1, 10, 5);
    let read = wal.reader(wal.first_lsn()).unwrap().map(Result::unwrap).count() as u64;
    assert!(read >= promised);
}

#[test]
fn a_disk_that_copies_on_write_and_fills_up_is_an_error_and_no_signal() {
    let root = tempfile::tempdir().unwrap();
    let image = root.path().join("image");
    let Some(btrfs) = Mount::btrfs(&image, 128 << 20) else { return };
    for backend in [&[Backend::Auto], &*backends(btrfs.path())].concat() {
        let dir = btrfs.path().join(backend.name());
        std::fs::create_dir(&dir).unwrap();
        a_disk_that_fills_up(&dir, backend);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_directory_that_can_t_be_written_is_refused_and_can_be_read() {
    let root = tempfile::tempdir().unwrap();
    let wal = open(root.path(), Backend::Auto);
    fill(&wal, 1, 30, 3);
    wal.close().unwrap();
    let Some(read_only) = Mount::read_only(root.path()) else { return };
    for backend in backends(root.path()) {
        let e = Wal::open(support::config(read_only.path(), backend)).unwrap_err();
        assert!(e.to_string().contains("ead-only"), "{e}");
        assert!(e.path().is_some_and(|path| path.starts_with(read_only.path())), "{e}");
    }
    assert_eq!(contents(read_only.path()).len(), 30);
}
