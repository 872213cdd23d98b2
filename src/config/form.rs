//! The forms a value may have: read from TOML or from text, checked, and described to people.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: decides whether a value may be shown: it returns the wrong piece and the complaint
//! apart.

use std::time::Duration;

use http::HeaderName;

use toml::de::DeValue;

use super::address::{origin, parse_address, parse_host, parse_network};

/// What a value of a key must look like.
#[derive(Debug)]
pub enum Form {
    /// `true` or `false`.
    Switch,
    /// A whole number from `min` to `max`; 0 as well where `zero` says what it means.
    Whole {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// What 0 means; empty = 0 is nothing special.
        zero: &'static str,
    },
    /// Whole or fractional seconds from `min` to `max`; 0 as well where `zero` says what it means.
    Seconds {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// What 0 means; empty = 0 is nothing special.
        zero: &'static str,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IP address or `localhost`.
    Host,
    /// An IP address (or `localhost`) and a port.
    Address,
    /// A list of web origins, or `*`.
    Origins,
    /// A list of IP networks.
    Networks,
    /// Any text.
    Text,
    /// One line of text.
    Line,
    /// Visible ASCII, so that it fits into a header.
    HeaderText,
    /// The name of a cookie.
    CookieName,
    /// A PEM block, or the path of a file that holds one.
    Pem,
    /// The path of a PEM file.
    File,
    /// `redis://` or `rediss://`.
    RedisUrl,
    /// Directives of the log filter.
    LogFilter,
}

/// A checked value.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Of [`Form::Switch`].
    Switch(bool),
    /// Of [`Form::Whole`].
    Whole(u64),
    /// Of [`Form::Seconds`].
    Seconds(Duration),
    /// Of every form of text.
    Text(String),
    /// Of [`Form::Origins`] and [`Form::Networks`].
    List(Vec<String>),
}

/// Why a value was refused.
pub(super) struct Problem {
    /// The offending piece, quoted and cut short.
    shown: String,
    /// What is wrong, to be read after the piece or after "the value".
    what: String,
}

impl Problem {
    fn new(piece: &str, what: impl Into<String>) -> Self {
        Self { shown: quoted(piece), what: what.into() }
    }

    pub(super) fn not_utf8() -> Self {
        Self::new("", "is not UTF-8")
    }

    /// The complaint with the offending piece.
    pub(super) fn with_value(&self) -> String {
        if self.shown.is_empty() {
            self.without_value()
        } else {
            format!("{} {}", self.shown, self.what)
        }
    }

    /// The complaint without it, for secrets.
    pub(super) fn without_value(&self) -> String {
        format!("the value {}", self.what)
    }
}

/// The most characters of a wrong value that a fault message repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// A piece of a wrong value, cut short.
pub(super) fn quoted(piece: &str) -> String {
    if piece.is_empty() {
        return String::new();
    }
    let mut characters = piece.chars();
    let start: String = characters.by_ref().take(SHOWN_CHARS_MAX).collect();
    let tail = if characters.next().is_some() { "…" } else { "" };
    format!("{start:?}{tail}")
}

