//! What can be appended: anything that gives its records one by one, and a builder of batches.

use crate::cast;
use crate::error::{Error, Result};
use crate::options::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};

/// A batch of records as the caller holds them: slices, arrays and `Vec`s of anything that is
/// `AsRef<[u8]>`, references to them, and [`Batch`]. Nothing is cloned.
pub trait Records {
    /// How many records there are.
    fn count(&self) -> usize;

    /// The bytes of record `i`, below `count()`; the same each time it is asked.
    fn record(&self, i: usize) -> &[u8];
}

impl<R: AsRef<[u8]>> Records for [R] {
    fn count(&self) -> usize {
        self.len()
    }

    fn record(&self, i: usize) -> &[u8] {
        self[i].as_ref()
    }
}

impl<R: AsRef<[u8]>, const N: usize> Records for [R; N] {
    fn count(&self) -> usize {
        N
    }

    fn record(&self, i: usize) -> &[u8] {
        self[i].as_ref()
    }
}

macro_rules! as_slice {
    ($($owner:ty),+) => {$(
        impl<R: AsRef<[u8]>> Records for $owner {
            fn count(&self) -> usize {
                self.len()
            }

            fn record(&self, i: usize) -> &[u8] {
                self[i].as_ref()
            }
        }
    )+};
}

as_slice!(Vec<R>, Box<[R]>, std::sync::Arc<[R]>);

impl<T: Records + ?Sized> Records for &T {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn record(&self, i: usize) -> &[u8] {
        (**self).record(i)
    }
}

/// Gathers records one by one into one allocation that can be used again.
///
/// ```
/// let mut batch = prkdb_core::Batch::new();
/// batch.push("one");
/// batch.push([2_u8, 3]);
/// assert_eq!((batch.len(), batch.record_bytes()), (2, 5));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a copy of `record` as the last one.
    pub fn push(&mut self, record: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(record.as_ref());
        self.ends.push(self.bytes.len());
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The sum of its records' lengths, bytes.
    pub fn record_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl Records for Batch {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn record(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

/// The sum of the records' lengths, after checking it against the limits.
pub(crate) fn measure(records: &impl Records) -> Result<usize> {
    let count = records.count();
    let refuse = |why| Err(Error::invalid("append", why));
    if count == 0 {
        return refuse("the batch is empty; append at least one record".to_string());
    }
    if count > MAX_BATCH_RECORDS {
        return refuse(format!(
            "the batch has {count} records, at most {MAX_BATCH_RECORDS} are possible; split it"
        ));
    }
    let mut sum = 0_u64;
    for i in 0..count {
        let len = records.record(i).len();
        if len > MAX_RECORD_BYTES {
            return refuse(format!(
                "record {i} has {len} bytes, at most {MAX_RECORD_BYTES} are possible"
            ));
        }
        sum += len as u64;
    }
    if sum > MAX_BATCH_BYTES as u64 {
        return refuse(format!(
            "the batch has {sum} bytes, at most {MAX_BATCH_BYTES} are possible; split it"
        ));
    }
    Ok(cast::len(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_gives_the_same_records() {
        fn all(records: impl Records) -> Vec<Vec<u8>> {
            (0..records.count()).map(|i| records.record(i).to_vec()).collect()
        }
        let expected = vec![b"a".to_vec(), b"".to_vec(), b"bc".to_vec()];
        let mut batch = Batch::new();
        for record in &expected {
            batch.push(record);
        }
        assert_eq!(all(["a", "", "bc"]), expected);
        assert_eq!(all(vec!["a".to_string(), String::new(), "bc".into()]), expected);
        assert_eq!(all(&expected[..]), expected);
        assert_eq!(all(&batch), expected);
        batch.clear();
        assert!(measure(&batch).is_err());
    }

    #[test]
    fn limits_are_named() {
        let too_long = vec![0_u8; MAX_RECORD_BYTES + 1];
        assert!(measure(&[&too_long]).unwrap_err().to_string().contains("record 0"));
        let full = vec![0_u8; MAX_RECORD_BYTES];
        assert!(measure(&[&full, &full]).is_ok());
        assert!(measure(&[&full[..], &full[..], &[1][..]]).is_err());
        assert!(measure(&vec![""; MAX_BATCH_RECORDS + 1]).is_err());
        assert_eq!(measure(&[""]).unwrap(), 0);
    }
}
