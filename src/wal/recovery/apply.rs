//! Carrying out what recovery decided: the only part of it that writes.
//!
//! ```text
//! META, if in doubt -> sync old segments -> copy frames the device may lack -> footers
//!     -> META: not clean, next epoch -> remove what is spent -> serve
//! ```
//!
//! Each step leaves a directory that the next `open` judges the same way: until META says
//! otherwise the old state stands, and a footer cuts only what nobody was promised.

use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::format::FORMAT_VERSION;
use crate::format::meta::Meta;
use crate::io::{Access, Disk, FileRef, Flow, Host};
use crate::options::{RecoveryPolicy, WalConfig};
use crate::segment::{SegmentFile, Summary, parse_name};

use super::super::catalog::{Listing, Segment};
use super::super::maker::Stock;
use super::super::meta::MetaFile;
use super::super::shared::Shared;
use super::classify::{Contents, classify};
use super::create::{backend_code, create};
use super::footers::{end_old_segments, wants_footer};
use super::inspect::inspect;
use super::judge::{can_go_on, damage};
use super::listing::catalog_of;
use super::mend::{Mended, mend, name_again};
use super::pool::{ready_pool, remove_spent};
use super::ranges::drop_below;
use super::reserve::keep_reserve;
use super::site::{Recovered, Site, Wanted};
use super::{Found, Plan, Progress, Scan, State};

/// Creates the log, or recovers it, and fills the catalog. `hear` gets the bytes read, of how many.
pub(crate) async fn recover(
    flow: Flow,
    disk: &dyn Disk,
    host: &dyn Host,
    shared: &Shared,
    wanted: Wanted,
    hear: &dyn Fn(u64, u64),
) -> Result<Recovered> {
    let WalConfig { log_dir: dir, wipe_retired: wipe, .. } = &shared.config;
    let site = Site { flow: &flow, disk, host, dir, hear, wipe: *wipe };
    let entries = disk.list(site.dir).map_err(|e| Error::io("open", site.dir, None, e))?;
    let contents = classify(site.dir, &entries)?;
    if contents == Contents::Log && matches!(wanted, Wanted::New) {
        let why = "there is a log already, and create_new was asked for";
        return Err(Error::invalid("open", why).at(site.dir, None));
    }
    match contents {
        Contents::Fresh => create(site, shared).await,
        Contents::Log => reopen(site, shared, wanted).await,
    }
}

/// Judges an old log as the policy has it, which may mend it before.
async fn judge(site: Site<'_>, shared: &Shared, wanted: Wanted) -> Result<(Plan, Option<Mended>)> {
    let config = &shared.config;
    let passes = match config.recovery {
        RecoveryPolicy::TornTail | RecoveryPolicy::Strict => 1,
        RecoveryPolicy::PointInTime | RecoveryPolicy::Salvage => 3,
    };
    let progress = Progress::new(site.hear, segment_bytes(site)?, passes);
    let mended = match config.recovery {
        RecoveryPolicy::TornTail | RecoveryPolicy::Strict => None,
        policy => mend(site, policy, &progress).await?,
    };
    let mut plan = inspect(site.disk, site.dir, then(config.recovery), &progress)?;
    progress.finish();
    if u64::from(plan.meta.meta.block_size) != shared.block {
        let why = "another process made the log at this moment; open it again";
        return Err(Error::new(ErrorKind::Locked, "open", why).at(site.dir, None));
    }
    can_go_on(site.dir, &plan.meta.meta, &plan.found, plan.next)?;
    if let Wanted::Ours(known) = wanted
        && plan.next <= known
        && !bugs::on(Bug::AnsweredForgotten)
    {
        // The log itself need not say so: of the last group nothing that follows it told.
        return Err(damage(site.dir, &plan.found, plan.next, known));
    }
    report(&plan);
    if let Some(mended) = &mended {
        mended.tell(&mut plan.report);
    }
    Ok((plan, mended))
}

/// By which policy a log is judged once `policy` has mended it.
fn then(policy: RecoveryPolicy) -> RecoveryPolicy {
    match policy {
        RecoveryPolicy::Strict => RecoveryPolicy::Strict,
        _ => RecoveryPolicy::TornTail,
    }
}

