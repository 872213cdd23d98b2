//! `ara-gateway key`: makes an API key and the lines that let it in.
//!
//! **Runs on**: main. **Owns**: nothing. **Never**: keeps the key, or reads a configuration: the gateway
//! needs only the digest.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use humantime::format_rfc3339_seconds;

use super::print;
use crate::access::{KeyDigest, Scope, random_secret};
use crate::config::api_keys;
use crate::names;

/// What a made key begins with, so that scanners for leaked secrets can know it.
const PREFIX: &str = "ara_";

/// What a key is for.
#[derive(Debug, Clone, Args)]
pub struct KeyRequest {
    /// What logs call it: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(long, value_parser = read_name)]
    name: String,
    /// What it may do: read, send or admin; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = read_scope)]
    scopes: Vec<Scope>,
    /// The one tenant it acts for; without it, any.
    #[arg(long, value_parser = read_tenant)]
    tenant: Option<String>,
    /// From when on it is refused, as in 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = read_not_after)]
    not_after: Option<SystemTime>,
}

fn read_name(text: &str) -> Result<String, String> {
    let is_valid = api_keys::is_name(text);
    is_valid.then(|| text.to_owned()).ok_or_else(|| api_keys::NAME_RULE.to_owned())
}

fn read_scope(text: &str) -> Result<Scope, &'static str> {
    Scope::of_name(text).ok_or("it must be read, send or admin")
}

fn read_tenant(text: &str) -> Result<String, &'static str> {
    names::is_tenant(text).then(|| text.to_owned()).ok_or(names::TENANT_RULE)
}

fn read_not_after(text: &str) -> Result<SystemTime, String> {
    let time = api_keys::parse_time(text).ok_or(api_keys::NOT_AFTER_RULE)?;
    if time > SystemTime::now() { Ok(time) } else { Err("it has passed".to_owned()) }
}

/// Runs `key`: the key alone goes to `out`. What the configuration needs goes to `err`, with its
/// explanation as comments, so that `KEY=$(ara-gateway key … 2>> config.toml)` does all.
pub fn key(request: &KeyRequest, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let Some(secret) = random_secret() else {
        // Where standard error is closed too, the exit code still reports it.
        let _told = writeln!(err, "ara-gateway: the system gave no random bytes");
        return ExitCode::from(super::EXIT_FAILURE);
    };
    let key = format!("{PREFIX}{secret}");
    let code = print(out, err, &format!("{key}\n"));
    if code == ExitCode::SUCCESS {
        // A key without its lines is of no use, so whoever closed this end sees it in the code.
        return match err.write_all(lines(request, &key).as_bytes()).and_then(|()| err.flush()) {
            Ok(()) => code,
            Err(_closed) => ExitCode::from(super::EXIT_FAILURE),
        };
    }
    code
}

/// The entry of the configuration.
fn lines(request: &KeyRequest, key: &str) -> String {
    let scopes: Vec<String> =
        request.scopes.iter().map(|scope| format!("{:?}", scope.name())).collect();
    let tenant = request.tenant.as_ref().map(|tenant| format!("tenant = \"{tenant}\"\n"));
    let not_after = request.not_after;
    let not_after = not_after.map(|time| format!("not_after = {}\n", format_rfc3339_seconds(time)));
    format!(
        "\n# The key on standard output is shown only now. Add these lines to config.toml; SIGHUP \
         lets it in.\n[[api.keys]]\nname = \"{}\"\nsha256 = \"{}\"\nscopes = [{}]\n{}{}",
        request.name,
        KeyDigest::of(key.as_bytes()).to_hex(),
        scopes.join(", "),
        tenant.unwrap_or_default(),
        not_after.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::access::Keyring;
    use crate::cli::{Cli, Command};
    use crate::config::load;
    use crate::config::raw::Sources;

    fn request(line: &str) -> Result<KeyRequest, clap::Error> {
        let line = format!("ara-gateway key {line}");
        match Cli::try_parse_from(line.split_whitespace())?.command() {
            Command::Key(request) => Ok(request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_key_is_printed_alone_and_its_lines_let_it_in() {
        let line = "--name billing --scope send --scope read --tenant acme \
                    --not-after 2100-01-31T02:00:00+02:00";
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = key(&request(line).unwrap(), &mut out, &mut err);
        assert_eq!(code, ExitCode::SUCCESS);
        let secret = String::from_utf8(out).unwrap();
        let secret = secret.strip_suffix('\n').unwrap();
        assert!(secret.starts_with(PREFIX) && secret.len() == PREFIX.len() + 64, "{secret}");
        let lines = String::from_utf8(err).unwrap();
        assert!(!lines.contains(secret), "{lines}");

        let directory = tempfile::tempdir().unwrap();
        let file = format!("[tenant]\nenabled = true\n{lines}");
        std::fs::write(directory.path().join("config.toml"), file).unwrap();
        let sources = Sources {
            config: None,
            directory: directory.path().into(),
            environment: std::collections::BTreeMap::new(),
        };
        let loaded = load(&sources).map_err(|faults| faults.to_string()).unwrap();
        let ring = Keyring::new(None, &loaded.settings.api.keys);
        let found = ring.find(secret.as_bytes(), SystemTime::now()).unwrap();
        assert_eq!((&*found.name, found.tenant.as_deref()), ("billing", Some("acme")));
        assert_eq!(found.scopes.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Send]);
        let end = api_keys::parse_time("2100-01-31T00:00:00Z");
        assert_eq!(found.not_after, end);
    }

    #[test]
    fn what_no_configuration_takes_is_no_request() {
        for line in [
            "--name a",
            "--scope send",
            "--name a --scope write",
            "--name default --scope send",
            "--name a/b --scope send",
            "--name a --scope send --tenant a/b",
            "--name a --scope send --not-after soon",
            "--name a --scope send --not-after 2020-01-31T00:00:00Z",
        ] {
            assert_eq!(request(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
