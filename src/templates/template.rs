//! A template: what a trigger names instead of writing an event type and a payload.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: its texts. **Never**:
//! changes: a change of it is another one in its place, so that what was begun with it ends with it.

use ara_shards::notification::Priority;

use super::pattern::Pattern;

/// The longest id, in characters.
const ID_CHARS_MAX: usize = 64;
/// What an id is, for error messages.
pub const ID_RULE: &str = "use 1 to 64 of A-Z a-z 0-9 _ -";
/// What one takes in memory beyond its pattern, at most: its names, and its places in maps.
const OVERHEAD_BYTES: usize = 1024;

/// Whether this is the id of a template.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// A template as it is stored.
#[derive(Debug)]
pub struct Template {
    /// What triggers call it. Its tenant's own.
    pub id: Box<str>,
    /// What people call it.
    pub name: Option<Box<str>>,
    /// The event type of what is sent by it, unless the trigger has one.
    pub event_type: Box<str>,
    /// What its payloads are made of.
    pub pattern: Pattern,
    /// The priority of what is sent by it, unless the trigger has one.
    pub default_priority: Priority,
    /// The time to live of what is sent by it, in seconds, unless the trigger has one.
    pub default_ttl: Option<u64>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last.
    pub updated_ms: u64,
}

impl Template {
    /// What it counts in the bound of all templates.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pattern.bytes() + OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_of_few_characters() {
        assert!(is_id("a") && is_id("Order_paid-2") && is_id(&"i".repeat(64)));
        for bad in ["", "a.b", "a b", "ä", "a/b", &"i".repeat(65)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
