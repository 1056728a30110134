//! `PointInTime` and `Salvage`: giving up what is damaged, before recovery goes its usual way.
//!
//! ```text
//! META: all that may have been promised -> names of what can't be used -> footers
//!     -> META: holes, cut -> recovery, as of a log without damage
//! ```
//!
//! Nothing is overwritten but footers that are not there. Until the first step is durable the log
//! is as it was; from there on it knows what it may have promised, so that a crash before the last
//! step leaves a log of which the same policy finds the same things lost. Invariants: no LSN that
//! may have been promised is given again; a file that leaves the log keeps its bytes.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::meta::{Cut, Meta};
use crate::io::{Access, Disk};
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Frame, Run, Summary};

use super::super::meta::MetaFile;
use super::apply::{Site, put_footer, ready_pool};
use super::copy::copy_frames;
use super::inspect::{Survey, survey};
use super::loss::{Loss, assess, number};
use super::sweep::{Met, Sweep, Swept};
use super::{Found, GivenUp, Progress, RecoveryReport, State, Verdict};

/// What was given up.
#[derive(Debug)]
pub(super) struct Mended {
    given_up: Vec<GivenUp>,
    /// Records or a segment were lost: else bytes between frames were passed over, no more.
    lost: bool,
    /// Records from here on may have been read before, and are gone.
    pub(super) cut: Option<Lsn>,
}

impl Mended {
    /// Adds it to what recovery found afterwards.
    pub(super) fn tell(&self, report: &mut RecoveryReport) {
        let place = |gone: &GivenUp| (gone.path.clone(), gone.offset);
        let told: Vec<_> = self.given_up.iter().map(place).collect();
        report.given_up.retain(|gone| !told.contains(&place(gone)));
        report.given_up.splice(..0, self.given_up.iter().cloned());
        if self.lost {
            report.verdict = Verdict::Damaged;
        }
    }
}

/// Gives up what is damaged, if anything is.
pub(super) async fn mend(
    site: Site<'_>,
    policy: RecoveryPolicy,
    progress: &Progress<'_>,
) -> Result<Option<Mended>> {
    let survey = survey(site.disk, site.dir, progress)?;
    let loss = assess(site.disk, &survey, policy, &mut |done, _| progress.at(done))?;
    progress.end_segment(survey.found.iter().map(|f| f.file.geometry.size).sum());
    if !loss.is_some() {
        return Ok(None);
    }
    let change = |m: &mut Meta| change(m, &survey, &loss);
    let mut after = survey.meta.meta.clone();
    change(&mut after);
    if after.encode().is_err() {
        let why = format!(
            "{} holes are more than META has room for; RecoveryPolicy::PointInTime needs one",
            after.removed.len()
        );
        return Err(Error::invalid("recover", why).at(site.dir, None));
    }
    let mut given_up = places(site.disk, site.dir, &survey, &loss)?;
    let mut meta = MetaFile::open(site.disk, site.dir, &survey.meta)?;
    let highest = survey.unusable.iter().filter_map(|e| e.path()).map(number).max();
    let intent = |m: &mut Meta| {
        m.clean = false;
        m.durable_upto = m.durable_upto.max(loss.promised);
        m.highest_number = m.highest_number.max(highest.unwrap_or(0));
        m.highest_number =
            survey.found.iter().map(|f| f.file.id.number).fold(m.highest_number, u64::max);
    };
    meta.update(site.flow, site.disk, intent).await?;
    set_aside(site, &mut given_up)?;
    let upto = copy_unproven(site, &survey, &loss, meta.meta()).await?;
    for i in &loss.unsealed {
        seal(site, &survey.found[*i], &loss, *i, upto).await?;
    }
    meta.update(site.flow, site.disk, change).await?;
    for gone in &given_up {
        tracing::warn!(
            path = %gone.path.display(),
            offset = gone.offset,
            bytes = gone.bytes,
            lsns = ?gone.lsns,
            why = gone.why,
            "recovery gave up what is damaged, as its policy says"
        );
    }
    let lost = !(loss.holes.is_empty() && loss.unusable.is_empty());
    Ok(Some(Mended { given_up, lost, cut: loss.cut }))
}

/// What META says once all is done.
fn change(m: &mut Meta, survey: &Survey, loss: &Loss) {
    if let Some(lsn) = loss.cut {
        let epoch = next_epoch(survey);
        m.cut = Some(Cut { lsn, epoch });
        m.next_epoch = epoch + 1;
    }
    for (from, to) in &loss.holes {
        add_range(&mut m.removed, *from, *to);
    }
    m.clean = false;
    m.durable_upto = m.durable_upto.max(loss.promised);
}

/// Of the first segment that is made from now on.
fn next_epoch(survey: &Survey) -> u64 {
    let epochs = survey.found.iter().map(|f| f.file.id.epoch + 1);
    epochs.fold(survey.meta.meta.next_epoch, u64::max)
}

