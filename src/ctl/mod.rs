//! `ara-gateway ctl`: what operators do to a running gateway, over its API.
//!
//! **Runs on**: main, in a process of its own. **Owns**: the command line of `ctl`. **Never**: reads the
//! gateway's configuration, or takes a key as an argument, where every user of the machine sees it.

mod caller;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::failure::{EXIT_FAILURE, Failure};
use caller::Caller;
use table::Table;

/// How often a drain is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Where the gateway is, and what is to be done.
#[derive(Debug, Clone, Args)]
pub struct Request {
    /// The address of the gateway's API.
    #[arg(long, env = "ARA_URL", default_value = "http://127.0.0.1:8081", global = true)]
    url: String,
    /// A file with the API key [default: the environment variable ARA_API_KEY].
    #[arg(long, value_name = "FILE", global = true)]
    api_key_file: Option<PathBuf>,
    /// The tenant to act for, where tenants are on and the key is bound to none.
    #[arg(long, env = "ARA_TENANT", global = true)]
    tenant: Option<String>,
    /// Print what the API answers, as JSON, instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Show connections, messages and shards, again and again until Ctrl-C.
    Top {
        /// Seconds between two looks.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
        /// Show them once.
        #[arg(long)]
        once: bool,
    },
    /// List connections.
    Connections {
        /// Only those of this user.
        #[arg(long)]
        user: Option<String>,
        /// Only those that receive this channel.
        #[arg(long)]
        channel: Option<String>,
        /// Only those over this transport.
        #[arg(long)]
        transport: Option<Transport>,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Disconnect a user.
    Kick {
        /// The user's id.
        user: String,
        /// What its clients are told.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Send all clients away at a rate.
    #[command(subcommand)]
    Drain(DrainCommand),
    /// What waits for a user.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// The templates of a tenant.
    #[command(subcommand)]
    Templates(TemplatesCommand),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Transport {
    Websocket,
    Sse,
}

#[derive(Debug, Clone, Subcommand)]
enum DrainCommand {
    /// Begin, or change the rate.
    #[group(required = true, multiple = false)]
    Start {
        /// Clients a second.
        #[arg(long, group = "pace")]
        rate: Option<u64>,
        /// How long it is to take.
        #[arg(long, group = "pace")]
        seconds: Option<u64>,
    },
    /// Show it.
    Status,
    /// Show it every second until nobody is left.
    Watch,
    /// End it: who is still there stays.
    Stop,
}

#[derive(Debug, Clone, Subcommand)]
enum QueueCommand {
    /// Show it.
    Show {
        /// The user's id.
        user: String,
        /// The dead letters instead.
        #[arg(long)]
        dead_letters: bool,
    },
    /// Throw it away.
    Clear {
        /// The user's id.
        user: String,
        /// The dead letters instead.
        #[arg(long)]
        dead_letters: bool,
    },
}

#[derive(Debug, Clone, Subcommand)]
enum TemplatesCommand {
    /// List them.
    List,
    /// Show one.
    Get {
        /// Its id.
        id: String,
    },
    /// Make one from a JSON file, or change it.
    Put {
        /// The file, as `POST /api/v1/templates` takes it.
        file: PathBuf,
    },
    /// Delete one.
    Delete {
        /// Its id.
        id: String,
    },
    /// Show what would be sent.
    Render {
        /// Its id.
        id: String,
        /// The variables, as a JSON object.
        #[arg(default_value = "{}")]
        variables: String,
    },
}

/// Does what is asked: the answer goes to `out`, a failure to `err`.
pub fn run(request: &Request, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    match serve(request, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is closed too, the exit code still reports it.
            let _told = writeln!(err, "ara-gateway ctl: {failure}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn serve(request: &Request, out: &mut impl Write) -> Result<(), Failure> {
    let key = request.api_key_file.as_deref();
    let caller = Caller::new(&request.url, key, request.tenant.as_deref())?;
    let print = |answer: &Value, table: fn(&Value) -> Table| {
        if request.json { format!("{answer}\n") } else { table(answer).to_string() }
    };
    let text = match &request.command {
        Command::Top { interval, once } => {
            return repeat(out, Duration::from_secs(*interval), || {
                let stats = caller.get("/stats")?;
                Ok((print(&stats, table::top), *once))
            });
        }
        Command::Connections { user, channel, transport, limit } => {
            let filters = [
                ("user_id", user.as_deref()),
                ("channel", channel.as_deref()),
                ("transport", transport.map(Transport::name)),
            ];
            print(&connections(&caller, &filters, *limit)?, table::connections)
        }
        Command::Kick { user, reason } => {
            let query = reason.as_ref().map(|text| format!("?reason={}", escape(text)));
            let query = query.unwrap_or_default();
            let path = format!("/api/v1/users/{}/connections{query}", escape(user));
            print(&caller.delete(&path)?, table::members)
        }
        Command::Drain(DrainCommand::Watch) => {
            return repeat(out, WATCH_INTERVAL, || {
                let drain = caller.get("/api/v1/drain")?;
                let is_over = drain.get("state").and_then(Value::as_str) != Some("draining");
                Ok((print(&drain, table::members), is_over))
            });
        }
        Command::Drain(command) => print(&drain(&caller, command)?, table::members),
        Command::Queue(QueueCommand::Show { user, dead_letters }) => {
            print(&caller.get(&queue_path(user, *dead_letters))?, table::queue)
        }
        Command::Queue(QueueCommand::Clear { user, dead_letters }) => {
            print(&caller.delete(&queue_path(user, *dead_letters))?, table::members)
        }
        Command::Templates(TemplatesCommand::List) => {
            let templates = pages(&caller, "/api/v1/templates?", "templates", usize::MAX)?;
            print(&templates, table::templates)
        }
        Command::Templates(command) => print(&template(&caller, command)?, table::members),
    };
    written(out, &text)
}

/// Prints what `look` makes until it says that this was the last. On a terminal each takes the place of
/// the one before.
fn repeat(
    out: &mut impl Write,
    interval: Duration,
    mut look: impl FnMut() -> Result<(String, bool), Failure>,
) -> Result<(), Failure> {
    let clears = io::stdout().is_terminal();
    loop {
        let (text, is_last) = look()?;
        let begin = if clears && !is_last { "\x1b[H\x1b[2J" } else { "" };
        written(out, &format!("{begin}{text}"))?;
        if is_last {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "this process does nothing else")]
        std::thread::sleep(interval);
    }
}

fn written(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(format!("cannot write to standard output: {error}")))
}

/// The connections of all pages, at most `limit`.
fn connections(
    caller: &Caller,
    filters: &[(&str, Option<&str>)],
    limit: usize,
) -> Result<Value, Failure> {
    let mut path = "/api/v1/connections?".to_owned();
    for (name, value) in filters {
        if let Some(value) = value {
            path += &format!("{name}={}&", escape(value));
        }
    }
    path += &format!("limit={}&", limit.clamp(1, 1000));
    pages(caller, &path, "connections", limit)
}

/// What stands under `list` on page after page, at most `limit`.
fn pages(caller: &Caller, path: &str, list: &str, limit: usize) -> Result<Value, Failure> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let mut page = caller.get(&format!("{path}{cursor}"))?;
        if let Some(Value::Array(entries)) = page.get_mut(list).map(Value::take) {
            found.extend(entries);
        }
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) if found.len() < limit => cursor = format!("cursor={}", escape(next)),
            _ => break,
        }
    }
    found.truncate(limit);
    Ok(json!({ list: found }))
}

