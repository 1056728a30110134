//! [`WalConfig`] under the path where the seed had it. There is one configuration, not two.

pub use crate::options::WalConfig;
