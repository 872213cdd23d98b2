//! A stop is as short as its clients allow, and ends for a shard whose disk has nobody who writes.
//!
//! Set-up: one shard in virtual time, sent a drain with a minute's grace. Property: a client that does
//! not answer gets a moment, not the grace; one that takes what it is owed gets the grace. Why it
//! matters: everybody who was sent away waits for the next process, and a browser that comes back
//! before it is there never comes again.

use super::*;
use crate::base::clock::Clock;
use crate::base::limits::STOP_LINGER;
use crate::base::placement::Placement;
use crate::journal::{Fsync, Options};
use crate::store::disk;

const MINUTE: Duration = Duration::from_secs(60);

fn drain(bench: &mut Bench) {
    let order = Drain { return_after: MINUTE, reconnect_window: MINUTE, grace: MINUTE };
    bench.link.control(Control::Drain(order)).unwrap();
    bench.settle();
}

/// Lets time pass until the last client has gone.
fn until_drained(bench: &mut Bench) -> Tick {
    while !bench.reports.iter().any(|report| matches!(report, Report::Drained)) {
        assert!(bench.now < START.after(2 * MINUTE), "it never ends: {:?}", bench.reports);
        let tick = Tick(bench.now.0 + 1);
        bench.pass_until(tick);
    }
    bench.now
}

fn linger(from: Tick) -> Tick {
    from.after(STOP_LINGER)
}

/// More than its socket takes.
fn stuff(bench: &mut Bench) {
    let large = vec![b'x'; 32 * 1024 * 1024];
    while bench.shard.connections.backlog_bytes(ConnectionKey(0)) == Some(0) {
        bench.deliver(&large);
        bench.settle();
    }
}

#[test]
fn a_client_that_has_everything_and_does_not_answer_gets_a_moment() {
    for protocol in [Protocol::AraWebSocket, Protocol::AraSseChunked] {
        let mut bench = Bench::new(timed(0, 0));
        let (_phone, _) = bench.adopt(protocol, b"");
        bench.settle();
        bench.pass_until(Tick(START.0 + 500));
        let begun = bench.now;
        drain(&mut bench);
        assert_eq!(until_drained(&mut bench), linger(begun), "{protocol:?}");
    }
}

#[test]
fn a_client_that_takes_nothing_gets_a_moment() {
    let mut bench = Bench::new(timed(0, 0));
    let (_stuck, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    stuff(&mut bench);
    // It has been stuck for a while, which does not shorten its moment.
    bench.pass_until(Tick(START.0 + 70));
    let begun = bench.now;
    drain(&mut bench);
    assert_eq!(until_drained(&mut bench), linger(begun));
}

#[test]
fn a_client_that_takes_what_it_is_owed_has_the_grace() {
    let mut bench = Bench::new(timed(0, 0));
    let (mut slow, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    stuff(&mut bench);
    let begun = bench.now;
    drain(&mut bench);
    // Two thirds of a moment at a time, for several moments.
    let mut buffer = vec![0; 1024 * 1024];
    for _ in 0..4 {
        let before = bench.shard.connections.moved_at(ConnectionKey(0));
        let later = Tick(bench.now.0 + 6);
        bench.pass_until(later);
        assert!(!bench.reports.iter().any(|report| matches!(report, Report::Closed { .. })));
        while bench.shard.connections.moved_at(ConnectionKey(0)) == before {
            assert_ne!(slow.read(&mut buffer).unwrap(), 0);
            bench.settle();
        }
    }
    let last = bench.now;
    assert!(last > linger(linger(begun)), "{last:?}");
    assert_eq!(until_drained(&mut bench), linger(last), "and a moment when it stops");
}

#[test]
fn the_grace_ends_even_a_client_that_goes_on() {
    let mut bench = Bench::new(timed(0, 0));
    let (_stuck, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    stuff(&mut bench);
    let grace = Duration::from_millis(300);
    let order = Drain { return_after: MINUTE, reconnect_window: MINUTE, grace };
    bench.link.control(Control::Drain(order)).unwrap();
    bench.settle();
    assert_eq!(until_drained(&mut bench), START.after(grace));
}

/// Whatever becomes of the clients' own timers: nobody waits for the router to lose patience.
#[test]
fn the_end_of_the_grace_wakes_the_shard_by_itself() {
    let mut bench = Bench::new(timed(0, 0));
    let (_stuck, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    stuff(&mut bench);
    let grace = Duration::from_secs(10);
    let order = Drain { return_after: MINUTE, reconnect_window: MINUTE, grace };
    bench.link.control(Control::Drain(order)).unwrap();
    bench.settle();
    bench.shard.connections.set_timer(ConnectionKey(0), Tick::NEVER);
    let has_drained =
        |bench: &Bench| bench.reports.iter().any(|report| matches!(report, Report::Drained));
    loop {
        let next = bench.settle();
        if has_drained(&bench) {
            break;
        }
        bench.now = next.expect("it asks to be woken until all have gone");
    }
    assert_eq!(bench.now, START.after(grace));
}

#[test]
fn a_client_that_was_leaving_before_has_no_more_time_than_others() {
    let mut bench = Bench::new(timed(0, 0));
    let mut client = bench.join();
    // An unmasked frame: it is sent away, and has three seconds to answer.
    client.write_all(&[0x81, 0x00]).unwrap();
    while bench.is_open() {
        bench.settle();
    }
    drain(&mut bench);
    assert_eq!(until_drained(&mut bench), linger(START));
}

/// Invariant 9: without its writer a shard keeps nothing, and says nothing of it to anybody.
#[test]
fn a_shard_whose_journal_has_lost_its_writer_ends() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        directory: directory.path().into(),
        segment_bytes: 4096,
        max_disk_bytes: 1024 * 1024,
        fsync: Fsync::Never,
    };
    let bell = Arc::new(Doorbell::new(|| {}));
    let (recovered, _summary) =
        disk::open(&options, Clock::start(), &Placement::new(1), bell).unwrap();
    let mut bench = Bench::new(timed(0, 0));
    bench.shard.restore(recovered);
    bench.settle();
    bench.shard.state.queues.disk_store().lose_writer();
    let ended = bench.shard.turn(bench.now).unwrap_err();
    assert!(ended.to_string().contains("panicked"), "{ended}");
}
