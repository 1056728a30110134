//! Aligned memory that requests carry: allocated once, used again, shared while it is written.
//!
//! A `Buf` is a window into reference-counted memory. Many may read it at once (the pieces of one
//! large write are windows of one buffer); it can be changed only through the one handle that is
//! left. A buffer whose request can't be reaped is leaked by its queue, never freed.
//!
//! Invariants: the memory is `len` bytes at an address that is a multiple of `align`, zeroed when
//! allocated; `start + len` never exceeds it; `&mut` exists only while the count is one; its id is
//! never given to other memory, also not to later memory at the same address.
//!
//! Also here, for the unsafe they take: [`ForkGuard`], which tells a forked child without a system
//! call, and the size of a page.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
mod lent;

#[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
pub(super) use lent::Lent;

struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    /// Owns the bytes if the allocator does not.
    mapping: Option<MmapMut>,
    id: u64,
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
        Memory { start, layout, mapping: None, id: Memory::next_id() }
    }

    /// Like `zeroed`, of pages that take no memory until they are touched.
    fn mapped(len: usize, align: usize) -> Memory {
        let mapping = if align <= page_size() { MmapMut::map_anon(len).ok() } else { None };
        let Some(mut mapping) = mapping else { return Memory::zeroed(len, align) };
        let layout = Layout::from_size_align(len, align).expect("a power of two, checked by Buf");
        let start = NonNull::from(&mut mapping[..]).cast();
        Memory { start, layout, mapping: Some(mapping), id: Memory::next_id() }
    }

    fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // A counter: only its distinctness matters.
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `layout.size()` initialised bytes that live as long as self;
        // nobody changes them while a shared reference exists.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size())
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is the only reference.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size())
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapping.is_some() {
            return;
        }
        // SAFETY: allocated in `zeroed` with this very layout, freed only here.
        #[expect(unsafe_code, reason = "raw allocation")]
        unsafe {
            dealloc(self.start.as_ptr(), self.layout);
        }
    }
}

/// A window into aligned, reference-counted memory.
#[derive(Clone)]
pub struct Buf {
    memory: Arc<Memory>,
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
        Buf { memory: Arc::new(Memory::zeroed(len, align)), start: 0, len }
    }

    /// The same of pages that take no memory until they are touched: for what is large, made once
    /// and perhaps never used whole. Each is a mapping of its own.
    ///
    /// # Panics
    /// If `len` is zero or `align` is not a power of two.
    pub fn mapped(len: usize, align: usize) -> Buf {
        assert!(align.is_power_of_two());
        assert!(len > 0);
        Buf { memory: Arc::new(Memory::mapped(len, align)), start: 0, len }
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
        self.memory.layout.size() - self.start
    }

    /// The bytes in the window.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.start..self.start + self.len]
    }

    /// The bytes in the window, to change; none while another window into this memory exists.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let (start, end) = (self.start, self.start + self.len);
        Arc::get_mut(&mut self.memory).map(|m| &mut m.bytes_mut()[start..end])
    }

    /// A narrower window, `len` bytes from `from` on, into the same memory.
    ///
    /// # Panics
    /// If it does not lie in this one.
    #[must_use]
    pub fn slice(&self, from: usize, len: usize) -> Buf {
        assert!(from <= self.len);
        assert!(len <= self.len - from);
        Buf { memory: Arc::clone(&self.memory), start: self.start + from, len }
    }

    /// Makes the window `len` bytes long from the same start.
    ///
    /// # Panics
    /// If the memory is not that large.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity());
        self.len = len;
    }

    /// What the memory's address is a multiple of: the block of the disk it was made for.
    pub fn align(&self) -> usize {
        self.memory.layout.align()
    }

    /// The window over all of the memory; none while another handle to it exists.
    pub(super) fn whole(mut self) -> Option<Buf> {
        Arc::get_mut(&mut self.memory)?;
        let len = self.memory.layout.size();
        Some(Buf { start: 0, len, ..self })
    }

    /// Whether both are windows into the same memory.
    pub fn same_memory(&self, other: &Buf) -> bool {
        self.memory.id == other.memory.id
    }

    /// Names the memory for as long as the process lives: a ring that announced it to the kernel
    /// can't hold a handle, which would forbid all change.
    pub(crate) fn memory_id(&self) -> u64 {
        self.memory.id
    }

    /// The whole memory: where it starts and its length.
    #[cfg(all(target_os = "linux", not(prkdb_portable)))]
    pub(super) fn memory_range(&self) -> (*mut u8, usize) {
        (self.memory.start.as_ptr(), self.memory.layout.size())
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

/// The size of a page, bytes.
pub(super) fn page_size() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    #[expect(unsafe_code, reason = "no safe way to ask")]
    let size = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|n| n.is_power_of_two()).unwrap_or(4096)
}

