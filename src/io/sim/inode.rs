//! One simulated file, apart from its names: what is on stable media, what is not yet, and what
//! the page cache says.
//!
//! ```text
//! write --> device (volatile cache over durable) --sync / dsync--> durable
//!   |         `unsynced`: one entry a write, a mask of sectors for each of its blocks
//!   +-----> cache: the same bytes, but it keeps showing what a failed sync has dropped
//! ```
//!
//! Invariants: (1) `device` is `durable` with `unsynced` laid over it in order; (2) a sector that
//! became durable is in no older entry of `unsynced`, so that no crash brings old bytes back.

use std::sync::Arc;

use super::image::{ALL, BLOCK, Image, Page, page_of, same};
use super::met::{Cut, FaultClass, Met};
use super::plan::{CrashKind, Model, NameOrder};
use super::rng::Rng;
use crate::cast;

/// A regular file without a name.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// Shared with everything that has the file open.
    pub(super) open: Arc<()>,
    durable: Image,
    device: Image,
    cache: Image,
    /// Blocks as they were before they were last made durable.
    old: Image,
    pub(super) size: u64,
    durable_size: u64,
    unsynced: Vec<Unsynced>,
}

/// One write that is not durable as a whole.
#[derive(Debug)]
struct Unsynced {
    write: u64,
    first: usize,
    pages: Vec<(Page, u8)>,
    /// The operation with which its caller learned that it is done: syncs from there on cover it.
    answered: Option<u64>,
}

impl Unsynced {
    /// Takes away the sectors that `newer` has made durable.
    fn yield_to(&mut self, newer: &Unsynced) {
        for (i, (_, mask)) in self.pages.iter_mut().enumerate() {
            let place = (self.first + i).checked_sub(newer.first);
            if let Some((_, taken)) = place.and_then(|p| newer.pages.get(p)) {
                *mask &= !taken;
            }
        }
    }

    fn masks(&self) -> Vec<u8> {
        self.pages.iter().map(|(_, mask)| *mask).collect()
    }

    /// Tells what a power cut did to it, that had these sectors before, where that makes a
    /// difference to what is durable.
    fn tell(&self, before: &[u8], durable: &Image, cut: &mut Cut) {
        let (mut kept, mut lost) = (false, false);
        for (i, ((page, mask), before)) in self.pages.iter().zip(before).enumerate() {
            let under = durable.page(self.first + i);
            kept |= !same(&under, page, *mask);
            lost |= !same(&under, page, before & !mask);
        }
        cut.note(self.write, kept, lost);
    }

    fn lay_over(&self, image: &mut Image) {
        for (i, (page, mask)) in self.pages.iter().enumerate() {
            image.set(self.first + i, page, *mask);
        }
    }
}

/// How much of a write reaches the device.
pub(super) struct Landing<'a> {
    /// The rate of sectors, per mille.
    pub(super) rate: u32,
    /// Whether the page cache shows all of it even so.
    pub(super) shown: bool,
    pub(super) model: &'a Model,
    pub(super) rng: &'a mut Rng,
}

impl Landing<'_> {
    fn mask(&mut self) -> u8 {
        draw_mask(self.rng, self.model, self.rate)
    }
}

/// How much survives, from nothing to all, so that the extremes are met often.
pub(super) fn draw_rate(rng: &mut Rng) -> u32 {
    rng.pick(&[0, 120, 500, 880, 1000])
}

fn draw_mask(rng: &mut Rng, model: &Model, rate: u32) -> u8 {
    match rate {
        0 => 0,
        1000.. => ALL,
        _ if model.whole_blocks => ALL * u8::from(rng.chance(rate)),
        500 => rng.bits().to_le_bytes()[7],
        _ => (0..8).fold(0, |mask, bit| mask | u8::from(rng.chance(rate)) << bit),
    }
}

impl Inode {
    /// A file of `size` zero bytes, of which nothing is durable.
    pub(super) fn new(size: u64) -> Inode {
        Inode { size, ..Inode::default() }
    }

    /// A file whose bytes and size are durable.
    pub(super) fn with(bytes: &[u8]) -> Inode {
        let (image, size) = (Image::of(bytes), bytes.len() as u64);
        let (device, cache) = (image.clone(), image.clone());
        Inode { durable: image, device, cache, size, durable_size: size, ..Inode::default() }
    }

    /// Whether something has it open.
    pub(super) fn is_open(&self) -> bool {
        self.handles() > 0
    }

    /// How many handles and requests have it open.
    pub(super) fn handles(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    /// Reads at `at` from the device or from the page cache; gives the count.
    pub(super) fn read(&self, at: u64, out: &mut [u8], past_cache: bool) -> usize {
        let len = out.len().min(cast::len(self.size.saturating_sub(at)));
        let view = if past_cache { &self.device } else { &self.cache };
        view.read(cast::len(at), &mut out[..len]);
        len
    }

    /// All that the device holds.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.device.bytes(cast::len(self.size))
    }

