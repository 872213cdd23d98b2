//! Heartbeats are spread over time.
//!
//! Set-up: one shard in virtual time. Property: connections that came together do not beat together,
//! and one connection's intervals differ. Why it matters: after a restart all clients come within
//! seconds; without the jitter a shard would write to all of them in the same tenth of a second, for
//! as long as they stay, and every client's phone would wake with all the others.

use super::*;

/// Heartbeats in each tick from now to `until`.
fn beats_until(bench: &mut Bench, until: Tick) -> Vec<(u32, u64)> {
    let mut beats = Vec::new();
    while bench.now < until {
        let before = bench.shard.state.counters.heartbeats;
        bench.now = Tick(bench.now.0 + 1);
        bench.settle();
        let count = bench.shard.state.counters.heartbeats - before;
        if count > 0 {
            beats.push((bench.now.0, count));
        }
    }
    beats
}

#[test]
fn those_who_came_together_do_not_beat_together() {
    const CLIENTS: u64 = 60;
    let mut bench = Bench::new(Limits { connections_per_user_max: 0, ..timed(10, 0) });
    let _clients: Vec<_> = (0..CLIENTS).map(|_| bench.adopt(Protocol::AraWebSocket, b"")).collect();
    bench.settle();
    let beats = beats_until(&mut bench, Tick(START.0 + 79));
    assert!(beats.is_empty(), "earlier than 20 % before its time: {beats:?}");
    // Each has its first, and none its second.
    let beats = beats_until(&mut bench, Tick(START.0 + 121));
    assert_eq!(beats.iter().map(|(_, count)| count).sum::<u64>(), CLIENTS, "{beats:?}");
    // Of 40 tenths of a second. Less than this comes once in many million runs.
    assert!(beats.len() >= 15, "{beats:?}");
    let (first, last) = (beats[0].0, beats[beats.len() - 1].0);
    assert!(last - first >= 20, "{beats:?}");
}

#[test]
fn the_intervals_of_one_connection_differ() {
    let mut bench = Bench::new(timed(10, 0));
    let _client = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    let beats = beats_until(&mut bench, Tick(START.0 + 1_500));
    let intervals: Vec<u32> = beats.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(intervals.len() >= 10 && intervals.iter().all(|ticks| (79..=121).contains(ticks)));
    assert!(intervals.iter().any(|ticks| *ticks != intervals[0]), "{intervals:?}");
}
