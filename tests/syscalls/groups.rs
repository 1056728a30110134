//! What a group costs the writer in calls of the system (goal P5), and how often threads wake each
//! other.
//!
//! A group is one request, or a write and a sync, each of which is handed over by the call that
//! waits for what is out. A writer who has nothing to do parks in one more, and is woken by one
//! write into its eventfd; each caller who sleeps is woken by one futex call.

use prkdb_core::{Backend, SyncMethod};

use super::traced::{Appends, Call, Job, Run};

/// Calls of the writer that no group has one of: making the ring, marks once a second, the close.
const FEW: u64 = 24;

/// What one run made, of each kind.
#[derive(Debug)]
struct Counts {
    groups: u64,
    /// `io_uring_enter` on the writer's thread.
    enters: u64,
    /// Writes of other threads into an eventfd: the writer's, but for a few of the maker's.
    rings: u64,
    /// Calls of the writer that wake threads.
    wakes: u64,
}

impl Counts {
    /// Of such a run; none, said aloud, where nothing can be counted. On the way it is made sure
    /// that the writer makes no other call that writes or syncs.
    fn of(depth: usize, sync_method: SyncMethod, appends: Appends) -> Option<Counts> {
        let run = Run::of(Job { depth, sync_method, appends, ..Job::on(Backend::Uring) })?;
        super::assert_counts_are_right(&run);
        let by_writer = |call: &Call| call.thread == "prkdb-writer";
        let is_ring = |call: &Call| call.name == "write" && call.rest.contains("eventfd");
        let allowed = |call: &Call| match &*call.name {
            // Waking the maker, once a MiB at most.
            "write" => is_ring(call),
            // Making the ring and telling it of files; memory of the allocator's; waking callers.
            "io_uring_enter" | "io_uring_setup" | "io_uring_register" => true,
            "mmap" | "madvise" | "futex" => true,
            _ => false,
        };
        let others: Vec<_> =
            run.calls.iter().filter(|call| by_writer(call) && !allowed(call)).collect();
        assert!(others.is_empty(), "{others:?}");
        let counts = Counts {
            groups: run.said["groups"],
            enters: run.count(|call| by_writer(call) && call.name == "io_uring_enter"),
            rings: run.count(|call| !call.thread.starts_with("prkdb-") && is_ring(call)),
            wakes: run.count(|call| {
                by_writer(call) && call.name == "futex" && call.rest.contains("FUTEX_WAKE")
            }),
        };
        println!("{depth} deep, {sync_method:?}, {appends:?}: {counts:?}");
        Some(counts)
    }
}

/// Enters of a group, in hundredths, while there is always more to do. An appender that is held up
/// lets the writer run dry and park: best of three.
fn assert_busy(depth: usize, sync_method: SyncMethod, most: u64) {
    for left in (0..3).rev() {
        let Some(counts) = Counts::of(depth, sync_method, Appends::Outstanding) else { return };
        assert!(counts.groups >= 500, "{counts:?}: those of 2000 batches of 64 KiB");
        if counts.enters * 100 <= counts.groups * most + 100 * FEW {
            return;
        }
        assert!(left > 0, "{counts:?}: more than {most} enters for 100 groups");
    }
}

#[test]
fn one_enter_a_group_with_several_in_flight() {
    assert_busy(8, SyncMethod::Dsync, 105);
}

#[test]
fn one_enter_a_group_with_one_in_flight() {
    assert_busy(1, SyncMethod::Dsync, 105);
}

#[test]
fn two_enters_a_group_where_it_is_written_and_then_synced() {
    assert_busy(1, SyncMethod::Fdatasync, 205);
    assert_busy(8, SyncMethod::Fdatasync, 205);
}

/// Who waits for each append makes an edge from idle to busy of each: one ring of the bell, one
/// enter that only parks, one caller woken.
#[test]
fn an_append_that_finds_the_writer_idle_rings_once_and_is_woken_once() {
    for (sync_method, each) in [(SyncMethod::Dsync, 1), (SyncMethod::Fdatasync, 2)] {
        for depth in [1, 8] {
            let Some(counts) = Counts::of(depth, sync_method, Appends::InTurn) else { return };
            let Counts { groups, enters, rings, wakes } = counts;
            assert!(groups >= super::traced::WAITED, "{counts:?}");
            assert!(rings <= groups + FEW, "{counts:?}");
            assert!(rings * 2 > groups, "{counts:?}: the writer was hardly ever idle");
            assert!(enters <= groups * each + rings + FEW, "{counts:?}");
            assert!(wakes <= groups + FEW, "{counts:?}");
        }
    }
}

/// With many callers each is woken by one call, and the writer by no more than one a group.
#[test]
fn of_a_crowd_each_is_woken_once() {
    let Some(counts) = Counts::of(8, SyncMethod::Dsync, Appends::Crowd) else { return };
    let Counts { groups, enters, rings, wakes } = counts;
    assert!(wakes <= super::traced::WAITED + FEW, "{counts:?}");
    assert!(rings <= groups + FEW, "{counts:?}");
    assert!(enters <= groups + rings + FEW, "{counts:?}");
}
