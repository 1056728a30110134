//! The directories of a simulated disk: which name stands for which file, now and after a crash.
//!
//! ```text
//! create, rename, unlink --> now            sync_dir: pending --> durable
//!                        \-> pending        power cut: some of pending --> durable --> now
//! ```
//!
//! Directories themselves are durable as soon as they are made, as `Disk::create_dir` promises.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::met::{FaultClass, Met};
use super::plan::{Model, NameOrder};
use super::rng::Rng;

/// A directory and a name in it.
pub(super) type Key = (PathBuf, String);

/// All names of a disk.
#[derive(Debug)]
pub(super) struct Names {
    order: NameOrder,
    /// Syncs do nothing.
    lies: bool,
    dirs: BTreeSet<PathBuf>,
    now: BTreeMap<Key, u64>,
    durable: BTreeMap<Key, u64>,
    pending: Vec<Change>,
}

/// From here on `key` stands for `inode`, or for nothing.
#[derive(Debug)]
struct Change {
    key: Key,
    inode: Option<u64>,
    /// Whether the next change happens together with it.
    joined: bool,
}

/// A path without its redundant parts.
pub(super) fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn split(path: &Path) -> io::Result<Key> {
    let path = clean(path);
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(dir), Some(name)) => Ok((dir.into(), name.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file")),
    }
}

impl Names {
    /// A disk with nothing but its root.
    pub(super) fn new(model: &Model) -> Names {
        Names {
            order: model.names,
            lies: model.lies,
            dirs: [PathBuf::new(), PathBuf::from("/")].into(),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// The file of a name, or none.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<u64>> {
        let key = split(path)?;
        if self.dirs.contains(&clean(path)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        match self.now.get(&key) {
            None if !self.dirs.contains(&key.0) => Err(io::ErrorKind::NotFound.into()),
            found => Ok(found.copied()),
        }
    }

    /// The file of a name.
    pub(super) fn get(&self, path: &Path) -> io::Result<u64> {
        self.find(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Gives `inode` the name `path`; any file that had it loses it.
    pub(super) fn link(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        let key = split(path)?;
        self.change(key, Some(inode), false);
        Ok(())
    }

    /// As `rename(2)`, for files.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.get(from)?;
        if self.find(to)? != Some(inode) {
            self.change(split(to)?, Some(inode), true);
            self.change(split(from)?, None, false);
        }
        Ok(())
    }

    /// Takes a name away.
    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.get(path)?;
        self.change(split(path)?, None, false);
        Ok(())
    }

    fn change(&mut self, key: Key, inode: Option<u64>, joined: bool) {
        apply(&mut self.now, &key, inode);
        match self.order {
            NameOrder::Strict => apply(&mut self.durable, &key, inode),
            NameOrder::Journal | NameOrder::Weak => {
                self.pending.push(Change { key, inode, joined });
            }
        }
    }

    /// Whether `path` is a directory.
    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains(&clean(path))
    }

    /// Makes one directory below an existing one.
    pub(super) fn add_dir(&mut self, path: &Path) -> io::Result<()> {
        let path = clean(path);
        if self.now.contains_key(&split(&path)?) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.dirs.insert(path);
        Ok(())
    }

    /// The names in `dir`, sorted; without a file for a directory.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<(String, Option<u64>)>> {
        let dir = self.known_dir(dir)?;
        let from = (dir.clone(), String::new());
        let files = self.now.range(from..).take_while(|(key, _)| key.0 == dir);
        let files = files.map(|(key, inode)| (key.1.clone(), Some(*inode)));
        let below = self.dirs.iter().filter(|d| d.parent() == Some(&dir));
        let below = below.filter_map(|d| d.file_name());
        let dirs = below.map(|name| (name.to_string_lossy().into_owned(), None));
        let mut names: Vec<_> = files.chain(dirs).collect();
        names.sort();
        Ok(names)
    }

