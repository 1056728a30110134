//! Compressed batches: read back whatever wrote them, kept as they are where that is better, and
//! damage where they lie about what they hold.

use prkdb_core::{
    BatchConfig, CompressionConfig, CompressionType, ErrorKind, Finding, FindingKind, Lsn,
    MAX_BATCH_BYTES, ReadOnlyWal, Wal, WalConfig,
};

use crate::place::Place;
use crate::support::format::{Frame, HEADER, forge};
use crate::support::{Random, read_all, zeros};

/// Numbers of codecs in a frame.
const NONE: u8 = 0;
const LZ4: u8 = 1;
const SNAPPY: u8 = 2;
const ZSTD: u8 = 3;

fn number(kind: CompressionType) -> u8 {
    match kind {
        CompressionType::None => NONE,
        CompressionType::Lz4 => LZ4,
        CompressionType::Snappy => SNAPPY,
        CompressionType::Zstd => ZSTD,
        _ => panic!("{kind} is new here"),
    }
}

fn codecs() -> impl Iterator<Item = CompressionType> {
    CompressionType::ALL.into_iter().filter(CompressionType::is_built_in)
}

fn with(compression_type: CompressionType) -> CompressionConfig {
    CompressionConfig { compression_type, ..CompressionConfig::default() }
}

fn open(place: &Place, compression: CompressionConfig) -> Wal {
    place.try_open(WalConfig { compression, ..place.config() }).unwrap()
}

/// Bytes of so many kinds: with 256 nothing can be saved, with 2 most of them.
fn noise(seed: u64, len: usize, kinds: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.below(kinds).to_le_bytes()[0]).collect()
}

/// Appends one batch and waits for it.
fn append(wal: &Wal, records: &[Vec<u8>]) {
    let range = wal.append_batch(records).unwrap().wait().unwrap();
    assert_eq!(range.count() as usize, records.len());
}

/// Batches of all sizes, and whether each is worth compressing.
fn batches(seed: u64) -> Vec<(Vec<Vec<u8>>, bool)> {
    let line = |i: u64| format!("{seed}: line {i} of a text that repeats itself").into_bytes();
    vec![
        (vec![b"short".to_vec()], false),
        ((0..100).map(line).collect(), true),
        // Large as a body, small when compressed.
        (vec![vec![b'x'; 300_000], Vec::new(), line(1)], true),
        // Large before and after.
        (vec![noise(seed, 400_000, 4), noise(seed + 1, 200_000, 4)], true),
        (vec![noise(seed, 100_000, 256)], false),
        (vec![Vec::new(); 1000], true),
    ]
}

pub fn a_log_of_all_codecs_is_read_whatever_it_is_opened_with(place: &Place) {
    let (mut expected, mut numbers) = (Vec::new(), Vec::new());
    for (kind, seed) in codecs().chain(codecs()).zip(1..) {
        let wal = open(place, with(kind));
        assert_eq!(wal.next_lsn().get(), expected.len() as u64 + 1);
        let tickets = batches(seed).into_iter().map(|(records, worth)| {
            numbers.push(if worth { number(kind) } else { NONE });
            let ticket = wal.append_batch(&records).unwrap();
            expected.extend(records);
            ticket
        });
        for ticket in tickets.collect::<Vec<_>>() {
            ticket.wait().unwrap();
        }
        assert!(read_all(wal.reader(Lsn::FIRST).unwrap(), 1) == expected, "under {kind}");
        wal.close().unwrap();
    }
    let frames = place.frames();
    assert_eq!(frames.iter().map(|frame| frame.codec).collect::<Vec<_>>(), numbers);
    for frame in frames.iter().filter(|frame| frame.codec != NONE) {
        assert!((frame.len - HEADER) * 100 <= frame.raw_len * 88, "{frame:?}");
    }
    assert!(place.contents() == expected);
    let log = place.read_only();
    for lsn in (1..=expected.len()).step_by(97) {
        let first = lsn as u64;
        let from = read_all(log.reader(Lsn::new(first)).unwrap(), first);
        assert!(from == expected[lsn - 1..], "from {lsn}");
    }
    assert_eq!(findings(place), []);
}

