//! The one set of bounds that every trigger keeps, whatever its source.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: changes a value, but for names
//! that are given twice, which count once.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashSet;
use ara_shards::notification::{Audience, Priority};
use bytes::Bytes;

use super::draft::{AudienceDraft, AudienceKind, Draft, EventDraft, TargetDraft};
use super::fault::{Fault, Problem, TemplateProblem};
use super::trigger::{Event, Payload, Target, Trigger};
use crate::names;
use crate::templates::{Catalog, Rendered, Template, template};

/// The longest payload, in bytes of JSON.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// What a priority is, for error messages.
const PRIORITY_ADVICE: &str = "use one of Low, Normal, High, Critical";
/// What `variables` are for, for error messages.
const VARIABLES_ARE_FOR: &str = "triggers with a `template_id`";
/// What `queue` is for, for error messages.
const QUEUE_IS_FOR: &str = "broadcasts and channels with an `audience` of users";

/// What a name must keep to.
struct Rule {
    is_kept_by: fn(&str) -> bool,
    advice: &'static str,
}

const USER: Rule = Rule { is_kept_by: names::is_user, advice: names::USER_RULE };
const CHANNEL: Rule = Rule { is_kept_by: names::is_channel, advice: names::CHANNEL_RULE };
const TENANT: Rule = Rule { is_kept_by: names::is_tenant, advice: names::TENANT_RULE };
const LABEL: Rule = Rule { is_kept_by: names::is_label, advice: names::LABEL_RULE };

impl Rule {
    fn check(&self, path: impl FnOnce() -> String, text: &str) -> Result<(), Fault> {
        let problem = Problem::Invalid { advice: self.advice };
        if (self.is_kept_by)(text) { Ok(()) } else { Err(Fault::at(path(), problem)) }
    }

    /// Each of 1 to `most` names.
    fn check_all(&self, path: &str, names: &[String], most: usize) -> Result<(), Fault> {
        if !(1..=most).contains(&names.len()) {
            return Err(Fault::at(path, Problem::Count { found: names.len(), most }));
        }
        let mut entries = names.iter().enumerate();
        entries.try_for_each(|(place, name)| self.check(|| format!("{path}[{place}]"), name))
    }

    fn one(&self, path: &str, name: String) -> Result<Vec<Arc<str>>, Fault> {
        self.check(|| path.to_owned(), &name)?;
        Ok(vec![name.into()])
    }

    /// Each name once, where it came first.
    fn several(&self, path: &str, names: Vec<String>, most: usize) -> Result<Vec<Arc<str>>, Fault> {
        self.check_all(path, &names, most)?;
        let mut seen = AHashSet::with_capacity(names.len());
        let names = names.into_iter().map(Arc::<str>::from);
        Ok(names.filter(|name| seen.insert(Arc::clone(name))).collect())
    }
}

/// Checks the tenant that the field at `path` names.
///
/// # Errors
///
/// It is not a tenant id.
pub fn check_tenant(path: &str, tenant: &str) -> Result<(), Fault> {
    TENANT.check(|| path.to_owned(), tenant)
}

/// Checks the id of a template that the field at `path` has.
///
/// # Errors
///
/// It cannot be one.
pub fn check_template_id(path: &str, id: &str) -> Result<(), Fault> {
    let problem = TemplateProblem::BadId;
    if template::is_id(id) { Ok(()) } else { Err(Fault::Template { path: path.into(), problem }) }
}

/// Checks the label that the field at `path` has: an event type, or a name for people.
///
/// # Errors
///
/// It cannot be one.
pub fn check_label(path: &str, label: &str) -> Result<(), Fault> {
    LABEL.check(|| path.to_owned(), label)
}

/// The priority that the field at `path` names, if it names one.
///
/// # Errors
///
/// There is none of this name.
pub fn check_priority(path: &str, name: Option<&str>) -> Result<Option<Priority>, Fault> {
    let Some(name) = name else { return Ok(None) };
    let problem = Problem::Invalid { advice: PRIORITY_ADVICE };
    Priority::from_name(name).map(Some).ok_or_else(|| Fault::at(path, problem))
}

impl Draft {
    /// The trigger, for a tenant that may have it, by its own templates.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be.
    pub fn into_trigger(self, tenant: Arc<str>, templates: &Catalog) -> Result<Trigger, Fault> {
        let target = self.target.check()?;
        let event = self.event.check(&tenant, &target, templates)?;
        Ok(Trigger { tenant, target, event })
    }
}

impl TargetDraft {
    fn check(self) -> Result<Target, Fault> {
        match self {
            Self::Everyone => Ok(Target::Everyone),
            Self::User(path, name) => USER.one(path, name).map(Target::Users),
            Self::Users(path, names) => {
                USER.several(path, names, names::USERS_MAX).map(Target::Users)
            }
            Self::Channel(path, name) => CHANNEL.one(path, name).map(Target::Channels),
            Self::Channels(path, names) => {
                CHANNEL.several(path, names, names::CHANNELS_MAX).map(Target::Channels)
            }
        }
    }
}

