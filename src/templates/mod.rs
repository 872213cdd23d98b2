//! Templates: what a trigger names instead of writing an event type and a payload.
//!
//! A [`pattern`] is a template's payload, taken apart once when it is stored. [`render`] fills it with
//! a trigger's variables, straight into the buffer that the notification is written to. The
//! [`catalog`] has each tenant's templates, and the [`store`] changes them, on [`disk`] before in memory
//! where the queue is on disk too.
//!
//! **Runs on**: the router's thread. **Owns**: every tenant's templates. **Never**: knows HTTP or
//! Redis; changes what has been sent or waits: that is written out when its trigger comes.

pub mod catalog;
pub mod disk;
pub mod pattern;
pub mod render;
mod scan;
pub mod store;
pub mod template;

pub use catalog::Catalog;
pub use disk::TemplateFiles;
pub use pattern::Pattern;
pub use render::Rendered;
pub use store::TemplateStore;
pub use template::Template;
