//! What the log promises while nothing fails, one case a promise; no threads of one's own.

use std::time::Duration;

use prkdb_core::{
    Batch, BatchConfig, CompactionPolicy, Durability, ErrorKind, Lsn, MAX_BATCH_BYTES,
    MAX_NUM_SEGMENTS, MAX_RECORD_BYTES, MAX_USER_STATE_BYTES, ReadLevel, ReadOnlyWal, Verdict, Wal,
    WalConfig,
};

use crate::place::{Place, whole_file};
use crate::support::{fill, format, read_all, record};

fn kind<T: std::fmt::Debug>(result: prkdb_core::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub fn records_come_back_in_order_and_so_do_their_lsns(place: &Place) {
    let wal = place.open();
    assert_eq!(wal.recovery().verdict, Verdict::Clean);
    assert_eq!((wal.next_lsn(), wal.durable_lsn()), (Lsn::FIRST, Lsn::NONE));
    let one = wal.append_batch(["one", "", "three"]).unwrap().wait().unwrap();
    assert_eq!(one.iter().map(Lsn::get).collect::<Vec<_>>(), [1, 2, 3]);
    let two = place.block_on(wal.append_batch(vec![b"four".to_vec()]).unwrap()).unwrap();
    let three = place.block_on(async { wal.append_batch_async(&["five"]).await?.await }).unwrap();
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
    let metrics = wal.metrics();
    assert_eq!((metrics.batches, metrics.records, metrics.bytes), (4, 7, 19));
    wal.close().unwrap();
    assert_eq!(place.contents(), expected.map(Vec::from));
}

pub fn calls_outside_the_limits_are_invalid_and_change_nothing(place: &Place) {
    let wal = place.open();
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
    assert_eq!(kind(place.try_open(place.config())), ErrorKind::Locked);
    drop(wal);
    assert_eq!(kind(place.try_open(place.config().create_new())), ErrorKind::Invalid);
    assert_eq!(place.contents().len(), 3);
}

pub fn a_full_queue_is_busy_and_async_appends_wait_for_room(place: &Place) {
    let batch_config = BatchConfig { max_buffer_bytes: 4096, ..BatchConfig::default() };
    let wal = place.try_open(WalConfig { batch_config, depth: 1, ..place.config() }).unwrap();
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
        tickets.push(place.block_on(wal.append_batch_async([&text])).unwrap());
    }
    // Larger than the whole queue: alone, when it is empty.
    tickets.push(place.block_on(wal.append_batch_async([vec![6; 9000]])).unwrap());
    let count = tickets.len() as u64;
    for (ticket, lsn) in tickets.into_iter().zip(1..) {
        assert_eq!(ticket.wait().unwrap().first().get(), lsn);
    }
    assert_eq!(wal.durable_lsn().get(), count);
    wal.close().unwrap();
    assert_eq!(place.contents().len() as u64, count);
}

pub fn waiting_for_durability_works_for_the_past_and_for_the_future(place: &Place) {
    let wal = place.open();
    let ahead = wal.wait_durable(Lsn::new(12)).unwrap();
    let written = wal.with(Durability::Written).append_batch([b"x"; 10]).unwrap();
    assert_eq!(written.wait().unwrap().last().get(), 10);
    let at = wal.reader_at(Lsn::FIRST, ReadLevel::Written).unwrap();
    assert_eq!(at.map(Result::unwrap).count(), 10);
    assert!(wal.wait_durable(Lsn::new(10)).unwrap().wait().unwrap().get() >= 10);
    assert!(wal.durable_lsn().get() >= 10);
    let queued = wal.with(Durability::Queued).append_batch([b"y"; 5]).unwrap();
    queued.wait().unwrap();
    assert!(place.block_on(ahead).unwrap().get() >= 12);
    assert!(place.block_on(wal.wait_durable(Lsn::FIRST).unwrap()).unwrap().get() >= 12);
    wal.wait_durable(Lsn::NONE).unwrap().wait().unwrap();
}

