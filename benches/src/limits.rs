//! The open-file limit, which decides how many connections can be measured: the gateway and the
//! generator each need one descriptor per connection.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::fault::{Outcome, failed};

/// Descriptors beside the connections: listeners, pollers, callers, logs, shared libraries.
const SPARE: u64 = 200;

/// Raises the soft limit to the hard one; children inherit it. Returns it.
pub(crate) fn raise() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the limit is already what it was asked to be.
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// How many connections fit.
pub(crate) fn connections_max() -> u32 {
    u32::try_from(raise().saturating_sub(SPARE)).unwrap_or(u32::MAX)
}

/// Fails, saying what to do, if `connections` do not fit.
pub(crate) fn check(connections: u32) -> Outcome<()> {
    let most = connections_max();
    if connections <= most {
        return Ok(());
    }
    failed(format!(
        "{connections} connections need an open-file limit of {}, in the gateway and in this tool \
         alike, and the hard limit here allows {most} connections: raise it (`ulimit -Hn`, \
         `LimitNOFILE=` or `docker run --ulimit nofile=…`) or ask for fewer",
        u64::from(connections) + SPARE,
    ))
}
