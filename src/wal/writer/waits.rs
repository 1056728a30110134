//! Who waits until everything up to an LSN is durable, in the order of those.
//!
//! Invariants: each is answered once, by an answer or by being dropped; those whose ticket is gone
//! are let go of before their number doubles, so that callers who give up waiting fill no memory.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::lsn::Lsn;

use super::super::shared::Wait;

/// From so many on the abandoned ones are looked for.
const MANY: usize = 1024;

/// Those who wait, by LSN and by when they came.
pub(super) struct Waits {
    waiting: BTreeMap<(Lsn, u64), Wait>,
    came: u64,
    /// How many of them wait for a record that was there when they came.
    there: usize,
    /// At how many abandoned ones are looked for.
    prune_at: usize,
}

impl Waits {
    pub(super) fn new() -> Waits {
        Waits { waiting: BTreeMap::new(), came: 0, there: 0, prune_at: MANY }
    }

    pub(super) fn push(&mut self, wait: Wait) {
        if self.waiting.len() >= self.prune_at {
            self.waiting.retain(|_, wait| !wait.answer.is_abandoned());
            self.prune_at = MANY.max(2 * self.waiting.len());
            self.there = self.waiting.values().filter(|wait| wait.is_there).count();
        }
        self.came += 1;
        self.there += usize::from(wait.is_there);
        self.waiting.insert((wait.lsn, self.came), wait);
    }

    /// The greatest LSN up to `last` that anybody waits for.
    pub(super) fn greatest(&self, last: Lsn) -> Lsn {
        let mut wanted = self.waiting.range(..=(last, u64::MAX)).rev();
        let awaited = wanted.find(|(_, wait)| !wait.answer.is_abandoned());
        awaited.map_or(Lsn::NONE, |((lsn, _), _)| *lsn)
    }

    /// Answers those who wait for no more than `durable`.
    pub(super) fn answer_upto(&mut self, durable: Lsn) {
        while let Some(first) = self.waiting.first_entry().filter(|e| e.key().0 <= durable) {
            let wait = first.remove();
            self.there -= usize::from(wait.is_there);
            wait.answer.ok(durable);
        }
    }

    /// Fails those who wait for a record from `next` on that was there: it was cut.
    pub(super) fn fail_cut(&mut self, next: Lsn) {
        if self.there == 0 {
            return;
        }
        let beyond = self.waiting.range((next, 0)..);
        let cut: Vec<_> = beyond.filter(|(_, wait)| wait.is_there).map(|(key, _)| *key).collect();
        for key in cut {
            let Some(wait) = self.waiting.remove(&key) else { continue };
            self.there -= 1;
            let why = format!("record {} was cut meanwhile", wait.lsn);
            wait.answer.fail(Error::invalid("truncate_before", why));
        }
    }

    /// Fails all of them.
    pub(super) fn fail_all(&mut self, why: impl Fn(Lsn) -> Error) {
        self.there = 0;
        for ((lsn, _), wait) in std::mem::take(&mut self.waiting) {
            wait.answer.fail(why(lsn));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::ticket::{Ticket, pair};
    use super::*;
    use crate::error::ErrorKind;
    use crate::io::{Host, ThreadHost};

    fn wait(lsn: u64, is_there: bool) -> (Wait, Ticket<Lsn>) {
        let host: Arc<dyn Host> = Arc::new(ThreadHost::new());
        let (answer, ticket) = pair(&host, "test");
        (Wait { lsn: Lsn::new(lsn), answer, is_there }, ticket)
    }

    #[test]
    fn those_who_gave_up_fill_no_memory() {
        let mut waits = Waits::new();
        let (stays, mut ticket) = wait(7, true);
        waits.push(stays);
        for lsn in 0..4 * MANY as u64 {
            waits.push(wait(lsn + 1, true).0);
        }
        assert!(waits.waiting.len() <= MANY, "{} wait", waits.waiting.len());
        assert!(ticket.try_wait().is_none());
        waits.answer_upto(Lsn::new(7));
        assert_eq!(ticket.wait().unwrap(), Lsn::new(7));
    }

    #[test]
    fn each_is_answered_in_its_turn() {
        let mut waits = Waits::new();
        let (waiting, mut tickets): (Vec<_>, Vec<_>) =
            [(5, true), (3, true), (5, false), (9, true)]
                .map(|(lsn, there)| wait(lsn, there))
                .into_iter()
                .unzip();
        waiting.into_iter().for_each(|wait| waits.push(wait));
        assert_eq!(waits.greatest(Lsn::new(9)), Lsn::new(9));
        assert_eq!(waits.greatest(Lsn::new(8)), Lsn::new(5), "the ninth is not there yet");
        waits.answer_upto(Lsn::new(4));
        assert_eq!(tickets.remove(1).wait().unwrap(), Lsn::new(4));
        // Records 5 and 9 are cut; who waits for a fifth to come still does.
        waits.fail_cut(Lsn::new(5));
        assert_eq!(tickets.remove(2).wait().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(tickets.remove(0).wait().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(waits.greatest(Lsn::MAX), Lsn::new(5));
        waits.fail_all(|lsn| Error::invalid("test", lsn.to_string()));
        assert!(tickets.remove(0).wait().is_err());
        assert_eq!(waits.greatest(Lsn::MAX), Lsn::NONE);
    }
}
