//! Whether the disk still commits what it was given. A write or sync that hangs returns no error.
//!
//! **Runs on**: the shard's thread. **Owns**: two moments. **Never**: reads a clock.

use std::time::Duration;

use crate::base::id::Tick;
use crate::journal::CommitPoint;

/// A commit takes milliseconds, on a busy disk some hundred. After this long with nothing committed
/// callers are waiting for it in vain.
const SLOW_COMMIT: Duration = Duration::from_secs(2);

/// Since when something waits without anything having been committed.
#[derive(Debug, Default)]
pub(super) struct CommitWatch {
    committed: CommitPoint,
    waiting_since: Option<Tick>,
}

impl CommitWatch {
    /// Takes note of how things stand.
    pub(super) fn look(&mut self, committed: CommitPoint, is_waiting: bool, now: Tick) {
        if committed != self.committed || !is_waiting {
            self.waiting_since = None;
        }
        self.committed = committed;
        if is_waiting {
            self.waiting_since.get_or_insert(now);
        }
    }

    /// Whether nothing has been committed for too long.
    pub(super) fn is_slow(&self, now: Tick) -> bool {
        self.slow_at().is_some_and(|at| now >= at)
    }

    /// When that will be the case.
    fn slow_at(&self) -> Option<Tick> {
        self.waiting_since.map(|since| since.after(SLOW_COMMIT))
    }

    /// When to look again, if nothing happens until then.
    pub(super) fn next(&self, now: Tick) -> Option<Tick> {
        self.slow_at().filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_while_it_commits_nothing_of_what_waits() {
        let mut watch = CommitWatch::default();
        watch.look(CommitPoint(0), false, Tick(100));
        assert!(!watch.is_slow(Tick(900)) && watch.next(Tick(900)).is_none(), "nothing waits");
        watch.look(CommitPoint(0), true, Tick(1000));
        watch.look(CommitPoint(0), true, Tick(1019));
        assert_eq!((watch.is_slow(Tick(1019)), watch.next(Tick(1019))), (false, Some(Tick(1020))));
        assert_eq!((watch.is_slow(Tick(1020)), watch.next(Tick(1020))), (true, None));
        watch.look(CommitPoint(1), true, Tick(1021));
        assert!(!watch.is_slow(Tick(1022)), "some progress is none to complain of");
        watch.look(CommitPoint(2), false, Tick(1030));
        assert!(!watch.is_slow(Tick(9000)), "all is committed");
    }
}
