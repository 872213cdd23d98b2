//! A client shows another token.
//!
//! **Runs on**: its shard. **Owns**: nothing. **Never**: lets a token of another user, or one that is not
//! valid, change anything.

use std::borrow::Cow;

use super::session::Grants;
use super::{Outgoing, State};
use crate::base::id::{ConnectionKey, Tick};
use crate::link::tokens::Renewal;
use crate::protocol::{ErrorCode, Event};

impl State {
    /// Takes a token instead of the connection's own: from now on that one says what it may hear and when
    /// it ends.
    pub(super) fn handle_refresh(
        &mut self,
        key: ConnectionKey,
        token: &str,
        out: &mut impl Outgoing,
    ) {
        let Some(session) = self.directory.session(key) else { return };
        let renewal = match self.tokens.read(token) {
            Ok(renewal) => renewal,
            Err(sentence) => return self.refuse(key, ErrorCode::Unauthorized, &sentence, out),
        };
        let Renewal { tenant, user, roles, grants, expiry } = renewal;
        let is_own = **self.directory.tenant_name(session) == *tenant
            && self.directory.user_name(session) == &*user;
        if !is_own {
            let sentence = "the token is another user's than this connection's";
            return self.refuse(key, ErrorCode::Unauthorized, sentence, out);
        }
        let Some(session) = self.directory.session_mut(key) else { return };
        session.grants = Grants::new(roles, grants);
        session.expires_at = expiry.as_ref().map_or(Tick::NEVER, |expiry| expiry.at);
        self.refreshed = Some(key);
        self.counters.tokens_refreshed += 1;
        self.leave_forbidden_channels(key, out);
        let expires_at = expiry.as_ref().map(|expiry| &*expiry.shown);
        self.tell(key, &Event::Refreshed { expires_at }, out);
    }

    /// Unsubscribes what the token does not allow, and says so.
    fn leave_forbidden_channels(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let names = self.directory.channel_names(session);
        let forbidden = names.filter(|name| !session.may_subscribe(name));
        let forbidden: Vec<Cow<'_, str>> = forbidden.map(|name| name.to_owned().into()).collect();
        for name in &forbidden {
            self.directory.unsubscribe(key, name, &mut self.reports);
        }
        if !forbidden.is_empty() {
            self.tell(key, &Event::Unsubscribed(&forbidden), out);
        }
    }

