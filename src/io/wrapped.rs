//! A queue around another one, for tests: as a user of a disk of one's own may have it, or slow.

use std::io;
use std::task::Waker;
use std::time::Duration;

use super::{Completion, FileRef, Op, OpId, Queue, Until};

pub(crate) struct Wrapped {
    pub(crate) queue: Box<dyn Queue>,
    /// So much later each request is passed on.
    pub(crate) late: Duration,
}

impl Queue for Wrapped {
    fn submit(&mut self, op: Op) -> OpId {
        std::thread::sleep(self.late);
        self.queue.submit(op)
    }

    fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
        self.queue.reap(out, until)
    }

    fn waker(&self) -> Waker {
        self.queue.waker()
    }

    fn release(&mut self, file: &FileRef) {
        self.queue.release(file);
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
}