pub fn large_batches_come_back_whole(place: &Place) {
    let wal = WalConfig { segment_bytes: 64 << 20, ..place.config() };
    let wal = place.try_open(wal).unwrap();
    let large: Vec<Vec<u8>> = (1..3).map(|n| vec![n; MAX_RECORD_BYTES]).collect();
    let medium = vec![vec![7; 700_001]; 2];
    let small = vec![vec![8; 100]; 3];
    let all = [&small, &medium, &large, &small, &medium];
    let tickets = all.map(|batch| wal.append_batch(batch).unwrap());
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    wal.close().unwrap();
    assert!(place.contents() == all.map(Clone::clone).concat());
}

pub fn queued_records_are_durable_after_close_and_after_drop(place: &Place) {
    for (life, drops) in [(1, false), (2, true)] {
        let wal = place.open();
        let first = wal.next_lsn().get();
        for lsn in first..first + 100 {
            drop(wal.with(Durability::Queued).append_batch([record(life, lsn)]).unwrap());
        }
        match drops {
            true => drop(wal),
            false => wal.close().unwrap(),
        }
        let log = place.read_only();
        assert_eq!(log.recovery().verdict, Verdict::Clean);
        let lsns = first..first + 100;
        let expected: Vec<_> = lsns.map(|lsn| record(life, lsn)).collect();
        assert!(read_all(log.reader(Lsn::new(first)).unwrap(), first) == expected);
    }
}

pub fn a_reader_beside_the_writer_sees_promised_records_and_soon_all_of_them(place: &Place) {
    let wal = place.open();
    fill(&wal, 1, 50, 5);
    let mut log = place.read_only();
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
        place.pass(Duration::from_millis(100));
        log.refresh().unwrap();
    }
    fill(&wal, 1, 1, 1);
    assert_eq!(wal.close().map_err(|e| e.kind()), Ok(()));
    assert!(log.refresh().unwrap());
    assert_eq!(log.durable_lsn().get(), 51);
}

/// The segments of a log, each by the LSNs of its batches and whether it is sealed.
fn segments(place: &Place) -> Vec<(Vec<u64>, bool)> {
    let names = place.world.disk.list(&place.dir).unwrap().into_iter().map(|entry| entry.name);
    let segments = names.filter(|name| name.ends_with(".seg"));
    let lsns = segments.map(|name| {
        let path = place.path(&name);
        let (frames, _) = format::frames_in(&path, &whole_file(place, &path));
        let sealed = frames.first().is_some_and(|frame| frame.sealed);
        (frames.iter().map(|frame| frame.first).collect(), sealed)
    });
    lsns.filter(|(lsns, _): &(Vec<u64>, bool)| !lsns.is_empty()).collect()
}

pub fn four_open_segments_are_one_order(place: &Place) {
    let config = |num_segments| WalConfig { num_segments, ..place.config() };
    for wrong in [0, MAX_NUM_SEGMENTS + 1] {
        let refused = place.try_open(config(wrong)).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("num_segments"), "{refused}");
    }
    let wal = place.try_open(config(4)).unwrap();
    assert_eq!(wal.segment_count(), 0);
    // One is made after the other: a group that comes later may find one more.
    let mut next = 1;
    let takes_turns = |(lsns, sealed): &(Vec<u64>, bool)| {
        !sealed && lsns.windows(2).any(|pair| pair[1] > pair[0] + 1)
    };
    while segments(place).into_iter().filter(takes_turns).count() < 4 {
        assert!(next < 20_000, "four segments were never open: {}", wal.segment_count());
        fill(&wal, 1, 40, 1);
        next += 40;
    }
    assert!(wal.segment_count() >= 4);
    assert_holds(&wal, 1, next);
    let at = Lsn::new(next / 2);
    assert_eq!(*wal.read(at).unwrap().data, record(1, at.get())[..]);
    wal.close().unwrap();
    assert_eq!(segments(place).iter().filter(|(_, sealed)| !sealed).count(), 1);
    assert_eq!(place.contents().len() as u64, next - 1);
    for lanes in [4, 1, 3] {
        let wal = place.try_open(config(lanes)).unwrap();
        assert_holds(&wal, 1, next);
        fill(&wal, 1, 300, 3);
        next += 300;
        wal.close().unwrap();
    }
    let wal = place.try_open(config(2)).unwrap();
    wal.truncate_before(at).unwrap();
    assert_holds(&wal, at.get(), next);
    wal.truncate_after(Lsn::new(next - 10)).unwrap();
    next -= 9;
    fill(&wal, 1, 50, 1);
    next += 50;
    assert_holds(&wal, at.get(), next);
    wal.close().unwrap();
    let (disk, mut found) = (&place.world.disk, Vec::new());
    ReadOnlyWal::verify_on(&**disk, &place.dir, &mut |f| found.push(f), &mut |_, _| {}).unwrap();
    assert!(found.is_empty(), "{found:?}");
}

