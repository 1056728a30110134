//! The caller's half of an append: limits, room, and encoding, on the caller's own CPU.
//!
//! ```text
//! measure -> room (wait | Busy | await) -> encode (index, checksums, codec) -> queue
//! ```
//!
//! Invariants: nothing is queued on an error; room comes before memory, so memory is bounded; the
//! order in which batches are queued is the order of their LSNs.

use crate::cast::round_up;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{FRAME_HEADER_LEN, body_len};
use crate::lsn::{Lsn, LsnRange};
use crate::options::Durability;
use crate::segment::Geometry;

use super::metrics::add;
use super::records::{Records, measure};
use super::room::Grant;
use super::shared::{Asked, Pending, Shared};
use super::ticket::Ticket;

/// Waits for one append; see [`Wal::append_batch`](super::Wal::append_batch).
pub type Append = Ticket<LsnRange>;

/// Appends with one durability; made by [`Wal::with`](super::Wal::with).
#[derive(Clone, Copy)]
pub struct Appender<'a> {
    shared: &'a Shared,
    durability: Durability,
    expected: Option<Lsn>,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(shared: &'a Shared, durability: Durability) -> Appender<'a> {
        Appender { shared, durability, expected: None }
    }

    /// The same, for a batch that belongs at `expected` or nowhere.
    ///
    /// # Errors
    /// Of the ticket, besides those of an append: `Invalid` if the next record was another one when
    /// the batch's turn came; the log is as if it had never been asked.
    #[must_use]
    pub fn at(mut self, expected: Lsn) -> Appender<'a> {
        self.expected = Some(expected);
        self
    }

    /// As [`Wal::append_batch`](super::Wal::append_batch), with this durability.
    ///
    /// # Errors
    /// `Invalid`, `Poisoned`, `Closed`: nothing was queued.
    pub fn append_batch(&self, records: impl Records) -> Result<Append> {
        let (size, called_ns) = self.call(&records)?;
        let (grant, roomed_ns) = match self.counted(self.shared.room.try_take(size.frame))? {
            Some(grant) => (grant, called_ns),
            None => {
                let grant = self.counted(self.shared.room.take(size.frame).wait())?;
                (grant, self.shared.now_ns())
            }
        };
        Ok(self.queue(&records, size, grant, Asked { called_ns, roomed_ns }))
    }

    /// As [`Wal::try_append_batch`](super::Wal::try_append_batch), with this durability.
    ///
    /// # Errors
    /// `Busy`, `Invalid`, `Poisoned`, `Closed`: nothing was queued.
    pub fn try_append_batch(&self, records: impl Records) -> Result<Append> {
        let (size, called_ns) = self.call(&records)?;
        match self.counted(self.shared.room.try_take(size.frame))? {
            Some(grant) => {
                Ok(self.queue(&records, size, grant, Asked { called_ns, roomed_ns: called_ns }))
            }
            None => {
                add(&self.shared.meters.busy, 1);
                let why = "the queue is full; nothing was queued, try again";
                Err(Error::new(ErrorKind::Busy, "append", why))
            }
        }
    }

    /// As [`Wal::append_batch_async`](super::Wal::append_batch_async), with this durability.
    ///
    /// # Errors
    /// `Invalid`, `Poisoned`, `Closed`: nothing was queued.
    pub async fn append_batch_async(&self, records: impl Records) -> Result<Append> {
        let (size, called_ns) = self.call(&records)?;
        let (grant, roomed_ns) = match self.counted(self.shared.room.try_take(size.frame))? {
            Some(grant) => (grant, called_ns),
            None => {
                let grant = self.counted(self.shared.room.take(size.frame).await)?;
                (grant, self.shared.now_ns())
            }
        };
        Ok(self.queue(&records, size, grant, Asked { called_ns, roomed_ns }))
    }

    /// What a call asks for, if it may, and when it came.
    fn call(&self, records: &impl Records) -> Result<(Size, u64)> {
        Ok((self.counted(self.measure(records))?, self.shared.now_ns()))
    }

    /// Counts a refusal.
    fn counted<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|_| add(&self.shared.meters.refused, 1))
    }

    fn measure(&self, records: &impl Records) -> Result<Size> {
        self.shared.check_writable("append")?;
        let record_bytes = measure(records)?;
        let frame = FRAME_HEADER_LEN + body_len(record_bytes, records.count());
        let size = self.shared.config.segment_bytes;
        let capacity = Geometry { size, block: self.shared.block }.capacity();
        if round_up(frame as u64, self.shared.block) > capacity {
            let why = format!(
                "the batch needs {frame} bytes and a segment holds {capacity}; split the batch or \
                 raise segment_bytes"
            );
            return Err(Error::invalid("append", why));
        }
        Ok(Size { record_bytes, frame })
    }

    fn queue(&self, records: &impl Records, size: Size, grant: Grant, asked: Asked) -> Append {
        let raw_len = size.frame - FRAME_HEADER_LEN;
        let Shared { encoder, pool, .. } = self.shared;
        let encoded = encoder.encode(pool, records, size.record_bytes, raw_len);
        let (answer, ticket) = self.shared.tickets.pair("append");
        self.shared.send(Pending {
            encoded,
            record_bytes: size.record_bytes as u64,
            durability: self.durability,
            expected: self.expected,
            answer,
            grant,
            asked,
        });
        ticket
    }
}

impl std::fmt::Debug for Appender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Appender({:?}, at {:?})", self.durability, self.expected)
    }
}

#[derive(Clone, Copy)]
struct Size {
    record_bytes: usize,
    /// Of the whole frame, uncompressed: what room is taken for and what a segment has to hold.
    frame: usize,
}
