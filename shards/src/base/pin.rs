//! Binding threads to cores.
//!
//! **Runs on**: main (choosing the cores) and each thread that pins itself. **Owns**: nothing.
//! **Never**: pins to a core the process may not use (containers, `taskset`).

use core_affinity::CoreId;

/// The cores this process may run on, in order, as the calling thread's mask says.
///
/// Call it in main before any thread pins itself: it reads the caller's own mask.
#[must_use]
pub fn allowed_cores() -> Vec<CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// How many shards serve `cores` cores best: one each, with one core kept for the router as soon
/// as there are more than two.
#[must_use]
pub const fn default_shard_count(cores: usize) -> usize {
    match cores {
        0 | 1 => 1,
        2 => 2,
        more => more - 1,
    }
}

/// Binds the calling thread to `core`; false where the system does not allow it.
#[must_use]
pub fn pin_current_thread(core: CoreId) -> bool {
    core_affinity::set_for_current(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_kept_for_the_router_when_there_are_more_than_two() {
        let counts: Vec<_> = (0..6).map(default_shard_count).collect();
        assert_eq!(counts, [1, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn this_process_may_use_a_core() {
        assert!(!allowed_cores().is_empty());
    }
}
