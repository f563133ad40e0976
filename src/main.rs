//! The `twinmq` binary: reads the command line, sets up the log, runs the command, and turns what
//! came of it into an exit code.

use std::io::Write;

use anyhow::Context;
use clap::Parser;
use twinmq::cli::args::{Cli, Command};
use twinmq::cli::{CliError, dispatch};
use twinmq::exit::ExitCode;
use twinmq::telemetry;

fn main() -> std::process::ExitCode {
    abort_on_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error).into(),
    };
    match run(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            complain(&format!("{error:#}"));
            error
                .downcast_ref::<CliError>()
                .map_or(ExitCode::Failed, CliError::exit_code)
                .into()
        }
    }
}

/// A process in doubt dies, whichever thread found out: a cold start is the only way back. In
/// every build, not only where the profile says `panic = "abort"`.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // A server's log follows its profile: `run` sets it up itself.
    if !matches!(cli.command, Command::Run(_)) {
        telemetry::init_for_command().context("failed to set up the log")?;
    }
    Ok(dispatch(cli)?)
}

/// Help and version go to standard output and are a success; mistakes go to standard error.
fn explain(error: &clap::Error) -> ExitCode {
    match error.print() {
        Ok(()) if error.exit_code() == 0 => ExitCode::Done,
        _ => ExitCode::Usage,
    }
}

/// One `twinmq: ` line for each line of the text, on standard error. If that is gone, nobody can be
/// told.
fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    for line in text.lines() {
        if writeln!(out, "twinmq: {line}").is_err() {
            return;
        }
    }
}
