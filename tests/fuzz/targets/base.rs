//! Real logs to damage: written by the crate on the simulated disk, then cut down to a few blocks.
//!
//! ```text
//! open, append, kill, open, ... --> 1 MiB segments --shrink--> what is used, a free block, footer
//! ```
//!
//! The simulation makes the same logs each time, so that an input means the same damage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use prkdb_core::io::sim::{CrashKind, Faults, Model, Sim};
use prkdb_core::{
    CompressionConfig, CompressionType, Durability, ErrorKind, Lsn, ReadOnlyWal, RecoveryPolicy,
    Wal, WalConfig,
};

use super::layout::{self, BLOCK, HEADER, SLOT};

pub const DIR: &str = "/log";
/// How many there are, and one more: it has a hole, for records were given up.
pub const COUNT: usize = 5;
pub const WITH_HOLE: usize = COUNT;

/// What stands somewhere in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    SegmentHeader,
    FrameHeader,
    Body,
    Footer,
    Slot,
    Text,
}

/// A place worth damaging.
#[derive(Clone, Debug)]
pub struct Spot {
    pub file: usize,
    pub kind: Kind,
    /// Where the whole begins, for its checksum: frame, block or slot.
    pub whole: usize,
    pub at: usize,
    pub len: usize,
}

/// A log, and what it holds.
pub struct Base {
    pub files: Vec<(String, Vec<u8>)>,
    pub spots: Vec<Spot>,
    pub records: BTreeMap<u64, Vec<u8>>,
    /// From here on a watermark may prove nothing: records of the segments without a footer, of a
    /// log that was killed.
    pub unproven: u64,
}

/// Log `number` of `COUNT`: plain; killed with groups in flight; three segments side by side;
/// compressed; cut at both ends. And [`WITH_HOLE`].
pub fn base(number: usize) -> &'static Base {
    static BASES: [OnceLock<Base>; COUNT + 1] = [const { OnceLock::new() }; COUNT + 1];
    BASES[number].get_or_init(|| Base::new(number))
}

/// Puts files into a fresh world.
pub fn world(files: &[(String, Vec<u8>)]) -> Sim {
    let sim = Sim::new(1, Model::weak(true), Faults::default());
    // Its own file, so that the directory is there even if nothing else is.
    sim.put(PathBuf::from(DIR).join("LOCK"), b"1\n").unwrap();
    for (name, bytes) in files {
        sim.put(PathBuf::from(DIR).join(name), bytes).unwrap();
    }
    sim
}

/// How the logs are opened, here and for writing on.
pub fn config(number: usize, life: usize) -> WalConfig {
    let kinds = [CompressionType::Lz4, CompressionType::Zstd, CompressionType::Snappy];
    let kind = kinds[life % 3];
    let compression_type =
        if number == 3 && kind.is_built_in() { kind } else { CompressionType::None };
    WalConfig {
        num_segments: if number == 2 { 3 } else { 1 },
        segment_bytes: 1 << 20,
        compression: CompressionConfig {
            compression_type,
            min_compress_bytes: 64,
            ..CompressionConfig::none()
        },
        ..WalConfig::new(DIR)
    }
}

impl Base {
    fn new(number: usize) -> Base {
        let sim = Sim::new(40 + number as u64, Model::weak(true), Faults::default());
        for life in 0..4 {
            let wal = Wal::open_in(sim.world(), config(number, life)).unwrap();
            live(&wal, number, life);
            if life == 3 && number != 1 && number != 4 {
                wal.close().unwrap();
            } else {
                sim.crash(if life == 3 { CrashKind::Power } else { CrashKind::Kill });
                drop(wal);
            }
        }
        if number == WITH_HOLE {
            give_up_one(&sim);
        }
        let mut files = Vec::new();
        for (path, _) in sim.files() {
            let name = path.strip_prefix(DIR).unwrap().to_str().unwrap().to_string();
            let bytes = sim.peek(&path).unwrap();
            match name.as_str() {
                name if name.ends_with(".seg") => files.push((name.to_string(), shrunk(&bytes))),
                "META" | "METRICS" => files.push((name, bytes)),
                _ => {}
            }
        }
        let spots = spots(&files);
        let records = contents(&sim);
        assert_eq!(contents(&world(&files)), records, "cutting log {number} down changed it");
        let open = files.iter().filter(|(name, bytes)| {
            name.ends_with(".seg") && !layout::has_footer(bytes) && (number == 1 || number == 4)
        });
        let first = |bytes: &[u8]| layout::frames(bytes).first().map(|f| first_lsn(bytes, f.start));
        let unproven = open.filter_map(|(_, bytes)| first(bytes)).min().unwrap_or(u64::MAX);
        Base { files, spots, records, unproven }
    }
}

fn first_lsn(segment: &[u8], frame: usize) -> u64 {
    layout::u64_at(segment, frame + 24)
}

