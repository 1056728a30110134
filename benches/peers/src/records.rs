//! Records that tell who wrote them, and the check that none is missing, changed or out of place.
//!
//! ```text
//! | caller, number | noise of its place in the batch | the same, inverted |
//!     8 bytes                                            8 bytes
//! ```
//!
//! A caller's numbers rise by one, so what a log gives back is compared with what was acknowledged
//! by counting: per caller, each number in its turn, up to the last.

use prkdb_core::Records;

use crate::workload::Workload;
use crate::yardstick::noise;

const STAMP: usize = 8;
const CALLER_SHIFT: u32 = 48;

/// A batch as adapters get it: records of one size behind each other.
#[derive(Clone, Copy, Debug)]
pub struct Flat<'a> {
    bytes: &'a [u8],
    record_bytes: usize,
}

impl<'a> Flat<'a> {
    /// Its records.
    pub fn iter(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.record_bytes)
    }
}

impl Records for Flat<'_> {
    fn count(&self) -> usize {
        self.bytes.len() / self.record_bytes
    }

    fn record(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.record_bytes..][..self.record_bytes]
    }
}

/// The batches of one caller, made in one buffer.
#[derive(Debug)]
pub struct Stamped {
    bytes: Vec<u8>,
    record_bytes: usize,
    caller: u64,
    next: u64,
}

impl Stamped {
    /// Batches of `caller`, numbered from 0.
    pub fn new(workload: &Workload, caller: usize) -> Stamped {
        let bytes = body(workload);
        Stamped { bytes, record_bytes: workload.record_bytes, caller: caller as u64, next: 0 }
    }

    /// The next batch.
    pub fn batch(&mut self) -> Flat<'_> {
        for record in self.bytes.chunks_exact_mut(self.record_bytes) {
            let id = self.caller << CALLER_SHIFT | self.next;
            record[..STAMP].copy_from_slice(&id.to_le_bytes());
            record[self.record_bytes - STAMP..].copy_from_slice(&(!id).to_le_bytes());
            self.next += 1;
        }
        Flat { bytes: &self.bytes, record_bytes: self.record_bytes }
    }

    /// How many records were made.
    pub fn count(&self) -> u64 {
        self.next
    }
}

fn body(workload: &Workload) -> Vec<u8> {
    let mut bytes = vec![0; workload.batch_bytes()];
    noise(&mut bytes);
    bytes
}

fn stamp(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The number of a record among its caller's.
pub fn number_of(record: &[u8]) -> u64 {
    stamp(&record[..STAMP]) & ((1 << CALLER_SHIFT) - 1)
}

/// Compares what a log gives back with what was acknowledged.
#[derive(Debug)]
pub struct Checker {
    body: Vec<u8>,
    record_bytes: usize,
    acked: Vec<u64>,
    next: Vec<u64>,
    flaw: Option<String>,
}

impl Checker {
    /// Expects so many records of each caller.
    pub fn new(workload: &Workload, acked: Vec<u64>) -> Checker {
        let next = vec![0; acked.len()];
        let record_bytes = workload.record_bytes;
        Checker { body: body(workload), record_bytes, acked, next, flaw: None }
    }

    /// Takes the next record that the log gives back.
    pub fn take(&mut self, record: &[u8]) {
        if self.flaw.is_none()
            && let Err(why) = self.check(record)
        {
            self.flaw = Some(why);
        }
    }

    fn check(&mut self, record: &[u8]) -> Result<(), String> {
        if record.len() != self.record_bytes {
            return Err(format!("gave a record of {} bytes back", record.len()));
        }
        let (head, rest) = record.split_at(STAMP);
        let (middle, tail) = rest.split_at(rest.len() - STAMP);
        let id = stamp(head);
        let (caller, number) = (id >> CALLER_SHIFT, number_of(record));
        let batch = (self.body.len() / self.record_bytes) as u64;
        let at = index(number % batch) * self.record_bytes + STAMP;
        if stamp(tail) != !id || self.body.get(at..at + middle.len()) != Some(middle) {
            return Err("changed a record".into());
        }
        let next =
            self.next.get_mut(index(caller)).ok_or("gave a record back that nobody appended")?;
        if number != *next {
            return Err(format!("gave record {number} of caller {caller} back in place of {next}"));
        }
        *next += 1;
        Ok(())
    }

    /// How many records were taken.
    pub fn count(&self) -> u64 {
        self.next.iter().sum()
    }

    /// What is wrong, if something is.
    pub fn verdict(&self) -> Option<String> {
        let missing = |(acked, next): (&u64, &u64)| acked.saturating_sub(*next);
        let missing: u64 = self.acked.iter().zip(&self.next).map(missing).sum();
        let lost = || {
            let all: u64 = self.acked.iter().sum();
            format!("lost {missing} of {all} acknowledged records")
        };
        self.flaw.clone().or_else(|| (missing > 0).then(lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ALL;

    /// What a checker says of the records of two callers, as `log` leaves them.
    fn verdict(workload: &Workload, log: impl Fn(&mut Vec<Vec<u8>>)) -> Option<String> {
        let mut callers = [Stamped::new(workload, 0), Stamped::new(workload, 1)];
        let mut records = Vec::new();
        for turn in [0, 1, 1, 0] {
            records.extend(callers[turn].batch().iter().map(<[u8]>::to_vec));
        }
        log(&mut records);
        let mut checker = Checker::new(workload, callers.iter().map(Stamped::count).collect());
        records.iter().for_each(|record| checker.take(record));
        checker.verdict()
    }

    #[test]
    fn what_was_acknowledged_passes_and_each_kind_of_flaw_is_named() {
        for workload in &ALL {
            assert_eq!(verdict(workload, |_| {}), None, "{}", workload.name);
            let found = |log: fn(&mut Vec<Vec<u8>>)| verdict(workload, log).unwrap();
            assert!(found(|r| drop(r.pop())).contains("lost 1 of"));
            assert!(found(|r| drop(r.remove(0))).contains("in place of 0"));
            assert!(found(|r| r.insert(1, r[0].clone())).contains("gave record 0"));
            assert!(found(|r| r[0][0] ^= 1).contains("changed"));
            assert!(found(|r| *r[0].last_mut().unwrap() ^= 1).contains("changed"));
            assert!(found(|r| r[0].truncate(15)).contains("bytes"));
        }
    }

    #[test]
    fn a_changed_middle_is_found() {
        let changed = verdict(Workload::named("batch-100x100").unwrap(), |r| r[7][50] ^= 4);
        assert_eq!(changed.as_deref(), Some("changed a record"));
    }
}
