//! The command line, and the commands that print something and end.
//!
//! **Runs on**: main. **Owns**: nothing. **Never**: starts a thread or opens a socket; `main` does
//! that for `serve`.

mod key;

use std::io::{self, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::config::error::{Fault, Faults, Origin};
use crate::config::raw::Sources;
use crate::config::{self, show};
use crate::ctl;
pub use crate::failure::EXIT_FAILURE;
use crate::listener::auth::Verifier;
use crate::settings::Jwt;
pub use key::{KeyRequest, key};

/// The exit code of a configuration (or command line) that cannot be used.
pub const EXIT_BAD_CONFIGURATION: u8 = 2;

/// A push gateway: HTTP and Redis in, WebSocket and Server-Sent Events out.
///
/// Exit codes: 0 clean stop, 1 runtime failure, 2 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "ara-gateway", version)]
pub struct Cli {
    /// The configuration file [default: ./config.toml, where there is one].
    ///
    /// ARA_CONFIG names it as well. A .env file in the working directory overrides the file, and
    /// the environment overrides both.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Reads the command line of this process.
    ///
    /// # Errors
    ///
    /// Help, the version or a mistake was printed instead: the exit code.
    pub fn of_process() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|instead| {
            let code = ExitCode::from(u8::try_from(instead.exit_code()).unwrap_or(EXIT_FAILURE));
            match instead.print().and_then(|()| stdout().flush()) {
                Ok(()) => code,
                // An error goes to standard error; where that is closed, the exit code still
                // reports it.
                Err(_closed) if instead.use_stderr() => code,
                Err(error) => cannot_print(&mut stderr(), &error),
            }
        })
    }

    /// What is to be done: `serve` unless something else is asked for.
    pub fn command(&self) -> Command {
        self.command.clone().unwrap_or(Command::Serve)
    }

    /// Where the configuration is to be read from.
    pub fn sources(&self) -> Sources {
        Sources::of_process(self.config.clone())
    }
}

/// What the program is asked to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the gateway; this is what happens without a command.
    Serve,
    /// Print a client token signed with the configured secret, and nothing else.
    Token(TokenRequest),
    /// Make an API key: print it, and nothing else, and the lines for config.toml to standard error.
    Key(KeyRequest),
    /// Print the effective configuration with its secrets redacted, or every fault in it.
    CheckConfig,
    /// Look at a running gateway and operate it, over its API.
    ///
    /// The API key comes from ARA_API_KEY or a file.
    Ctl(ctl::Request),
}

/// Whom a token is for.
#[derive(Debug, Clone, Args)]
pub struct TokenRequest {
    /// The user: 1 to 128 bytes of visible text.
    #[arg(long)]
    pub user: String,
    /// The tenant; without it the token has no tenant_id claim.
    #[arg(long)]
    pub tenant: Option<String>,
    /// A role; may be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// A channel, or prefix.*, the token may subscribe to; may be given several times.
    ///
    /// Without any, the token may subscribe to every channel.
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub channels: Vec<String>,
    /// How long the token is valid, as in 90s, 15m, 1h or 7days.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = read_ttl)]
    pub ttl: Duration,
}

/// A token that is valid for longer would be a password that nobody changes.
const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn read_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl.as_secs() == 0 || ttl > TTL_MAX {
        return Err("it must be from 1s to 10 years".to_owned());
    }
    Ok(ttl)
}

/// Runs `check-config`: the effective configuration goes to `out`, faults go to `err`.
pub fn check_config(sources: &Sources, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    match config::load(sources) {
        Ok(loaded) => print(out, err, &show::effective(&loaded)),
        Err(faults) => refuse(err, &faults),
    }
}

/// Runs `token`: the token alone goes to `out`, faults go to `err`.
pub fn token(
    sources: &Sources,
    request: &TokenRequest,
    out: &mut impl Write,
    err: &mut impl Write,
) -> ExitCode {
    let signed = config::load(sources).and_then(|loaded| {
        if loaded.settings.generated.jwt_secret {
            return Err(no_secret().into());
        }
        sign(&loaded.settings.jwt, request, SystemTime::now()).map_err(Faults::from)
    });
    match signed {
        Ok(token) => print(out, err, &format!("{token}\n")),
        Err(faults) => refuse(err, &faults),
    }
}