impl EventDraft {
    /// The event, for recipients of a tenant.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be.
    pub fn check(
        mut self,
        tenant: &str,
        target: &Target,
        templates: &Catalog,
    ) -> Result<Event, Fault> {
        let path = self.path;
        let at = |field: &str| join(path, field);
        let template = self.take_template(tenant, templates)?;
        let by_template = || template.as_ref().map(|template| String::from(&*template.event_type));
        let event_type = self.event_type.take().or_else(by_template);
        let event_type = event_type.ok_or_else(|| Fault::at(at("event_type"), Problem::Missing))?;
        LABEL.check(|| at("event_type"), &event_type)?;
        let default_priority = template.as_ref().map(|template| template.default_priority);
        let default_ttl = template.as_ref().and_then(|template| template.default_ttl);
        let payload = self.take_payload(template)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let problem = Problem::TooLong { bytes_max: PAYLOAD_BYTES_MAX };
            return Err(Fault::at(at("payload"), problem));
        }
        let priority = match self.priority.as_deref() {
            None => default_priority.unwrap_or_default(),
            name => check_priority(&at("priority"), name)?.unwrap_or_default(),
        };
        LABEL.check(|| at("source"), &self.source)?;
        if let Some(id) = &self.correlation_id {
            LABEL.check(|| at("correlation_id"), id)?;
        }
        let audience = match self.audience {
            Some(audience) => audience.check(self.path)?,
            None => None,
        };
        let names_absent = matches!(audience, Some(Audience::Users(_)));
        if self.queue && (matches!(target, Target::Users(_)) || !names_absent) {
            return Err(Fault::at(at("queue"), Problem::OnlyFor(QUEUE_IS_FOR)));
        }
        Ok(Event {
            event_type,
            payload,
            priority,
            ttl: self.ttl.or(default_ttl),
            source: self.source,
            correlation_id: self.correlation_id,
            audience,
            queue: self.queue,
        })
    }

    /// The template it names, if it names one.
    fn take_template(
        &mut self,
        tenant: &str,
        templates: &Catalog,
    ) -> Result<Option<Rc<Template>>, Fault> {
        let Some(id) = self.template_id.take() else {
            return match self.variables {
                None => Ok(None),
                Some(_) => {
                    let problem = Problem::OnlyFor(VARIABLES_ARE_FOR);
                    Err(Fault::at(join(self.path, "variables"), problem))
                }
            };
        };
        if self.payload.is_some() {
            let problem = Problem::Misplaced { beside: "a `template_id`" };
            return Err(Fault::at(join(self.path, "payload"), problem));
        }
        let path = || join(self.path, "template_id");
        check_template_id(&path(), &id)?;
        let problem = TemplateProblem::Unknown;
        let found = templates.find(tenant, &id);
        found.map(Rc::clone).map(Some).ok_or_else(|| Fault::Template { path: path(), problem })
    }

    /// What it says, or what a template gives.
    fn take_payload(&mut self, template: Option<Rc<Template>>) -> Result<Payload, Fault> {
        let Some(template) = template else {
            let missing = || Fault::at(join(self.path, "payload"), Problem::Missing);
            return self.payload.take().map(Payload::Sent).ok_or_else(missing);
        };
        let none = || Bytes::from_static(b"{}");
        let variables = self.variables.take().map_or_else(none, Bytes::from);
        let rendered = Rendered::new(template, variables);
        let fault = |fault| Fault::Variables { path: join(self.path, "variables"), fault };
        rendered.map(Payload::Rendered).map_err(fault)
    }
}

impl AudienceDraft {
    /// `None` stands for everybody.
    fn check(self, event_path: &str) -> Result<Option<Audience>, Fault> {
        let path = join(event_path, "audience.value");
        let checked = |names: Vec<String>, most| {
            let checked = LABEL.check_all(&path, &names, most);
            checked.map(|()| names.into_iter().map(String::into_boxed_str))
        };
        Ok(Some(match (self.kind, self.value) {
            (AudienceKind::All, None) => return Ok(None),
            (AudienceKind::All, Some(_)) => {
                return Err(Fault::at(path, Problem::Misplaced { beside: "the type `All`" }));
            }
            (_, None) => return Err(Fault::at(path, Problem::Missing)),
            (AudienceKind::Roles, Some(names)) => {
                Audience::Roles(checked(names, names::AUDIENCE_ROLES_MAX)?.collect())
            }
            (AudienceKind::Users, Some(names)) => {
                let mut names: Vec<_> = checked(names, names::USERS_MAX)?.collect();
                names.sort_unstable();
                names.dedup();
                Audience::Users(names.into())
            }
            (AudienceKind::Channels, Some(names)) => {
                Audience::Channels(checked(names, names::CHANNELS_MAX)?.collect())
            }
        }))
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
