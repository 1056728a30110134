//! `PointInTime` and `Salvage`: giving up what is damaged, before recovery goes its usual way.
//!
//! ```text
//! sync, copies of what the device may lack -> META: all that may have been promised
//!     -> footers -> names of what can't be used -> META: holes, cut -> recovery, as of a log
//!                                                                     without damage
//! ```
//!
//! Nothing is overwritten but footers that are not there. Until META has the holes the default
//! policy refuses the log, for promised records are missing; where nothing is missing it refuses it
//! until the last footer is there, for META's watermark covers all that is kept. What is not kept
//! of a segment because another one says so is outside its footer, or has left with all of it,
//! before that other one may leave.
//! So whatever a crash leaves, the same policy finds the same things lost, and no policy accepts
//! less. Invariants: no LSN that may have been promised is given again; what a watermark of META
//! covers is on the device before; a file that leaves the log keeps its bytes.

use std::path::{Path, PathBuf};

use crate::bugs::{self, Bug};
use crate::error::{Error, Result};
use crate::format::meta::{Cut, Meta};
use crate::io::Access;
use crate::lsn::Lsn;
use crate::options::RecoveryPolicy;
use crate::segment::{Run, Summary, parse_name};

use super::super::meta::MetaFile;
use super::copy::{Unproven, copy_frames};
use super::footers::{confirm_footers, put_footer};
use super::inspect::{Survey, survey};
use super::judge::can_go_on;
use super::loss::{Loss, assess};
use super::pool::ready_pool;
use super::ranges::{drop_below, union};
use super::site::Site;
use super::sweep::{Met, Sweep, kept_run};
use super::told::places;
use super::{Found, GivenUp, Progress, RecoveryReport, State, Verdict};

/// How the name of a file ends that left the log.
const SET_ASIDE: &str = ".given-up";

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
        let told: std::collections::BTreeSet<_> = self.given_up.iter().map(place).collect();
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
    can_go_on(site.dir, &survey.meta.meta, &survey.found, loss.next)?;
    let after = after(&survey, &loss, site.dir)?;
    if survey.meta.meta.mending {
        name_again(site)?;
    }
    let mut given_up = places(site.disk, site.dir, &survey, &loss)?;
    let mut meta = MetaFile::take_over(site.flow, site.disk, site.dir, &survey.meta).await?;
    let upto = keep_unproven(site, &survey, &loss).await?;
    // Where a segment can't be read, whether the log was closed tells how much may have been
    // promised, and stays as it was. Elsewhere a footer of a mending that fails is in doubt.
    let intent = |m: &mut Meta| {
        m.mending = !bugs::on(Bug::MendingUnmarked);
        m.clean &= !loss.unusable.is_empty();
        m.durable_upto = after.durable_upto;
        m.highest_number = after.highest_number;
    };
    meta.update(site.flow, site.disk, intent).await?;
    for i in (0..survey.found.len()).filter(|i| wants_footer(&survey, &loss, *i)) {
        let f = &survey.found[i];
        // One that leaves keeps all its frames, also if a crash comes before.
        let leaves = |gone: &GivenUp| gone.kept_as.is_some() && gone.path == f.file.path;
        if !given_up.iter().any(leaves) {
            seal(site, f, &loss, i, upto).await?;
        }
    }
    if loss.cut.is_some() || survey.meta.meta.mending {
        // A cut begins an epoch.
        confirm_footers(site, &survey.found, &survey.meta.meta).await?;
    }
    let unusable = |path: &Path| loss.unusable.iter().any(|bad| bad.path == path);
    set_aside(site, &mut given_up, |path| !unusable(path))?;
    set_aside(site, &mut given_up, unusable)?;
    meta.update(site.flow, site.disk, |m| *m = Meta { sequence: m.sequence, ..after }).await?;
    for gone in &given_up {
        let records = gone.lsns.as_ref().map(|l| format!("{} to {}", l.start, l.end.prev()));
        tracing::warn!(
            path = %gone.path.display(),
            offset = gone.offset,
            bytes = gone.bytes,
            records,
            why = gone.why,
            "recovery gave up what is damaged, as its policy says"
        );
    }
    let lost = !(loss.holes.is_empty() && loss.unusable.is_empty());
    Ok(Some(Mended { given_up, lost, cut: loss.cut }))
}