/// Adds a range to ranges that are sorted and apart, and keeps them so.
pub(crate) fn add_range(ranges: &mut Vec<(Lsn, Lsn)>, mut from: Lsn, mut to: Lsn) {
    ranges.retain(|(start, end)| {
        let apart = *end < from || to < *start;
        if !apart {
            (from, to) = (from.min(*start), to.max(*end));
        }
        apart
    });
    let at = ranges.partition_point(|(start, _)| *start < from);
    ranges.insert(at, (from, to));
}

/// Where what is given up stands, and which records were there.
pub(crate) fn places(
    disk: &dyn Disk,
    dir: &Path,
    survey: &Survey,
    loss: &Loss,
) -> Result<Vec<GivenUp>> {
    let mut told = Vec::new();
    for bad in &loss.unusable {
        told.push(GivenUp {
            path: bad.path.clone(),
            offset: 0,
            bytes: bad.bytes,
            lsns: None,
            why: bad.why.clone(),
            kept_as: Some(PathBuf::new()),
        });
    }
    let mut explained = Vec::new();
    for (i, f) in survey.found.iter().enumerate() {
        for gap in &loss.swept[i].gaps {
            let within = |(from, to): &(Lsn, Lsn)| {
                let (from, to) = ((*from).max(gap.from), (*to).min(gap.to));
                (from < to).then_some((from, to))
            };
            let lost: Vec<_> = loss.holes.iter().filter_map(within).collect();
            let unread = loss.unsealed.contains(&i) && loss.cut.is_none_or(|cut| gap.to <= cut);
            let (Some((from, _)), Some((_, to))) = (lost.first(), lost.last()) else {
                if unread {
                    told.push(given_up(f, gap.offset, gap.bytes, None, &gap.why));
                }
                continue;
            };
            explained.extend(lost.iter().copied());
            if loss.cut.is_none_or(|cut| *from <= cut) {
                told.push(given_up(f, gap.offset, gap.bytes, Some((*from, *to)), &gap.why));
            }
        }
        if let Some(cut) = loss.cut {
            told.extend(beyond(disk, f, &loss.swept[i], cut, loss.kept[i].is_empty())?);
        }
    }
    let mut left = Vec::new();
    loss.holes.iter().for_each(|(from, to)| left.push((*from, *to)));
    explained.iter().for_each(|(from, to)| remove_range(&mut left, *from, *to));
    if let Some(cut) = loss.cut {
        // The rest of that one hole are records that were whole.
        left.retain(|(from, _)| *from == cut && !survey.found.is_empty());
        let whole = loss.swept.iter().flat_map(|s| &s.runs);
        whole.for_each(|run| remove_range(&mut left, run.first, run.last.next()));
    }
    told.extend(left.into_iter().map(|(from, to)| GivenUp {
        path: dir.to_path_buf(),
        offset: 0,
        bytes: 0,
        lsns: Some(from..to),
        why: "no segment holds these records".into(),
        kept_as: None,
    }));
    Ok(told)
}

fn remove_range(ranges: &mut Vec<(Lsn, Lsn)>, from: Lsn, to: Lsn) {
    let parts = |(start, end): &(Lsn, Lsn)| [(*start, (*end).min(from)), ((*start).max(to), *end)];
    *ranges = ranges.iter().flat_map(parts).filter(|(start, end)| start < end).collect();
}

fn given_up(f: &Found, offset: u64, bytes: u64, lsns: Option<(Lsn, Lsn)>, why: &str) -> GivenUp {
    let (path, why) = (f.file.path.clone(), why.to_string());
    GivenUp { path, offset, bytes, lsns: lsns.map(|(from, to)| from..to), why, kept_as: None }
}

/// The whole frames of a segment that a cut takes with it.
fn beyond(
    disk: &dyn Disk,
    f: &Found,
    swept: &Swept,
    cut: Lsn,
    nothing_kept: bool,
) -> Result<Option<GivenUp>> {
    let Some(last) = swept.runs.last().map(|run| run.last).filter(|last| *last >= cut) else {
        return Ok(None);
    };
    let mut walk = Sweep::new(disk, f)?;
    let mut at = None;
    while let Some(met) = walk.next()? {
        if let Met::Frame(frame) = met
            && frame.header.last_lsn() >= cut
        {
            at = at.or(Some((frame.offset, frame.header.first_lsn.max(cut))));
        }
    }
    let Some((offset, first)) = at else { return Ok(None) };
    let whole = nothing_kept && swept.runs.first().is_some_and(|run| run.first >= cut);
    let bytes = walk.at().saturating_sub(offset);
    let why = "whole, and behind the cut";
    let gone = given_up(f, offset, bytes, Some((first, last.next())), why);
    Ok(Some(GivenUp { kept_as: whole.then(PathBuf::new), ..gone }))
}

