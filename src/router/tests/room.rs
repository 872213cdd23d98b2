//! A trigger that is two messages to one shard needs room for two.
//!
//! Set-up: one shard that nobody runs, whose lane has room for exactly one more. Property: a trigger
//! with a part for those who are here and a part for those who are not is refused whole. Why it
//! matters: half of it sent, and the caller told that nothing was, is a notification that comes twice.

use ara_shards::notification::Audience;

use super::*;

/// To everybody here, and to wait for the absent.
fn trigger_with_absent(target: Target) -> Trigger {
    let mut both = trigger(target);
    both.event.audience = Some(Audience::Users(Box::new(["ann".into()])));
    both.event.queue = true;
    both
}

#[test]
fn a_trigger_of_two_messages_to_a_shard_needs_room_for_both() {
    let (router, _shards) = rig(1);
    let both = || trigger_with_absent(Target::Everyone);
    router.dispatch(both(), None).unwrap();
    assert_eq!(router.overview().inbox_depths, [2], "this trigger is two messages");
    while router.overview().inbox_depths != [CAPACITY - 1] {
        router.dispatch(trigger(Target::Everyone), None).unwrap();
    }
    let refusal = router.dispatch(both(), None).unwrap_err();
    assert_eq!(refusal.code, Code::Overloaded);
    assert_eq!(router.overview().inbox_depths, [CAPACITY - 1], "half of it was sent");
    assert_eq!(router.overview().counters.overloaded, 1);
    // There is room for one, and one fits.
    router.dispatch(trigger(Target::Everyone), None).unwrap();
    assert_eq!(router.overview().inbox_depths, [CAPACITY]);
}

/// The same where the parts are the subscribers of channels and the absent.
#[test]
fn a_trigger_to_channels_and_the_absent_needs_room_for_both() {
    let (router, _shards) = rig(1);
    let news: Arc<str> = "news".into();
    router.0.borrow_mut().interest.update(0, &"default".into(), Some(&news), true);
    let channels = Target::Channels(vec![news]);
    let both = || trigger_with_absent(channels.clone());
    router.dispatch(both(), None).unwrap();
    assert_eq!(router.overview().inbox_depths, [2], "this trigger is two messages");
    while router.overview().inbox_depths != [CAPACITY - 1] {
        router.dispatch(trigger(Target::Everyone), None).unwrap();
    }
    assert_eq!(router.dispatch(both(), None).unwrap_err().code, Code::Overloaded);
    assert_eq!(router.overview().inbox_depths, [CAPACITY - 1], "half of it was sent");
}
