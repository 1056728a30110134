//! A log where there was none: META, and a little space where recovery needs it.

use crate::error::{Error, Result};
use crate::format::meta::Meta;
use crate::lsn::Lsn;

use super::super::catalog::Listing;
use super::super::maker::Stock;
use super::super::meta::{MetaFile, UNCHANGED};
use super::super::shared::Shared;
use super::pool::ready_pool;
use super::reserve::keep_reserve;
use super::site::{Recovered, Site};
use super::{RecoveryReport, Verdict};

/// Makes the log and fills the catalog.
pub(super) async fn create(site: Site<'_>, shared: &Shared) -> Result<Recovered> {
    let config = &shared.config;
    let unwiped = ready_pool(site, None)?;
    let log_id = site.host.random().map_err(|e| Error::io("open", site.dir, None, e))?;
    let growth_bytes = (1 << 20).min(config.segment_bytes);
    let meta = Meta {
        sequence: UNCHANGED,
        log_id,
        block_size: u32::try_from(site.disk.block_size()).expect("a block is far below 4 GiB"),
        segment_bytes: config.segment_bytes,
        growth_bytes,
        sync_method: shared.sync_choice.code(),
        last_backend: backend_code(site.disk.name()),
        next_epoch: 2,
        clean: false,
        mending: false,
        durable_upto: Lsn::NONE,
        first_lsn: Lsn::FIRST,
        highest_number: 0,
        removed: Vec::new(),
        cuts: Vec::new(),
        user_state: Vec::new(),
    };
    let meta = MetaFile::create(site.flow, site.disk, site.dir, meta).await?;
    let (first, next) = (Lsn::FIRST, Lsn::FIRST);
    let fresh = Listing { segments: Vec::new(), first, next, holes: Vec::new() };
    shared.catalog.restart(fresh, Lsn::FIRST);
    if !site.disk.direct() {
        keep_reserve(site).await?;
    }
    let (verdict, given_up) = (Verdict::Clean, Vec::new());
    Ok(Recovered {
        report: RecoveryReport { verdict, kept_through: Lsn::NONE, given_up, holes: Vec::new() },
        meta,
        stock: Stock {
            epoch: 1,
            highest_number: 0,
            growth_bytes,
            free: Vec::new(),
            unwiped,
            stuck: Vec::new(),
        },
        next_lsn: Lsn::FIRST,
        time_us: 0,
        tail: None,
    })
}

pub(super) fn backend_code(name: &str) -> u8 {
    match name {
        "uring" => 1,
        "pwrite" => 2,
        "mmap" => 3,
        "tokio-uring" => 4,
        "sim" => 5,
        _ => 255,
    }
}