impl Form {
    /// Reads a value of the configuration file. `None` = an empty text, which counts as unset.
    pub(super) fn read_toml(&self, value: &DeValue<'_>) -> Result<Option<Value>, Problem> {
        match (self, value) {
            (Self::Switch, DeValue::Boolean(on)) => Ok(Some(Value::Switch(*on))),
            (Self::Whole { .. }, DeValue::Integer(number)) => {
                let text = number.to_string();
                let parsed = i128::from_str_radix(number.as_str(), number.radix());
                self.check_whole(&text, parsed.ok()).map(Some)
            }
            (Self::Seconds { .. }, DeValue::Integer(number)) => {
                self.check_seconds(&number.to_string()).map(Some)
            }
            (Self::Seconds { .. }, DeValue::Float(number)) => {
                self.check_seconds(number.as_str()).map(Some)
            }
            (Self::Origins | Self::Networks, DeValue::Array(items)) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::String(text) => list.push(self.check_item(text)?),
                        other => return Err(wrong_type(other, "an entry that is ")),
                    }
                }
                Ok(Some(Value::List(list)))
            }
            (
                Self::Switch
                | Self::Whole { .. }
                | Self::Seconds { .. }
                | Self::Origins
                | Self::Networks,
                other,
            ) => Err(wrong_type(other, "")),
            (_, DeValue::String(text)) if text.is_empty() => Ok(None),
            (_, DeValue::String(text)) => self.check_text(text).map(Some),
            (_, other) => Err(wrong_type(other, "")),
        }
    }

    /// Reads a value of the environment or of `.env`. `None` = empty, which counts as unset.
    pub(super) fn read_text(&self, text: &str) -> Result<Option<Value>, Problem> {
        // A secret may begin or end with a space on purpose; nothing else may.
        let text = if matches!(self, Self::Text) { text } else { text.trim() };
        if text.is_empty() {
            return Ok(None);
        }
        let value = match self {
            Self::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Switch(true),
                "false" | "0" | "no" | "off" => Value::Switch(false),
                _ => return Err(Problem::new(text, "is neither true nor false")),
            },
            Self::Whole { .. } => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Problem::new(text, "is not a whole number"));
                }
                self.check_whole(text, text.parse().ok())?
            }
            Self::Seconds { .. } => self.check_seconds(text)?,
            Self::Origins | Self::Networks => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::List(items.map(|item| self.check_item(item)).collect::<Result<_, _>>()?)
            }
            _ => self.check_text(text)?,
        };
        Ok(Some(value))
    }

    /// Reads the TOML text of a default.
    pub(super) fn default_value(&self, default: &str) -> Option<Value> {
        let parsed = DeValue::parse(default).ok()?;
        self.read_toml(parsed.get_ref()).ok().flatten()
    }

    /// Checks an entry of a list, and brings it into its usual form.
    fn check_item(&self, text: &str) -> Result<String, Problem> {
        if matches!(self, Self::Networks) {
            return match parse_network(text) {
                Some(network) => Ok(network.to_string()),
                None => Err(Problem::new(text, "is neither an IP address nor a network")),
            };
        }
        // The part before an @ may be a password.
        let shown = if text.contains('@') { "" } else { text };
        origin(text).map_err(|what| Problem::new(shown, what))
    }

    fn check_whole(&self, text: &str, number: Option<i128>) -> Result<Value, Problem> {
        let Self::Whole { min, max, zero } = self else {
            return Err(Problem::new(text, "is a number"));
        };
        // A number beyond 128 bits cannot be represented: only its sign matters for the message.
        let beyond = if text.starts_with('-') { i128::MIN } else { i128::MAX };
        let number = number.unwrap_or(beyond);
        if number == 0 && !zero.is_empty() {
            return Ok(Value::Whole(0));
        }
        match u64::try_from(number) {
            Ok(whole) if whole > *max => Err(Problem::new(text, format!("is above {max}"))),
            Ok(whole) if whole >= *min => Ok(Value::Whole(whole)),
            Err(_) if number > 0 => Err(Problem::new(text, format!("is above {max}"))),
            _ => Err(Problem::new(text, format!("is below {min}"))),
        }
    }

    fn check_seconds(&self, text: &str) -> Result<Value, Problem> {
        let Self::Seconds { min, max, zero } = self else {
            return Err(Problem::new(text, "is a number"));
        };
        let seconds = match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() => seconds,
            _ => return Err(Problem::new(text, "is not a number of seconds")),
        };
        if seconds > *max {
            return Err(Problem::new(text, format!("is above {max}")));
        }
        let is_zero_word = seconds == 0.0 && !zero.is_empty();
        if seconds < *min && !is_zero_word {
            return Err(Problem::new(text, format!("is below {min}")));
        }
        Duration::try_from_secs_f64(seconds)
            .map(Value::Seconds)
            .map_err(|error| Problem::new(text, error.to_string()))
    }

    fn check_text(&self, text: &str) -> Result<Value, Problem> {
        let refuse = |what: &str| Err(Problem::new(text, what));
        match self {
            Self::Choice(words) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                return match word {
                    Some(word) => Ok(Value::Text((*word).to_owned())),
                    None => refuse("is none of the allowed words"),
                };
            }
            Self::Host if parse_host(text).is_none() => {
                return refuse("is neither an IP address nor localhost");
            }
            Self::Address if parse_address(text).is_none() => {
                return refuse("is not an IP address and a port");
            }
            Self::File if text.contains("-----BEGIN") => {
                return refuse("is PEM text, not the path of a file that holds it");
            }
            Self::Line | Self::File if text.chars().any(char::is_control) => {
                return refuse("holds a control character");
            }
            Self::HeaderText if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return refuse("holds a character that is not visible ASCII");
            }
            Self::CookieName if HeaderName::from_bytes(text.as_bytes()).is_err() => {
                return refuse("is not the name of a cookie");
            }
            Self::RedisUrl => {
                let scheme_fits = text.starts_with("redis://") || text.starts_with("rediss://");
                if !scheme_fits {
                    return refuse("is not a Redis URL");
                }
                // Checked by the subscriber's own code, so that nothing is accepted here which it
                // refuses.
                crate::redis::check_url(text)
                    .map_err(|why| Problem::new(text, format!("cannot be used: {why}")))?;
            }
            Self::LogFilter if tracing_subscriber::EnvFilter::builder().parse(text).is_err() => {
                return refuse("is not a log filter");
            }
            // Environment variables often hold one line only, so \n may stand for a line's end in
            // PEM.
            Self::Pem if text.contains("-----BEGIN") => {
                return Ok(Value::Text(text.replace("\\r", "").replace("\\n", "\n")));
            }
            _ => {}
        }
        Ok(Value::Text(text.to_owned()))
    }

    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        match self {
            Self::Switch => {
                "true or false; in the environment also 1, 0, yes, no, on, off, in any case"
                    .to_owned()
            }
            Self::Whole { min, max, zero: "" } => format!("a whole number from {min} to {max}"),
            Self::Whole { min, max, zero } => {
                format!("a whole number from {min} to {max}; 0 = {zero}")
            }
            Self::Seconds { min, max, zero: "" } => {
                format!("whole or fractional seconds from {min} to {max}")
            }
            Self::Seconds { min, max, zero } => {
                format!("whole or fractional seconds from {min} to {max}; 0 = {zero}")
            }
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Host => "an IPv4 or IPv6 address, or localhost".to_owned(),
            Self::Address => "IP:PORT, [IPv6]:PORT or localhost:PORT".to_owned(),
            Self::Origins => {
                "scheme://host or scheme://host:port, without a path; a list of text in TOML, \
                 separated by commas in the environment"
                    .to_owned()
            }
            Self::Networks => {
                "IP addresses and networks, as in 10.0.0.0/8 or 2001:db8::1; a list of text in TOML, \
                 separated by commas in the environment"
                    .to_owned()
            }
            Self::Text => "text".to_owned(),
            Self::Line => "text without control characters".to_owned(),
            Self::HeaderText => "visible ASCII without spaces".to_owned(),
            Self::CookieName => "letters, digits and any of !#$%&'*+-.^_`|~".to_owned(),
            Self::Pem => {
                "PEM text (-----BEGIN PUBLIC KEY-----; \\n may stand for a line's end), or \
                          the path of a PEM file, relative to the working directory"
                    .to_owned()
            }
            Self::File => "the path of a PEM file, relative to the working directory".to_owned(),
            Self::RedisUrl => {
                "redis:// or rediss://, as in redis://user:password@host:6379/0".to_owned()
            }
            Self::LogFilter => "a level (error, warn, info, debug, trace, off), or a list such as \
                 info,ara_gateway=debug"
                .to_owned(),
        }
    }
}