/// What META says once all is done; refused if it has no room for that.
pub(crate) fn after(survey: &Survey, loss: &Loss, dir: &Path) -> Result<Meta> {
    let mut meta = survey.meta.meta.clone();
    meta.removed = union(&meta.removed, &loss.holes);
    drop_below(&mut meta.removed, meta.first_lsn);
    if let Some(lsn) = loss.cut {
        let epoch = next_epoch(survey);
        meta.add_cut(Cut { lsn, epoch });
        meta.next_epoch = epoch + 1;
    }
    meta.forget_cuts();
    meta.clean = false;
    meta.mending = false;
    meta.durable_upto = meta.durable_upto.max(loss.next.prev());
    meta.highest_number = survey.highest_number();
    if meta.encode().is_err() {
        let advice = match loss.holes.len() {
            // What earlier recoveries gave up leaves no room.
            ..2 => "read what is whole into a new log, with ReadOnlyWal",
            _ => "RecoveryPolicy::PointInTime needs one",
        };
        let holes = meta.removed.len();
        let why = format!("{holes} holes are more than META has room for; {advice}");
        return Err(Error::invalid("recover", why).at(dir, None));
    }
    Ok(meta)
}

/// Of the first segment that is made from now on.
fn next_epoch(survey: &Survey) -> u64 {
    let epochs = survey.found.iter().map(|f| f.file.id.epoch + 1);
    epochs.fold(survey.meta.meta.next_epoch, u64::max)
}

/// Takes the names of what a mending set aside once more, durably: where the directory could not be
/// synced then, the device may never learn that the old name is gone, unless it goes again.
pub(super) fn name_again(site: Site<'_>) -> Result<()> {
    let failed = |path: &Path, e| Error::io("recover", path, None, e);
    let entries = site.disk.list(site.dir).map_err(|e| failed(site.dir, e))?;
    let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    for name in &names {
        let Some((segment, _)) = name.split_once(SET_ASIDE) else { continue };
        if parse_name(segment).is_some() && !names.iter().any(|name| name == segment) {
            let (aside, old) = (site.dir.join(name), site.dir.join(segment));
            site.disk.rename(&aside, &old).map_err(|e| failed(&aside, e))?;
            site.disk.rename(&old, &aside).map_err(|e| failed(&old, e))?;
        }
    }
    site.disk.sync_dir(site.dir).map_err(|e| failed(site.dir, e))
}

/// Gives what leaves the log whole another name, and notes it; durable when it returns.
fn set_aside(
    site: Site<'_>,
    given_up: &mut [GivenUp],
    which: impl Fn(&Path) -> bool,
) -> Result<()> {
    let failed = |path: &Path, e| Error::io("recover", path, None, e);
    let entries = site.disk.list(site.dir).map_err(|e| failed(site.dir, e))?;
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    let mut moved: Option<(PathBuf, PathBuf)> = None;
    let leaves = |gone: &&mut GivenUp| gone.kept_as.is_some() && which(&gone.path);
    for gone in given_up.iter_mut().filter(leaves) {
        let to = match &moved {
            // All that is told of one file stands together.
            Some((from, to)) if *from == gone.path => to.clone(),
            _ => {
                let name = gone.path.file_name().unwrap_or_default().to_string_lossy();
                let free = spare_name(&name, &names);
                let to = site.dir.join(&free);
                site.disk.rename(&gone.path, &to).map_err(|e| failed(&gone.path, e))?;
                // One after the other: what clips another one has a higher number, and goes later.
                site.disk.sync_dir(site.dir).map_err(|e| failed(site.dir, e))?;
                names.push(free);
                to
            }
        };
        moved = Some((gone.path.clone(), to.clone()));
        gone.kept_as = Some(to);
    }
    Ok(())
}

