//! The gateway's command: serve, make a token, or check the configuration.

use std::io::{stderr, stdout};
use std::process::ExitCode;

use ara_gateway::boot;
use ara_gateway::cli::{self, Cli, Command, EXIT_FAILURE};
use ara_gateway::config::{self, raw::Sources};
use ara_gateway::door::auth::Verifier;
use ara_gateway::{telemetry, welcome};

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
        Command::CheckConfig => cli::check_config(&sources, &mut stdout(), &mut stderr()),
    }
}

fn serve(sources: &Sources) -> ExitCode {
    let settings = match config::load(sources) {
        Ok(loaded) => loaded.settings,
        Err(faults) => return cli::refuse(&mut stderr(), &faults),
    };
    let verifier = match Verifier::new(&settings.jwt) {
        Ok(verifier) => verifier,
        Err(fault) => return cli::refuse(&mut stderr(), &fault.into()),
    };
    if let Err(error) = telemetry::start(&settings.log) {
        return failed(&format!("log.filter: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(async {
        let mut running = match boot::start(settings.clone(), verifier) {
            Ok(running) => running,
            Err(failure) => return failed(&failure.to_string()),
        };
        if let Err(failure) = running.ready().await {
            return failed(&failure.to_string());
        }
        tracing::info!(address = %running.address, "ready");
        welcome::print(&settings, running.address, running.api_address);
        running.until_stopped().await
    })
}

fn failed(message: &str) -> ExitCode {
    tracing::error!("{message}");
    ExitCode::from(EXIT_FAILURE)
}
