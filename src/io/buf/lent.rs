//! Buffers lent to the runtime tokio-uring, which asks for these traits of memory it refers to.

use tokio_uring::buf::{IoBuf, IoBufMut};

use super::Buf;

// SAFETY: `stable_ptr` gives `len` initialised bytes in an allocation that neither moving the
// handle nor other handles change: `bytes_mut` needs the only one, and that is the request's.
#[expect(unsafe_code, reason = "the runtime's trait for memory it may refer to")]
unsafe impl IoBuf for Buf {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }

    fn bytes_total(&self) -> usize {
        self.len
    }
}

/// A buffer of which there is no other handle: memory that a runtime may write to.
pub(in crate::io) struct Alone(Buf);

impl Alone {
    /// Gives the buffer back if somebody else has a handle to its memory.
    pub(in crate::io) fn new(mut buf: Buf) -> Result<Alone, Buf> {
        if buf.bytes_mut().is_some() { Ok(Alone(buf)) } else { Err(buf) }
    }

    pub(in crate::io) fn into_buf(self) -> Buf {
        self.0
    }
}

// SAFETY: as for `Buf`, whose handle it holds.
#[expect(unsafe_code, reason = "the runtime's trait for memory it may refer to")]
unsafe impl IoBuf for Alone {
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

// SAFETY: there is no other handle, seen by `new`, and nobody can make one while this one is in a
// request; all of the memory is initialised.
#[expect(unsafe_code, reason = "the runtime's trait for memory it may refer to")]
unsafe impl IoBufMut for Alone {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.bytes_mut().expect("there is no other handle").as_mut_ptr()
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn set_init(&mut self, _: usize) {}
}
