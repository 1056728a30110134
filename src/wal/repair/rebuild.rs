//! META of a log that has lost it, from what its segments say of themselves.
//!
//! What only META knew stays lost: the user slot, the configured sync method, cuts from both ends
//! and holes of earlier repairs. Records that were cut and whose segments are still there come
//! back. What was promised is not known either: all LSNs that any header or footer names count as
//! such, so that none is given again.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cast::{len, round_up};
use crate::error::{Error, Result};
use crate::format::LogId;
use crate::format::meta::Meta;
use crate::format::segment::SegmentHeader;
use crate::io::{Access, Disk, EntryKind};
use crate::lsn::Lsn;
use crate::options::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES};
use crate::segment::parse_name;

use super::super::meta::{Loaded, META, UNCHANGED};
use super::super::recovery::{State, examine, read_block, survey_with, sweep};

/// The state that the segments in `dir` speak of.
pub(super) fn rebuild(disk: &dyn Disk, dir: &Path) -> Result<Loaded> {
    let headers = headers(disk, dir)?;
    let mut votes: BTreeMap<(LogId, u32), usize> = BTreeMap::new();
    for header in &headers {
        *votes.entry((header.log_id, header.block_size)).or_default() += 1;
    }
    let Some(((log_id, block_size), _)) = votes.into_iter().max_by_key(|(_, votes)| *votes) else {
        let why = "META can't be read, and no segment has a header to rebuild it from";
        return Err(Error::corrupt("repair", &dir.join(META), 0, why));
    };
    let ours = || headers.iter().filter(|header| header.log_id == log_id);
    let size = ours().map(|header| header.size).max().unwrap_or(0);
    let size = round_up(size, 1 << 20).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    let mut meta = Meta {
        sequence: UNCHANGED,
        log_id,
        block_size,
        segment_bytes: size,
        growth_bytes: size,
        sync_method: 0,
        last_backend: 0,
        next_epoch: ours().map(|header| header.id.epoch).max().unwrap_or(0) + 1,
        clean: false,
        // Nobody knows what was going on when it was lost.
        mending: true,
        durable_upto: Lsn::NONE,
        first_lsn: Lsn::FIRST,
        highest_number: ours().map(|header| header.id.number).max().unwrap_or(0),
        removed: Vec::new(),
        cuts: Vec::new(),
        user_state: Vec::new(),
    };
    let survey = survey_with(disk, dir, Loaded::made(meta.clone()))?;
    let mut first = Lsn::MAX;
    for f in &survey.found {
        let swept = sweep(disk, f, &mut |_| {})?;
        let runs = swept.runs.first().map(|run| run.first);
        // Where all that it began with is lost its footer, or a bad frame's header, still tells.
        let starts = [runs, swept.start(f)].into_iter().flatten();
        first = starts.fold(first, Lsn::min);
        let named = match &f.state {
            State::Sealed(footer) => footer.last_lsn.max(footer.durable_upto),
            State::Open(_) => Lsn::NONE,
        };
        meta.durable_upto = meta.durable_upto.max(swept.seen).max(swept.durable).max(named);
    }
    for error in &survey.unusable {
        let start = examine(disk, error, &survey, survey.highest_number())?.start;
        first = start.map_or(first, |start| first.min(start));
    }
    if first != Lsn::MAX {
        meta.first_lsn = first;
    }
    Ok(Loaded::made(meta))
}

/// The headers of all segments that have one.
fn headers(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentHeader>> {
    let entries = disk.list(dir).map_err(|e| Error::io("repair", dir, None, e))?;
    let mut headers = Vec::new();
    for entry in entries {
        let named = parse_name(&entry.name);
        if named.is_none() || entry.kind != EntryKind::File {
            continue;
        }
        let path = dir.join(&entry.name);
        let failed = |e| Error::io("repair", &path, Some(0), e);
        let file = disk.open(&path, Access::Direct).map_err(failed)?;
        let mut block = disk.block_size() as u64;
        // A header is one block of its log, which only it tells the length of.
        while block <= 64 << 10 && 3 * block <= entry.size {
            let image = read_block(&file, 0, block).map_err(failed)?;
            match SegmentHeader::decode(&image.bytes()[..len(block)]) {
                Ok(header) => {
                    headers.extend(Some(header).filter(|header| Some(header.id.number) == named));
                    break;
                }
                Err(_) => block *= 2,
            }
        }
    }
    Ok(headers)
}