/// Remembers the process it was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkGuard {
    /// The mark this process bears.
    mark: u64,
}

impl ForkGuard {
    /// A guard of the calling process.
    pub(crate) fn new() -> ForkGuard {
        ForkGuard { mark: mark() }
    }

    /// Whether this is a child that was forked after the guard was made.
    pub(crate) fn is_child(&self) -> bool {
        mark() != self.mark
    }
}

/// A number that a process keeps and none of its forked children bears: kept in a page that the
/// kernel wipes in the child, which then draws the next one.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn mark() -> u64 {
    static PAGE: std::sync::OnceLock<Option<&'static AtomicU64>> = std::sync::OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let Some(page) = PAGE.get_or_init(wiped_on_fork) else { return std::process::id().into() };
    // Relaxed: a forked child has one thread, and the mark stands for nothing but itself.
    match page.load(Ordering::Relaxed) {
        0 => {
            let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
            match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => fresh,
                Err(other) => other,
            }
        }
        mark => mark,
    }
}

#[cfg(not(all(target_os = "linux", not(prkdb_portable))))]
fn mark() -> u64 {
    std::process::id().into()
}

/// A page of zeros that a forked child finds zero again; none on kernels before 4.14.
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
fn wiped_on_fork() -> Option<&'static AtomicU64> {
    use nix::libc::{
        MADV_WIPEONFORK, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE,
    };
    let (size, prot) = (page_size(), PROT_READ | PROT_WRITE);
    // SAFETY: a new anonymous mapping touches no memory that exists.
    #[expect(unsafe_code, reason = "the allocator can't promise a page of its own")]
    let page = unsafe {
        nix::libc::mmap(std::ptr::null_mut(), size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    };
    if page == MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping made above, all of it.
    #[expect(unsafe_code, reason = "no safe way to ask")]
    if unsafe { nix::libc::madvise(page, size, MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above, and nothing refers to it.
        #[expect(unsafe_code, reason = "gives the page back")]
        unsafe {
            nix::libc::munmap(page, size);
        }
        return None;
    }
    // SAFETY: zeroed, aligned to a page, never unmapped from here on, only used as this atomic.
    #[expect(unsafe_code, reason = "the page lives outside the allocator")]
    Some(unsafe { &*page.cast::<AtomicU64>() })
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
    fn mapped_memory_is_like_any_other() {
        let align = page_size();
        let mut buf = Buf::mapped(3 * align, align);
        assert_eq!((buf.len(), buf.capacity(), buf.align()), (3 * align, 3 * align, align));
        assert!(buf.bytes().iter().all(|b| *b == 0));
        assert_eq!(buf.bytes().as_ptr().align_offset(align), 0);
        buf.bytes_mut().unwrap()[3 * align - 1] = 1;
        let last = buf.slice(3 * align - 1, 1);
        drop(buf);
        assert_eq!(last.bytes(), [1]);
        // More than a mapping gives.
        let apart = Buf::mapped(align, 4 * align);
        assert_eq!(apart.bytes().as_ptr().align_offset(4 * align), 0);
    }

    #[test]
    fn a_forked_child_is_told_from_its_parent_and_may_begin_anew() {
        let guard = ForkGuard::new();
        assert!(!guard.is_child());
        // SAFETY: the child only reads and writes atomics and then leaves by `_exit`.
        #[expect(unsafe_code, reason = "a fork is what is tested")]
        let child = unsafe { nix::libc::fork() };
        if child == 0 {
            let fine = guard.is_child() && !ForkGuard::new().is_child();
            // SAFETY: ends the process without running what the parent registered.
            #[expect(unsafe_code, reason = "a forked test must not return")]
            unsafe {
                nix::libc::_exit(if fine { 0 } else { 1 });
            }
        }
        assert!(child > 0);
        let mut status = -1;
        // SAFETY: `status` is a valid place for the answer.
        #[expect(unsafe_code, reason = "waits for the child")]
        let waited = unsafe { nix::libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(!guard.is_child());
    }
}
