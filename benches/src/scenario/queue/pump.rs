//! Publishes many requests and collects their answers: this is how messages are put into the queue.
//!
//! **Runs on**: the tool's one thread. **Owns**: nothing beyond a call. **Never**: has more
//! requests under way than it was told, or goes on after an answer that is not as it must be.

use std::time::{Duration, Instant};

use crate::caller::{Answer, Api, Users};
use crate::fault::{Outcome, failed};
use crate::swarm::Swarm;

/// Callers' connections, and requests under way on each of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Width {
    pub(super) callers: usize,
    pub(super) depth: usize,
}

/// For triggers to many users, of which each keeps a shard busy for a while.
pub(super) const WIDE: Width = Width { callers: 4, depth: 1 };
/// For triggers to one user, of which each is small.
pub(super) const DEEP: Width = Width { callers: 4, depth: 16 };

/// The outcome of a series of requests.
#[derive(Debug)]
pub(super) struct Pumped {
    pub(super) took: Duration,
    /// Request to response, sorted.
    pub(super) responses: Vec<Duration>,
}

/// Sends requests `0..count`; every answer must pass `check`.
pub(super) fn pump(
    swarm: &mut Swarm,
    width: Width,
    count: u32,
    mut request: impl FnMut(u32) -> Vec<u8>,
    check: impl Fn(&Answer) -> bool,
) -> Outcome<Pumped> {
    let (start, mut next) = (Instant::now(), 0);
    let mut responses = Vec::new();
    for caller in (0..width.callers).flat_map(|caller| std::iter::repeat_n(caller, width.depth)) {
        if next < count {
            swarm.post(caller, &request(next))?;
            next += 1;
        }
    }
    swarm.turn_until("answers", |swarm| {
        for answer in swarm.take_answers() {
            if !check(&answer) {
                return failed(format!("an answer that is not as it must be: {answer:?}"));
            }
            responses.push(answer.took);
            if next < count {
                swarm.post(answer.caller, &request(next))?;
                next += 1;
            }
        }
        Ok((responses.len() as u64, responses.len() == count as usize))
    })?;
    let took = start.elapsed();
    responses.sort_unstable();
    Ok(Pumped { took, responses })
}

/// The answer says that the user was absent and the message is queued.
pub(super) fn is_queued(answer: &Answer) -> bool {
    answer.queued && answer.delivered_to == 0 && answer.failed == 0
}

/// Triggers that leave nothing behind but buffers that have grown: to users who are away, worth
/// delivering now or never.
pub(super) fn warm_up(swarm: &mut Swarm, api: &Api, users: u32) -> Outcome<()> {
    let absent = Users::new(AWAY, users);
    let request = |seq| api.to_users(&absent, seq, Some(0));
    pump(swarm, WIDE, 12, request, |answer| !answer.queued && answer.delivered_to == 0)?;
    Ok(())
}

/// Users that never come, and that nothing waits for.
const AWAY: u32 = 900_000_000;