    /// Lands `bytes` at `at`, whole or in part; gives a checksum of what was to be written.
    pub(super) fn land(
        &mut self,
        write: u64,
        at: u64,
        bytes: &[u8],
        mut landing: Landing<'_>,
    ) -> u32 {
        debug_assert_eq!(at % BLOCK as u64, 0);
        let first = cast::len(at) / BLOCK;
        let mut crc = crc32fast::Hasher::new();
        let mut pages = Vec::with_capacity(bytes.len().div_ceil(BLOCK));
        for (i, chunk) in bytes.chunks(BLOCK).enumerate() {
            let (page, mask) = (page_of(chunk), landing.mask());
            if page.is_some() {
                crc.update(chunk);
            }
            self.device.set(first + i, &page, mask);
            self.cache.set(first + i, &page, if landing.shown { ALL } else { mask });
            pages.push((page, mask));
        }
        self.unsynced.push(Unsynced { write, first, pages, answered: None });
        self.size = self.size.max(at + bytes.len() as u64);
        crc.finalize()
    }

    /// Makes the write that landed last durable.
    pub(super) fn settle_last(&mut self, model: &Model) {
        if model.lies {
            return;
        }
        let last = self.unsynced.pop().expect("the caller has just landed it");
        for older in &mut self.unsynced {
            older.yield_to(&last);
        }
        self.settle(&last);
        let end = ((last.first + last.pages.len()) * BLOCK) as u64;
        // Only as much size as is needed to read it back need be durable with a write.
        let size = if model.names == NameOrder::Weak { end.min(self.size) } else { self.size };
        self.durable_size = self.durable_size.max(size);
    }

    fn settle(&mut self, entry: &Unsynced) {
        for index in entry.first..entry.first + entry.pages.len() {
            self.old.put(index, self.durable.page(index));
        }
        entry.lay_over(&mut self.durable);
    }

    /// Notes that the caller knows since operation `now` that `write` is done.
    pub(super) fn answer(&mut self, write: u64, now: u64) {
        if let Some(entry) = self.unsynced.iter_mut().rfind(|u| u.write == write) {
            entry.answered = Some(now);
        }
    }

    /// Makes size, and all writes answered before operation `start`, durable.
    pub(super) fn sync(&mut self, start: u64, model: &Model) {
        if model.lies {
            return;
        }
        let mut kept: Vec<Unsynced> = Vec::new();
        for entry in std::mem::take(&mut self.unsynced) {
            if entry.answered.is_none_or(|answered| answered >= start) {
                kept.push(entry);
                continue;
            }
            for older in &mut kept {
                older.yield_to(&entry);
            }
            self.settle(&entry);
        }
        self.unsynced = kept;
        self.durable_size = self.size;
    }

    /// Drops a part of what is unsynced for good. The page cache goes on showing it.
    pub(super) fn fail_sync(&mut self, model: &Model, rng: &mut Rng) {
        let mut touched = Vec::new();
        for entry in &mut self.unsynced {
            let rate = draw_rate(rng);
            for (i, (_, mask)) in entry.pages.iter_mut().enumerate() {
                let dropped = draw_mask(rng, model, rate) & *mask;
                *mask &= !dropped;
                if dropped != 0 {
                    touched.push(entry.first + i);
                }
            }
        }
        for index in touched {
            self.device.set(index, &self.durable.page(index), ALL);
            for entry in &self.unsynced {
                let place = index.checked_sub(entry.first).and_then(|p| entry.pages.get(p));
                if let Some((page, mask)) = place {
                    self.device.set(index, page, *mask);
                }
            }
        }
        self.unsynced.retain(|entry| entry.pages.iter().any(|(_, mask)| *mask != 0));
    }

    /// What a crash leaves of it.
    pub(super) fn crash(
        &mut self,
        kind: CrashKind,
        now: u64,
        model: &Model,
        rng: &mut Rng,
        met: &mut Met,
    ) {
        match kind {
            // Everything that landed is the system's now: the next process's syncs cover it.
            CrashKind::Kill => self.unsynced.iter_mut().for_each(|u| u.answered = Some(now)),
            CrashKind::Power => self.lose_power(model, rng, met),
        }
    }

    fn lose_power(&mut self, model: &Model, rng: &mut Rng, met: &mut Met) {
        if self.size != self.durable_size && rng.chance(500) {
            self.durable_size = self.size;
        }
        met.note_if(FaultClass::NameLost, self.size != self.durable_size);
        let mut cut = Cut::default();
        let mut unsynced = std::mem::take(&mut self.unsynced);
        if model.lies {
            // Its cache was full at some moment, and written back.
            let flushed = rng.index(unsynced.len() + 1);
            unsynced.drain(..flushed).for_each(|entry| entry.lay_over(&mut self.durable));
        }
        rng.shuffle(&mut unsynced);
        for mut entry in unsynced {
            let (rate, before) = (draw_rate(rng), entry.masks());
            for (_, mask) in &mut entry.pages {
                *mask &= draw_mask(rng, model, rate);
            }
            entry.tell(&before, &self.durable, &mut cut);
            entry.lay_over(&mut self.durable);
        }
        cut.add_to(met);
        self.reboot();
    }

