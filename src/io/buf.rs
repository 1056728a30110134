//! Aligned memory that requests carry: allocated once, pooled, shared while a write is in flight.
//!
//! A `Buf` is a window into reference-counted memory. Many may read it at once (the pieces of one
//! large write are windows of one buffer); it can be changed only through the one handle that is
//! left. A buffer whose request can't be reaped is leaked by its queue, never freed.
//!
//! Invariants: the memory is `len` bytes at an address that is a multiple of `align`, zeroed when
//! allocated; `start + len` never exceeds it; `&mut` exists only while the count is one.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` owns its allocation alone and holds no thread-bound state.
#[expect(unsafe_code, reason = "raw allocation")]
unsafe impl Send for Memory {}
// SAFETY: through `&Memory` the bytes are only read; changing them takes `&mut Memory`.
#[expect(unsafe_code, reason = "raw allocation")]
unsafe impl Sync for Memory {}

impl Memory {
    fn zeroed(len: usize, align: usize) -> Memory {
        assert!(len > 0);
        let layout = Layout::from_size_align(len, align).expect("a power of two, checked by Buf");
        // SAFETY: the layout's size is not zero, asserted above.
        #[expect(unsafe_code, reason = "the standard collections can't align")]
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Memory { start, layout }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `layout.size()` initialised bytes that live as long as self;
        // they change only through the `&mut Shared` that no other window then exists beside.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size())
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, freed only here.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            dealloc(self.start.as_ptr(), self.layout);
        }
    }
}

/// Keeps a buffer's memory where it is, without a way to its bytes: what a queue holds of the
/// buffers it registered with the kernel.
#[derive(Clone)]
pub struct KeepAlive(Arc<Memory>);

impl KeepAlive {
    /// The address of the memory's first byte.
    pub fn address(&self) -> usize {
        self.0.start.as_ptr().addr()
    }

    /// The size of the memory, bytes.
    pub fn size(&self) -> usize {
        self.0.layout.size()
    }
}

/// What the windows into one piece of memory share; the count of *this* decides who may write.
struct Shared {
    memory: Arc<Memory>,
}

impl Shared {
    fn bytes_mut(&mut self) -> &mut [u8] {
        let memory = &self.memory;
        // SAFETY: the bytes are initialised and live as long as `memory`; `&mut self` is the only
        // way to them, for a `KeepAlive` has none.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            std::slice::from_raw_parts_mut(memory.start.as_ptr(), memory.layout.size())
        }
    }
}

/// A window into aligned, reference-counted memory.
#[derive(Clone)]
pub struct Buf {
    shared: Arc<Shared>,
    start: usize,
    len: usize,
}

impl Buf {
    /// Zeroed memory of `len` bytes at a multiple of `align`.
    ///
    /// # Panics
    /// If `len` is zero or `align` is not a power of two.
    pub fn zeroed(len: usize, align: usize) -> Buf {
        assert!(align.is_power_of_two());
        let memory = Arc::new(Memory::zeroed(len, align));
        Buf { shared: Arc::new(Shared { memory }), start: 0, len }
    }

    /// The window's length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How large the window could be made from its start.
    pub fn capacity(&self) -> usize {
        self.shared.memory.layout.size() - self.start
    }

    /// The bytes in the window.
    pub fn bytes(&self) -> &[u8] {
        &self.shared.memory.bytes()[self.start..self.start + self.len]
    }

    /// The bytes in the window, to change; none while another window into this memory exists.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let (start, end) = (self.start, self.start + self.len);
        let shared = Arc::get_mut(&mut self.shared)?;
        Some(&mut shared.bytes_mut()[start..end])
    }

    /// A narrower window, `len` bytes from `from` on, into the same memory.
    ///
    /// # Panics
    /// If it does not lie in this one.
    #[must_use]
    pub fn slice(&self, from: usize, len: usize) -> Buf {
        assert!(from <= self.len);
        assert!(len <= self.len - from);
        Buf { shared: Arc::clone(&self.shared), start: self.start + from, len }
    }

    /// Makes the window `len` bytes long from the same start.
    ///
    /// # Panics
    /// If the memory is not that large.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity());
        self.len = len;
    }

    /// Whether both are windows into the same memory.
    pub fn same_memory(&self, other: &Buf) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Something that keeps the memory alive and leaves the right to change it here.
    pub fn keep_alive(&self) -> KeepAlive {
        KeepAlive(Arc::clone(&self.shared.memory))
    }

    /// The address of the memory's first byte, whatever the window.
    pub fn address(&self) -> usize {
        self.shared.memory.start.as_ptr().addr()
    }

    /// The window's distance from the start of its memory, bytes.
    pub fn offset(&self) -> usize {
        self.start
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({}+{})", self.start, self.len)
    }
}

/// Free buffers by size class, so that a log in its stride allocates nothing.
///
/// - Shape: classes of 4 KiB, 16 KiB, 64 KiB, 256 KiB and 1 MiB; larger buffers are not kept.
/// - Units: each class keeps at most 4 MiB, or 256 buffers.
#[derive(Debug)]
pub struct BufPool {
    align: usize,
    classes: [Mutex<Vec<Buf>>; CLASSES.len()],
}

const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
const CLASS_BYTES: usize = 4 << 20;
const CLASS_COUNT: usize = 256;

impl BufPool {
    /// An empty pool of buffers at multiples of `align`.
    pub fn new(align: usize) -> BufPool {
        BufPool { align, classes: std::array::from_fn(|_| Mutex::new(Vec::new())) }
    }

    /// A buffer of `len` bytes whose content is whatever its last user left: the caller writes all
    /// of it before it goes to disk.
    pub fn take(&self, len: usize) -> Buf {
        let Some(class) = CLASSES.iter().position(|&size| len <= size) else {
            return Buf::zeroed(len, self.align);
        };
        let kept = self.classes[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buf = kept.unwrap_or_else(|| Buf::zeroed(CLASSES[class], self.align));
        buf.set_len(len);
        buf
    }

    /// Takes a buffer back. One that is still shared, or of no class, is dropped.
    pub fn give(&self, mut buf: Buf) {
        buf.start = 0;
        if Arc::get_mut(&mut buf.shared).is_none() {
            return;
        }
        let size = buf.capacity();
        let Some(class) = CLASSES.iter().position(|&c| c == size) else { return };
        let mut free = self.classes[class].lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < (CLASS_BYTES / size).min(CLASS_COUNT) {
            free.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_cannot_be_changed() {
        let mut buf = Buf::zeroed(8192, 4096);
        assert!(buf.bytes_mut().is_some());
        let piece = buf.slice(4096, 4096);
        assert!(buf.bytes_mut().is_none());
        drop(piece);
        assert!(buf.bytes_mut().is_some());
        assert_eq!(buf.bytes().as_ptr().align_offset(4096), 0);
    }

    #[test]
    fn the_pool_hands_the_same_memory_out_again() {
        let pool = BufPool::new(4096);
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
}
