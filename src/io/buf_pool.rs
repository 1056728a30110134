//! Free buffers by size class, so that a log in its stride allocates nothing.
//!
//! ```text
//! callers  --take--> encode a batch --> writer --> in flight --give--> pool
//! writer   --take--> gather a group -------------> in flight --give--> pool
//! ```
//!
//! Some of them are residents: the kernel knows their memory, a write from it costs less than half
//! the cycles. Invariants: a resident is handed out before any other buffer of its class, and is
//! never dropped by the pool; of the others each class keeps a bounded number of bytes; what is
//! handed out again is referred to by nobody else.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Buf;

/// Bytes of a buffer of each class. A batch of 1000 records of 100 bytes takes 106 KiB, a group
/// 512.
const CLASSES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];

/// Free buffers by size class.
///
/// - Shape: classes of 4, 16, 64, 128, 256 and 512 KiB and of 1 MiB; larger buffers are not kept.
/// - Units: each class keeps at most so many bytes as the pool was made with.
#[derive(Debug)]
pub struct BufPool {
    align: usize,
    kept_bytes: usize,
    classes: [Mutex<Class>; CLASSES.len()],
}

#[derive(Debug, Default)]
struct Class {
    /// Residents at the back, where they are taken from.
    free: VecDeque<Buf>,
    /// By the ids of their memory, in order.
    residents: Vec<u64>,
}

impl Class {
    fn give(&mut self, buf: Buf, most: usize) {
        if self.residents.binary_search(&buf.memory_id()).is_ok() {
            self.free.push_back(buf);
        } else if self.free.len() < most.max(self.residents.len()) {
            self.free.push_front(buf);
        }
    }
}

impl BufPool {
    /// An empty pool of buffers at multiples of `align`, of which each class keeps `kept_bytes`.
    pub fn new(align: usize, kept_bytes: usize) -> BufPool {
        let classes = std::array::from_fn(|_| Mutex::new(Class::default()));
        BufPool { align, kept_bytes, classes }
    }

    /// Makes these the residents, free to be handed out. Earlier ones are like any other from now
    /// on: the ring that knew them is gone.
    pub(crate) fn house(&self, residents: Vec<Buf>) {
        for class in 0..CLASSES.len() {
            let mut class = self.lock(class);
            class.free.clear();
            class.residents.clear();
        }
        for buf in residents {
            let class = class_of(buf.capacity()).expect("a resident fills its class");
            let mut class = self.lock(class);
            // Ids only rise.
            debug_assert!(class.residents.last().is_none_or(|last| *last < buf.memory_id()));
            class.residents.push(buf.memory_id());
            class.free.push_back(buf);
        }
    }

    /// A buffer of `len` bytes whose content is whatever its last user left: the caller writes all
    /// of it before it goes to disk.
    pub fn take(&self, len: usize) -> Buf {
        let Some(class) = CLASSES.iter().position(|&size| len <= size) else {
            return Buf::zeroed(len, self.align);
        };
        let kept = self.lock(class).free.pop_back();
        let mut buf = kept.unwrap_or_else(|| Buf::zeroed(CLASSES[class], self.align));
        buf.set_len(len);
        buf
    }

    /// Takes a buffer back. One that is still shared, or of no class, is dropped.
    pub fn give(&self, buf: Buf) {
        let Some(buf) = buf.whole() else { return };
        let Some(class) = class_of(buf.capacity()) else { return };
        self.lock(class).give(buf, self.kept_bytes / CLASSES[class]);
    }

    fn lock(&self, class: usize) -> MutexGuard<'_, Class> {
        self.classes[class].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class_of(capacity: usize) -> Option<usize> {
    CLASSES.iter().position(|&size| size == capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_hands_the_same_memory_out_again() {
        let pool = BufPool::new(4096, 1 << 20);
        let first = pool.take(5000);
        assert_eq!((first.len(), first.capacity()), (5000, 16 << 10));
        let same = first.clone();
        pool.give(first.slice(100, 10));
        let second = pool.take(6000);
        assert!(!second.same_memory(&same), "a shared buffer must not come back");
        drop(same);
        pool.give(second.clone());
        drop(first);
        pool.give(second);
        assert_eq!(pool.take(16 << 10).offset(), 0);
    }

    #[test]
    fn residents_come_first_and_are_never_dropped() {
        let pool = BufPool::new(4096, 256 << 10);
        let make = |count| (0..count).map(|_| Buf::zeroed(128 << 10, 4096)).collect::<Vec<_>>();
        let ids = |bufs: &[Buf]| bufs.iter().map(Buf::memory_id).collect::<Vec<_>>();
        let residents = make(3);
        let known = ids(&residents);
        pool.house(residents);
        for _ in 0..3 {
            // More are out at once than are kept; the others come back before the residents.
            let out: Vec<_> = (0..6).map(|_| pool.take(100_000)).collect();
            let mut first = ids(&out[..3]);
            first.sort_unstable();
            assert_eq!(first, known);
            out.into_iter().rev().for_each(|buf| pool.give(buf));
        }
        // After the next ring the old ones are like any other: what is out is not kept beyond.
        let old: Vec<_> = (0..3).map(|_| pool.take(100_000)).collect();
        let residents = make(2);
        let known = ids(&residents);
        pool.house(residents);
        old.into_iter().for_each(|buf| pool.give(buf));
        let out: Vec<_> = (0..4).map(|_| pool.take(100_000)).collect();
        let mut first = ids(&out[..2]);
        first.sort_unstable();
        assert_eq!(first, known);
    }
}
