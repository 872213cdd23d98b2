//! What a source wrote about one notification: read, in one shape for every source, not checked.
//!
//! **Runs on**: the router's thread. **Owns**: the texts; the payload only by reference.
//! **Never**: decides whether a value is allowed: that is `validate`'s.

use std::borrow::Cow;

use ara_shards::wire::json::{self, Unknown};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::fault::{Fault, Problem};
use super::trigger::JsonText;

/// A trigger before it is checked. The tenant is not in it: each source has its own way to trust one.
#[derive(Debug)]
pub struct Draft {
    /// Who is to get it.
    pub target: TargetDraft,
    /// What they are to get.
    pub event: EventDraft,
}

/// The kinds of targets, by the names they have where JSON says the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Every connection of one user.
    User,
    /// Every connection of several users.
    Users,
    /// Every connection of the tenant.
    Broadcast,
    /// The subscribers of one channel.
    Channel,
    /// The subscribers of several channels.
    Channels,
}

/// Who is to get a notification, and the path of the field that says so.
#[derive(Debug)]
pub enum TargetDraft {
    /// Every connection of the tenant.
    Everyone,
    /// Every connection of one user.
    User(&'static str, String),
    /// Every connection of several users.
    Users(&'static str, Vec<String>),
    /// The subscribers of one channel.
    Channel(&'static str, String),
    /// The subscribers of several channels.
    Channels(&'static str, Vec<String>),
}

/// What happened, and how it is to be treated.
#[derive(Debug)]
pub struct EventDraft {
    /// What the fields' names follow in their paths; empty where they stand at the top.
    pub path: &'static str,
    /// The event's type; that of the template where there is one and nothing is said.
    pub event_type: Option<String>,
    /// Any JSON. Either this or a template is there.
    pub payload: Option<JsonText>,
    /// The id of a template, which gives the payload.
    pub template_id: Option<String>,
    /// What fills the template.
    pub variables: Option<JsonText>,
    /// The name of a priority.
    pub priority: Option<String>,
    /// Seconds it stays worth delivering.
    pub ttl: Option<u64>,
    /// Where it comes from; the source's own name where the sender did not say.
    pub source: Cow<'static, str>,
    /// The sender's own id for it.
    pub correlation_id: Option<String>,
    /// Who among the recipients is meant.
    pub audience: Option<AudienceDraft>,
    /// Whether it waits for users whom the audience names and who are away.
    pub queue: bool,
}

/// Who among the recipients is meant, in the shape it has in every source.
#[derive(Debug, Deserialize)]
pub struct AudienceDraft {
    /// What the names are of.
    #[serde(rename = "type")]
    pub kind: AudienceKind,
    /// The names.
    pub value: Option<Vec<String>>,
}

/// The kinds of audiences, by their names in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AudienceKind {
    /// Everybody.
    All,
    /// Connections whose token has one of these roles.
    Roles,
    /// Connections of these users.
    Users,
    /// Connections that hear one of these channels.
    Channels,
}

/// Reads a field that may be left out and whose value may be any JSON: `null` is one, too. For
/// `#[serde(borrow, default, deserialize_with = "draft::any_json")]`.
///
/// # Errors
///
/// None but what the reader has.
pub fn any_json<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(field).map(Some)
}

/// Reads a source's JSON shape. An unknown field is refused everywhere: what it was to narrow would
/// go to everybody. So is a repeated one, since two readers could differ on it.
///
/// # Errors
///
/// The first fault found, with its line and column.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    json::read(bytes, Unknown::Refused).map_err(Fault::Json)
}

impl TargetDraft {
    /// Reads a target whose kind stands beside it and decides its type.
    ///
    /// # Errors
    ///
    /// It is missing, or of another type than its kind has.
    pub fn read(
        kind: TargetKind,
        path: &'static str,
        value: Option<&RawValue>,
    ) -> Result<Self, Fault> {
        Ok(match kind {
            // There is nothing to say here: senders write null, "*" or nothing.
            TargetKind::Broadcast => Self::Everyone,
            TargetKind::User => Self::User(path, read_field(path, value)?),
            TargetKind::Users => Self::Users(path, read_field(path, value)?),
            TargetKind::Channel => Self::Channel(path, read_field(path, value)?),
            TargetKind::Channels => Self::Channels(path, read_field(path, value)?),
        })
    }
}

fn read_field<'a, T: Deserialize<'a>>(
    path: &'static str,
    value: Option<&'a RawValue>,
) -> Result<T, Fault> {
    let value = value.ok_or_else(|| Fault::at(path, Problem::Missing))?;
    json::read_field(path, value, Unknown::Refused).map_err(Fault::Json)
}
