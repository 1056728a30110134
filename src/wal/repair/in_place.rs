//! The part of a repair in place that writes: recovery with `Salvage`, then a close.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::meta::Meta;
use crate::io::World;
use crate::options::{RecoveryPolicy, SyncMethod, WalConfig};

use super::super::meta::{META, MetaFile};
use super::super::recovery::{GivenUp, Wanted, recover, set_apart, spare_name};
use super::super::shared::Shared;
use super::on_queue;

/// How often that reads a log, as it counts it itself.
pub(super) const CARRY_OUT_PASSES: u64 = 3;

/// Recovers the log with `Salvage` and closes it; gives what was given up. `progress` gets the
/// bytes read, of how many.
pub(super) fn carry_out(
    world: &World,
    dir: &Path,
    meta: &Meta,
    rebuilt: Option<&str>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Vec<GivenUp>> {
    let config = WalConfig {
        segment_bytes: meta.segment_bytes,
        sync_method: match meta.sync_method {
            1 => SyncMethod::Dsync,
            2 => SyncMethod::Fdatasync,
            _ => SyncMethod::Auto,
        },
        recovery: RecoveryPolicy::Salvage,
        // Whether the log's owner wants that is not known here: what waits for it in the pool
        // stays, under a name that is never used again, and the next open wipes or removes it.
        wipe_retired: true,
        ..WalConfig::new(dir)
    };
    let block = crate::cast::len(meta.block_size.into());
    let shared = Shared::new(config, world.clone(), block);
    let (disk, host, shared) = (&*world.disk, &*world.host, &shared);
    let progress = RefCell::new(progress);
    let hear = &|done, of| (*progress.borrow_mut())(done, of);
    on_queue(world, dir, |flow| async move {
        let mut given_up = Vec::new();
        if let Some(why) = rebuilt {
            let kept_as = set_meta_aside(world, dir)?;
            given_up.push(meta_given_up(dir, why, kept_as));
            MetaFile::create(&flow, disk, dir, meta.clone()).await?;
        }
        let mut recovered = recover(flow.clone(), disk, host, shared, Wanted::Any, hear).await?;
        set_apart(disk, dir, &recovered.stock.unwiped)?;
        let change = |m: &mut Meta| {
            m.clean = true;
            m.last_backend = meta.last_backend;
        };
        recovered.meta.update(&flow, disk, change).await?;
        given_up.append(&mut recovered.report.given_up);
        Ok(given_up)
    })
}

/// META as what was given up.
pub(super) fn meta_given_up(dir: &Path, why: &str, kept_as: Option<PathBuf>) -> GivenUp {
    let why = format!(
        "{why}; rebuilt from the segments, without the user slot, earlier cuts and earlier holes"
    );
    GivenUp { path: dir.join(META), offset: 0, bytes: 0, lsns: None, why, kept_as }
}

/// Gives a META that can't be read another name.
fn set_meta_aside(world: &World, dir: &Path) -> Result<Option<PathBuf>> {
    let (disk, path) = (&world.disk, dir.join(META));
    let failed = |e| Error::io("repair", &path, None, e);
    let names: Vec<String> =
        disk.list(dir).map_err(failed)?.into_iter().map(|entry| entry.name).collect();
    if !names.iter().any(|name| name == META) {
        return Ok(None);
    }
    let to = dir.join(spare_name(META, &names));
    disk.rename(&path, &to).and_then(|()| disk.sync_dir(dir)).map_err(failed)?;
    Ok(Some(to))
}
