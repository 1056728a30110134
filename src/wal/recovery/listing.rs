//! The segments that recovery keeps, listed for readers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::segment::SparseIndex;

use super::super::catalog::Segment;
use super::judge::last_time;
use super::{Found, State};

/// The kept segments as readers see them. `open` ones are read through their own file.
pub(crate) fn catalog_of(disk: &dyn Disk, found: &[Found]) -> Result<BTreeMap<u64, Arc<Segment>>> {
    let (mut listed, since) = (BTreeMap::new(), since(found));
    for f in found {
        let (Some(first), Some(last)) = (f.kept.first(), f.kept.last()) else { continue };
        let tail = match &f.state {
            State::Sealed(_) => None,
            State::Open(_) => {
                let opened = disk.open(&f.file.path, Access::Direct);
                Some(opened.map_err(|e| Error::io("open", &f.file.path, None, e))?)
            }
        };
        let since = since.get(&f.file.id.number).copied().unwrap_or(first.first);
        let segment =
            Segment::new(f.file.clone(), first.first, since, tail, SparseIndex::default());
        let (entries, end) = match &f.state {
            State::Sealed(footer) => (footer.index.clone(), footer.end),
            State::Open(scan) => (scan.summary.index().entries().to_vec(), scan.summary.end()),
        };
        for entry in entries.into_iter().filter(|entry| entry.lsn <= last.last) {
            segment.publish(entry, last.last, end, last_time(f));
        }
        segment.extend(last.last, end, last_time(f));
        listed.insert(f.file.id.number, Arc::new(segment));
    }
    Ok(listed)
}

/// For each segment, by number, where the first of those starts that reach into it.
fn since(found: &[Found]) -> BTreeMap<u64, Lsn> {
    let stretch = |f: &Found| Some((f.kept.first()?.first, f.kept_last(), f.file.id.number));
    let mut stretches: Vec<(Lsn, Lsn, u64)> = found.iter().filter_map(stretch).collect();
    stretches.sort_unstable();
    let mut open: Vec<(Lsn, Lsn)> = Vec::new();
    let mut since = BTreeMap::new();
    for (first, last, number) in stretches {
        open.retain(|(_, last)| *last >= first);
        open.push((first, last));
        since.insert(number, open.iter().map(|(first, _)| *first).min().unwrap_or(first));
    }
    since
}
