//! Reading batch by batch gives what reading record by record does: the same records, ends and
//! errors, wherever it starts.

use std::fs;

use prkdb_core::{
    BatchConfig, CompressionConfig, CompressionType, Lsn, ReadOnlyWal, Reader, Wal, WalConfig,
};

use crate::support::format::{forge, log};
use crate::support::{config, on_each_backend, record};

/// LSN, time and bytes.
type Given = (u64, u64, Vec<u8>);

/// Each record, read one by one.
fn one_by_one(reader: Reader) -> Vec<Given> {
    let one = |read: prkdb_core::Record| (read.lsn.get(), read.time_us, read.data.to_vec());
    reader.map(|read| one(read.unwrap())).collect()
}

/// The same, read batch by batch; and how many records each had.
fn by_batch(mut reader: Reader) -> (Vec<Given>, Vec<u32>) {
    let (mut records, mut counts) = (Vec::new(), Vec::new());
    while let Some(batch) = reader.next_batch() {
        let batch = batch.unwrap();
        assert_eq!(batch.iter().len(), batch.lsns().count() as usize);
        for (lsn, bytes) in batch.lsns().iter().zip(batch.iter()) {
            records.push((lsn.get(), batch.time_us(), bytes.to_vec()));
        }
        assert_eq!(reader.next_lsn(), batch.lsns().end());
        counts.push(batch.lsns().count());
    }
    (records, counts)
}

/// Appends 120 records in batches of one to five.
fn fill(wal: &Wal) {
    let mut lsn = 1;
    for count in [1, 2, 3, 4, 5].into_iter().cycle().take(40) {
        let batch: Vec<_> = (lsn..lsn + count).map(|lsn| record(1, lsn)).collect();
        wal.append_batch(&batch).unwrap().wait().unwrap();
        lsn += count;
    }
}

#[test]
fn batch_by_batch_is_what_is_read_one_by_one() {
    on_each_backend(|dir, backend| {
        for (codec, num_segments) in [(CompressionType::None, 1), (CompressionType::Lz4, 3)] {
            if !codec.is_built_in() {
                continue;
            }
            let compression = CompressionConfig { compression_type: codec, ..Default::default() };
            let batch_config = BatchConfig::no_batching();
            let dir = dir.join(num_segments.to_string());
            let config = config(&dir, backend);
            let config = WalConfig { compression, num_segments, batch_config, ..config };
            let wal = Wal::open(config).unwrap();
            fill(&wal);
            for from in [1, 2, 5, 12, 119, 120] {
                let reader = || wal.reader(Lsn::new(from)).unwrap();
                let (records, counts) = by_batch(reader());
                assert_eq!(records, one_by_one(reader()), "from {from}");
                assert!(counts.iter().all(|count| (1..=5).contains(count)), "{counts:?}");
                // 1; 2, 3; 4, 5, 6; and so on: 12 is the second record of its batch.
                let first = [(1, 1), (2, 2), (5, 2), (12, 4), (119, 2), (120, 1)];
                assert!(first.contains(&(from, counts[0])), "from {from}: {counts:?}");
            }
            // One and all: what is left of a batch after its first record.
            let mut reader = wal.reader(Lsn::new(4)).unwrap();
            assert_eq!(reader.next().unwrap().unwrap().lsn.get(), 4);
            let rest = reader.next_batch().unwrap().unwrap();
            assert_eq!((rest.lsns().first().get(), rest.lsns().last().get()), (5, 6));
            // A cut through the middle of a batch; then what comes in its place.
            wal.truncate_after(Lsn::new(118)).unwrap();
            let mut reader = wal.reader(Lsn::new(116)).unwrap();
            let cut = reader.next_batch().unwrap().unwrap();
            assert_eq!((cut.lsns().first().get(), cut.lsns().last().get()), (116, 118));
            assert!(reader.next_batch().is_none());
            wal.append_batch(&rest).unwrap().wait().unwrap();
            let again = reader.next_batch().unwrap().unwrap();
            assert_eq!((again.lsns().first().get(), again.iter().len()), (119, 2));
            assert!(again.iter().eq(rest.iter()), "a batch is appended as it was read");
            wal.close().unwrap();
        }
    });
}

