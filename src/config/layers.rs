//! The layers: `config.toml`, `.env` and the environment, read in this order.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: takes a value of a file it could not read as a whole, or ignores an unknown key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::api_keys;
use super::env;
use super::error::{Fault, Origin};
use super::form::Problem;
use super::keys::{self, CONFIG_PATH_ENV, KEYS, Key, LATER};
use super::nearest::{is_own, near_miss, nearest};
use super::raw::{Raw, Sources};
use super::tenant_overrides;
use crate::bounded_file::read_bounded;

/// Reads all layers, lowest first.
pub(super) fn read(sources: &Sources, faults: &mut Vec<Fault>) -> Raw {
    let mut raw = Raw::default();
    raw.complete = true;
    let dotenv = read_dotenv(sources, &mut raw, faults);
    if let Some((path, text)) = find_file(sources, &dotenv, &mut raw, faults) {
        raw.file = Some(path);
        read_file(&text, &mut raw, faults);
    }
    for key in KEYS {
        if let Some(line) = dotenv.get(key.env) {
            let origin = Origin::DotEnv { line: line.number };
            if line.value.contains(char::REPLACEMENT_CHARACTER) {
                raw.take(key, origin, Err(Problem::not_utf8()), faults);
            } else if is_service_link(key, &line.value) {
                raw.warnings.push(service_link(key));
            } else {
                raw.take(key, origin, key.form.read_text(&line.value), faults);
            }
        }
    }
    for key in KEYS {
        let Some(value) = sources.environment.get(key.env) else { continue };
        match value.to_str() {
            Some(text) if is_service_link(key, text) => raw.warnings.push(service_link(key)),
            Some(text) => {
                raw.take(key, Origin::Environment, key.form.read_text(text), faults);
            }
            None => raw.take(key, Origin::Environment, Err(Problem::not_utf8()), faults),
        }
    }
    refuse_later_names(sources, &dotenv, faults);
    let lines = dotenv.iter().map(|(name, line)| (name, format!(".env, line {}", line.number)));
    let variables = sources.environment.keys().map(|name| (name, "environment".to_owned()));
    for (name, place) in lines.chain(variables) {
        if let Some(nearest) = near_miss(name) {
            raw.warnings.push(format!("{name} ({place}) is not read; is {nearest} meant?"));
        }
    }
    raw
}

/// Whether a platform has set this variable: Kubernetes (for a Service) and Docker (for a link)
/// tell a container where a neighbour called `server` is by `SERVER_PORT=tcp://10.0.0.1:8081`.
fn is_service_link(key: &Key, value: &str) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    key.env.ends_with("_PORT") && schemes.iter().any(|scheme| value.trim().starts_with(scheme))
}

fn service_link(key: &Key) -> String {
    let service = key.env.trim_end_matches("_PORT").to_ascii_lowercase();
    format!(
        "{} is ignored: it is the address of a Service (Kubernetes) or link (Docker) called \
         {service}, not a port; set enableServiceLinks: false in the pod's spec, or name the \
         service otherwise",
        key.env
    )
}

type DotEnv = BTreeMap<String, env::Line>;

fn read_dotenv(sources: &Sources, raw: &mut Raw, faults: &mut Vec<Fault>) -> DotEnv {
    let path = sources.directory.join(".env");
    // A directory called .env is a Python environment, not our file.
    if !path.is_file() {
        return DotEnv::new();
    }
    // The file may hold lines of other programs, in any encoding.
    let text = match read_bounded(&path, FILE_BYTES_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(problem) => {
            raw.complete = false;
            faults.push(file_fault(".env", &problem, "make it readable, or remove it"));
            return DotEnv::new();
        }
    };
    let (values, mut bad) = env::parse(&text);
    // The file may be shared with other programs: lines that set none of our names are ignored.
    bad.retain(|line| is_own(&line.name));
    raw.complete &= bad.is_empty();
    faults.extend(bad.into_iter().map(|line| Fault {
        key: line.name.as_str().into(),
        env: None,
        origin: Origin::DotEnv { line: line.number },
        problem: format!("the line cannot be read: {}", line.problem),
        allowed: "NAME=value, NAME='value', NAME=\"value\", or a comment after #".to_owned(),
        fix: "correct the line, or remove it".to_owned(),
    }));
    values
}

/// The file to read and its text; `None` where there is none, or none that can be read.
fn find_file(
    sources: &Sources,
    dotenv: &DotEnv,
    raw: &mut Raw,
    faults: &mut Vec<Fault>,
) -> Option<(PathBuf, String)> {
    let from_environment = || {
        let value = sources.environment.get(CONFIG_PATH_ENV).filter(|value| !value.is_empty());
        value.map(|path| (PathBuf::from(path), Origin::Environment))
    };
    let from_dotenv = || {
        let line = dotenv.get(CONFIG_PATH_ENV).filter(|line| !line.value.is_empty())?;
        Some((PathBuf::from(&line.value), Origin::DotEnv { line: line.number }))
    };
    let flag = sources.config.clone().map(|path| (path, Origin::Default));
    let named = flag.or_else(from_environment).or_else(from_dotenv);
    let is_named = named.is_some();
    let (path, origin) = named.unwrap_or_else(|| (PathBuf::from("config.toml"), Origin::Default));
    let full = sources.directory.join(&path);
    if !is_named && !full.exists() {
        return None;
    }
    match read_text_file(&full) {
        Ok(text) => Some((path, text)),
        Err(problem) => {
            raw.complete = false;
            let fix = "name an existing, readable file by --config or ARA_CONFIG";
            let name = path.display().to_string();
            let env = (origin != Origin::Default).then_some(CONFIG_PATH_ENV);
            faults.push(Fault { env, origin, ..file_fault(&name, &problem, fix) });
            None
        }
    }
}

