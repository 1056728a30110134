//! Looking at a log's directory without changing it: META, then segment by segment.

use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Disk, Entry};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::parse_name;

use super::super::meta::{self, META};
use super::judge::judge;
use super::loss::number;
use super::progress::Progress;
use super::segment::{Glance, glance_at, scan};
use super::side_by_side::{Scanning, is_finding, side_by_side};
use super::weave::weave;
use super::{Found, Plan};

/// More than a log makes, or fails to make on a full disk, between two updates of META.
const MOST_MADE: u64 = 1 << 32;

/// What a log's directory holds, before anybody judges it.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) meta: meta::Loaded,
    pub(crate) found: Vec<Found>,
    /// Segments of which not even the header can be used.
    pub(crate) unusable: Vec<Error>,
    /// No more than this was certainly promised before the segments were read.
    pub(crate) upto: Lsn,
}

impl Survey {
    /// The last record that was found, whether it is kept or not.
    fn last(&self) -> Lsn {
        self.found
            .iter()
            .filter_map(|f| f.runs.last())
            .map(|run| run.last)
            .max()
            .unwrap_or(Lsn::NONE)
    }

    /// Of all segments that there ever were, as far as can be known. Of what can't be used the name
    /// tells, if a log can have got there: a stranger's may say anything.
    pub(crate) fn highest_number(&self) -> u64 {
        let found = self.found.iter().map(|f| f.file.id.number);
        let highest = found.fold(self.meta.meta.highest_number, u64::max);
        let named = self.unusable.iter().filter_map(Error::path).map(number);
        let mut named: Vec<u64> = named.collect();
        named.sort_unstable();
        let add = |highest: u64, number| match number <= highest + MOST_MADE {
            true => highest.max(number),
            false => highest,
        };
        named.into_iter().fold(highest, add)
    }

    /// META says that the log was closed, and there is more than it had then: META is older than
    /// that. The device forgot a write that it had called durable, or a writer came meanwhile.
    fn goes_on_behind_the_close(&self) -> bool {
        let meta = &self.meta.meta;
        meta.clean && self.last() > meta.durable_upto
    }
}

/// Reads all there is to know, merges it, and judges it.
pub(crate) fn inspect(
    disk: &dyn Disk,
    dir: &Path,
    policy: RecoveryPolicy,
    progress: &Progress<'_>,
) -> Result<Plan> {
    let mut survey = survey(disk, dir, progress)?;
    match survey.unusable.pop() {
        Some(error) => Err(error),
        None => judge(dir, survey, policy).map_err(|refused| refused.error),
    }
}

/// As `inspect`, beside a living writer. He adds frames while segments are read at different
/// moments, so that in one of them a record may be promised that came too late for another: what
/// was `known` to be promised before a look has to be found by it. An error raises `known`.
///
/// A footer stands for all records between its first and its last, those of other lanes too. So
/// names are read again after the last footer, and frames after that: no such record is missed,
/// unless its segment came and went meanwhile. It goes only once META says so, which is therefore
/// read at last as well as at first:
///
/// ```text
/// look                                            writer
///   names, META, footers: a speaks for b           a is sealed, b cut: META, then b goes
///   names, frames: no b
///   META: another epoch, or b is below its first   names a new b, goes on
/// ```
pub(crate) fn inspect_beside(disk: &dyn Disk, dir: &Path, known: &mut Option<Lsn>) -> Result<Plan> {
    let (mut entries, mut meta) = names_and_meta(disk, dir)?;
    // Whatever META says: he goes on in what it says was closed.
    meta.meta.clean = false;
    let progress = Progress::default();
    let mut glances = glance_at_all(disk, dir, &entries, &meta)?;
    let late = disk.list(dir).map_err(|e| Error::io("open", dir, None, e))?;
    debug_assert!(entries.is_sorted_by(|a, b| a.name < b.name), "as `Disk::list` says");
    let seen = |entry: &Entry| entries.binary_search_by(|e| e.name.cmp(&entry.name)).is_ok();
    let late = late.into_iter().filter(|entry| !seen(entry));
    let late: Vec<Entry> = late.filter(|entry| parse_name(&entry.name).is_some()).collect();
    glances.extend(late.iter().map(|_| Ok(Glance::Open(None))));
    entries.extend(late);
    let mut survey = look_at_all(disk, dir, &entries, glances, meta, &progress)?;
    notice_cuts(disk, dir, &mut survey)?;
    survey.upto = known.unwrap_or(survey.upto);
    match survey.unusable.pop() {
        Some(error) => Err(error),
        None => judge(dir, survey, RecoveryPolicy::TornTail).map_err(|refused| {
            *known = Some(refused.promised);
            refused.error
        }),
    }
}

