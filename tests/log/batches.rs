//! Reading batch by batch gives what reading record by record does: the same records, ends and
//! errors, wherever it starts.

use std::fs;

use prkdb_core::{
    BatchConfig, CompressionConfig, CompressionType, Lsn, ReadOnlyWal, Reader, Wal, WalConfig,
};

use crate::support::format::log;
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
