//! What the version before has written is read, and what it did not know begins now.
//!
//! Set-up: a journal with records as version 0.1 wrote them, byte by byte, on a state.
//! Property: dead letters of both forms are there, are forgotten a time to live after the start that
//! found them without one, and at that same time whatever comes later.
//! Why it matters: an upgrade that loses dead letters, or keeps them for ever, shows weeks later.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::id::Tick;
use crate::base::limits::{AckLimits, Limits, QueueLimits};
use crate::base::placement::Placement;
use crate::journal::{Fsync, Journal, Options};
use crate::link::doorbell::Doorbell;
use crate::state::State;
use crate::store::disk;

const TENANT: &str = "default";
const USER: &str = "ann";

/// `message` of version 0.1: flags are 1 for dead and 2 for an audience.
fn message_record(sequence: u64, flags: u8) -> Vec<u8> {
    let mut bytes = vec![1, 3, 1, flags];
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&u128::from(sequence).to_le_bytes());
    for text in [TENANT, USER] {
        bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(b"{}");
    bytes
}

fn options(directory: &Path) -> Options {
    let fsync = Fsync::Never;
    Options { directory: directory.to_owned(), fsync, ..Options::default() }
}

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(|| {}))
}

/// The state that a start finds, and when its dead letters are forgotten, in milliseconds.
fn start(directory: &Path, dead_letter_ttl: Duration) -> (State, Vec<(u64, u64)>) {
    let ttl = Duration::from_secs(3600);
    let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl };
    let timeout = Duration::from_secs(30);
    let ack = AckLimits { timeout, requeue: true, attempts_max: 3, in_flight_max: 9 };
    let limits = Limits { queue: Some(queue), ack: Some(ack), ..Limits::default() };
    let mut state = State::new(limits, 0);
    let placement = Placement::with_seeds(1, [1, 2, 3, 4]);
    let clock = Clock::start();
    let (recovered, summary) = disk::open(&options(directory), clock, &placement, bell()).unwrap();
    assert_eq!(summary.strange, 0);
    state.begin_turn(clock.now());
    state.restore(recovered);
    let slot = state.directory.find_user(TENANT, USER, placement.hash(TENANT, USER)).unwrap();
    let dead_letters = state.queues.dead_letters_of(slot).into_iter();
    let ends = dead_letters.map(|(message, until)| (message.sequence(), clock.unix_ms_of(until)));
    let ends = ends.collect();
    (state, ends)
}

#[test]
fn dead_letters_of_the_version_before_get_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _empty) =
        Journal::open(&options(directory.path()), |_, _| panic!("empty"), bell()).unwrap();
    let waiting = message_record(1, 0);
    journal.append(&waiting).unwrap();
    // One that was given up, and one that was copied after it was.
    let given_up = journal.append(&message_record(2, 0)).unwrap();
    journal.append(&message_record(3, 1)).unwrap();
    let mut changed = vec![3];
    changed.extend_from_slice(&given_up.to_bits().to_le_bytes());
    changed.extend_from_slice(&[3, 1]);
    journal.note(&changed).unwrap();
    journal.close().unwrap();

    let (mut state, ends) = start(directory.path(), Duration::from_secs(60));
    let [(2, first), (3, second)] = ends[..] else { panic!("{ends:?}") };
    assert_eq!(first, second);
    state.poll_store();
    state.take_store().close().unwrap();
    // The next start finds the time, and does not begin it again.
    let (state, later) = start(directory.path(), Duration::from_secs(6_000));
    let tick = Tick::MILLISECONDS;
    assert!(
        later.iter().all(|(_, end)| (first..=first + tick).contains(end)),
        "{later:?}, {first}"
    );
    assert_eq!(later.len(), 2);
    drop(state);
    let clock = Clock::start();
    assert!(first <= clock.unix_ms_of(clock.now()) + 61_000, "a minute from now");
}
