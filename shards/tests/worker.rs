//! The worker keeps its promises with a real thread, real lanes and real sockets.
//!
//! Set-up: one shard, adopted clients on loopback, and the test's thread as the router.
//! Properties: lanes refuse when full and control is never behind deliveries; no report is lost and
//! none is late; a slow client harms only itself; everyone who leaves is reported once.
//! Why it matters: each of these is a promise another part counts on, made across threads, where
//! the pure tests of `state` and `codec` cannot see.

#[cfg(test)]
#[path = "worker/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "worker/lanes.rs"]
mod lanes;
#[cfg(test)]
#[path = "worker/leaving.rs"]
mod leaving;
#[cfg(test)]
#[path = "worker/protocols.rs"]
mod protocols;
#[cfg(test)]
#[path = "worker/slow_reader.rs"]
mod slow_reader;
#[cfg(test)]
#[path = "worker/streams.rs"]
mod streams;