pub fn what_saves_too_little_or_is_too_short_stays_as_it_is(place: &Place) {
    let mut expected = Vec::new();
    for kind in codecs() {
        let wal = open(place, CompressionConfig { min_compress_bytes: 1000, ..with(kind) });
        // With its index entry a body of 999 bytes, and of 1000.
        for (record, stored) in [
            (vec![b'a'; 991], NONE),
            (vec![b'a'; 992], number(kind)),
            (noise(7, 50_000, 256), NONE),
            (noise(8, 500_000, 256), NONE),
        ] {
            append(&wal, std::slice::from_ref(&record));
            expected.push((record, stored));
        }
        wal.close().unwrap();
    }
    let frames = place.frames();
    assert_eq!(frames.len(), expected.len());
    for (frame, (record, stored)) in frames.iter().zip(&expected) {
        assert_eq!((frame.codec, frame.raw_len), (*stored, record.len() + 8));
        let as_it_is = frame.len == HEADER + frame.raw_len;
        assert_eq!(as_it_is, *stored == NONE, "{frame:?}");
    }
    assert!(place.contents() == expected.into_iter().map(|(record, _)| record).collect::<Vec<_>>());
}

pub fn each_option_of_compression_changes_what_is_on_disk(place: &Place) {
    let record = noise(3, 20_000, 3);
    let stored = |config: WalConfig| {
        let wal = place.try_open(config).unwrap();
        append(&wal, std::slice::from_ref(&record));
        wal.close().unwrap();
        let frame = place.frames().pop().unwrap();
        (frame.codec, frame.len)
    };
    let base = place.config();
    assert_eq!(stored(base.clone()).0, NONE, "nobody asked for it");
    if codecs().count() < CompressionType::ALL.len() {
        return;
    }
    for kind in codecs() {
        let of_log = WalConfig { compression: with(kind), ..base.clone() };
        assert_eq!(stored(of_log.clone()).0, number(kind), "compression_type");
        let longer = CompressionConfig { min_compress_bytes: 30_000, ..with(kind) };
        let longer = WalConfig { compression: longer, ..base.clone() };
        assert_eq!(stored(longer).0, NONE, "min_compress_bytes");
        for wins in codecs() {
            let compression = Some(with(wins));
            let batch_config = BatchConfig { compression, ..BatchConfig::default() };
            let both = WalConfig { batch_config, ..of_log.clone() };
            assert_eq!(stored(both).0, number(wins), "batch_config.compression");
        }
    }
    let level = |compression_type, compression_level| {
        let compression = CompressionConfig { compression_level, ..with(compression_type) };
        stored(WalConfig { compression, ..base.clone() })
    };
    let [fast, small] = [1, 19].map(|n| level(CompressionType::Zstd, n));
    assert!(fast.1 != small.1 && fast.0 == ZSTD, "compression_level: {fast:?} {small:?}");
    let [fast, small] = [1, 19].map(|n| level(CompressionType::Lz4, n));
    assert_eq!(fast, small, "it is for Zstd alone");
    assert!(place.contents().iter().all(|found| *found == record));
}

fn findings(place: &Place) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |finding| found.push(finding);
    let disk = &*place.world.disk;
    ReadOnlyWal::verify_on(disk, &place.dir, &mut tell, &mut |_, _| {}).unwrap();
    found
}

/// What may stand for a body: name, codec, the length it is said to have, the stored bytes.
fn lies(honest: &[(Frame, Vec<u8>)]) -> Vec<(String, u8, usize, Vec<u8>)> {
    const BOMB: usize = 256 << 20;
    let most = MAX_BATCH_BYTES + 8;
    let mut lies = Vec::new();
    for (frame, stored) in honest {
        for raw_len in [frame.raw_len - 1, frame.raw_len + 1, 8, most] {
            let name = format!("{} bytes are said to be {raw_len}", frame.raw_len);
            lies.push((name, frame.codec, raw_len, stored.clone()));
        }
        let more = [&stored[..], &[0]].concat();
        lies.push(("a byte too many".into(), frame.codec, frame.raw_len, more));
        let noise = noise(9, stored.len(), 256);
        lies.push(("noise".into(), frame.codec, frame.raw_len, noise));
    }
    for raw_len in [5000, most] {
        for said in [BOMB, raw_len] {
            let name = format!("a bomb that says {said}, in {raw_len}");
            lies.push((name.clone(), SNAPPY, raw_len, zeros::snappy(BOMB / 20, said)));
            lies.push((name, ZSTD, raw_len, zeros::zstd(BOMB, said)));
        }
        lies.push((format!("a bomb in {raw_len}"), LZ4, raw_len, zeros::lz4(BOMB / 2)));
        // All of it decompresses, and then the index says nonsense.
        lies.push((format!("{raw_len} zeros"), ZSTD, raw_len, zeros::zstd(raw_len, raw_len)));
    }
    let built_in: Vec<u8> = codecs().map(number).collect();
    lies.retain(|(_, codec, ..)| built_in.contains(codec));
    lies
}

