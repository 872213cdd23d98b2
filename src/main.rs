//! The gateway's command: serve, make a token, or check the configuration.

use std::io::{Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use ara_gateway::boot::{self, Hangups, Reloads, Signals};
use ara_gateway::cli::{self, Cli, Command, EXIT_FAILURE};
use ara_gateway::config::{self, raw::Sources};
use ara_gateway::ctl;
use ara_gateway::listener::auth::Verifier;
use ara_gateway::telemetry::{self, output::Output};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::of_process() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let sources = cli.sources();
    match cli.command() {
        Command::Serve => serve(&sources),
        Command::Token(request) => cli::token(&sources, &request, &mut stdout(), &mut stderr()),
        Command::Key(request) => cli::key(&request, &mut stdout(), &mut stderr()),
        Command::Ctl(request) => ctl::run(&request, &mut stdout(), &mut stderr()),
        Command::CheckConfig => cli::check_config(&sources, &mut stdout(), &mut stderr()),
    }
}

/// Whatever happens, even a panic of this thread, ends with an exit code and its message written.
fn serve(sources: &Sources) -> ExitCode {
    let output = match telemetry::open() {
        Ok(output) => output.clone(),
        Err(error) => {
            // Where even standard error is closed, the exit code still tells.
            let _told = writeln!(stderr(), "the system gives no more threads: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let code = catch_unwind(AssertUnwindSafe(|| run(sources, output)));
    telemetry::finish();
    code.unwrap_or_else(|_panic| ExitCode::from(EXIT_FAILURE))
}

fn run(sources: &Sources, mut output: Output) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&mut output, "the system gives no runtime", &error),
    };
    // First of all: a signal during a slow start is a stop like any other, and a SIGHUP not the end.
    let installed = runtime.block_on(async { Ok((Signals::install()?, Hangups::install()?)) });
    let (mut signals, hangups) = match installed {
        Ok(installed) => installed,
        Err::<_, std::io::Error>(error) => {
            return failed(&mut output, "cannot listen for signals", &error);
        }
    };
    let loaded = match config::load(sources) {
        Ok(loaded) => loaded,
        Err(faults) => return cli::refuse(&mut output, &faults),
    };
    let verifier = match Verifier::new(&loaded.settings.jwt) {
        Ok(verifier) => verifier,
        Err(fault) => return cli::refuse(&mut output, &fault.into()),
    };
    if let Err(error) = telemetry::start(&loaded.settings.log, &output) {
        return failed(&mut output, "log.filter", &error);
    }
    let settings = loaded.settings.clone();
    let reloads = Reloads::new(hangups, sources.clone(), loaded);
    runtime.block_on(boot::run(settings, verifier, &mut signals, reloads))
}

/// Says why, before there is a log.
fn failed(output: &mut Output, what: &str, why: &dyn std::error::Error) -> ExitCode {
    output.push(format!("{what}: {why}\n").as_bytes());
    ExitCode::from(EXIT_FAILURE)
}