    /// Makes the names in `dir` durable.
    pub(super) fn sync(&mut self, dir: &Path) -> io::Result<()> {
        let dir = self.known_dir(dir)?;
        if self.lies {
            return Ok(());
        }
        let all = self.order != NameOrder::Weak;
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            if all || change.key.0 == dir {
                apply(&mut self.durable, &change.key, change.inode);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    /// Drops a part of what is not durable in `dir` for good: no later sync makes it so.
    pub(super) fn fail_sync(&mut self, dir: &Path, rng: &mut Rng) -> io::Result<()> {
        let dir = self.known_dir(dir)?;
        if self.order == NameOrder::Journal {
            let keep = self.journal_prefix(rng);
            self.pending.truncate(keep);
        } else {
            self.pending.retain(|change| change.key.0 != dir || rng.chance(500));
        }
        Ok(())
    }

    fn known_dir(&self, dir: &Path) -> io::Result<PathBuf> {
        let dir = clean(dir);
        if self.dirs.contains(&dir) { Ok(dir) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// How many pending changes a journal keeps that stops at some moment.
    fn journal_prefix(&self, rng: &mut Rng) -> usize {
        let mut keep = rng.index(self.pending.len() + 1);
        while keep > 0 && self.pending[keep - 1].joined {
            keep -= 1;
        }
        keep
    }

    /// Loses what the order of names allows a power cut to lose.
    pub(super) fn lose_power(&mut self, rng: &mut Rng, met: &mut Met) {
        let keep = self.journal_prefix(rng);
        let rate = super::inode::draw_rate(rng);
        let mut lost = BTreeSet::new();
        for (i, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let survives = match self.order {
                NameOrder::Strict => true,
                NameOrder::Journal => i < keep,
                NameOrder::Weak => !lost.contains(&change.key) && rng.chance(rate),
            };
            if survives {
                apply(&mut self.durable, &change.key, change.inode);
            } else {
                lost.insert(change.key);
            }
        }
        met.note_if(FaultClass::NameLost, self.now != self.durable);
        self.now = self.durable.clone();
    }

    /// Loses all that is not durable but for what `keep` says yes to, within the order of names.
    pub(super) fn lose_power_but(&mut self, keep: &mut dyn FnMut() -> bool, met: &mut Met) {
        let (mut lost, mut ended) = (BTreeSet::new(), false);
        let pending = std::mem::take(&mut self.pending);
        let mut changes = pending.into_iter();
        while let Some(change) = changes.next() {
            let mut together = vec![change];
            while self.order == NameOrder::Journal
                && together.last().is_some_and(|change| change.joined)
                && let Some(next) = changes.next()
            {
                together.push(next);
            }
            let gone = ended || lost.contains(&together[0].key);
            let survives = !gone && keep();
            ended |= self.order == NameOrder::Journal && !survives;
            for change in together {
                if survives {
                    apply(&mut self.durable, &change.key, change.inode);
                } else {
                    lost.insert(change.key);
                }
            }
        }
        met.note_if(FaultClass::NameLost, self.now != self.durable);
        self.now = self.durable.clone();
    }

    /// How many names a file has.
    pub(super) fn links(&self, inode: u64) -> u64 {
        self.now.values().filter(|named| **named == inode).count() as u64
    }

    /// Every file that has a name, or may have one again after a crash.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        let named = self.now.values().chain(self.durable.values()).copied();
        named.chain(self.pending.iter().filter_map(|change| change.inode)).collect()
    }

    /// All files by path.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, u64)> {
        self.now.iter().map(|((dir, name), inode)| (dir.join(name), *inode))
    }

    /// Sets a name as if it had been durable all along.
    pub(super) fn plant(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        let key = split(path)?;
        self.dirs.extend(key.0.ancestors().map(Path::to_path_buf));
        self.pending.retain(|change| change.key != key);
        apply(&mut self.durable, &key, Some(inode));
        apply(&mut self.now, &key, Some(inode));
        Ok(())
    }
}

fn apply(map: &mut BTreeMap<Key, u64>, key: &Key, inode: Option<u64>) {
    match inode {
        Some(inode) => map.insert(key.clone(), inode),
        None => map.remove(key),
    };
}
