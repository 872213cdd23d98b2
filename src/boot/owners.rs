//! Who holds what can change while the gateway runs, and how each is given a new value.
//!
//! **Runs on**: the router's thread, as a task. **Owns**: a way to each owner. **Never**: reads a file, or
//! decides whether a value is right: what comes here was checked as a whole.
//!
//! To make a key live: `Live` in its row of `config/keys.rs`, a method of its owner that takes the new
//! value, and a line in [`Owners::apply`].

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::Api;
use crate::capacity::Capacity;
use crate::listener::auth::Verifier;
use crate::listener::handshake::{Handshake, Rules};
use crate::router::Router;
use crate::settings::Settings;

/// New settings on their way to their owners.
#[derive(Debug)]
pub struct Change {
    /// Only what is live differs from what runs.
    pub settings: Box<Settings>,
    /// Verifies by the key of these settings.
    pub verifier: Verifier,
    /// Told at the end: whether every owner has them.
    pub done: oneshot::Sender<bool>,
}

/// All owners of something that is live, but for the log filter, which is the process's.
#[derive(Debug)]
pub(super) struct Owners {
    /// The API's keys.
    pub(super) api: Rc<Api>,
    /// The total of connections, and the way to the limits of shards.
    pub(super) router: Router,
    /// What clients are held against at the doors.
    pub(super) handshake: Arc<Handshake>,
    /// What the process's file limit allows.
    pub(super) capacity: Capacity,
}

impl Owners {
    /// Gives each owner its part. A request or delivery under way ends as it began. Whether every owner
    /// has taken it: a shard may be too busy.
    async fn apply(&self, settings: &Settings, verifier: Verifier) -> bool {
        self.api.set_keys(&settings.api);
        self.router.rate_limiter().set_limits(&settings.rate_limits);
        self.handshake.rules.store(Arc::new(Rules::new(settings, verifier)));
        let wanted = settings.server.connections_max;
        self.capacity.warn_if_short(wanted);
        self.router.reconfigure(self.capacity.wanting(wanted).clients, &settings.limits).await
    }

    /// Applies what main sends, for as long as the gateway runs.
    pub(super) async fn serve(self, mut changes: mpsc::Receiver<Change>) -> io::Result<()> {
        while let Some(Change { settings, verifier, done }) = changes.recv().await {
            let is_complete = self.apply(&settings, verifier).await;
            // Main may have begun to stop meanwhile.
            let _heard = done.send(is_complete);
        }
        // The gateway stops: there is nothing more to apply.
        std::future::pending().await
    }
}
