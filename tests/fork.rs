//! A forked child has the parent's log in its memory: it can do nothing with it, and no harm.
//!
//! ```text
//! parent: append, fork ---------------- append --> close     all records, its own only
//!                  '--> child: every call says Closed; drop does nothing; _exit
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Mutex, PoisonError};

use prkdb_core::{Error, ErrorKind, Lsn, Wal};

mod support;

/// One test at a time: what a process has mapped, and what a child of it gets, is of all of them.
static TURN: Mutex<()> = Mutex::new(());

use support::{config, contents, fill, on_each_backend, open, record};

/// Runs `child` in a forked child; its answer, at most 127.
#[expect(unsafe_code, reason = "there is no safe fork")]
fn in_a_child(child: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child calls only `child` and `_exit`. The other threads are gone in it, so locks
    // they held stay held: `child` may take none of those, which is what the log promises of its
    // calls there, and glibc makes its allocator usable again.
    let id = unsafe { libc::fork() };
    assert!(id >= 0, "fork failed");
    if id == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(127);
        // SAFETY: `_exit` may be called at any time; it runs no destructor of the parent's.
        unsafe { libc::_exit(code.into()) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call, `id` is a child of this process.
    assert_eq!(unsafe { libc::waitpid(id, &raw mut status, 0) }, id);
    assert!(libc::WIFEXITED(status), "the child was killed: {status}");
    libc::WEXITSTATUS(status)
}

/// How many of the calls do not say `Closed`.
fn calls_that_work(wal: &Wal) -> u8 {
    let kinds = [
        wal.append_batch(["x"]).map(drop),
        wal.try_append_batch(["x"]).map(drop),
        support::block_on(wal.append_batch_async(["x"])).map(drop),
        wal.wait_durable(Lsn::FIRST).map(drop),
        wal.append_at(Lsn::FIRST, ["x"]).map(drop),
        wal.truncate_before(Lsn::FIRST),
        wal.truncate_after(Lsn::FIRST),
        wal.reset_to(Lsn::FIRST),
        wal.compact().map(drop),
        wal.set_user_state("x"),
        wal.reader(Lsn::FIRST).map(drop),
        wal.read(Lsn::FIRST).map(drop),
        wal.resume(),
    ]
    .map(|outcome| outcome.map_err(|e: Error| e.kind()));
    kinds.iter().map(|kind| u8::from(*kind != Err(ErrorKind::Closed))).sum()
}

#[test]
fn a_forked_child_is_told_closed_and_the_parent_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 20, 1);
        let working = in_a_child(|| calls_that_work(&wal));
        assert_eq!(working, 0, "so many calls worked in the child");
        // What was made before the fork is the parent's too.
        let (mut reader, mut ticket) =
            (wal.reader(Lsn::FIRST).unwrap(), Some(wal.append_batch([record(1, 21)]).unwrap()));
        let working = in_a_child(|| {
            let read = reader.next().map(|read| read.map(drop));
            let waited = ticket.take().map(|ticket| ticket.wait().map(drop));
            let kinds =
                [read, waited].map(|outcome| outcome.map(|done| done.map_err(|e| e.kind())));
            kinds.iter().map(|kind| u8::from(*kind != Some(Err(ErrorKind::Closed)))).sum()
        });
        assert_eq!(working, 0, "so many calls worked in the child");
        assert_eq!(reader.next().unwrap().unwrap().data[..], record(1, 1));
        ticket.unwrap().wait().unwrap();
        wal.truncate_after(Lsn::new(20)).unwrap();
        fill(&wal, 1, 20, 1);
        let mut slot = Some(wal);
        // What the closure takes out is taken out in the child's memory only.
        let dropped = in_a_child(|| {
            drop(slot.take());
            3
        });
        assert_eq!(dropped, 3);
        let e = Wal::open(config(dir, backend)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Locked, "the child's drop unlocked the log: {e}");
        let closed = in_a_child(|| {
            let closed = slot.take().map(Wal::close);
            u8::from(matches!(closed, Some(Err(e)) if e.kind() == ErrorKind::Closed))
        });
        assert_eq!(closed, 1, "close worked in the child");
        let wal = slot.expect("the children took their own copies");
        fill(&wal, 1, 20, 1);
        wal.close().unwrap();
        assert!(contents(dir) == (1..61).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
    });
}

/// How many pieces of rings this process has in its memory.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn mapped_rings() -> std::io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter(|line| line.ends_with("anon_inode:[io_uring]")).count())
}

/// What a child put into a ring that it shares would be the parent's requests, also where it does
/// so by no call of the log's.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
#[test]
fn a_forked_child_has_no_ring_in_its_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (root, uring) = (tempfile::tempdir().unwrap(), prkdb_core::Backend::Uring);
    if !support::backends(root.path()).contains(&uring) {
        return;
    }
    let wal = open(root.path(), uring);
    fill(&wal, 1, 20, 1);
    // Of the writer and of the maker, each of them entries and what tells where they are.
    match mapped_rings() {
        Ok(mapped) => assert!(mapped >= 4, "{mapped} pieces of rings: this proves nothing"),
        Err(e) => return support::skip("the memory of a forked child", e),
    }
    let inherited = in_a_child(|| u8::try_from(mapped_rings().unwrap().min(100)).unwrap());
    assert_eq!(inherited, 0, "so many pieces of rings are in the child's memory");
    fill(&wal, 1, 20, 1);
    wal.close().unwrap();
}
