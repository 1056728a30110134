//! Carrying out what recovery decided: the only part of it that writes.
//!
//! ```text
//! META, if in doubt -> sync old segments -> copy frames the device may lack -> footers
//!     -> META: not clean, next epoch -> remove what is spent -> serve
//! ```
//!
//! Each step leaves a directory that the next `open` judges the same way: until META says
//! otherwise the old state stands, and a footer cuts only what nobody was promised.

use std::path::Path;
use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::cast::len;
use crate::error::{Error, ErrorKind, Result};
use crate::format::FORMAT_VERSION;
use crate::format::meta::Meta;
use crate::io::{Access, Buf, Disk, FileRef, Flow, Host};
use crate::lsn::Lsn;
use crate::options::{RecoveryPolicy, SyncMethod, WalConfig};
use crate::segment::{
    Cursor, SegmentFile, Step, Summary, free_name, is_making, parse_free, parse_name, pool_dir,
};

use super::super::catalog::{Catalog, Listing, Segment};
use super::super::maker::{POOL_SEGMENTS, Retired, Stock};
use super::super::meta::MetaFile;
use super::super::shared::Shared;
use super::copy::{copy_tail, keep_reserve};
use super::inspect::{Contents, catalog_of, classify, inspect};
use super::mend::{Mended, mend};
use super::ranges::drop_below;
use super::{Found, Plan, Progress, RecoveryReport, Scan, State, Verdict};

/// A log that is ready to be written.
pub(crate) struct Recovered {
    pub(crate) report: RecoveryReport,
    pub(crate) meta: MetaFile,
    pub(crate) stock: Stock,
    pub(crate) next_lsn: Lsn,
    pub(crate) time_us: u64,
    /// The segment to go on in: only after a clean close.
    pub(crate) tail: Option<(SegmentFile, FileRef, Summary, Option<Arc<Segment>>)>,
}

/// Where recovery works.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) flow: &'a Flow,
    pub(super) disk: &'a dyn Disk,
    pub(super) host: &'a dyn Host,
    pub(super) dir: &'a Path,
    /// What was retired is wiped before it goes.
    pub(super) wipe: bool,
}

/// Creates the log, or recovers it, and fills the catalog.
pub(crate) async fn recover(
    flow: Flow,
    disk: &dyn Disk,
    host: &dyn Host,
    shared: &Shared,
    must_be_new: bool,
) -> Result<Recovered> {
    let (config, catalog) = (&shared.config, &*shared.catalog);
    let site = Site { flow: &flow, disk, host, dir: &config.log_dir, wipe: config.wipe_retired };
    let entries = disk.list(site.dir).map_err(|e| Error::io("open", site.dir, None, e))?;
    let contents = classify(site.dir, &entries)?;
    if contents == Contents::Log && must_be_new {
        let why = "there is a log already, and create_new was asked for";
        return Err(Error::invalid("open", why).at(site.dir, None));
    }
    match contents {
        Contents::Fresh => create(site, config, catalog).await,
        Contents::Log => reopen(site, shared).await,
    }
}

