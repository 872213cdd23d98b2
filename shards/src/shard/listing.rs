//! A page of the list of connections, put together from what the state and the sockets know.
//!
//! **Runs on**: its worker's thread. **Owns**: nothing. **Never**: looks at more connections in one turn
//! than [`CONNECTIONS_PER_PAGE`].

use super::Shard;
use crate::base::id::ConnectionKey;
use crate::base::limits::CONNECTIONS_PER_PAGE;
use crate::link::listing::{ConnectionFilter, ConnectionPage, ConnectionView};

impl Shard {
    /// The connections from the key `from` on that the filter means, at most `shown_max`. A connection
    /// keeps its key, so that whoever goes on at `next` meets each one that stays exactly once.
    pub(super) fn list_connections(
        &self,
        filter: &ConnectionFilter,
        from: u32,
        shown_max: usize,
    ) -> ConnectionPage {
        let mut page = ConnectionPage::default();
        let from = from as usize;
        if let Some(user) = &filter.user {
            let mut keys = self.state.connections_of(user).to_vec();
            keys.retain(|key| key.index() >= from);
            keys.sort_unstable_by_key(|key| key.index());
            self.fill(&mut page, filter, shown_max, keys.into_iter());
            return page;
        }
        let bound = self.state.key_bound();
        let until = bound.min(from.saturating_add(CONNECTIONS_PER_PAGE));
        let keys = (from..until).filter_map(ConnectionKey::from_index);
        if self.fill(&mut page, filter, shown_max, keys) && until < bound {
            page.next = u32::try_from(until).ok();
        }
        page
    }

    /// Fills a page; whether it took all. If not, `next` is the first that had no room.
    fn fill(
        &self,
        page: &mut ConnectionPage,
        filter: &ConnectionFilter,
        shown_max: usize,
        keys: impl Iterator<Item = ConnectionKey>,
    ) -> bool {
        for key in keys {
            let Some(view) = self.view(key, filter) else { continue };
            if page.connections.len() == shown_max {
                page.next = u32::try_from(key.index()).ok();
                return false;
            }
            page.connections.push(view);
        }
        true
    }

    fn view(&self, key: ConnectionKey, filter: &ConnectionFilter) -> Option<ConnectionView> {
        let session = self.state.find_session(key, filter)?;
        let socket = self.connections.describe(key)?;
        Some(ConnectionView {
            id: socket.id,
            tenant: session.tenant,
            user: session.user,
            transport: session.transport,
            subscriptions: session.subscriptions,
            receives_all_channels: session.receives_all_channels,
            sent_bytes: socket.sent_bytes,
            outbox_bytes: socket.outbox_bytes,
            peer: socket.peer,
        })
    }
}