/// A name for a file that leaves the log, which nothing has.
pub(crate) fn spare_name(name: &str, taken: &[String]) -> String {
    let numbered = (2_u64..).map(|n| format!("{name}{SET_ASIDE}-{n}"));
    let mut all = std::iter::once(format!("{name}{SET_ASIDE}")).chain(numbered);
    all.find(|free| !taken.contains(free)).expect("names are endless")
}

/// Makes durable what is kept of segments without a footer. Where the device may not hold what was
/// read, copies all that no watermark proves, of every lane: from the first copy on nothing older
/// counts. Gives the last record that the old segments keep themselves.
async fn keep_unproven(site: Site<'_>, survey: &Survey, loss: &Loss) -> Result<Lsn> {
    let open = |i: &usize| matches!(survey.found[*i].state, State::Open(_));
    let open: Vec<usize> = (0..survey.found.len()).filter(open).collect();
    for f in open.iter().map(|i| &survey.found[*i]) {
        let failed = |e| Error::io("recover: sync", &f.file.path, None, e);
        let file = site.disk.open(&f.file.path, Access::Write).map_err(failed)?;
        site.flow.sync(&file).await.map_err(failed)?;
        site.flow.release(&file);
    }
    if site.disk.direct() || survey.meta.meta.clean {
        return Ok(Lsn::MAX);
    }
    let mut unproven = Unproven::default();
    for i in open {
        let mut walk = Sweep::new(site.disk, &survey.found[i])?;
        while let Some(met) = walk.next()? {
            if let Met::Frame(frame) = met
                && frame.header.first_lsn > loss.proven
                && kept_run(&loss.kept[i], &frame.header).is_some()
            {
                let stored = walk.stored(&frame)?;
                unproven.add(&survey.found[i].file.path, &frame, stored)?;
            }
        }
    }
    if unproven.is_empty() {
        return Ok(Lsn::MAX);
    }
    // A copy that was cut short may be there under the same name.
    ready_pool(site, None)?;
    let (number, epoch) = (survey.highest_number() + 1, next_epoch(survey));
    copy_frames(site, &survey.meta.meta, number, epoch, unproven).await?;
    Ok(loss.proven)
}

/// Whether only a footer can tell what is kept of a segment.
fn wants_footer(survey: &Survey, loss: &Loss, i: usize) -> bool {
    let last = |runs: &[Run]| runs.last().map_or(Lsn::NONE, |run| run.last);
    let is_clipped = last(&loss.kept[i]) < last(&loss.swept[i].runs);
    let is_open = matches!(survey.found[i].state, State::Open(_));
    loss.unsealed.contains(&i) || is_open && is_clipped
}

/// Writes the footer of a segment that is kept, up to `upto`, though something in it is no frame.
async fn seal(site: Site<'_>, f: &Found, loss: &Loss, i: usize, upto: Lsn) -> Result<()> {
    debug_assert!(matches!(f.state, State::Open(_)));
    let mut summary = Summary::new(f.file.geometry.frames_start());
    let mut walk = Sweep::new(site.disk, f)?;
    while let Some(met) = walk.next()? {
        if let Met::Frame(frame) = met
            && frame.header.first_lsn <= upto
            && kept_run(&loss.kept[i], &frame.header).is_some()
        {
            summary.add(frame.offset, &frame.header);
        }
    }
    let failed = |e| Error::io("recover", &f.file.path, None, e);
    let file = site.disk.open(&f.file.path, Access::Write).map_err(failed)?;
    put_footer(site, &f.file, &file, &summary, loss.next.prev()).await?;
    site.flow.release(&file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_taken_twice() {
        let taken = ["1.seg.given-up".to_string(), "1.seg.given-up-2".to_string()];
        assert_eq!(spare_name("2.seg", &taken), "2.seg.given-up");
        assert_eq!(spare_name("1.seg", &taken), "1.seg.given-up-3");
    }
}