fn file_fault(name: &str, problem: &str, fix: &str) -> Fault {
    Fault {
        key: name.into(),
        env: None,
        origin: Origin::Default,
        problem: format!("the file {problem}"),
        allowed: String::new(),
        fix: fix.to_owned(),
    }
}

/// Far more than any configuration or key file needs, so that a wrong path cannot fill the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a whole text file, or says in words why not (to be read after "the file").
pub(super) fn read_text_file(path: &Path) -> Result<String, String> {
    // Only the position of the bad byte is reported, since the text may hold secrets.
    String::from_utf8(read_bounded(path, FILE_BYTES_MAX)?)
        .map_err(|error| format!("is not UTF-8 from byte {}", error.utf8_error().valid_up_to()))
}

fn read_file(text: &str, raw: &mut Raw, faults: &mut Vec<Fault>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let mut found = Vec::new();
        walk(text, "", table.get_ref(), raw, &mut found);
        found.sort_by_key(|fault: &Fault| fault.origin);
        faults.append(&mut found);
        return;
    }
    // A file that was read in part would give misleading faults: its values are checked once it is
    // TOML.
    raw.complete = false;
    let name = raw.file.as_ref().map_or_else(String::new, |path| path.display().to_string());
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        faults.push(Fault {
            key: name.as_str().into(),
            env: None,
            origin: Origin::in_file(text, start),
            problem: format!("this is not TOML: {}", error.message()),
            allowed: String::new(),
            fix: "correct the line; the file's values are checked after that".to_owned(),
        });
    }
}

fn walk(text: &str, prefix: &str, table: &DeTable<'_>, raw: &mut Raw, faults: &mut Vec<Fault>) {
    for (name, value) in table {
        let origin = Origin::in_file(text, name.span().start);
        let name: &str = name.get_ref();
        // A quoted name with a dot in it is a single name, not a path of section and key.
        let name = if name.contains('.') { format!("{name:?}") } else { name.to_owned() };
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        if keys::later(&path).is_some() {
            faults.push(later_fault(&path, None, origin));
        } else if path == api_keys::NAME {
            let list = value.get_ref();
            raw.has_api_keys = list.as_array().is_none_or(|keys| !keys.is_empty());
            raw.api_keys = api_keys::read(text, origin, list, faults);
        } else if path == tenant_overrides::NAME {
            raw.tenant_overrides = tenant_overrides::read(text, origin, value.get_ref(), faults);
        } else if let Some(key) = keys::by_name(&path) {
            raw.take(key, origin, key.form.read_toml(value.get_ref()), faults);
        } else {
            match value.get_ref() {
                DeValue::Table(inner) if keys::is_section(&path) || !inner.is_empty() => {
                    walk(text, &path, inner, raw, faults);
                }
                _ if keys::is_section(&path) => faults.push(section_fault(&path, origin)),
                _ => faults.push(unknown_fault(&path, origin)),
            }
        }
    }
}

fn later_fault(name: &str, env: Option<&'static str>, origin: Origin) -> Fault {
    Fault {
        key: name.into(),
        env,
        origin,
        problem: "not available in this version".to_owned(),
        allowed: String::new(),
        fix: format!("remove {}", env.unwrap_or("it")),
    }
}

fn section_fault(path: &str, origin: Origin) -> Fault {
    Fault {
        key: path.into(),
        env: None,
        origin,
        problem: "is a section, not a key".to_owned(),
        allowed: format!("[{path}] on a line of its own, and its keys below"),
        fix: "write it as a section, or remove the line".to_owned(),
    }
}

fn unknown_fault(path: &str, origin: Origin) -> Fault {
    let (allowed, fix) = match nearest(path) {
        Some(key) => (
            format!("the nearest known key is {}", key.name),
            format!("write {} if that is meant, or remove the line", key.name),
        ),
        None => (String::new(), "remove the line".to_owned()),
    };
    Fault {
        key: path.into(),
        env: None,
        origin,
        problem: "not a known key".to_owned(),
        allowed,
        fix,
    }
}

fn refuse_later_names(sources: &Sources, dotenv: &DotEnv, faults: &mut Vec<Fault>) {
    for later in LATER {
        for name in later.env {
            if let Some(line) = dotenv.get(*name).filter(|line| !line.value.trim().is_empty()) {
                let origin = Origin::DotEnv { line: line.number };
                faults.push(later_fault(later.name, Some(name), origin));
            }
            if sources.environment.get(*name).is_some_and(|value| !value.is_empty()) {
                faults.push(later_fault(later.name, Some(name), Origin::Environment));
            }
        }
    }
}
