//! The names on the wire and their bounds, checked in one place for HTTP, Redis and tokens.
//!
//! **Runs on**: any thread. **Owns**: nothing. **Never**: normalizes: a name is itself or refused.

pub use ara_shards::base::id::is_channel_name as is_channel;

/// The tenant of everyone where tenants are off, and of tokens that name none.
pub const DEFAULT_TENANT: &str = "default";
/// The longest user id, in bytes.
pub const USER_BYTES_MAX: usize = 128;
/// The longest event type, source, correlation id, or name in an audience, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// The longest tenant id, in bytes.
pub const TENANT_BYTES_MAX: usize = 64;
/// The most users in one trigger.
pub const USERS_MAX: usize = 10_000;
/// The most channels in one trigger.
pub const CHANNELS_MAX: usize = 100;
/// The most roles in one audience.
pub const AUDIENCE_ROLES_MAX: usize = 100;

/// What a channel name is, for error messages.
pub const CHANNEL_RULE: &str = "use 1 to 64 of A-Z a-z 0-9 . _ -";
/// What a user id is, for error messages.
pub const USER_RULE: &str = "use 1 to 128 bytes of visible text";
/// What an event type, a source, a correlation id or a name in an audience is, for error messages.
pub const LABEL_RULE: &str = "use 1 to 128 bytes of visible text";
/// What a tenant id is, for error messages.
pub const TENANT_RULE: &str = "use 1 to 64 of A-Z a-z 0-9 . _ -";

/// 1 to `bytes_max` bytes without control characters, not only white space.
fn is_visible(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.trim().is_empty() && !text.chars().any(char::is_control)
}

/// Whether this is a user id.
#[must_use]
pub fn is_user(text: &str) -> bool {
    is_visible(text, USER_BYTES_MAX)
}

/// Whether this is an event type, a source, a correlation id, or a name in an audience.
#[must_use]
pub fn is_label(text: &str) -> bool {
    is_visible(text, LABEL_BYTES_MAX)
}

/// Whether this is a tenant id: the same alphabet and length as a channel name.
#[must_use]
pub fn is_tenant(text: &str) -> bool {
    text.len() <= TENANT_BYTES_MAX && is_channel(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_visible() {
        assert!(is_user("anna") && is_user("Änna Ö") && is_user(&"u".repeat(128)));
        assert!(!is_user("") && !is_user("  ") && !is_user("a\nb") && !is_user(&"u".repeat(129)));
        assert!(is_channel("news.de_1-x") && is_channel(&"c".repeat(64)));
        assert!(!is_channel("") && !is_channel("a b") && !is_channel("ä"));
        assert!(!is_channel(&"c".repeat(65)));
    }

    #[test]
    fn every_rule_names_the_bound_that_is_checked() {
        for (rule, is_kept_by, bytes_max) in [
            (USER_RULE, is_user as fn(&str) -> bool, USER_BYTES_MAX),
            (LABEL_RULE, is_label, LABEL_BYTES_MAX),
            (CHANNEL_RULE, is_channel, TENANT_BYTES_MAX),
            (TENANT_RULE, is_tenant, TENANT_BYTES_MAX),
        ] {
            assert!(rule.contains(&format!("1 to {bytes_max} ")), "{rule}");
            assert!(is_kept_by(&"x".repeat(bytes_max)) && !is_kept_by(&"x".repeat(bytes_max + 1)));
        }
    }
}