    /// Loses all that is not durable but for what `keep` says yes to, asked for each sector that
    /// would make a difference, in the order in which they landed, and for the size.
    pub(super) fn lose_power_but(
        &mut self,
        model: &Model,
        keep: &mut dyn FnMut() -> bool,
        met: &mut Met,
    ) {
        if self.size != self.durable_size && keep() {
            self.durable_size = self.size;
        }
        met.note_if(FaultClass::NameLost, self.size != self.durable_size);
        let mut cut = Cut::default();
        for mut entry in std::mem::take(&mut self.unsynced) {
            let before = entry.masks();
            for (i, (page, mask)) in entry.pages.iter_mut().enumerate() {
                let under = self.durable.page(entry.first + i);
                let units =
                    if model.whole_blocks { vec![ALL] } else { (0..8).map(|b| 1 << b).collect() };
                for unit in units {
                    let unit = unit & *mask;
                    if unit != 0 && !same(&under, page, unit) && !keep() {
                        *mask &= !unit;
                    }
                }
            }
            entry.tell(&before, &self.durable, &mut cut);
            entry.lay_over(&mut self.durable);
        }
        cut.add_to(met);
        self.reboot();
    }

    fn reboot(&mut self) {
        self.durable.cut(cast::len(self.durable_size));
        self.size = self.durable_size;
        self.device = self.durable.clone();
        self.cache = self.durable.clone();
    }

    /// The page cache takes in what never reached the device.
    pub(super) fn show(&mut self, at: u64, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(BLOCK).enumerate() {
            self.cache.put(cast::len(at) / BLOCK + i, page_of(chunk));
        }
    }

    /// Block `index` as the device has it, and as it was before it was last made durable.
    pub(super) fn versions(&self, index: usize) -> (Page, Page) {
        (self.device.page(index), self.old.page(index))
    }

    /// Turns one bit over in a block that is durable and not all zeros, on the media and, as it
    /// may be, in the page cache. False if it met none.
    pub(super) fn rot(&mut self, rng: &mut Rng) -> bool {
        for _ in 0..8 {
            let index = rng.index(self.durable.blocks());
            let covered = |u: &Unsynced| (u.first..u.first + u.pages.len()).contains(&index);
            if self.durable.page(index).is_none() || self.unsynced.iter().any(covered) {
                continue;
            }
            // What is near the start of a block is headers more often than not.
            let within = rng.pick(&[128, BLOCK]);
            let (at, bit) = (index * BLOCK + rng.index(within), 1 << rng.below(8));
            let cached = rng.chance(500);
            let views = [Some(&mut self.durable), Some(&mut self.device)];
            let cache = cached.then_some(&mut self.cache);
            for image in views.into_iter().chain([cache]).flatten() {
                let mut byte = [0];
                image.read(at, &mut byte);
                image.poke(at, &[byte[0] ^ bit]);
            }
            return true;
        }
        false
    }

    /// Replaces bytes everywhere, as if they had been durable all along.
    pub(super) fn poke(&mut self, at: usize, bytes: &[u8]) {
        for image in [&mut self.durable, &mut self.device, &mut self.cache] {
            image.poke(at, bytes);
        }
        for (i, byte) in bytes.iter().enumerate() {
            let (index, offset) = ((at + i) / BLOCK, (at + i) % BLOCK);
            for entry in &mut self.unsynced {
                let place = index.checked_sub(entry.first).and_then(|p| entry.pages.get_mut(p));
                if let Some((page, _)) = place {
                    let page = page.get_or_insert_with(|| Arc::new([0; BLOCK]));
                    Arc::make_mut(page)[offset] = *byte;
                }
            }
        }
    }

    /// Flips bits of one byte on the media and in every copy of it.
    pub(super) fn flip(&mut self, at: usize, mask: u8) {
        let mut byte = [0];
        for image in [&mut self.durable, &mut self.device, &mut self.cache] {
            image.read(at, &mut byte);
            image.poke(at, &[byte[0] ^ mask]);
        }
        for entry in &mut self.unsynced {
            let place = (at / BLOCK).checked_sub(entry.first);
            if let Some((page, _)) = place.and_then(|p| entry.pages.get_mut(p)) {
                let page = page.get_or_insert_with(|| Arc::new([0; BLOCK]));
                Arc::make_mut(page)[at % BLOCK] ^= mask;
            }
        }
    }
}