fn assert_holds(wal: &Wal, first: u64, next: u64) {
    assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (first, next));
    let found = read_all(wal.reader(Lsn::new(first)).unwrap(), first);
    assert!(found == (first..next).map(|lsn| record(1, lsn)).collect::<Vec<_>>());
}

pub fn cut_segments_are_used_again_and_hold_only_what_is_new(place: &Place) {
    let wal = place.open();
    for round in 1..=4 {
        fill(&wal, 1, 700, 10);
        let next = round * 700 + 1;
        wal.truncate_before(Lsn::new(next - 100)).unwrap();
        let cut = wal.read(Lsn::new(next - 101)).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::Truncated);
        assert_holds(&wal, next - 100, next);
    }
    wal.close().unwrap();
    let wal = place.open();
    assert_holds(&wal, 2701, 2801);
    wal.truncate_before(wal.next_lsn()).unwrap();
    fill(&wal, 1, 20, 5);
    wal.close().unwrap();
    assert_eq!(place.contents().len(), 20);
}

pub fn a_batch_is_appended_where_it_was_wanted_or_not_at_all(place: &Place) {
    let wal = place.open();
    fill(&wal, 1, 3, 3);
    assert_eq!(kind(wal.append_at(Lsn::new(3), ["late"]).unwrap().wait()), ErrorKind::Invalid);
    assert_eq!(kind(wal.append_at(Lsn::new(5), ["early"]).unwrap().wait()), ErrorKind::Invalid);
    let at = wal.append_at(wal.next_lsn(), ["right"]).unwrap().wait().unwrap();
    assert_eq!((at.first().get(), wal.next_lsn().get()), (4, 5));
    wal.close().unwrap();
    assert_eq!(place.contents().last().unwrap(), b"right");
}

pub fn the_user_slot_is_kept_with_the_log(place: &Place) {
    let wal = place.open();
    assert!(wal.user_state().is_empty());
    wal.set_user_state("term 7, voted for 3").unwrap();
    let longest = vec![9; MAX_USER_STATE_BYTES];
    wal.set_user_state(&longest).unwrap();
    assert_eq!(kind(wal.set_user_state([&longest[..], &[1]].concat())), ErrorKind::Invalid);
    fill(&wal, 1, 3, 3);
    drop(wal);
    assert!(place.read_only().user_state() == longest);
    let wal = place.open();
    assert!(wal.user_state() == longest);
    wal.set_user_state([]).unwrap();
    wal.close().unwrap();
    assert!(place.open().user_state().is_empty());
}

