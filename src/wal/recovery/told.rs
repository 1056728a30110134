//! What is said of damage that was given up: where it stands, which records were there.
//!
//! Each lost record is told once: with the gap it stood in, with the file that can't be used at
//! all, or as missing. Invariant: a segment of which nothing is kept is noted to leave the log,
//! whole, under another name.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::io::Disk;
use crate::lsn::Lsn;

use super::inspect::Survey;
use super::loss::Loss;
use super::ranges::{Span, subtract, union, within};
use super::sweep::{Gap, Met, Sweep, Swept};
use super::{Found, GivenUp, State};

/// Where what is given up stands, and which records were there. What leaves the log whole has an
/// empty `kept_as`.
pub(crate) fn places(
    disk: &dyn Disk,
    dir: &Path,
    survey: &Survey,
    loss: &Loss,
) -> Result<Vec<GivenUp>> {
    let unusable = loss.unusable.iter().map(|bad| GivenUp {
        path: bad.path.clone(),
        offset: 0,
        bytes: bad.bytes,
        lsns: None,
        why: bad.why.clone(),
        kept_as: Some(PathBuf::new()),
    });
    let mut told: Vec<GivenUp> = unusable.collect();
    let mut explained = Vec::new();
    for i in 0..survey.found.len() {
        told.extend(of_segment(disk, survey, loss, i, &mut explained)?);
    }
    let mut left = subtract(&loss.holes, &union(&explained, &[]));
    if let Some(cut) = loss.cut {
        // The rest of that one hole are records that were whole.
        left.retain(|(from, _)| *from == cut && !survey.found.is_empty());
        let whole = loss.swept.iter().flat_map(|s| &s.runs);
        let whole: Vec<Span> = whole.map(|run| (run.first, run.last.next())).collect();
        left = subtract(&left, &union(&whole, &[]));
    }
    let missing = |(from, to): Span| GivenUp {
        path: dir.to_path_buf(),
        offset: 0,
        bytes: 0,
        lsns: Some(from..to),
        why: match to > loss.proven.next() && !loss.unusable.is_empty() {
            true => "a segment that can't be read may have held some of these, no more".into(),
            false => "no segment holds these records".into(),
        },
        kept_as: None,
    };
    told.extend(left.into_iter().map(missing));
    Ok(told)
}

/// What is given up of one segment; adds the lost records that this explains.
fn of_segment(
    disk: &dyn Disk,
    survey: &Survey,
    loss: &Loss,
    i: usize,
    explained: &mut Vec<Span>,
) -> Result<Vec<GivenUp>> {
    let (f, swept, kept) = (&survey.found[i], &loss.swept[i], &loss.kept[i]);
    let (mut told, mut behind) = (Vec::new(), None);
    for gap in &swept.gaps {
        let lost: Vec<Span> = within(&loss.holes, gap.from, gap.to).collect();
        let (Some((from, _)), Some((_, to))) = (lost.first(), lost.last()) else {
            let passed = loss.cut.is_none_or(|cut| gap.to <= cut);
            if passed && loss.unsealed.contains(&i) {
                told.push(given_up(f, gap, None));
            }
            continue;
        };
        explained.extend(&lost);
        if loss.cut.is_none_or(|cut| *from <= cut) {
            told.push(given_up(f, gap, Some((*from, *to))));
        } else {
            behind.get_or_insert_with(|| given_up(f, gap, Some((*from, *to))));
        }
    }
    if let Some(cut) = loss.cut {
        told.extend(beyond(disk, f, swept, cut)?);
    }
    if told.is_empty() {
        told.extend(behind);
    }
    // Nothing of it is kept but what stays given up: under this name it would be removed one day.
    if !kept.is_empty() {
        return Ok(told);
    }
    let all_behind = swept.runs.iter().all(|run| loss.cut.is_some_and(|cut| run.first >= cut));
    let doubted = doubted(f, swept, loss);
    explained.extend(&doubted);
    if told.is_empty() {
        told.extend(whole(f, &doubted));
    }
    if all_behind || !doubted.is_empty() {
        told.iter_mut().for_each(|gone| gone.kept_as = Some(PathBuf::new()));
    }
    Ok(told)
}

/// Records that stand whole in a segment without a footer, and count as lost all the same: an
/// earlier life may have given them up.
fn doubted(f: &Found, swept: &Swept, loss: &Loss) -> Vec<Span> {
    let runs = swept.runs.iter().filter(|_| matches!(f.state, State::Open(_)));
    runs.flat_map(|run| within(&loss.holes, run.first, run.last.next())).collect()
}

/// A segment of which all is whole, and nothing is known to be the log's.
fn whole(f: &Found, doubted: &[Span]) -> Option<GivenUp> {
    let ((from, _), (_, to)) = (doubted.first()?, doubted.last()?);
    let offset = f.file.geometry.frames_start();
    Some(GivenUp {
        path: f.file.path.clone(),
        offset,
        bytes: f.file.geometry.frames_end() - offset,
        lsns: Some(*from..*to),
        why: "whole, and nothing proves that it was not given up before".into(),
        kept_as: None,
    })
}

fn given_up(f: &Found, gap: &Gap, lsns: Option<Span>) -> GivenUp {
    GivenUp {
        path: f.file.path.clone(),
        offset: gap.offset,
        bytes: gap.bytes,
        lsns: lsns.map(|(from, to)| from..to),
        why: gap.why.clone(),
        kept_as: None,
    }
}

/// The whole frames of a segment that a cut takes with it.
fn beyond(disk: &dyn Disk, f: &Found, swept: &Swept, cut: Lsn) -> Result<Option<GivenUp>> {
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
    Ok(at.map(|(offset, first)| GivenUp {
        path: f.file.path.clone(),
        offset,
        bytes: walk.at().saturating_sub(offset),
        lsns: Some(first..last.next()),
        why: "whole, and behind the cut".into(),
        kept_as: None,
    }))
}
