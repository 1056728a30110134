//! Faults that say nothing: bytes that land elsewhere, come from elsewhere, are old, or rot.
//!
//! ```text
//! write --misdirected--> another place of this or another file; the right one keeps what it had
//! read  --misdirected--> one block from another place
//!       --stale--------> sectors of one block as they were before they were last synced
//! any completion --rot-> one bit of a synced block, for good
//! ```
//!
//! Each that made a difference is counted by [`Sim::corruptions`](super::Sim::corruptions), so that
//! a test knows when to expect damage.

use super::image::{BLOCK, Image, merge};
use super::met::FaultClass;
use super::state::State;
use crate::cast;

/// A place in a file, for a whole number of blocks.
pub(super) type Place = (u64, u64);

impl State {
    /// Where a write of `len` bytes goes.
    pub(super) fn landing_place(&mut self, right: Place, len: usize) -> Place {
        let rate = self.faults.misdirected_write;
        // One that makes the file grow goes where it should.
        let inside = right.1 + len as u64 <= self.inodes[&right.0].size;
        if !inside || !self.rng.chance(rate) {
            return right;
        }
        let place = self.elsewhere(right, len as u64);
        self.note_wrong(FaultClass::Misdirected, place != right);
        place
    }

    /// Another place: a neighbour, the same offset of another file, or anywhere.
    fn elsewhere(&mut self, right: Place, len: u64) -> Place {
        let block = BLOCK as u64;
        let near = self.rng.chance(500);
        let fits = self.inodes.iter().filter(|(_, inode)| inode.size >= len && !near);
        let files: Vec<u64> = fits.map(|(id, _)| *id).collect();
        let file = if near { right.0 } else { self.rng.pick_or(&files, right.0) };
        let last = self.inodes[&file].size.saturating_sub(len) / block;
        let here = right.1 / block;
        let at = match self.rng.below(3) {
            0 if near => here + 1,
            _ if near => (here + 8).saturating_sub(self.rng.below(17)),
            0 => self.rng.below(last + 1),
            _ => here,
        };
        (file, at.min(last) * block)
    }

    /// Spoils what was read from `at` on, if that is drawn.
    pub(super) fn spoil(&mut self, inode: u64, at: u64, out: &mut [u8]) {
        if self.rng.chance(self.faults.misdirected_read) && !out.is_empty() {
            let index = self.block_of(at, out.len());
            let right = (inode, index as u64 * BLOCK as u64);
            let (file, from) = self.elsewhere(right, BLOCK as u64);
            let (page, _) = self.inodes[&file].versions(cast::len(from) / BLOCK);
            self.replace(FaultClass::Misdirected, index, &page, (at, out));
        }
        if self.rng.chance(self.faults.stale_read) && !out.is_empty() {
            let index = self.block_of(at, out.len());
            let (mut page, old) = self.inodes[&inode].versions(index);
            let whole = self.model.whole_blocks || self.rng.chance(500);
            let mask = if whole { super::image::ALL } else { self.rng.bits().to_le_bytes()[7] };
            merge(&mut page, &old, mask);
            self.replace(FaultClass::Stale, index, &page, (at, out));
        }
    }

    /// One of the blocks that `len` bytes from `at` on touch.
    fn block_of(&mut self, at: u64, len: usize) -> usize {
        let (first, end) = (cast::len(at) / BLOCK, cast::len(at) + len);
        first + self.rng.index(end.div_ceil(BLOCK) - first)
    }

    /// Puts block `index` into what was read from `at` on.
    fn replace(
        &mut self,
        class: FaultClass,
        index: usize,
        page: &super::image::Page,
        (at, out): (u64, &mut [u8]),
    ) {
        let mut image = Image::default();
        image.put(0, page.clone());
        let (at, start) = (cast::len(at), index * BLOCK);
        let (from, to) = (start.max(at), (start + BLOCK).min(at + out.len()));
        let mut bytes = vec![0; to - from];
        image.read(from - start, &mut bytes);
        let target = &mut out[from - at..to - at];
        self.note_wrong(class, *target != *bytes);
        target.copy_from_slice(&bytes);
    }

    /// Lets a bit turn over, if that is drawn.
    pub(super) fn age(&mut self) {
        if !self.rng.chance(self.faults.rot) {
            return;
        }
        let ids: Vec<u64> = self.inodes.keys().copied().collect();
        let Some(id) = ids.get(self.rng.index(ids.len())) else { return };
        let inode = self.inodes.get_mut(id).expect("listed just now");
        let rotten = inode.rot(&mut self.rng);
        self.note_wrong(FaultClass::Rot, rotten);
    }

    fn note_wrong(&mut self, class: FaultClass, is_met: bool) {
        self.corruptions += u64::from(is_met);
        self.met.note_if(class, is_met);
    }
}