/// Judges an old log, and carries the judgement out.
async fn reopen(site: Site<'_>, shared: &Shared, wanted: Wanted) -> Result<Recovered> {
    let (config, disk) = (&shared.config, site.disk);
    let (mut plan, mended) = judge(site, shared, wanted).await?;
    let mut retired = ready_pool(site, plan.meta.meta.clean.then_some(config))?;
    let mut listed = catalog_of(disk, &plan.found)?;
    let mut meta = MetaFile::take_over(site.flow, disk, site.dir, &plan.meta).await?;
    let in_place = plan.meta.meta.clean || bugs::on(Bug::WriteOnInTornSegment);
    let tail = if in_place { take_tail(disk, &mut plan) } else { None };
    if plan.meta.meta.mending {
        name_again(site)?;
    }
    // A footer that is written now is in doubt if that fails: to the next recovery it is no clean
    // log then.
    let ends = plan.found.iter().any(|f| wants_footer(&plan, f));
    if !plan.meta.whole || !disk.direct() || ends && plan.meta.meta.clean {
        // What follows builds on this state, which may be in a cache alone: an update before the
        // crash may have failed or been cut short.
        meta.update(site.flow, disk, |m| m.clean &= !ends).await?;
    }
    if let Some(tail) = tail.as_ref().filter(|_| plan.meta.meta.clean) {
        // Nothing was cut: no epoch begins, for the tail may have records between those of others.
        plan.epoch = tail.file.id.epoch;
    }
    end_old_segments(site, &mut plan).await?;
    if !disk.direct() && !plan.meta.meta.clean && !bugs::on(Bug::CachedTailTrusted) {
        // `end_old_segments` may have moved the tail: what is listed is what is there now.
        let report = plan.report;
        plan = inspect(disk, site.dir, then(config.recovery), &Progress::default())?;
        plan.report = report;
        listed = catalog_of(disk, &plan.found)?;
    }
    meta.update(site.flow, disk, |m| mark_open(m, &plan, shared)).await?;
    remove_spent(site, &plan, config, &mut retired)?;
    if !disk.direct() {
        keep_reserve(site).await?;
    }
    let tail = match tail {
        Some(found) => Some(open_tail(site, found, &listed)?),
        None => None,
    };
    let stays = |number: u64| tail.as_ref().is_some_and(|(file, ..)| file.id.number == number);
    listed.iter().filter(|(number, _)| !stays(**number)).for_each(|(_, segment)| segment.seal());
    let segments = listed.into_values().collect();
    let (first, next, holes) = (meta.meta().first_lsn, plan.next, meta.meta().removed.clone());
    let cut = mended.and_then(|mended| mended.cut).unwrap_or(plan.next);
    shared.catalog.restart(Listing { segments, first, next, holes }, cut);
    let (mut free, mut unwiped) = (Vec::new(), Vec::new());
    match site.wipe {
        true => unwiped = retired,
        false => free.extend(retired.into_iter().map(|retired| retired.path)),
    }
    let growth_bytes = meta.meta().growth_bytes.min(config.segment_bytes);
    let (epoch, highest_number) = (plan.epoch, plan.highest_number);
    Ok(Recovered {
        report: plan.report,
        meta,
        stock: Stock { epoch, highest_number, growth_bytes, free, unwiped, stuck: Vec::new() },
        next_lsn: if bugs::on(Bug::LsnSkipped) { plan.next.next() } else { plan.next },
        time_us: plan.time_us,
        tail,
    })
}

/// What there is to look at.
fn segment_bytes(site: Site<'_>) -> Result<u64> {
    let entries = site.disk.list(site.dir).map_err(|e| Error::io("open", site.dir, None, e))?;
    let segments = entries.iter().filter(|entry| parse_name(&entry.name).is_some());
    Ok(segments.map(|entry| entry.size).sum())
}

/// What META says of a log that is being written.
fn mark_open(m: &mut Meta, plan: &Plan, shared: &Shared) {
    m.clean = bugs::on(Bug::CleanWhileWriting);
    m.mending = false;
    m.durable_upto = plan.next.prev();
    drop_below(&mut m.removed, m.first_lsn);
    m.next_epoch = plan.epoch + 1;
    m.highest_number = plan.highest_number;
    m.segment_bytes = shared.config.segment_bytes;
    let backend = backend_code(shared.world.disk.name());
    if m.last_backend == backend {
        shared.sync_choice.remember(m.sync_method);
    }
    (m.sync_method, m.last_backend) = (shared.sync_choice.code(), backend);
}

fn report(plan: &Plan) {
    for f in &plan.found {
        if let State::Open(Scan { bad_footer: Some(why), .. }) = &f.state {
            tracing::warn!(path = %f.file.path.display(), why, "a footer is damaged and made anew");
        }
    }
    for gone in &plan.report.given_up {
        tracing::info!(
            path = %gone.path.display(),
            offset = gone.offset,
            bytes = gone.bytes,
            kept_through = plan.report.kept_through.get(),
            "recovery gave up bytes that nobody was promised"
        );
    }
}

/// After a clean close: the segment with the last record goes on in place, if it has no footer, is
/// of the last epoch, and nothing but zeros or, from the next block on, its former life follow:
/// behind rotten padding no frame would be found again. One that was cut takes no more frames: they
/// would be cut too. Nor does one that has a second name: a checkpoint has it too.
fn take_tail(disk: &dyn Disk, plan: &mut Plan) -> Option<Found> {
    let last = plan.found.iter().filter(|f| !f.kept.is_empty()).max_by_key(|f| f.kept_last());
    let next_epoch = Some(plan.meta.meta.next_epoch);
    let goes_on = |f: &&Found| {
        let whole = matches!(&f.state, State::Open(scan) if scan.stop.is_none());
        whole && f.cut_at.is_none() && f.file.id.epoch.checked_add(1) == next_epoch
    };
    let tail = last.filter(goes_on)?;
    let alone = disk.open(&tail.file.path, Access::Direct).and_then(|file| file.links());
    if !bugs::on(Bug::LinkedFileReused) && !alone.is_ok_and(|names| names == 1) {
        return None;
    }
    let number = tail.file.id.number;
    let at = plan.found.iter().position(|f| f.file.id.number == number)?;
    Some(plan.found.remove(at))
}

/// Opens the tail for writing and lists it under that file.
fn open_tail(
    site: Site<'_>,
    found: Found,
    listed: &std::collections::BTreeMap<u64, Arc<Segment>>,
) -> Result<(SegmentFile, FileRef, Summary, Option<Arc<Segment>>)> {
    let State::Open(scan) = found.state else { unreachable!("the tail has no footer") };
    let file = site.disk.open(&found.file.path, Access::Write);
    let file = file.map_err(|e| Error::io("open", &found.file.path, None, e))?;
    let segment = listed.get(&found.file.id.number).map(Arc::clone);
    Ok((found.file, file, scan.summary, segment))
}

const _: () = assert!(FORMAT_VERSION == 1, "a new format needs a recovery that reads the old one");
