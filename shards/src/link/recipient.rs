//! A user as messages and queries name one.
//!
//! **Runs on**: made on the router, read on a shard. **Owns**: its own data. **Never**: is looked up by
//! anything but all of it: the hash alone is not the user.

use std::sync::Arc;

use crate::base::placement::UserHash;

/// One user a delivery or a query is about.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The user's id.
    pub user: Arc<str>,
    /// Their hash, as the placement computed it.
    pub hash: UserHash,
}
