//! Child processes that never outlive the tool. Three measures back each other up: [`Child`] stops and
//! reaps its process when dropped; signals to the tool end the run in the ordinary way; and the
//! kernel terminates the process if the tool is killed outright (asked for in [`launch`]).

use std::fs::File;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::fault::{Context, Fault, Outcome, failed};
use crate::stop::Stop;

/// How long a child may take to stop by itself: the gateway's own grace is ten seconds.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// The same once the user has asked for the end.
const STOP_GRACE_INTERRUPTED: Duration = Duration::from_secs(3);

/// What to start.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [&'a str],
    pub(crate) environment: &'a [(String, String)],
    /// Empty: wherever the kernel likes.
    pub(crate) cores: &'a [usize],
    /// Everything the child prints; without one its standard error is the tool's own.
    pub(crate) log: Option<&'a Path>,
    /// Hand the child's standard output to the tool.
    pub(crate) piped: bool,
}

#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    /// An empty directory, so that no stray configuration file is picked up.
    home: PathBuf,
    stop: Stop,
}

impl Child {
    pub(crate) fn start(recipe: &Recipe<'_>, stop: &Stop) -> Outcome<Self> {
        let name = format!("ara-bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let home = std::env::temp_dir().join(name);
        std::fs::create_dir(&home).context("cannot create a directory for the child")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("ara-bench").arg("launch");
        for core in recipe.cores {
            command.arg(format!("--core={core}"));
        }
        command.arg("--parent").arg(std::process::id().to_string());
        command.arg("--").arg(recipe.program).args(recipe.args);
        command.env_clear().envs(recipe.environment.iter().map(|(key, value)| (key, value)));
        // A group of its own: Ctrl-C reaches the tool alone, which then stops the child in order.
        command.current_dir(&home).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(log) = recipe.log {
            let file = File::options().create(true).append(true).open(log);
            let file = file.context("cannot open the log file")?;
            command.stdout(file.try_clone().context("cannot share the log file")?).stderr(file);
        }
        if recipe.piped {
            command.stdout(Stdio::piped());
        }
        let process = command.spawn().context("cannot start a child process")?;
        Ok(Self { process, home, stop: stop.clone() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    pub(crate) fn exited(&mut self) -> Outcome<Option<ExitStatus>> {
        self.process.try_wait().context("cannot ask after a child process")
    }

    /// SIGKILL, at once; the process is reaped when this returns.
    pub(crate) fn kill(&mut self) -> Outcome<()> {
        self.process.kill().context("cannot kill a child process")?;
        self.process.wait().context("cannot reap a child process").map(drop)
    }

    /// SIGTERM, then a bounded wait, then SIGKILL; the process is reaped when this returns.
    pub(crate) fn end(&mut self) -> Outcome<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Fault::Failed("a child without a pid".to_owned()))?;
        kill_process(pid, Signal::TERM).context("cannot signal a child process")?;
        let asked = Instant::now();
        loop {
            if self.exited()?.is_some() {
                return Ok(());
            }
            let grace = if self.stop.raised() { STOP_GRACE_INTERRUPTED } else { STOP_GRACE };
            if asked.elapsed() > grace {
                self.kill()?;
                return failed(format!(
                    "a child had to be killed {} s after SIGTERM",
                    grace.as_secs()
                ));
            }
            park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(fault) = self.end() {
            crate::progress(&fault.to_string());
        }
        // Anything the child left behind goes with it.
        if let Err(error) = std::fs::remove_dir_all(&self.home) {
            crate::progress(&format!("cannot remove {}: {error}", self.home.display()));
        }
    }
}

/// The child's side, between fork and its real program: ties it to its parent's life and to its
/// cores, then becomes the program. Returns only if it could not.
pub(crate) fn launch(parent: u32, cores: &[usize], program: &Path, args: &[String]) -> ExitCode {
    let failed = set_up(parent, cores).err();
    let error = failed.unwrap_or_else(|| Command::new(program).args(args).exec());
    crate::progress(&format!("cannot start {}: {error}", program.display()));
    ExitCode::FAILURE
}

fn set_up(parent: u32, cores: &[usize]) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have ended before the kernel was asked to signal its end.
    let actual = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if i64::from(actual) != i64::from(parent) {
        return Err(Error::other("its parent has gone"));
    }
    pin(cores)
}

/// Keeps this thread, and what it starts, on `cores`; an empty list changes nothing.
pub(crate) fn pin(cores: &[usize]) -> Result<(), Error> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &core in cores {
        if core >= CpuSet::MAX_CPU {
            return Err(Error::other(format!("there is no core {core}")));
        }
        set.set(core);
    }
    sched_setaffinity(None, &set)
        .map_err(|error| Error::other(format!("cannot run on core {cores:?} only: {error}")))
}
