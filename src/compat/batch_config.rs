//! [`BatchConfig`] under the path where the seed had it.

pub use crate::options::BatchConfig;
