//! [`BatchConfig`] under the path that the first interface had.

pub use crate::options::BatchConfig;