fn wrong_type(value: &DeValue<'_>, lead: &str) -> Problem {
    let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
    let what = match lead {
        "" => format!("is {article} {}", value.type_str()),
        lead => format!("holds {lead}{article} {}", value.type_str()),
    };
    Problem { shown: String::new(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: &Form, input: &str) -> Result<Option<Value>, String> {
        form.read_text(input).map_err(|problem| problem.with_value())
    }

    #[test]
    fn whole_numbers_know_both_ends_and_zero() {
        let form = Form::Whole { min: 16, max: 100, zero: "" };
        assert!(text(&form, "16") == Ok(Some(Value::Whole(16))));
        assert!(text(&form, " 100 ") == Ok(Some(Value::Whole(100))));
        for (input, complaint) in [
            ("15", "is below 16"),
            ("0", "is below 16"),
            ("-1", "is below 16"),
            ("101", "is above 100"),
            ("99999999999999999999999999999999999999999999", "is above 100"),
            ("1.5", "is not a whole number"),
            ("ten", "is not a whole number"),
            ("-", "is not a whole number"),
        ] {
            assert!(
                text(&form, input).is_err_and(|problem| problem.contains(complaint)),
                "{input}"
            );
        }
        let form = Form::Whole { min: 16, max: 100, zero: "unlimited" };
        assert!(text(&form, "0") == Ok(Some(Value::Whole(0))));
        assert!(text(&form, "1").is_err());
    }

    #[test]
    fn seconds_may_be_fractional() {
        let form = Form::Seconds { min: 0.05, max: 60.0, zero: "never" };
        assert!(text(&form, "0.25") == Ok(Some(Value::Seconds(Duration::from_millis(250)))));
        assert!(text(&form, "0") == Ok(Some(Value::Seconds(Duration::ZERO))));
        for input in ["0.01", "60.1", "-1", "nan", "inf", "1s", "1e400"] {
            assert!(text(&form, input).is_err(), "{input}");
        }
    }

    #[test]
    fn switches_are_read_as_people_and_tools_write_them() {
        for on in ["true", "True", "TRUE", "1", "yes", "Yes", "on", "ON", " true "] {
            assert!(text(&Form::Switch, on) == Ok(Some(Value::Switch(true))), "{on}");
        }
        for off in ["false", "False", "0", "no", "NO", "off", "Off"] {
            assert!(text(&Form::Switch, off) == Ok(Some(Value::Switch(false))), "{off}");
        }
        for neither in ["perhaps", "2", "y", "enabled", "-1", "truee"] {
            assert!(text(&Form::Switch, neither).is_err(), "{neither}");
        }
    }

    #[test]
    fn long_values_are_cut_short_and_escaped() {
        let problem = Problem::new(&"x\n".repeat(100), "is bad");
        assert!(problem.with_value().chars().count() < 120 && !problem.with_value().contains('\n'));
        assert!(!problem.without_value().contains('x'));
    }
}