/// Gives what leaves the log whole another name, and notes it.
fn set_aside(site: Site<'_>, given_up: &mut [GivenUp]) -> Result<()> {
    let failed = |path: &Path, e| Error::io("recover", path, None, e);
    let entries = site.disk.list(site.dir).map_err(|e| failed(site.dir, e))?;
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    let mut moved = false;
    for gone in given_up.iter_mut().filter(|gone| gone.kept_as.is_some()) {
        let name = gone.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = spare_name(&name, &names);
        let to = site.dir.join(&free);
        site.disk.rename(&gone.path, &to).map_err(|e| failed(&gone.path, e))?;
        names.push(free);
        gone.kept_as = Some(to);
        moved = true;
    }
    if moved {
        site.disk.sync_dir(site.dir).map_err(|e| failed(site.dir, e))?;
    }
    Ok(())
}

/// A name for a file that leaves the log, which nothing has.
pub(crate) fn spare_name(name: &str, taken: &[String]) -> String {
    let numbered = (2_u64..).map(|n| format!("{name}.given-up-{n}"));
    let mut all = std::iter::once(format!("{name}.given-up")).chain(numbered);
    all.find(|free| !taken.contains(free)).expect("names are endless")
}

/// Where the device may not hold what was read, copies the frames above the watermark out of the
/// segments that are about to be sealed; gives the last record that they keep themselves.
async fn copy_unproven(site: Site<'_>, survey: &Survey, loss: &Loss, meta: &Meta) -> Result<Lsn> {
    if site.disk.direct() || survey.meta.meta.clean {
        return Ok(Lsn::MAX);
    }
    let mut frames = Vec::new();
    for i in &loss.unsealed {
        let mut walk = Sweep::new(site.disk, &survey.found[*i])?;
        while let Some(met) = walk.next()? {
            if let Met::Frame(frame) = met
                && frame.header.first_lsn > loss.promised
                && is_kept(&loss.kept[*i], &frame)
            {
                frames.push((frame.header, walk.stored(&frame)?.to_vec()));
            }
        }
    }
    if frames.is_empty() {
        return Ok(Lsn::MAX);
    }
    // A copy that was cut short may be there under the same name.
    ready_pool(site, None)?;
    let (number, epoch) = (meta.highest_number + 1, next_epoch(survey));
    copy_frames(site, meta, number, epoch, frames).await?;
    Ok(loss.promised)
}

fn is_kept(kept: &[Run], frame: &Frame) -> bool {
    let (first, last) = (frame.header.first_lsn, frame.header.last_lsn());
    kept.iter().any(|run| run.first <= last && first <= run.last)
}

/// Writes the footer of a segment that is kept, up to `upto`, though something in it is no frame.
async fn seal(site: Site<'_>, f: &Found, loss: &Loss, i: usize, upto: Lsn) -> Result<()> {
    debug_assert!(matches!(f.state, State::Open(_)));
    let mut summary = Summary::new(f.file.geometry.frames_start());
    let mut walk = Sweep::new(site.disk, f)?;
    while let Some(met) = walk.next()? {
        if let Met::Frame(frame) = met
            && frame.header.first_lsn <= upto
            && is_kept(&loss.kept[i], &frame)
        {
            summary.add(frame.offset, &frame.header);
        }
    }
    let failed = |e| Error::io("recover", &f.file.path, None, e);
    let file = site.disk.open(&f.file.path, Access::Write).map_err(failed)?;
    site.flow.sync(&file).await.map_err(failed)?;
    put_footer(site, f, &file, &summary, loss.promised).await?;
    site.flow.release(&file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_sorted_and_apart() {
        let mut ranges = Vec::new();
        for (from, to) in [(10, 12), (3, 5), (20, 21), (5, 6), (11, 20), (1, 2)] {
            add_range(&mut ranges, Lsn::new(from), Lsn::new(to));
        }
        let plain: Vec<_> = ranges.iter().map(|(from, to)| (from.get(), to.get())).collect();
        assert_eq!(plain, [(1, 2), (3, 6), (10, 21)]);
        remove_range(&mut ranges, Lsn::new(4), Lsn::new(12));
        let plain: Vec<_> = ranges.iter().map(|(from, to)| (from.get(), to.get())).collect();
        assert_eq!(plain, [(1, 2), (3, 4), (12, 21)]);
    }

    #[test]
    fn a_name_is_never_taken_twice() {
        let taken = ["1.seg.given-up".to_string(), "1.seg.given-up-2".to_string()];
        assert_eq!(spare_name("2.seg", &taken), "2.seg.given-up");
        assert_eq!(spare_name("1.seg", &taken), "1.seg.given-up-3");
    }
}
