//! One view of a file's bytes: a sparse list of blocks that views share until they differ.
//!
//! ```text
//! Image  [ none | Arc | Arc | none | ... ]      none: zeros, also beyond the list
//!                  |     |
//! other views ----+     +-- copied when a sector of it is replaced
//! ```
//!
//! Invariant: an all-zero block that was written whole is `None`, so that writing zeros over a
//! fresh file costs nothing but the look at them.

use std::sync::Arc;

/// The unit of requests, bytes.
pub(super) const BLOCK: usize = 4096;
/// The unit that a device writes whole, bytes; a block has one per bit of a mask.
const SECTOR: usize = 512;
/// The mask of a whole block.
pub(super) const ALL: u8 = 0xff;

const _: () = assert!(BLOCK / SECTOR == u8::BITS as usize);

/// The content of one block; none stands for zeros.
pub(super) type Page = Option<Arc<[u8; BLOCK]>>;

/// What most of a fresh file is: compared with in one call, which costs the same in every build.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A block of `bytes`, filled up with zeros.
pub(super) fn page_of(bytes: &[u8]) -> Page {
    if *bytes == ZEROS[..bytes.len()] {
        return None;
    }
    let mut page = Arc::new([0; BLOCK]);
    Arc::make_mut(&mut page)[..bytes.len()].copy_from_slice(bytes);
    Some(page)
}

/// Replaces the sectors in `mask` of one block by those of another.
pub(super) fn merge(under: &mut Page, over: &Page, mask: u8) {
    match (&*under, over) {
        (None, None) => return,
        _ if mask == 0 => return,
        _ if mask == ALL => return under.clone_from(over),
        _ => {}
    }
    let target = Arc::make_mut(under.get_or_insert_with(|| Arc::new([0; BLOCK])));
    for sector in (0..BLOCK / SECTOR).filter(|s| mask >> s & 1 == 1) {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        match over {
            Some(over) => target[range.clone()].copy_from_slice(&over[range]),
            None => target[range].fill(0),
        }
    }
}

/// Whether the sectors in `mask` are the same in both.
pub(super) fn same(a: &Page, b: &Page, mask: u8) -> bool {
    let sector = |page: &Page, s: usize| match page {
        Some(page) => page[s * SECTOR..(s + 1) * SECTOR] == ZEROS[..SECTOR],
        None => true,
    };
    let mut sectors = (0..BLOCK / SECTOR).filter(|s| mask >> s & 1 == 1);
    sectors.all(|s| match (a, b) {
        (Some(a), Some(b)) => a[s * SECTOR..(s + 1) * SECTOR] == b[s * SECTOR..(s + 1) * SECTOR],
        _ => sector(a, s) && sector(b, s),
    })
}

/// All blocks of a file, as one observer sees them.
#[derive(Clone, Debug, Default)]
pub(super) struct Image(Vec<Page>);

impl Image {
    /// A file that holds these bytes.
    pub(super) fn of(bytes: &[u8]) -> Image {
        Image(bytes.chunks(BLOCK).map(page_of).collect())
    }

    /// Block `index`.
    pub(super) fn page(&self, index: usize) -> Page {
        self.0.get(index).cloned().flatten()
    }

    /// Replaces the sectors in `mask` of block `index`.
    pub(super) fn set(&mut self, index: usize, page: &Page, mask: u8) {
        if self.0.len() <= index {
            if page.is_none() {
                return;
            }
            self.0.resize(index + 1, None);
        }
        merge(&mut self.0[index], page, mask);
    }

    /// Replaces block `index` whole.
    pub(super) fn put(&mut self, index: usize, page: Page) {
        self.set(index, &page, ALL);
    }

    /// How many blocks it lists: all beyond are zeros.
    pub(super) fn blocks(&self) -> usize {
        self.0.len()
    }

    /// Replaces single bytes from `at` on.
    pub(super) fn poke(&mut self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (index, offset) = ((at + i) / BLOCK, (at + i) % BLOCK);
            if self.0.len() <= index {
                self.0.resize(index + 1, None);
            }
            let page = self.0[index].get_or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(page)[offset] = *byte;
        }
    }

    /// Copies the bytes from `at` on.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let (index, offset) = ((at + done) / BLOCK, (at + done) % BLOCK);
            let len = (BLOCK - offset).min(out.len() - done);
            let target = &mut out[done..done + len];
            match self.0.get(index).and_then(Option::as_ref) {
                Some(page) => target.copy_from_slice(&page[offset..offset + len]),
                None => target.fill(0),
            }
            done += len;
        }
    }

    /// The first `size` bytes.
    pub(super) fn bytes(&self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let page = self.0.get(bytes.len() / BLOCK).and_then(Option::as_deref);
            let len = BLOCK.min(size - bytes.len());
            bytes.extend_from_slice(&page.unwrap_or(&ZEROS)[..len]);
        }
        bytes
    }

    /// Cuts at `size` bytes: what is beyond reads as zeros.
    pub(super) fn cut(&mut self, size: usize) {
        self.0.truncate(size.div_ceil(BLOCK));
        let inside = size % BLOCK;
        if let (1.., Some(Some(last))) = (inside, self.0.get_mut(size / BLOCK)) {
            Arc::make_mut(last)[inside..].fill(0);
        }
    }
}