#[test]
fn damage_is_the_same_error_one_by_one_and_by_batch() {
    on_each_backend(|dir, backend| {
        let wal = Wal::open(config(dir, backend)).unwrap();
        fill(&wal);
        // A segment that is sealed: there damage is met when it is read.
        while wal.segment_count() < 2 {
            wal.append_batch([vec![7; 300_000]]).unwrap().wait().unwrap();
        }
        wal.close().unwrap();
        let (frames, _) = log(dir);
        let frame = frames.iter().find(|frame| frame.first == 16).unwrap();
        let mut bytes = fs::read(&frame.path).unwrap();
        bytes[frame.offset + 140] ^= 4;
        fs::write(&frame.path, bytes).unwrap();
        let log = ReadOnlyWal::open(dir).unwrap();
        let [mut one, mut all] = [(); 2].map(|()| log.reader(Lsn::FIRST).unwrap());
        let read = one.by_ref().take_while(Result::is_ok).count() as u64;
        let mut last = Lsn::NONE;
        let error = loop {
            match all.next_batch().unwrap() {
                Ok(batch) => last = batch.lsns().last(),
                Err(e) => break e,
            }
        };
        assert_eq!((last.get(), one.next_lsn()), (read, all.next_lsn()));
        assert_eq!(error.to_string(), one.next().unwrap().unwrap_err().to_string());
        assert_eq!(error.offset(), Some(frame.offset as u64));
        assert_eq!(all.next_batch().unwrap().unwrap_err().to_string(), error.to_string());
    });
}

/// A body of these records, of which one has a wrong checksum, as Snappy that compresses nothing.
fn body(records: &[&[u8]], wrong: usize) -> (usize, Vec<u8>) {
    let mut raw = records.concat();
    let mut end = 0;
    for (i, record) in records.iter().enumerate() {
        end += u32::try_from(record.len()).unwrap();
        let crc = crc32fast::hash(record) ^ u32::from(i == wrong);
        raw.extend([end, crc].map(u32::to_le_bytes).concat());
    }
    assert!((61..128).contains(&raw.len()), "its lengths are a byte each");
    let len = u8::try_from(raw.len()).unwrap();
    (raw.len(), [&[len, 60 << 2, len - 1], &raw[..]].concat())
}

/// Only who compressed a damaged batch, or may write the files, can bring it about.
#[test]
fn what_stands_before_a_bad_record_of_a_compressed_batch_is_given() {
    if !CompressionType::Snappy.is_built_in() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(config(dir.path(), prkdb_core::Backend::Auto)).unwrap();
    fill(&wal);
    while wal.segment_count() < 2 {
        wal.append_batch([vec![7; 300_000]]).unwrap().wait().unwrap();
    }
    wal.close().unwrap();
    let (frames, _) = log(dir.path());
    let frame = frames.iter().find(|frame| frame.first == 26).unwrap();
    assert_eq!(frame.count, 5);
    let mut segment = fs::read(&frame.path).unwrap();
    let (raw_len, stored) = body(&[b"some", b"words", b"of", b"any", b"length at all"], 2);
    forge(&mut segment, frame, 2, raw_len, &stored);
    fs::write(&frame.path, segment).unwrap();
    let log = ReadOnlyWal::open(dir.path()).unwrap();
    for (from, good) in [(26, 2), (27, 1), (28, 0), (29, 2), (30, 1)] {
        let reader = || log.reader(Lsn::new(from)).unwrap();
        let one: Vec<_> = reader().take_while(Result::is_ok).map(Result::unwrap).collect();
        let mut all = reader();
        if good > 0 {
            let batch = all.next_batch().unwrap().unwrap();
            assert!(batch.iter().eq(one.iter().take(good).map(|record| &*record.data)), "{from}");
        }
        if from <= 28 {
            let error = all.next_batch().unwrap().unwrap_err().to_string();
            assert!(error.contains("record 28"), "{from}: {error}");
            assert_eq!(one.len(), good, "{from}");
            let last = reader().nth(good).unwrap().unwrap_err();
            assert_eq!(last.to_string(), error);
        }
    }
}