fn drain(caller: &Caller, command: &DrainCommand) -> Result<Value, Failure> {
    const PATH: &str = "/api/v1/drain";
    match command {
        DrainCommand::Start { rate: Some(rate), .. } => {
            caller.post(PATH, &json!({ "rate_per_second": rate }))
        }
        DrainCommand::Start { seconds, .. } => caller.post(PATH, &json!({ "seconds": seconds })),
        DrainCommand::Status | DrainCommand::Watch => caller.get(PATH),
        DrainCommand::Stop => caller.delete(PATH),
    }
}

fn template(caller: &Caller, command: &TemplatesCommand) -> Result<Value, Failure> {
    const PATH: &str = "/api/v1/templates";
    let path = |id: &str| format!("{PATH}/{}", escape(id));
    match command {
        TemplatesCommand::List => caller.get(PATH),
        TemplatesCommand::Get { id } => caller.get(&path(id)),
        TemplatesCommand::Delete { id } => caller.delete(&path(id)),
        TemplatesCommand::Render { id, variables } => {
            let variables: Value = serde_json::from_str(variables)
                .map_err(|error| Failure::new(format!("the variables are not JSON: {error}")))?;
            caller.post(&format!("{}/render", path(id)), &json!({ "variables": variables }))
        }
        TemplatesCommand::Put { file } => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(format!("{} cannot be read: {error}", file.display()))
            })?;
            let id = serde_json::from_str::<Value>(&text).ok();
            let id = id.as_ref().and_then(|template| template.get("id")?.as_str());
            match (id, caller.post_text(PATH, &text)) {
                (Some(id), Err(failure)) if failure.to_string().starts_with("TEMPLATE_EXISTS") => {
                    caller.put_text(&path(id), &text)
                }
                (_, answered) => answered,
            }
        }
    }
}

fn queue_path(user: &str, dead_letters: bool) -> String {
    let what = if dead_letters { "dead-letters" } else { "queue" };
    format!("/api/v1/users/{}/{what}", escape(user))
}

fn escape(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Sse => "sse",
        }
    }
}
