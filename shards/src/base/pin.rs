//! Binding threads to cores.
//!
//! **Runs on**: main (choosing the cores) and each thread that pins itself. **Owns**: nothing.
//! **Never**: pins to a core the process may not use (containers, `taskset`).

use core_affinity::CoreId;

use super::limits::SHARDS_MAX;

/// The cores this process may run on, in order, as the calling thread's mask says.
///
/// Call it in main before any thread pins itself: it reads the caller's own mask.
#[must_use]
pub fn allowed_cores() -> Vec<CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// How many shards serve `cores` cores best: one each, with one core kept for the router as soon
/// as there are more than two.
const fn default_shard_count(cores: usize) -> usize {
    match cores {
        0 | 1 => 1,
        2 => 2,
        more => more - 1,
    }
}

/// How many shards run on `cores` cores, where `wanted` were asked for (0 = as many as suit them).
#[must_use]
pub fn shard_count(wanted: usize, cores: usize) -> usize {
    let count = if wanted == 0 { default_shard_count(cores) } else { wanted };
    count.min(SHARDS_MAX)
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
    fn as_many_shards_run_as_were_asked_for_and_never_too_many() {
        assert_eq!([shard_count(0, 4), shard_count(7, 4), shard_count(0, 0)], [3, 7, 1]);
        assert_eq!([shard_count(0, 1_000), shard_count(1_000, 4)], [SHARDS_MAX; 2]);
    }

    #[test]
    fn this_process_may_use_a_core() {
        assert!(!allowed_cores().is_empty());
    }
}