/// What the log lost since its META was read: its beginning is news, if more than that was found;
/// all else needs another look.
fn notice_cuts(disk: &dyn Disk, dir: &Path, survey: &mut Survey) -> Result<()> {
    let (now, last) = (meta_of(disk, dir)?.meta, survey.last());
    let meta = &mut survey.meta.meta;
    let begins_beyond = now.first_lsn > meta.first_lsn && now.first_lsn > last;
    if now.log_id != meta.log_id || now.next_epoch != meta.next_epoch || begins_beyond {
        let gone =
            io::Error::new(io::ErrorKind::NotFound, "the log was cut while it was looked at");
        return Err(Error::io("open", dir, None, gone));
    }
    (meta.first_lsn, meta.removed) = (now.first_lsn, now.removed);
    // As it is in any one META; and that much was found.
    meta.durable_upto = meta.durable_upto.max(now.first_lsn.prev());
    Ok(())
}

/// Reads META, headers and footers, and the frames of what has no footer, or one that leaves doubt.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path, progress: &Progress<'_>) -> Result<Survey> {
    let (entries, meta) = names_and_meta(disk, dir)?;
    look_around(disk, dir, &entries, meta, progress)
}

/// As `survey`, with a META that is not the file's.
pub(crate) fn survey_with(disk: &dyn Disk, dir: &Path, meta: meta::Loaded) -> Result<Survey> {
    let entries = disk.list(dir).map_err(|e| Error::io("open", dir, None, e))?;
    look_around(disk, dir, &entries, meta, &Progress::default())
}

fn names_and_meta(disk: &dyn Disk, dir: &Path) -> Result<(Vec<Entry>, meta::Loaded)> {
    // Names before META: beside a writer no segment may come from after a cut that META, as it is
    // read here, does not tell of.
    let entries = disk.list(dir).map_err(|e| Error::io("open", dir, None, e))?;
    Ok((entries, meta_of(disk, dir)?))
}

fn meta_of(disk: &dyn Disk, dir: &Path) -> Result<meta::Loaded> {
    let meta = meta::load(disk, dir)?;
    meta.ok_or_else(|| Error::corrupt("open", &dir.join(META), 0, "META is missing"))
}

fn look_around(
    disk: &dyn Disk,
    dir: &Path,
    entries: &[Entry],
    meta: meta::Loaded,
    progress: &Progress<'_>,
) -> Result<Survey> {
    let glances = glance_at_all(disk, dir, entries, &meta)?;
    let mut survey = look_at_all(disk, dir, entries, glances, meta, progress)?;
    if survey.goes_on_behind_the_close() {
        survey.meta.meta.clean = false;
        return look_around(disk, dir, entries, survey.meta, progress);
    }
    weave(disk, &mut survey)?;
    Ok(survey)
}

/// Header and footer of each segment among `entries`, in their order.
fn glance_at_all(
    disk: &dyn Disk,
    dir: &Path,
    entries: &[Entry],
    meta: &meta::Loaded,
) -> Result<Vec<Result<Glance>>> {
    let block = u64::from(meta.meta.block_size);
    if (disk.block_size() as u64) > block {
        let why = format!(
            "the log's block is {block} bytes, this disk wants {}; copy it to one that takes it",
            disk.block_size()
        );
        return Err(Error::new(ErrorKind::Unsupported, "open", why).at(dir, None));
    }
    let segments = entries.iter().filter(|entry| parse_name(&entry.name).is_some());
    let glance = |entry| match glance_at(disk, dir, entry, meta) {
        Err(error) if !is_finding(&error) => Err(error),
        glance => Ok(glance),
    };
    segments.map(glance).collect()
}

/// Reads the frames of what has no footer.
fn look_at_all(
    disk: &dyn Disk,
    dir: &Path,
    entries: &[Entry],
    glances: Vec<Result<Glance>>,
    meta: meta::Loaded,
    progress: &Progress<'_>,
) -> Result<Survey> {
    let segments = || entries.iter().filter(|entry| parse_name(&entry.name).is_some());
    let (mut looked, mut scans) = (Vec::new(), Vec::<Scanning<'_>>::new());
    for (entry, glance) in segments().zip(glances) {
        looked.push(match glance {
            Ok(Glance::Sealed(found)) => Some(Ok(*found)),
            Err(error) => Some(Err(error)),
            Ok(Glance::Open(bad_footer)) => {
                let meta = &meta;
                scans.push(Box::new(move |tell: &mut dyn FnMut(u64)| {
                    scan(disk, dir, entry, meta, bad_footer, tell)
                }));
                None
            }
        });
    }
    let mut scanned = side_by_side(disk, scans, progress).into_iter();
    let (mut found, mut unusable) = (Vec::new(), Vec::new());
    for (entry, looked) in segments().zip(looked) {
        match looked.unwrap_or_else(|| scanned.next().expect("the last one ended the look")) {
            Ok(mut segment) => {
                segment.cut(&meta.meta);
                found.push(segment);
            }
            Err(error) if is_finding(&error) => unusable.push(error),
            Err(error) => return Err(error),
        }
        progress.end_segment(entry.size);
    }
    Ok(Survey { meta, found, unusable, upto: Lsn::new(u64::MAX) })
}
