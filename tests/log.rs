//! What the public API promises while nothing fails, on each backend.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prkdb_core::{
    Append, Backend, Batch, BatchConfig, Durability, ErrorKind, Lsn, MAX_BATCH_BYTES,
    MAX_RECORD_BYTES, ReadLevel, ReadOnlyWal, RecoveryPolicy, SyncMethod, Verdict, Wal, WalConfig,
};

mod support;

use support::{
    backends, block_on, config, contents, fill, on_each_backend, open, read_all, record,
};

fn kind<T: std::fmt::Debug>(result: prkdb_core::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn records_come_back_in_order_and_so_do_their_lsns() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        assert_eq!(wal.recovery().verdict, Verdict::Clean);
        assert_eq!((wal.next_lsn(), wal.durable_lsn()), (Lsn::FIRST, Lsn::NONE));
        let one = wal.append_batch(["one", "", "three"]).unwrap().wait().unwrap();
        assert_eq!(one.iter().map(Lsn::get).collect::<Vec<_>>(), [1, 2, 3]);
        let two = block_on(wal.append_batch(vec![b"four".to_vec()]).unwrap()).unwrap();
        let three = block_on(async { wal.append_batch_async(&["five"]).await?.await }).unwrap();
        assert_eq!((two.first().get(), three.first().get()), (4, 5));
        let mut batch = Batch::new();
        batch.push("six");
        batch.push("");
        assert_eq!(wal.append_batch(&batch).unwrap().wait().unwrap().count(), 2);
        let expected = ["one", "", "three", "four", "five", "six", ""];
        assert_eq!(read_all(wal.reader(Lsn::FIRST).unwrap(), 1), expected.map(Vec::from));
        assert_eq!(wal.read(Lsn::new(5)).unwrap().data[..], *b"five");
        let times: Vec<u64> = wal.reader(Lsn::FIRST).unwrap().map(|r| r.unwrap().time_us).collect();
        assert!(times.is_sorted());
        let stats = wal.stats();
        assert_eq!((stats.batches, stats.records, stats.bytes), (4, 7, 19));
        wal.close().unwrap();
        assert_eq!(contents(dir), expected.map(Vec::from));
    });
}

#[test]
fn calls_outside_the_limits_are_invalid_and_change_nothing() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        let none: [&str; 0] = [];
        assert_eq!(kind(wal.append_batch(none).map(drop)), ErrorKind::Invalid);
        let large = vec![0; MAX_RECORD_BYTES + 1];
        assert_eq!(kind(wal.append_batch([&large]).map(drop)), ErrorKind::Invalid);
        let records = vec![&large[..MAX_RECORD_BYTES]; 3];
        const { assert!(MAX_RECORD_BYTES * 3 > MAX_BATCH_BYTES) };
        assert_eq!(kind(wal.append_batch(&records).map(drop)), ErrorKind::Invalid);
        // Within the limits of the format, and more than a segment of this log holds.
        assert_eq!(kind(wal.try_append_batch([&large[..2 << 20]]).map(drop)), ErrorKind::Invalid);
        assert_eq!(kind(wal.read(Lsn::NONE)), ErrorKind::Invalid);
        assert_eq!(kind(wal.read(Lsn::FIRST)), ErrorKind::Invalid);
        assert_eq!(kind(wal.reader(Lsn::NONE)), ErrorKind::Invalid);
        assert_eq!(kind(wal.truncate_before(Lsn::new(2))), ErrorKind::Invalid);
        assert_eq!(wal.next_lsn(), Lsn::FIRST);
        fill(&wal, 1, 3, 3);
        assert_eq!(kind(wal.read(Lsn::new(4))), ErrorKind::Invalid);
        assert_eq!(kind(Wal::open(config(dir, backend))), ErrorKind::Locked);
        drop(wal);
        assert_eq!(kind(Wal::open(config(dir, backend).create_new())), ErrorKind::Invalid);
        assert_eq!(contents(dir).len(), 3);
    });
}

