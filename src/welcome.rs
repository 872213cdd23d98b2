//! Prints a token and example commands when the gateway starts in development mode.
//!
//! **Runs on**: main, once, in development mode. **Owns**: nothing. **Never**: prints in
//! production, and prints a secret only if it was made up for this run.

use std::io::stdout;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::cli::{self, TokenRequest};
use crate::settings::{RunMode, Settings};
use crate::telemetry::output::Output;

/// The user of the printed token.
const USER: &str = "anna";
/// How long the printed token is valid.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Prints a token, a command to watch notifications, and one to send one, ready to paste.
pub fn print(settings: &Settings, address: SocketAddr, api_address: Option<SocketAddr>) {
    if settings.mode != RunMode::Development {
        return;
    }
    // On a thread of its own, since standard output may be a pipe that nobody reads. If the thread
    // cannot be started, the gateway works without the text.
    if let Ok(output) = Output::start("welcome", stdout(), |_dropped| String::new()) {
        output.push(text(settings, address, api_address).as_bytes());
    }
}

fn text(settings: &Settings, address: SocketAddr, api_address: Option<SocketAddr>) -> String {
    let request = TokenRequest {
        user: USER.to_owned(),
        tenant: None,
        roles: Vec::new(),
        channels: Vec::new(),
        ttl: TOKEN_LIFE,
    };
    let token = match cli::sign(&settings.jwt, &request, SystemTime::now()) {
        Ok(token) => format!("TOKEN={token}"),
        Err(_asymmetric) => "TOKEN=<a JWT signed with your private key>".to_owned(),
    };
    let made_up = settings.api.key.as_deref().filter(|_key| settings.generated.api_key);
    let key = made_up.unwrap_or("<your API key>");
    let api = api_address.unwrap_or(address);
    format!(
        "\nara-gateway {version} is up in development mode on http://{address}\n\
         Secrets made up for this run are gone when it stops.\n\n\
         # a token for user {USER}, valid for a day\n\
         {token}\n\n\
         # watch {USER}'s notifications (or WebSocket: ws://{address}/ws?token=$TOKEN)\n\
         curl -N \"http://{address}/sse?token=$TOKEN\"\n\n\
         # send one, from another terminal\n\
         curl http://{api}/api/v1/notifications/send -H 'X-API-Key: {key}' \\\n  \
         -H 'Content-Type: application/json' \\\n  \
         -d '{{\"target_user_id\":\"{USER}\",\"event_type\":\"hello\",\"payload\":{{\"text\":\"It works\"}}}}'\n\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}
