//! A buffer lent to the runtime tokio-uring, which asks for these traits of memory it refers to.
//!
//! A type of its own, so that the runtime is no part of the crate's public face.

use tokio_uring::buf::{IoBuf, IoBufMut};

use super::Buf;

/// A buffer in a request; whoever is to write to it has the only handle.
pub(in crate::io) struct Lent(Buf);

impl Lent {
    /// For a request that reads from it.
    pub(in crate::io) fn to_be_read(buf: Buf) -> Lent {
        Lent(buf)
    }

    /// For a request that writes to it; gives it back if somebody else has a handle to its memory.
    pub(in crate::io) fn to_be_written(mut buf: Buf) -> Result<Lent, Buf> {
        if buf.bytes_mut().is_some() { Ok(Lent(buf)) } else { Err(buf) }
    }

    pub(in crate::io) fn into_buf(self) -> Buf {
        self.0
    }
}

// SAFETY: `stable_ptr` gives `len` initialised bytes in an allocation that neither moving this
// handle nor other handles change: changing takes the only one.
#[expect(unsafe_code, reason = "the runtime's trait for memory it may refer to")]
unsafe impl IoBuf for Lent {
    fn stable_ptr(&self) -> *const u8 {
        self.0.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len
    }

    fn bytes_total(&self) -> usize {
        self.0.len
    }
}

// SAFETY: the pointer is given only while there is no other handle, and nobody can make one while
// this one is in a request; all of the memory is initialised.
#[expect(unsafe_code, reason = "the runtime's trait for memory it may refer to")]
unsafe impl IoBufMut for Lent {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.bytes_mut().expect("there is no other handle").as_mut_ptr()
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn set_init(&mut self, _: usize) {}
}
