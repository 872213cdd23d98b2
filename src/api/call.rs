//! A request of a caller with a key, as its handler gets it.
//!
//! **Runs on**: the router's thread. **Owns**: one request's body. **Never**: exists before the request has
//! passed every check of its route.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;

use crate::access::Caller;

/// One request. `Tenant` is `()` where it concerns them all.
#[derive(Debug)]
pub(super) struct Call<'a, Tenant = Arc<str>> {
    /// Its head.
    pub(super) parts: &'a Parts,
    /// Who sent it. Its key has the scope of the route.
    pub(super) caller: Caller,
    /// Whom it acts for.
    pub(super) tenant: Tenant,
    /// What stands in the path for the pattern's parameter, decoded and valid.
    pub(super) parameter: Option<String>,
    /// Its body; empty where the route takes none.
    pub(super) body: Bytes,
}

impl<Tenant> Call<'_, Tenant> {
    /// The pattern's parameter.
    pub(super) fn parameter(&self) -> &str {
        self.parameter.as_deref().expect("this handler's routes have a parameter in their path")
    }
}