/// All that a log serves.
fn contents(sim: &Sim) -> BTreeMap<u64, Vec<u8>> {
    let log = ReadOnlyWal::open_on(sim.world().disk, DIR).unwrap();
    let reader = log.reader(log.first_lsn().unwrap()).unwrap();
    let there = reader.filter(|r| r.as_ref().err().is_none_or(|e| e.kind() != ErrorKind::Lost));
    there.map(|record| record.map(|r| (r.lsn.get(), r.data.to_vec())).unwrap()).collect()
}

/// Damages a frame in the middle of a log and gives up what was in it.
fn give_up_one(sim: &Sim) {
    let path = PathBuf::from(DIR).join(format!("{:020}.seg", 2));
    let bytes = sim.peek(&path).unwrap();
    let frame = layout::frames(&bytes).into_iter().nth(1).unwrap();
    sim.flip(&path, (frame.start + HEADER) as u64, 1).unwrap();
    let config = WalConfig { recovery: RecoveryPolicy::Salvage, ..config(WITH_HOLE, 3) };
    let wal = Wal::open_in(sim.world(), config).unwrap();
    assert_eq!(wal.holes().len(), 1, "{:?}", wal.recovery());
    wal.close().unwrap();
}

fn live(wal: &Wal, number: usize, life: usize) {
    wal.set_user_state(format!("life {life}")).unwrap();
    let mut tickets = Vec::new();
    for batch in 0..4 {
        let records: Vec<_> = (0..=batch)
            .map(|i| format!("life {life} batch {batch}, {i}; ").repeat(4 + i))
            .collect();
        let durability = match (number, life) {
            // At the end groups are in flight that nobody was promised.
            (1, 3) if batch > 0 => Durability::Written,
            _ => Durability::Sync,
        };
        tickets.push(wal.with(durability).append_batch(&records).unwrap());
    }
    if (number, life) != (1, 3) {
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    }
    match (number, life) {
        (4, 1) => wal.truncate_after(Lsn::new(15)).unwrap(),
        (4, 2) => wal.truncate_before(Lsn::new(7)).unwrap(),
        (4, 3) => {
            wal.truncate_after(Lsn::new(30)).unwrap();
            wal.append_batch(["in place of others"]).unwrap().wait().unwrap();
        }
        _ => {}
    }
}

/// A segment without the blocks that hold nothing, but for one.
fn shrunk(segment: &[u8]) -> Vec<u8> {
    let end = segment.len() - BLOCK;
    let used = segment[..end].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut small = segment[..used].to_vec();
    small.resize(used.next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    let size = small.len();
    layout::put(&mut small, 64, &(size as u64).to_le_bytes());
    layout::seal_block(&mut small[..BLOCK], &[]);
    if layout::has_footer(segment) {
        layout::put(&mut small, size - BLOCK, &segment[end..]);
        let salt = layout::footer_salt(&small);
        layout::seal_block(&mut small[size - BLOCK..], &salt);
    }
    small
}

fn spots(files: &[(String, Vec<u8>)]) -> Vec<Spot> {
    let mut spots = Vec::new();
    for (file, (name, bytes)) in files.iter().enumerate() {
        let mut add = |kind, whole, at, len| spots.push(Spot { file, kind, whole, at, len });
        match name.as_str() {
            "META" => {
                for slot in [0, SLOT] {
                    add(Kind::Slot, slot, slot, 136);
                    add(Kind::Slot, slot, slot + 61_424, 48);
                }
            }
            "METRICS" => add(Kind::Text, 0, 0, bytes.len()),
            _ => {
                add(Kind::SegmentHeader, 0, 0, 80);
                for frame in layout::frames(bytes) {
                    let len = frame.len() - HEADER;
                    add(Kind::FrameHeader, frame.start, frame.start, HEADER);
                    add(Kind::Body, frame.start, frame.start + HEADER, len);
                }
                let at = bytes.len() - BLOCK;
                add(Kind::Footer, at, at, 152);
            }
        }
    }
    spots
}

/// Makes the checksums over what stands at a spot hold again.
pub fn seal(spot: &Spot, file: &mut [u8]) {
    match spot.kind {
        Kind::SegmentHeader => seal_within(file, 0, BLOCK, &[]),
        Kind::Slot => seal_within(file, spot.whole, SLOT, &[]),
        Kind::Footer if file.len() >= 2 * BLOCK => {
            let salt = layout::footer_salt(file);
            seal_within(file, spot.whole, BLOCK, &salt);
        }
        Kind::FrameHeader | Kind::Body if spot.whole + HEADER <= file.len() => {
            let nonce: [u8; 16] = file[48..64].try_into().unwrap();
            if spot.kind == Kind::Body {
                let end = spot.whole + HEADER + layout::u32_at(file, spot.whole + 12);
                let end = end.min(file.len());
                layout::seal_body(&mut file[spot.whole..end]);
            }
            let header = &mut file[spot.whole..spot.whole + HEADER];
            layout::seal_header(&nonce, spot.whole, header);
        }
        Kind::Footer | Kind::FrameHeader | Kind::Body | Kind::Text => {}
    }
}

fn seal_within(file: &mut [u8], at: usize, len: usize, salt: &[u8]) {
    if let Some(block) = file.get_mut(at..at + len) {
        layout::seal_block(block, salt);
    }
}
