//! What is told without reading frames: holes that META knows of, footers, the end of the log.

use std::path::Path;

use crate::format::meta::Meta;

use super::super::meta::META;
use super::super::recovery::{Plan, State};
use super::finding::{Finding, FindingKind, Tally};

/// Names the records that were given up and not cut since.
pub(super) fn tell_holes(dir: &Path, meta: &Meta, tally: &mut Tally<'_>) {
    for (from, to) in meta.removed.iter().filter(|(_, to)| *to > meta.first_lsn) {
        let (path, kind) = (dir.join(META), FindingKind::GivenUp);
        let detail = format!("records {from} to {} were lost and given up", to.prev());
        tally.tell(Finding { path, offset: 0, kind, lsn: Some(*from), detail });
    }
}

/// What the look at footers and the end of the log already told.
pub(super) fn notes(plan: &Plan, tally: &mut Tally<'_>) {
    // Recovery has every footer on disk before its life makes a segment: only in the newest life a
    // crash can have torn one.
    let newest = plan.found.iter().map(|f| f.file.id.epoch).max();
    for f in &plan.found {
        // Only the segment with the last record is not sealed before a log is closed.
        let before = f.kept_last() < plan.next.prev();
        let missing = plan.meta.meta.clean && !f.kept.is_empty() && before;
        let missing = missing.then(|| "it is not this life's".to_string());
        if let State::Open(scan) = &f.state
            && let Some(why) = scan.bad_footer.as_ref().or(missing.as_ref())
        {
            let (path, offset) = (f.file.path.clone(), f.file.geometry.frames_end());
            let torn = !plan.meta.meta.clean && Some(f.file.id.epoch) == newest;
            let (kind, is) = match torn {
                true => (FindingKind::Torn, "half written"),
                false => (FindingKind::Footer, "damaged"),
            };
            let detail = format!("the footer is {is} ({why}); the frames serve");
            tally.tell(Finding { path, offset, kind, lsn: None, detail });
        }
    }
    for gone in &plan.report.given_up {
        tally.tell(Finding {
            path: gone.path.clone(),
            offset: gone.offset,
            kind: FindingKind::Torn,
            lsn: Some(plan.next),
            detail: format!("{} bytes that nobody was promised", gone.bytes),
        });
    }
}
