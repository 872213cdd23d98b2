//! What a shard is told of tokens, by whoever can read them.
//!
//! **Runs on**: a shard, when a client shows another token; built by the gateway. **Owns**: nothing.
//! **Never**: shows the engine a token's bytes as anything but text.

use std::fmt;
use std::sync::Arc;

use crate::base::id::Tick;

/// When a connection ends because its token does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// From then on it is closed.
    pub at: Tick,
    /// The token's end as its bearer is told it (RFC 3339).
    pub shown: Box<str>,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The user's id within the tenant.
    pub user: Box<str>,
    /// The roles it carries.
    pub roles: Box<[Box<str>]>,
    /// The channels it allows: names or `prefix.*`; `None` = all.
    pub grants: Option<Box<[Box<str>]>>,
    /// When its connection ends; `None` = not because of it.
    pub expiry: Option<Expiry>,
}

/// Reads tokens.
pub trait Tokens: fmt::Debug + Send + Sync {
    /// What a token says.
    ///
    /// # Errors
    ///
    /// It is not valid: a sentence for its bearer.
    fn read(&self, token: &str) -> Result<Renewal, String>;
}

/// Where nobody can read a token.
impl Tokens for () {
    fn read(&self, _token: &str) -> Result<Renewal, String> {
        Err("no token can be read here".to_owned())
    }
}