pub fn a_body_that_is_not_what_its_header_says_is_corrupt_and_its_place_named(place: &Place) {
    let mut honest = Vec::new();
    for kind in codecs().filter(|kind| *kind != CompressionType::None) {
        let wal = open(place, with(kind));
        append(&wal, &[noise(1, 5000, 2)]);
        wal.close().unwrap();
    }
    for (path, bytes) in place.segments() {
        for frame in crate::support::format::frames_in(&path, &bytes).0 {
            let stored = bytes[frame.offset + HEADER..frame.offset + frame.len].to_vec();
            honest.push((frame, stored));
        }
    }
    // Where the lies are told: a batch with one before it and one after it.
    let wal = open(place, CompressionConfig::none());
    let first = wal.next_lsn();
    let around = [vec![b"before".to_vec()], vec![noise(2, 900_000, 256)], vec![b"after".to_vec()]];
    for batch in &around {
        append(&wal, batch);
    }
    wal.close().unwrap();
    let frame = place.frames().into_iter().find(|frame| frame.len > 900_000).unwrap();
    let mut segments = place.segments().into_iter();
    let (_, segment) = segments.find(|(path, _)| *path == frame.path).unwrap();
    let name = frame.path.file_name().unwrap().to_str().unwrap().to_string();
    for (lie, codec, raw_len, stored) in lies(&honest) {
        let mut forged = segment.clone();
        forge(&mut forged, &frame, codec, raw_len, &stored);
        place.plant(&name, &forged);
        assert_damaged(place, &frame, first, &format!("codec {codec}: {lie}"));
    }
    // What was forged is taken for whole where it is whole.
    for (of, stored) in &honest {
        let mut forged = segment.clone();
        forge(&mut forged, &frame, of.codec, of.raw_len, stored);
        place.plant(&name, &forged);
        assert_eq!(findings(place), []);
        let found = place.read_only().reader(first).unwrap().nth(1).unwrap().unwrap();
        assert!(found.data[..] == noise(1, 5000, 2));
    }
}

/// Opens the log, reads it up to the lie, and verifies it.
fn assert_damaged(place: &Place, frame: &Frame, first: Lsn, lie: &str) {
    let offset = frame.offset as u64;
    let log = place.read_only();
    let mut reader = log.reader(first).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().data[..], *b"before", "{lie}");
    for _ in 0..2 {
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{lie}: {error}");
        assert_eq!((error.path(), error.offset()), (Some(&*frame.path), Some(offset)), "{lie}");
    }
    let after = log.reader(Lsn::new(frame.last() + 1)).unwrap();
    assert_eq!(after.map(|r| r.unwrap().data.to_vec()).collect::<Vec<_>>(), [b"after"], "{lie}");
    let found = findings(place);
    assert_eq!(found.len(), 1, "{lie}: {found:?}");
    let told = (&found[0].path, found[0].offset, found[0].kind, found[0].lsn);
    assert_eq!(told, (&frame.path, offset, FindingKind::Corrupt, Some(Lsn::new(frame.first))));
}

pub fn presets_of_batching_take_batches_of_all_sizes(place: &Place) {
    let mut expected = Vec::new();
    for batch_config in [
        BatchConfig::no_batching(),
        BatchConfig::latency_optimized(),
        BatchConfig::throughput_optimized(),
    ] {
        let supported = batch_config.compression.is_none_or(|c| c.validate().is_ok());
        let wal = match place.try_open(WalConfig { batch_config, ..place.config() }) {
            Ok(wal) => wal,
            Err(e) => {
                assert!(e.kind() == ErrorKind::Unsupported && !supported, "{e}");
                continue;
            }
        };
        let mut tickets = Vec::new();
        for (i, len) in (0..60).zip([0, 10, 1000, 70_000, 600_000].into_iter().cycle()) {
            let record = noise(i, len, 3);
            tickets.push(match i % 2 {
                0 => wal.append_batch([&record]).unwrap(),
                _ => place.block_on(wal.append_batch_async([&record])).unwrap(),
            });
            expected.push(record);
        }
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        wal.close().unwrap();
    }
    assert!(place.contents() == expected);
}

pub fn threads_compress_at_once(place: &Place) {
    for kind in codecs() {
        let wal = open(place, with(kind));
        let first = wal.next_lsn();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let wal = &wal;
                scope.spawn(move || {
                    for i in 0..20 {
                        append(wal, &[noise(100 * thread + i, 30_000, 2), vec![7; 100]]);
                    }
                });
            }
        });
        let found = read_all(wal.reader(first).unwrap(), first.get());
        let mut found: Vec<_> = found.into_iter().step_by(2).collect();
        found.sort();
        let all = (0..4).flat_map(|thread| (0..20).map(move |i| 100 * thread + i));
        let mut expected: Vec<_> = all.map(|seed| noise(seed, 30_000, 2)).collect();
        expected.sort();
        assert!(found == expected, "under {kind}");
        wal.close().unwrap();
    }
}