#[test]
fn a_full_queue_is_busy_and_async_appends_wait_for_room() {
    on_each_backend(|dir, backend| {
        let batch_config = BatchConfig { max_buffer_bytes: 4096, ..BatchConfig::default() };
        let wal = Wal::open(WalConfig { batch_config, depth: 1, ..config(dir, backend) }).unwrap();
        let text = vec![5; 3000];
        let (mut tickets, mut busy) = (Vec::new(), 0);
        while busy == 0 {
            match wal.try_append_batch([&text]) {
                Ok(ticket) => tickets.push(ticket),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
                    busy += 1;
                }
            }
            assert!(tickets.len() < 100_000, "the queue has no bound");
        }
        for _ in 0..100 {
            tickets.push(block_on(wal.append_batch_async([&text])).unwrap());
        }
        // Larger than the whole queue: alone, when it is empty.
        tickets.push(block_on(wal.append_batch_async([vec![6; 9000]])).unwrap());
        let count = tickets.len() as u64;
        for (ticket, lsn) in tickets.into_iter().zip(1..) {
            assert_eq!(ticket.wait().unwrap().first().get(), lsn);
        }
        assert_eq!(wal.durable_lsn().get(), count);
        wal.close().unwrap();
        assert_eq!(contents(dir).len() as u64, count);
    });
}

#[test]
fn watermarks_rise_together_and_readers_stay_below_them() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut reader = wal.reader(Lsn::FIRST).unwrap();
                let (mut last, mut seen) = ((0, 0, 0), 0);
                while !done.load(Ordering::Acquire) || seen < wal.durable_lsn().get() {
                    let durable = wal.durable_lsn().get();
                    let marks = (durable, wal.written_lsn().get(), wal.next_lsn().get());
                    assert!(last.0 <= marks.0 && last.1 <= marks.1 && last.2 <= marks.2);
                    assert!(marks.0 <= marks.1 && marks.1 < marks.2, "{marks:?}");
                    last = marks;
                    for read in reader.by_ref() {
                        let read = read.unwrap();
                        seen += 1;
                        assert_eq!((read.lsn.get(), &*read.data), (seen, &*record(1, seen)));
                        assert!(read.lsn <= wal.durable_lsn(), "read before it was promised");
                    }
                }
                seen
            });
            for durability in [Durability::Queued, Durability::Written, Durability::Sync].repeat(20)
            {
                let first = wal.next_lsn().get();
                let records: Vec<_> = (first..first + 10).map(|lsn| record(1, lsn)).collect();
                let lsns = wal.with(durability).append_batch(&records).unwrap().wait().unwrap();
                assert_eq!(lsns.first().get(), first);
                match durability {
                    Durability::Queued => assert!(wal.next_lsn() > lsns.last()),
                    Durability::Written => assert!(wal.written_lsn() >= lsns.last()),
                    Durability::Sync => assert!(wal.durable_lsn() >= lsns.last()),
                }
            }
            done.store(true, Ordering::Release);
            assert_eq!(watcher.join().unwrap(), 600);
        });
    });
}

#[test]
fn waiting_for_durability_works_for_the_past_and_for_the_future() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        let ahead = wal.wait_durable(Lsn::new(12)).unwrap();
        let written = wal.with(Durability::Written).append_batch([b"x"; 10]).unwrap();
        assert_eq!(written.wait().unwrap().last().get(), 10);
        let at = wal.reader_at(Lsn::FIRST, ReadLevel::Written).unwrap();
        assert_eq!(at.map(Result::unwrap).count(), 10);
        assert!(wal.wait_durable(Lsn::new(10)).unwrap().wait().unwrap().get() >= 10);
        assert!(wal.durable_lsn().get() >= 10);
        let queued = wal.with(Durability::Queued).append_batch([b"y"; 5]).unwrap();
        queued.wait().unwrap();
        assert!(block_on(ahead).unwrap().get() >= 12);
        assert!(block_on(wal.wait_durable(Lsn::FIRST).unwrap()).unwrap().get() >= 12);
        wal.wait_durable(Lsn::NONE).unwrap().wait().unwrap();
    });
}