    /// When to look next at a connection whose token was changed in this turn, if one was.
    pub fn take_refreshed(&mut self) -> Option<(ConnectionKey, Tick)> {
        let key = self.refreshed.take()?;
        self.directory.session(key).map(|session| (key, self.next_check(session)))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::limits::Limits;
    use crate::base::placement::UserHash;
    use crate::encoding::Encoding;
    use crate::link::message::{Client, InitialSubscriptions, Report};
    use crate::link::tokens::{Expiry, Tokens};
    use crate::outbound::{OutboundMessage, Unsent};
    use crate::protocol::Protocol;
    use crate::state::Urgency;
    use crate::wire::close::CloseReason;

    const KEY: ConnectionKey = ConnectionKey(0);

    /// What one connection was told, and how it was closed.
    #[derive(Default)]
    struct Told(Vec<String>, Option<u16>);

    impl Outgoing for Told {
        fn tell(&mut self, _to: ConnectionKey, event: &Event<'_>) -> bool {
            let bytes = Protocol::AraSsePlain.encode(event).expect("a message");
            self.0.push(String::from_utf8(bytes.into()).unwrap());
            true
        }

        fn offer(&mut self, _: ConnectionKey, _: &Rc<OutboundMessage>, _: Urgency) -> bool {
            true
        }

        fn encoding(&self, _key: ConnectionKey) -> Option<Encoding> {
            Some(Encoding::AraText)
        }

        fn backlog_bytes(&self, _key: ConnectionKey) -> Option<usize> {
            Some(0)
        }

        fn watch(&mut self, _key: ConnectionKey) {}

        fn close(&mut self, _key: ConnectionKey, reason: CloseReason<'_>) -> Vec<Unsent> {
            self.1 = Some(reason.code);
            Vec::new()
        }
    }

    /// Tokens are `user end channel,channel`.
    #[derive(Debug)]
    struct PlainTokens;

    impl Tokens for PlainTokens {
        fn read(&self, token: &str) -> Result<Renewal, String> {
            let mut parts = token.split(' ');
            let mut part = || parts.next().ok_or("it is none");
            let (user, end, channels) = (part()?, part()?, part()?);
            let at = Tick(end.parse().map_err(|_not_a_number| "its end is none")?);
            Ok(Renewal {
                tenant: "t".into(),
                user: user.into(),
                roles: Box::default(),
                grants: Some(channels.split(',').map(Box::from).collect()),
                expiry: Some(Expiry { at, shown: end.into() }),
            })
        }
    }

    /// A connection of ann's whose token ends at tick 100, subscribed to two channels.
    fn connected() -> (State, Told) {
        let limits = Limits { heartbeat_interval: Duration::ZERO, ..Limits::default() };
        let mut state = State::new(limits, 7);
        state.set_tokens(Arc::new(PlainTokens));
        let client = Client {
            tenant: "t".into(),
            user: "ann".into(),
            hash: UserHash(1),
            roles: Box::default(),
            grants: None,
            subscribes_to: InitialSubscriptions::Channels(["a", "b"].map(Box::from).into()),
            notify_settled: false,
            seen: None,
            expiry: Some(Expiry { at: Tick(100), shown: "100".into() }),
        };
        let next = state.handle_connect(KEY, client, Protocol::AraWebSocket).unwrap();
        assert_eq!(next, Tick(100), "nothing else is due before");
        (state, Told::default())
    }

    #[test]
    fn a_connection_ends_with_its_token_and_not_before() {
        let (mut state, mut told) = connected();
        state.begin_turn(Tick(99));
        assert_eq!(state.handle_timer(KEY, &mut told), Some(Tick(100)));
        assert_eq!(told.1, None);
        state.begin_turn(Tick(100));
        assert_eq!(state.handle_timer(KEY, &mut told), None);
        assert_eq!((told.1, state.counters.connections_expired), (Some(4401), 1));
    }

    #[test]
    fn another_token_moves_the_end_and_takes_away_what_it_forbids() {
        let (mut state, mut told) = connected();
        state.handle_refresh(KEY, "ann 500 b,c", &mut told);
        assert_eq!(state.take_refreshed(), Some((KEY, Tick(500))));
        assert_eq!(state.take_refreshed(), None);
        let [unsubscribed, refreshed] = &told.0[..] else { panic!("{:?}", told.0) };
        assert!(unsubscribed.contains(r#"{"type":"unsubscribed","payload":["a"]}"#));
        assert!(refreshed.contains(r#"{"type":"refreshed","expires_at":"500"}"#));
        let left = std::iter::from_fn(|| state.poll_report())
            .any(|report| matches!(report, Report::Interest { channel: Some(channel), present: false, .. } if *channel == *"a"));
        assert!(left, "the router knows that nobody hears it any more");
        state.begin_turn(Tick(100));
        assert_eq!(state.handle_timer(KEY, &mut told), Some(Tick(500)));
        assert!(state.subscribe(KEY, "c").is_ok() && state.subscribe(KEY, "a").is_err());
        // One that ends earlier counts as well.
        state.handle_refresh(KEY, "ann 200 b", &mut told);
        assert_eq!(state.take_refreshed(), Some((KEY, Tick(200))));
    }

    #[test]
    fn a_token_that_is_not_valid_or_anothers_changes_nothing() {
        let (mut state, mut told) = connected();
        for token in ["nonsense", "ben 500 a"] {
            state.handle_refresh(KEY, token, &mut told);
            assert!(told.0.pop().unwrap().contains(r#""code":"UNAUTHORIZED""#), "{token}");
            assert_eq!(state.take_refreshed(), None);
        }
        assert!(told.0.is_empty());
        state.begin_turn(Tick(100));
        assert_eq!(state.handle_timer(KEY, &mut told), None, "its own token's end counts");
        // A connection that has gone meanwhile.
        state.handle_refresh(KEY, "ann 500 a", &mut told);
        assert!(told.0.is_empty() && state.take_refreshed().is_none());
    }
}
