//! Damages done to a closed log of `RECORDS` records in batches of `BATCH`, over several segments.
#![allow(clippy::single_range_in_vec_init, reason = "a list of holes, of which there is one")]

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use prkdb_core::{ErrorKind, Reader};

use super::format::{self, Frame, flip};
use super::record;

pub const RECORDS: u64 = 1300;
pub const BATCH: u64 = 13;

/// Does something to a log; gives the LSNs that are lost with it.
pub type Damage = fn(&Path, &[Frame]) -> Vec<Range<u64>>;

pub const CUT_SHORT: &str = "a segment that was cut short";

pub const DAMAGES: &[(&str, Damage)] = &[
    ("a header in a sealed segment", |_, frames| {
        let frame = sealed(frames)[5];
        flip(&frame.path, frame.offset + 24);
        one(frame)
    }),
    ("a record in a sealed segment", |_, frames| {
        let frame = sealed(frames)[7];
        flip(&frame.path, frame.offset + frame.len - 200);
        one(frame)
    }),
    ("three frames in a row", |_, frames| {
        let hit = &segment(frames, 0)[3..6];
        hit.iter().for_each(|frame| flip(&frame.path, frame.offset + 70));
        [hit[0].first..hit[2].last() + 1].to_vec()
    }),
    ("the first and the last frame of a sealed segment", |_, frames| {
        let second = segment(frames, 1);
        let (first, last) = (second[0], second[second.len() - 1]);
        flip(&first.path, first.offset + 1);
        flip(&last.path, last.offset + 1);
        vec![first.first..first.last() + 1, last.first..last.last() + 1]
    }),
    ("a tag that became zero", |_, frames| {
        let frame = sealed(frames)[9];
        format::change(&frame.path, frame.offset..frame.offset + 1, |byte| byte[0] = 0);
        one(frame)
    }),
    ("a frame in the segment that was open", |_, frames| {
        let open: Vec<&Frame> = frames.iter().filter(|f| !f.sealed).collect();
        let frame = open[open.len() / 2];
        flip(&frame.path, frame.offset + 30);
        one(frame)
    }),
    ("the last frame of all", |_, frames| {
        let last = frames.last().unwrap();
        flip(&last.path, last.offset + 30);
        one(last)
    }),
    ("the header of a segment", |_, frames| {
        let gone = segment(frames, 1);
        flip(&gone[0].path, 20);
        [gone[0].first..gone[gone.len() - 1].last() + 1].to_vec()
    }),
    ("the header of the segment that was open", |_, frames| {
        let gone: Vec<&Frame> = frames.iter().filter(|f| !f.sealed).collect();
        flip(&gone[0].path, 64);
        [gone[0].first..gone[gone.len() - 1].last() + 1].to_vec()
    }),
    ("a segment that is gone", |_, frames| {
        let gone = segment(frames, 1);
        fs::remove_file(&gone[0].path).unwrap();
        [gone[0].first..gone[gone.len() - 1].last() + 1].to_vec()
    }),
    (CUT_SHORT, |_, frames| {
        let gone = segment(frames, 0);
        fs::OpenOptions::new().write(true).open(&gone[0].path).unwrap().set_len(100_000).unwrap();
        [gone[0].first..gone[gone.len() - 1].last() + 1].to_vec()
    }),
    ("footer and frame of a segment", |_, frames| {
        let frame = sealed(frames)[5];
        flip(&frame.path, frame.offset + 24);
        flip(&frame.path, usize::try_from(fs::metadata(&frame.path).unwrap().len()).unwrap() - 99);
        let at = usize::try_from(fs::metadata(&frame.path).unwrap().len()).unwrap() - 4096;
        flip(&frame.path, at + 16);
        one(frame)
    }),
    ("noise over blocks in the middle", |_, frames| {
        let hit = &segment(frames, 0)[4..8];
        let (start, end) = (hit[0].offset + 50, hit[3].offset + 10);
        format::change(&hit[0].path, start..end, |bytes| bytes.fill(0xa5));
        [hit[0].first..hit[3].last() + 1].to_vec()
    }),
];

fn one(frame: &Frame) -> Vec<Range<u64>> {
    [frame.first..frame.last() + 1].to_vec()
}

fn sealed(frames: &[Frame]) -> Vec<&Frame> {
    frames.iter().filter(|f| f.sealed).collect()
}

/// The frames of one of the segments, by their order.
fn segment(frames: &[Frame], at: usize) -> Vec<&Frame> {
    let paths: BTreeSet<&PathBuf> = frames.iter().map(|f| &f.path).collect();
    let path = paths.into_iter().nth(at).unwrap();
    frames.iter().filter(|f| f.path == *path).collect()
}

/// All that a reader gives, over its holes: records by LSN, and the holes it told of.
pub fn read_over(mut reader: Reader) -> (Vec<u64>, Vec<Range<u64>>) {
    let (mut lsns, mut holes) = (Vec::new(), Vec::new());
    loop {
        let from = reader.next_lsn();
        match reader.next() {
            None => return (lsns, holes),
            Some(Ok(read)) => {
                let lsn = read.lsn.get();
                let life = if lsn > RECORDS { 2 } else { 1 };
                assert!(*read.data == record(life, lsn)[..], "record {lsn} is another one");
                lsns.push(lsn);
            }
            Some(Err(e)) => {
                assert_eq!(e.kind(), ErrorKind::Lost, "{e}");
                holes.push(from.get()..reader.next_lsn().get());
            }
        }
    }
}
