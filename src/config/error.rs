//! The faults of a configuration, as data, and how they are printed for a person.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: holds the value of a secret, nor more than a short piece of any other value.

use std::fmt;
use std::path::PathBuf;

/// Which layer a value (or a fault) came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was not set: the built-in default.
    Default,
    /// The configuration file, at this line.
    File {
        /// Counted from 1.
        line: usize,
    },
    /// The `.env` file of the working directory, at this line.
    DotEnv {
        /// Counted from 1.
        line: usize,
    },
    /// The process environment.
    Environment,
}

impl Origin {
    /// The place of a byte in the text of the configuration file.
    #[must_use]
    pub fn in_file(text: &str, position: usize) -> Self {
        let before = text.as_bytes().get(..position).unwrap_or_default();
        Self::File { line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { line } => write!(formatter, "file, line {line}"),
            Self::DotEnv { line } => write!(formatter, ".env, line {line}"),
            Self::Environment => formatter.write_str("environment"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key in its dotted form, or the name of the file where the fault is in no key.
    pub key: Box<str>,
    /// The environment name, where the value came from the environment or from `.env`.
    pub env: Option<&'static str>,
    /// Where the value was set.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: String,
    /// Which values are allowed.
    pub allowed: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.key)?;
        match (self.origin, self.env) {
            (Origin::Default, None) => {}
            (Origin::Default, Some(env)) => write!(formatter, " ({env})")?,
            (origin, None) => write!(formatter, " ({origin})")?,
            (origin, Some(env)) => write!(formatter, " ({origin}, {env})")?,
        }
        write!(formatter, ": {}", self.problem)?;
        if !self.allowed.is_empty() {
            write!(formatter, "\n    allowed: {}", self.allowed)?;
        }
        if !self.fix.is_empty() {
            write!(formatter, "\n    fix: {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Every fault of one configuration, in the order a reader would meet them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The configuration file that was read, if one was.
    pub file: Option<PathBuf>,
    /// At least one.
    pub list: Vec<Fault>,
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { file: None, list: vec![fault] }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.list.len() == 1 { "fault" } else { "faults" };
        write!(formatter, "{} {plural} in the configuration", self.list.len())?;
        match &self.file {
            Some(path) => writeln!(formatter, " (file: {})", path.display())?,
            None => writeln!(formatter)?,
        }
        for fault in &self.list {
            writeln!(formatter, "  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