/// Judges an old log as the policy has it, which may mend it before.
async fn judge(site: Site<'_>, shared: &Shared) -> Result<(Plan, Option<Mended>)> {
    let config = &shared.config;
    let passes = match config.recovery {
        RecoveryPolicy::TornTail | RecoveryPolicy::Strict => 1,
        RecoveryPolicy::PointInTime | RecoveryPolicy::Salvage => 3,
    };
    let progress = Progress::new(config.recovery_progress.as_ref(), segment_bytes(site)?, passes);
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
async fn reopen(site: Site<'_>, shared: &Shared) -> Result<Recovered> {
    let (config, disk) = (&shared.config, site.disk);
    let (mut plan, mended) = judge(site, shared).await?;
    let full = plan.meta.meta.clean.then_some(config.segment_bytes);
    let mut retired = ready_pool(site, full)?;
    let mut listed = catalog_of(disk, &plan.found)?;
    let mut meta = MetaFile::open(disk, site.dir, &plan.meta)?;
    if !plan.meta.whole || !disk.direct() {
        // What follows builds on this state, which may be in a cache alone: an update before the
        // crash may have failed or been cut short.
        meta.update(site.flow, disk, |_| {}).await?;
    }
    let in_place = plan.meta.meta.clean || bugs::on(Bug::WriteOnInTornSegment);
    let tail = if in_place { take_tail(&mut plan) } else { None };
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
    meta.update(site.flow, disk, |m| mark_open(m, &plan, config, disk.name())).await?;
    remove_spent(site, &plan, config, &mut retired)?;
    if !disk.direct() {
        keep_reserve(site).await;
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
        stock: Stock { epoch, highest_number, growth_bytes, free, unwiped },
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
fn mark_open(m: &mut Meta, plan: &Plan, config: &WalConfig, backend: &str) {
    m.clean = bugs::on(Bug::CleanWhileWriting);
    m.durable_upto = plan.next.prev();
    drop_below(&mut m.removed, m.first_lsn);
    m.next_epoch = plan.epoch + 1;
    m.highest_number = plan.highest_number;
    m.segment_bytes = config.segment_bytes;
    m.sync_method = method_code(config.sync_method);
    m.last_backend = backend_code(backend);
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

async fn create(site: Site<'_>, config: &WalConfig, catalog: &Catalog) -> Result<Recovered> {
    let unwiped = ready_pool(site, None)?;
    let log_id = site.host.random().map_err(|e| Error::io("open", site.dir, None, e))?;
    let growth_bytes = (1 << 20).min(config.segment_bytes);
    let meta = Meta {
        sequence: 1,
        log_id,
        block_size: u32::try_from(site.disk.block_size()).expect("a block is far below 4 GiB"),
        segment_bytes: config.segment_bytes,
        growth_bytes,
        sync_method: method_code(config.sync_method),
        last_backend: backend_code(site.disk.name()),
        next_epoch: 2,
        clean: false,
        durable_upto: Lsn::NONE,
        first_lsn: Lsn::FIRST,
        highest_number: 0,
        removed: Vec::new(),
        cut: None,
        user_state: Vec::new(),
    };
    let meta = MetaFile::create(site.flow, site.disk, site.dir, meta).await?;
    let (first, next) = (Lsn::FIRST, Lsn::FIRST);
    let fresh = Listing { segments: Vec::new(), first, next, holes: Vec::new() };
    catalog.restart(fresh, Lsn::FIRST);
    if !site.disk.direct() {
        keep_reserve(site).await;
    }
    let (verdict, given_up) = (Verdict::Clean, Vec::new());
    Ok(Recovered {
        report: RecoveryReport { verdict, kept_through: Lsn::NONE, given_up, holes: Vec::new() },
        meta,
        stock: Stock { epoch: 1, highest_number: 0, growth_bytes, free: Vec::new(), unwiped },
        next_lsn: Lsn::FIRST,
        time_us: 0,
        tail: None,
    })
}

/// Makes the pool and empties it, but for the retired segments of size `full` that can be used, and
/// those that are to be wiped.
///
/// None can unless the log was closed: a directory sync may have failed before the crash, and then
/// the names seen here need not be those on the device. Writing a file that the device still knows
/// as a segment would break that segment; removing a name too many breaks nothing.
pub(super) fn ready_pool(site: Site<'_>, full: Option<u64>) -> Result<Vec<Retired>> {
    let pool = pool_dir(site.dir);
    let failed = |path: &Path, e| Error::io("open", path, None, e);
    site.disk.create_dir(&pool).map_err(|e| failed(&pool, e))?;
    let mut retired = Vec::new();
    for entry in site.disk.list(&pool).map_err(|e| failed(&pool, e))? {
        let path = pool.join(&entry.name);
        let (free, making) = (parse_free(&entry.name).is_some(), is_making(&entry.name));
        let reusable = free && Some(entry.size) == full && count_reusable(&retired) < POOL_SEGMENTS;
        // One that was being made may be a copy of records.
        if reusable || site.wipe && (free || making) {
            retired.push(Retired { path, reusable });
        } else if free || making {
            site.disk.unlink(&path).map_err(|e| failed(&path, e))?;
        }
    }
    sync_dirs(site)?;
    Ok(retired)
}

fn count_reusable(retired: &[Retired]) -> usize {
    retired.iter().filter(|retired| retired.reusable).count()
}

/// Makes the names in the log's directory and in the pool durable.
fn sync_dirs(site: Site<'_>) -> Result<()> {
    for dir in [site.dir, &pool_dir(site.dir)] {
        site.disk.sync_dir(dir).map_err(|e| Error::io("open", dir, None, e))?;
    }
    Ok(())
}

/// After a clean close: the segment with the last record goes on in place, if it has no footer, is
/// of the last epoch, and nothing but zeros follow: behind rotten padding no frame would be found
/// again. One that was cut takes no more frames: they would be cut too.
fn take_tail(plan: &mut Plan) -> Option<Found> {
    let last = plan.found.iter().filter(|f| !f.kept.is_empty()).max_by_key(|f| f.kept_last());
    let next_epoch = Some(plan.meta.meta.next_epoch);
    let goes_on = |f: &&Found| {
        let whole = matches!(&f.state, State::Open(scan) if scan.stop.is_none());
        whole && f.cut_at.is_none() && f.file.id.epoch.checked_add(1) == next_epoch
    };
    let tail = last.filter(goes_on)?;
    let number = tail.file.id.number;
    let at = plan.found.iter().position(|f| f.file.id.number == number)?;
    Some(plan.found.remove(at))
}

/// Ends every segment without a footer at the last record that is kept, durably.
async fn end_old_segments(site: Site<'_>, plan: &mut Plan) -> Result<()> {
    let recorded = plan.meta.meta.durable_upto;
    let trusted = site.disk.direct() || plan.meta.meta.clean || bugs::on(Bug::CachedTailTrusted);
    let mut upto = plan.next.prev();
    if !trusted && copy_tail(site, plan).await? {
        upto = upto.min(plan.promised);
    }
    let first = plan.meta.meta.first_lsn;
    let goes = |f: &Found| f.is_spent(recorded) || f.is_cut(first);
    let open = |f: &&Found| matches!(f.state, State::Open(_)) && !goes(f);
    let mut synced = Vec::new();
    for f in plan.found.iter().filter(open) {
        let path = &f.file.path;
        let file = site.disk.open(path, Access::Write);
        let file = file.map_err(|e| Error::io("recover", path, None, e))?;
        let outcome = site.flow.sync(&file).await;
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
    Ok(())
}

/// Takes segments that hold nothing of the log out of it, now that META has their number and what
/// they promised; adds those that can be used again, after a clean close only, as in `ready_pool`,
/// and those that are to be wiped.
fn remove_spent(
    site: Site<'_>,
    plan: &Plan,
    config: &WalConfig,
    retired: &mut Vec<Retired>,
) -> Result<()> {
    let (first, recorded) = (plan.meta.meta.first_lsn, plan.meta.meta.durable_upto);
    for f in plan.found.iter().filter(|f| f.is_spent(recorded) || f.is_cut(first)) {
        let failed = |e| Error::io("retire segment", &f.file.path, None, e);
        let full = f.file.geometry.size == config.segment_bytes;
        let reusable = plan.meta.meta.clean && full && count_reusable(retired) < POOL_SEGMENTS;
        if reusable || site.wipe {
            let path = pool_dir(site.dir).join(free_name(f.file.id.number));
            site.disk.rename(&f.file.path, &path).map_err(failed)?;
            retired.push(Retired { path, reusable });
        } else {
            site.disk.unlink(&f.file.path).map_err(failed)?;
        }
    }
    sync_dirs(site)
}

async fn write_footer(
    site: Site<'_>,
    f: &Found,
    file: &FileRef,
    upto: Lsn,
    promised: Lsn,
) -> Result<()> {
    let summary = summary_upto(f, file, upto)?;
    put_footer(site, f, file, &summary, promised).await
}

/// Writes the footer that says this of a segment, durably.
pub(super) async fn put_footer(
    site: Site<'_>,
    f: &Found,
    file: &FileRef,
    summary: &Summary,
    promised: Lsn,
) -> Result<()> {
    let at = f.file.geometry.frames_end();
    let block = len(f.file.geometry.block);
    let durable_upto = promised.max(summary.last_lsn());
    let image = summary.footer(durable_upto).encode(&f.file.id, at, block);
    let mut buf = Buf::zeroed(block, block);
    buf.bytes_mut().expect("just allocated").copy_from_slice(&image);
    let written = site.flow.write(file, at, buf, true).await;
    written.map(drop).map_err(|e| Error::io("recover: footer", &f.file.path, Some(at), e))
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
    let mut cursor = Cursor::new(Arc::clone(file), f.file.id, f.file.geometry, start, 1 << 20);
    loop {
        let step = cursor.step();
        match step.map_err(|e| Error::io("recover", &f.file.path, Some(cursor.at()), e))? {
            // The last may be one that was cut in the middle.
            Step::Frame(frame) if frame.header.first_lsn <= last => {
                summary.add(frame.offset, &frame.header);
            }
            _ => return Ok(summary),
        }
    }
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

pub(crate) fn method_code(method: SyncMethod) -> u8 {
    match method {
        SyncMethod::Auto => 0,
        SyncMethod::Dsync => 1,
        SyncMethod::Fdatasync => 2,
    }
}

fn backend_code(name: &str) -> u8 {
    match name {
        "uring" => 1,
        "pwrite" => 2,
        "mmap" => 3,
        "tokio-uring" => 4,
        "sim" => 5,
        _ => 255,
    }
}

const _: () = assert!(FORMAT_VERSION == 1, "a new format needs a recovery that reads the old one");