/// Writes faults to `err`. Returns the exit code for a bad configuration.
pub fn refuse(err: &mut impl Write, faults: &Faults) -> ExitCode {
    // Where standard error is closed too, the exit code still reports it.
    match err.write_all(faults.to_string().as_bytes()).and_then(|()| err.flush()) {
        Ok(()) | Err(_) => ExitCode::from(EXIT_BAD_CONFIGURATION),
    }
}

/// Writes the requested text, or reports that it failed: a script must not take a part for the
/// whole.
fn print(out: &mut impl Write, err: &mut impl Write, text: &str) -> ExitCode {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot_print(err, &error),
    }
}

fn cannot_print(err: &mut impl Write, error: &io::Error) -> ExitCode {
    // Where standard error is closed too, the exit code still reports it.
    let told = format!("ara-gateway: cannot write to standard output: {error}\n");
    let _told = err.write_all(told.as_bytes());
    ExitCode::from(EXIT_FAILURE)
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    channels: &'a [String],
}

/// Signs a token with the HMAC secret of the settings.
///
/// # Errors
///
/// A fault where the settings hold no secret to sign with, or where the gateway would refuse the
/// token because of what was asked for.
pub fn sign(jwt: &Jwt, request: &TokenRequest, now: SystemTime) -> Result<String, Fault> {
    if !jwt.is_hmac() {
        return Err(fault(
            "jwt.algorithm",
            Some("JWT_ALGORITHM"),
            format!(
                "tokens of {:?} are signed with a private key, which is not here",
                jwt.algorithm
            ),
            "sign the token where the private key is, or set JWT_ALGORITHM=HS256 and JWT_SECRET",
        ));
    }
    let secret = jwt.secret.as_deref().ok_or_else(no_secret)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let claims = Claims {
        sub: &request.user,
        iat: now,
        exp: now.saturating_add(request.ttl.as_secs()),
        iss: jwt.issuer.as_deref(),
        aud: jwt.audience.as_deref(),
        tenant_id: request.tenant.as_deref(),
        roles: &request.roles,
        channels: &request.channels,
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    let failed = |problem: String| {
        fault("token", None, problem, "correct --user, --tenant, --role or --channel")
    };
    let token = jsonwebtoken::encode(&Header::new(jwt.algorithm), &claims, &key)
        .map_err(|error| failed(format!("it cannot be signed: {error}")))?;
    // The gateway's own rules for claims decide: a token that it would refuse is not printed.
    Verifier::new(jwt)?
        .verify_at(&token, now)
        .map_err(|error| failed(format!("the gateway would refuse it: {error}")))?;
    Ok(token)
}

fn no_secret() -> Fault {
    fault(
        "jwt.secret",
        Some("JWT_SECRET"),
        "not set, and a made-up one would fit no running gateway".to_owned(),
        "set JWT_SECRET, in the environment or in .env, to the gateway's secret: at least 32 \
         random bytes, as from: openssl rand -hex 32",
    )
}

fn fault(key: &str, env: Option<&'static str>, problem: String, fix: &str) -> Fault {
    Fault {
        key: key.into(),
        env,
        origin: Origin::Default,
        problem,
        allowed: String::new(),
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::load;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn sources(environment: &[(&str, &str)]) -> Sources {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        // A directory without a config.toml, so that only the environment counts.
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src").into();
        Sources { config: None, directory, environment }
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn request(line: &str) -> TokenRequest {
        match parse(&format!("ara-gateway token {line}")).unwrap().command() {
            Command::Token(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn run_token(environment: &[(&str, &str)], line: &str) -> (ExitCode, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = token(&sources(environment), &request(line), &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_command_line_is_read() {
        <Cli as CommandFactory>::command().debug_assert();
        assert!(matches!(parse("ara-gateway").unwrap().command(), Command::Serve));
        assert!(matches!(parse("ara-gateway serve").unwrap().command(), Command::Serve));
        assert!(matches!(
            parse("ara-gateway check-config").unwrap().command(),
            Command::CheckConfig
        ));
        for line in ["ara-gateway --config a.toml", "ara-gateway serve --config a.toml"] {
            assert_eq!(parse(line).unwrap().config, Some(PathBuf::from("a.toml")), "{line}");
        }
        let asked = request("--user u --role a --role b --channel n.* --ttl 90s --tenant t");
        assert_eq!((asked.roles.len(), asked.channels.len()), (2, 1));
        assert_eq!((asked.ttl, asked.tenant.as_deref()), (Duration::from_secs(90), Some("t")));
        assert_eq!(request("--user u").ttl, Duration::from_secs(3600));
        for line in ["token", "token --user u --ttl 0s", "token --user u --ttl soon", "serv"] {
            assert_eq!(parse(&format!("ara-gateway {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["--help", "--version", "token --help"] {
            assert_eq!(parse(&format!("ara-gateway {line}")).unwrap_err().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn a_token_is_printed_alone_and_the_gateway_accepts_it() {
        let environment = [
            ("JWT_SECRET", SECRET),
            ("JWT_ALGORITHM", "HS384"),
            ("JWT_ISSUER", "me"),
            ("JWT_AUDIENCE", "ara"),
        ];
        let line = "--user alice --tenant acme --role ops --channel orders.* --ttl 15m";
        let (code, out, err) = run_token(&environment, line);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
        let token = out.strip_suffix('\n').unwrap();
        let jwt = load(&sources(&environment)).unwrap().settings.jwt;
        let identity = Verifier::new(&jwt).unwrap().verify(token).unwrap();
        assert_eq!((&*identity.user, identity.tenant.as_deref()), ("alice", Some("acme")));
        assert_eq!(identity.roles.len(), 1);
        assert_eq!(identity.channels.as_deref().map(|list| &*list[0]), Some("orders.*"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now + 895..=now + 900).contains(&identity.expires_at_unix_seconds));
    }

    #[test]
    fn a_token_that_would_be_useless_is_not_printed() {
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rsa2048.pub.pem");
        let asymmetric = [("JWT_ALGORITHM", "RS256"), ("JWT_PUBLICKEY", key)];
        let secret = [("JWT_SECRET", SECRET)];
        let broken = [("JWT_SECRET", SECRET), ("SERVER_PORT", "x")];
        for (environment, line, told) in [
            (&[][..], "--user u", "JWT_SECRET"),
            (&asymmetric, "--user u", "private key"),
            (&secret, "--user u --tenant a/b", "tenant_id"),
            (&secret, "--user u --channel *", "channels"),
            (&broken, "--user u", "SERVER_PORT"),
        ] {
            let (code, out, err) = run_token(environment, line);
            assert_eq!((code, out.as_str()), (ExitCode::from(2), ""), "{line}");
            assert!(err.contains(told) && err.contains("fix: ") && !err.contains(SECRET), "{err}");
        }
    }

    #[test]
    fn check_config_prints_the_configuration_or_its_faults() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check_config(&sources(&[("JWT_SECRET", SECRET)]), &mut out, &mut err);
        let text = String::from_utf8(out).unwrap();
        assert_eq!((code, err.len()), (ExitCode::SUCCESS, 0));
        assert!(text.contains("port = 8081  # default") && !text.contains(SECRET), "{text}");

        let (mut out, mut err) = (Vec::new(), Vec::new());
        let environment = [("SERVER_PORT", "x"), ("RUN_MODE", "production"), ("API_KEY", "short")];
        let code = check_config(&sources(&environment), &mut out, &mut err);
        let text = String::from_utf8(err).unwrap();
        assert_eq!((code, out.len()), (ExitCode::from(2), 0));
        assert!(text.starts_with("4 faults") && !text.contains("short\""), "{text}");
    }
}
