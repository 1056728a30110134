//! Ending the segments of an earlier life: each gets the footer that says what of it is kept.
//!
//! Invariants: no footer is written before every segment is synced, for it says that all records up
//! to its last are durable, those in the other segments too (that of a copied tail comes first: all
//! before it is proven by a watermark); a footer cuts only what nobody was promised.

use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::cast::len;
use crate::error::{Error, Result};
use crate::format::footer::Footer;
use crate::format::frame::{FrameHeader, Tag};
use crate::format::meta::Meta;
use crate::io::{Access, Buf, FileRef};
use crate::lsn::Lsn;
use crate::segment::{Cursor, SegmentFile, Step, Summary};

use super::copy::copy_tail;
use super::site::Site;
use super::{Found, Plan, State};

/// Ends every segment without a footer at the last record that is kept, durably.
pub(super) async fn end_old_segments(site: Site<'_>, plan: &mut Plan) -> Result<()> {
    let trusted = site.disk.direct() || plan.meta.meta.clean || bugs::on(Bug::CachedTailTrusted);
    let mut upto = plan.next.prev();
    if !trusted && copy_tail(site, plan).await? {
        upto = upto.min(plan.promised);
    }
    let mut synced = Vec::new();
    for f in plan.found.iter().filter(|f| wants_footer(plan, f)) {
        let path = &f.file.path;
        let file = site.disk.open(path, Access::Write);
        let file = file.map_err(|e| Error::io("recover", path, None, e))?;
        let skipped = bugs::on(Bug::LaneUnsynced) && !synced.is_empty();
        let outcome = if skipped { Ok(()) } else { site.flow.sync(&file).await };
        outcome.map_err(|e| Error::io("recover: sync", path, None, e))?;
        if bugs::on(Bug::FooterBeforeSyncs) {
            write_footer(site, f, &file, upto, plan.promised).await?;
        } else {
            synced.push((f, file));
        }
    }
    // A footer says that all records up to its last are durable: those in the other segments too.
    for (f, file) in synced {
        write_footer(site, f, &file, upto, plan.promised).await?;
    }
    if !plan.meta.meta.clean || plan.meta.meta.mending {
        confirm_footers(site, &plan.found, &plan.meta.meta).await?;
    }
    Ok(())
}

/// Whether a segment stays in the log and has no footer.
pub(super) fn wants_footer(plan: &Plan, f: &Found) -> bool {
    let (first, recorded) = (plan.meta.meta.first_lsn, plan.meta.meta.durable_upto);
    matches!(f.state, State::Open(_)) && !f.is_spent(recorded) && !f.is_cut(first)
}

/// Makes durable the footers that are seen in the segments of the last life, before the epoch that
/// META says comes next is taken: all segments of earlier lives count as ended. After a mending
/// that did not end it may be those of any life. The write of one may have failed, or the process
/// been killed before it was forced. Where files are read past the
/// page cache a sync does; elsewhere it is written again, for what failed is in the cache all the
/// same, and nothing more would bring it to the device.
pub(super) async fn confirm_footers(site: Site<'_>, found: &[Found], meta: &Meta) -> Result<()> {
    let doubtful = |f: &&Found| meta.mending || f.file.id.epoch + 1 >= meta.next_epoch;
    for f in found.iter().filter(doubtful) {
        let State::Sealed(footer) = &f.state else { continue };
        let failed = |e| Error::io("recover: sync", &f.file.path, None, e);
        let file = site.disk.open(&f.file.path, Access::Write).map_err(failed)?;
        if site.disk.direct() {
            site.flow.sync(&file).await.map_err(failed)?;
        } else {
            write_block(site, &f.file, &file, footer).await?;
        }
        site.flow.release(&file);
    }
    Ok(())
}

async fn write_footer(
    site: Site<'_>,
    f: &Found,
    file: &FileRef,
    upto: Lsn,
    promised: Lsn,
) -> Result<()> {
    let summary = summary_upto(f, file, upto)?;
    put_footer(site, &f.file, file, &summary, promised).await
}

/// Writes the footer that says this of a segment, durably.
pub(super) async fn put_footer(
    site: Site<'_>,
    segment: &SegmentFile,
    file: &FileRef,
    summary: &Summary,
    promised: Lsn,
) -> Result<()> {
    write_block(site, segment, file, &summary.footer(promised.max(summary.last_lsn()))).await
}

async fn write_block(
    site: Site<'_>,
    segment: &SegmentFile,
    file: &FileRef,
    footer: &Footer,
) -> Result<()> {
    let at = segment.geometry.frames_end();
    let block = len(segment.geometry.block);
    let image = footer.encode(&segment.id, at, block);
    let mut buf = Buf::zeroed(block, block);
    buf.bytes_mut().expect("just allocated").copy_from_slice(&image);
    let written = site.flow.write(file, at, buf, true).await;
    written.map(drop).map_err(|e| Error::io("recover: footer", &segment.path, Some(at), e))
}

/// What the segment holds up to `upto`, and no more than is kept of it.
fn summary_upto(f: &Found, file: &FileRef, upto: Lsn) -> Result<Summary> {
    let last = f.kept_last().min(upto);
    let State::Open(scan) = &f.state else { unreachable!("only open segments get a footer") };
    if f.kept.is_empty() {
        return Ok(Summary::new(f.file.geometry.frames_start()));
    }
    if scan.summary.last_lsn() == last || bugs::on(Bug::LanesCutApart) {
        return Ok(scan.summary.clone());
    }
    let start = f.file.geometry.frames_start();
    let mut summary = Summary::new(start);
    // A mark has no LSN. Of one that comes back the scan made the segment's end.
    let goes_on = |summary: &Summary, header: &FrameHeader| {
        let rises = header.tag == Tag::Mark || header.first_lsn > summary.last_lsn();
        rises && header.first_lsn <= last
    };
    let mut cursor = Cursor::new(Arc::clone(file), f.file.id, f.file.geometry, start, 1 << 20);
    loop {
        let step = cursor.step();
        match step.map_err(|e| Error::io("recover", &f.file.path, Some(cursor.at()), e))? {
            // The last may be one that was cut in the middle.
            Step::Frame(frame) if goes_on(&summary, &frame.header) => {
                summary.add(frame.offset, &frame.header);
            }
            _ => return Ok(summary),
        }
    }
}
