//! [`WalConfig`] under the path that the first interface had. There is one configuration, not two.

pub use crate::options::WalConfig;