#[test]
fn what_threads_append_at_once_is_all_there_in_each_ones_order() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let wal = &wal;
                scope.spawn(move || {
                    let append = |i| wal.append_batch([format!("{thread} {i}")]).unwrap();
                    let tickets: Vec<Append> = (0..200).map(append).collect();
                    let lsns = tickets.into_iter().map(|t| t.wait().unwrap().first());
                    assert!(lsns.is_sorted_by(|a, b| a < b));
                });
            }
        });
        wal.close().unwrap();
        let mut next = [0; 8];
        for text in contents(dir) {
            let text = String::from_utf8(text).unwrap();
            let (thread, i) = text.split_once(' ').unwrap();
            let thread: usize = thread.parse().unwrap();
            assert_eq!(i.parse(), Ok(next[thread]), "of thread {thread}");
            next[thread] += 1;
        }
        assert_eq!(next, [200; 8]);
    });
}

#[test]
fn large_batches_come_back_whole() {
    on_each_backend(|dir, backend| {
        let wal = WalConfig { segment_bytes: 64 << 20, ..config(dir, backend) };
        let wal = Wal::open(wal).unwrap();
        let large: Vec<Vec<u8>> = (1..3).map(|n| vec![n; MAX_RECORD_BYTES]).collect();
        let medium = vec![vec![7; 700_001]; 2];
        let small = vec![vec![8; 100]; 3];
        let all = [&small, &medium, &large, &small, &medium];
        let tickets = all.map(|batch| wal.append_batch(batch).unwrap());
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        wal.close().unwrap();
        assert!(contents(dir) == all.map(Clone::clone).concat());
    });
}

#[test]
fn queued_records_are_durable_after_close_and_after_drop() {
    on_each_backend(|dir, backend| {
        for (life, drops) in [(1, false), (2, true)] {
            let wal = open(dir, backend);
            let first = wal.next_lsn().get();
            for lsn in first..first + 100 {
                drop(wal.with(Durability::Queued).append_batch([record(life, lsn)]).unwrap());
            }
            match drops {
                true => drop(wal),
                false => wal.close().unwrap(),
            }
            let log = ReadOnlyWal::open(dir).unwrap();
            assert_eq!(log.recovery().verdict, Verdict::Clean);
            let lsns = first..first + 100;
            let expected: Vec<_> = lsns.map(|lsn| record(life, lsn)).collect();
            assert!(read_all(log.reader(Lsn::new(first)).unwrap(), first) == expected);
        }
    });
}

#[test]
fn any_backend_sync_method_and_policy_continues_what_another_wrote() {
    on_each_backend(|dir, first| {
        let mut expected = 0;
        let policies = [RecoveryPolicy::TornTail, RecoveryPolicy::Strict];
        let methods = [SyncMethod::Dsync, SyncMethod::Fdatasync, SyncMethod::Auto];
        // From each backend to each other and back, and on to `Auto`.
        let others = backends(dir.parent().unwrap()).into_iter().flat_map(|other| [other, first]);
        for (turn, backend) in others.chain([Backend::Auto]).enumerate() {
            let (sync_method, recovery) = (methods[turn % 3], policies[turn % 2]);
            let wal = WalConfig { sync_method, recovery, ..config(dir, backend) };
            let wal = Wal::open(wal).unwrap();
            assert_eq!(wal.next_lsn().get(), expected + 1);
            fill(&wal, 1, 300, 7);
            let written = wal.with(Durability::Written);
            written.append_batch([record(1, expected + 301)]).unwrap().wait().unwrap();
            expected += 301;
            wal.wait_durable(Lsn::new(expected)).unwrap().wait().unwrap();
            wal.close().unwrap();
        }
        assert!(contents(dir) == (1..=expected).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_beside_the_writer_sees_promised_records_and_soon_all_of_them() {
    on_each_backend(|dir, backend| {
        let wal = open(dir, backend);
        fill(&wal, 1, 50, 5);
        let mut log = ReadOnlyWal::open(dir).unwrap();
        loop {
            let seen = read_all(log.reader(Lsn::FIRST).unwrap(), 1);
            assert!(seen.len() <= 50);
            for (lsn, bytes) in (1..).zip(&seen) {
                assert_eq!(*bytes, record(1, lsn));
            }
            if seen.len() == 50 {
                break;
            }
            // The mark of an idle log brings the rest.
            std::thread::sleep(Duration::from_millis(100));
            log.refresh().unwrap();
        }
        fill(&wal, 1, 1, 1);
        assert_eq!(wal.close().map_err(|e| e.kind()), Ok(()));
        assert!(log.refresh().unwrap());
        assert_eq!(log.durable_lsn().get(), 51);
    });
}
