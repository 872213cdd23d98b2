//! Configuration: `config.toml`, then `.env`, then the environment, checked as a whole.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing that outlives the start.
//! **Never**: stops at the first fault, lets a fault hold a secret, or changes the environment.
//!
//! The steps: [`keys`] lists every setting, `layers` reads values from the files and the
//! environment, [`form`] checks each value by itself, [`raw`] keeps that of the highest layer, and
//! `resolve` checks the values against each other and makes [`settings::Settings`]. [`mod@reload`] does all
//! of it again for a gateway that runs. To add a key:
//! one entry in [`keys`], one field in [`settings`], one line in `resolve`.

mod address;
pub(crate) mod api_keys;
mod env;
pub mod error;
pub mod form;
pub(crate) mod jwt_key;
pub mod keys;
mod layers;
mod nearest;
pub mod raw;
pub mod reload;
mod resolve;
pub mod show;
mod tenant_overrides;
#[cfg(test)]
mod tests;

use crate::settings::Settings;
use error::Faults;
use raw::{Raw, Sources};

/// A configuration that passed every check.
#[derive(Clone)]
pub struct Loaded {
    /// What the program runs on.
    pub settings: Settings,
    /// What was typed in, for [`show::effective`].
    raw: Raw,
}

/// Reads and checks the whole configuration.
///
/// # Errors
///
/// Every fault that was found, at least one.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let mut list = Vec::new();
    let raw = layers::read(sources, &mut list);
    if raw.complete {
        let settings = resolve::resolve(&raw, &sources.directory, &mut list);
        if list.is_empty() {
            return Ok(Loaded { settings, raw });
        }
    }
    Err(Faults { file: raw.file, list })
}
