//! Of a batch, what finds no room is refused, and nothing else.
//!
//! Set-up: shards that nobody runs. Property: a full lane, or a tenant's used share, refuses exactly the
//! notifications that need it. Why it matters: the others of a batch are somebody else's.

use ara_shards::base::id::NotificationId;

use super::*;

/// The codes with which triggers of one batch are refused; `None` for those that are taken.
fn codes(router: &Router, triggers: Vec<Trigger>) -> Vec<Option<Code>> {
    let sent = router.dispatch_batch(triggers.len(), |together| {
        let numbered = triggers.into_iter().zip(1..);
        let add = |(trigger, number)| {
            together.add(trigger, NotificationId([number; 16])).err().map(|refusal| refusal.code)
        };
        numbered.map(add).collect()
    });
    sent.unwrap()
}

#[test]
fn of_a_batch_a_full_inbox_refuses_those_that_need_it() {
    let (router, _shards) = rig(2);
    let (full, free) = (user_at(&router, 0), user_at(&router, 1));
    let to = |users: &[&Arc<str>]| {
        trigger(Target::Users(users.iter().map(|user| Arc::clone(user)).collect()))
    };
    for _ in 0..CAPACITY {
        router.dispatch(to(&[&full]), None).unwrap();
    }
    let mut urgent = to(&[&full]);
    urgent.event.priority = Priority::Critical;
    let batch = vec![to(&[&free]), to(&[&full]), to(&[&full, &free]), urgent, to(&[&free])];
    let refused = Some(Code::Overloaded);
    assert_eq!(codes(&router, batch), [None, refused, refused, None, None]);
    // Those of one shard and priority take one place together.
    assert_eq!(router.overview().inbox_depths, [CAPACITY + 1, 1]);
    assert_eq!(router.overview().counters.overloaded, 2);
}

#[test]
fn of_a_batch_a_tenant_is_given_its_share_and_no_more() {
    let (router, _shards) = rig(1);
    router.share_lanes(CAPACITY);
    let user = user_at(&router, 0);
    let of = |tenant: &str| Trigger {
        tenant: tenant.into(),
        ..trigger(Target::Users(vec![Arc::clone(&user)]))
    };
    let taken = |codes: &[Option<Code>]| codes.iter().filter(|code| code.is_none()).count();
    let greedy = codes(&router, (0..CAPACITY).map(|_| of("greedy")).collect());
    assert_eq!(taken(&greedy), CAPACITY / 2, "half of what is free");
    assert!(greedy.iter().skip(CAPACITY / 2).all(|code| *code == Some(Code::Overloaded)));
    assert_eq!(codes(&router, vec![of("modest")]), [None], "another has room");
}