pub fn what_was_cut_from_the_end_is_gone_and_its_lsns_are_given_again(place: &Place) {
    let wal = place.open();
    fill(&wal, 1, 2000, 10);
    let mut reader = wal.reader(Lsn::new(1995)).unwrap();
    assert!(reader.next().unwrap().is_ok());
    assert_eq!(kind(wal.truncate_after(Lsn::new(2001))), ErrorKind::Invalid);
    wal.truncate_after(Lsn::new(2000)).unwrap();
    // In the middle of a batch, some segments before the end.
    wal.truncate_after(Lsn::new(705)).unwrap();
    assert_eq!((wal.durable_lsn().get(), wal.next_lsn().get()), (705, 706));
    assert_eq!(kind(reader.next().unwrap()), ErrorKind::Truncated);
    assert_eq!(kind(wal.read(Lsn::new(706))), ErrorKind::Invalid);
    let expected = || (1..=705).map(|lsn| record(1, lsn)).collect::<Vec<_>>();
    assert!(read_all(wal.reader(Lsn::FIRST).unwrap(), 1) == expected());
    assert_eq!(place.read_only().durable_lsn(), Lsn::new(705));
    assert_eq!(wal.append_batch(["new"]).unwrap().wait().unwrap().first(), Lsn::new(706));
    drop(wal);
    assert!(place.contents() == [expected(), vec![b"new".to_vec()]].concat());
    let wal = place.open();
    wal.truncate_before(Lsn::new(300)).unwrap();
    assert_eq!(kind(wal.truncate_after(Lsn::new(298))), ErrorKind::Invalid);
    wal.truncate_after(Lsn::new(299)).unwrap();
    assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (300, 300));
    wal.append_batch(["last"]).unwrap().wait().unwrap();
    wal.close().unwrap();
    assert_eq!(place.contents(), [b"last"]);
}

pub fn a_reset_log_starts_where_it_was_told(place: &Place) {
    let wal = place.open();
    fill(&wal, 1, 1000, 10);
    assert_eq!(kind(wal.reset_to(Lsn::NONE)), ErrorKind::Invalid);
    for next in [5000, 7] {
        wal.reset_to(Lsn::new(next)).unwrap();
        assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (next, next));
        assert_eq!(wal.append_batch(["a", "b"]).unwrap().wait().unwrap().first().get(), next);
    }
    wal.close().unwrap();
    let wal = place.open();
    assert_eq!((wal.first_lsn().get(), wal.next_lsn().get()), (7, 9));
    drop(wal);
    assert_eq!(place.contents(), [b"a", b"b"]);
}

pub fn a_size_window_holds_while_ten_times_as_much_goes_through(place: &Place) {
    let window = 4 << 20;
    let config = WalConfig { compaction: CompactionPolicy::SizeWindow(window), ..place.config() };
    let wal = place.try_open(config.clone()).unwrap();
    let record = vec![5; 50_000];
    for _ in 0..4 {
        for _ in 0..100 {
            let (a, b) = (wal.append_batch([&record]).unwrap(), wal.append_batch([&record]));
            a.wait().unwrap();
            b.unwrap().wait().unwrap();
        }
        let size = place.read_only().stat().size_bytes;
        assert!(size <= window + (1 << 20), "{size} bytes");
    }
    let kept = wal.next_lsn().get() - wal.first_lsn().get();
    assert!((20..90).contains(&kept), "{kept} records are left");
    let first = wal.first_lsn();
    assert!(wal.compact().unwrap() >= first);
    wal.close().unwrap();
    let config = WalConfig { compaction: CompactionPolicy::None, ..config };
    let wal = place.try_open(config).unwrap();
    assert_eq!(wal.next_lsn().get(), 801);
}

pub fn a_capped_log_goes_on_when_it_was_truncated(place: &Place) {
    let cap = 6 << 20;
    let config = WalConfig { max_disk_bytes: Some(cap), ..place.config() };
    let wal = place.try_open(config).unwrap();
    let record = vec![5; 50_000];
    for round in 0..3 {
        let full = loop {
            if let Err(e) = wal.append_batch([&record]).unwrap().wait() {
                break e;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        assert!(place.read_only().stat().size_bytes <= cap);
        if round == 1 {
            wal.truncate_after(wal.first_lsn().next()).unwrap();
        } else {
            wal.truncate_before(wal.next_lsn()).unwrap();
        }
    }
    wal.append_batch([&record]).unwrap().wait().unwrap();
}
