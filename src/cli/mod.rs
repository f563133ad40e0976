//! The command line: one file per subcommand, each with `run(args)`. They print, and decide
//! nothing: results go to standard output, logs and progress to standard error.

pub mod admin_client;
pub mod args;
pub mod bench;
pub mod browse;
pub mod check;
pub mod clear_db;
pub mod config_show;
pub mod demo;
pub mod divergence;
pub mod drill;
pub mod explain;
pub mod history;
mod interrupt;
pub mod ledger;
pub mod load;
pub mod pair;
pub mod promote;
pub mod queue;
pub mod receive;
pub mod run;
mod scratch;
pub mod send;
pub mod serving;
mod stage;
pub mod status;
pub mod status_clients;
pub mod stomp_client;
pub mod stop;
pub mod store_check;
pub mod switchover;
mod typed;
pub mod wait;
pub mod watchdog;

use std::io::Write;

use crate::config::ConfigErrors;
use crate::exit::ExitCode;

#[cfg(test)]
mod toy_server;

use args::{Cli, Command, ConfigCommand, PairCommand, StoreCommand};

/// Why a command did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The arguments are wrong in a way that the parser cannot see.
    #[error("{0}")]
    Usage(String),
    /// Standard output cannot be written.
    #[error("failed to write to standard output: {0}")]
    Output(std::io::Error),
    /// The command's own failure, with the code that it ends with.
    #[error("{error}")]
    Command {
        /// How the process ends.
        code: ExitCode,
        /// What happened, with its causes.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CliError {
    /// A command's own failure.
    pub fn of(code: ExitCode, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Command {
            code,
            error: Box::new(error),
        }
    }

    /// How the process ends.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Configuration,
            Self::Usage(_) => ExitCode::Usage,
            Self::Output(_) => ExitCode::Failed,
            Self::Command { code, .. } => *code,
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it did not do what was asked for.
pub fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Config(ConfigCommand::Show(args)) => config_show::run(&args),
        Command::Pair(PairCommand::Init(args)) => pair::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::History(args) => history::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Stop(args) => stop::run(&args),
        Command::ClearDb(args) => clear_db::run(&args),
        Command::Switchover(args) => switchover::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Divergence(command) => divergence::run(&command),
        Command::Send(args) => send::run(&args),
        Command::Receive(args) => receive::run(&args),
        Command::Browse(args) => browse::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Drill(args) => drill::run(&args),
        Command::Watchdog => watchdog::run(),
        Command::Check(args) => check::run(&args),
        Command::Queue(command) => queue::run(&command),
        Command::Topic(command) => queue::run_topic(&command),
        Command::Subscription(command) => queue::run_subscription(&command),
        Command::Store(StoreCommand::Check(args)) => store_check::run(&args),
    }
}

/// Writes a text and a newline to standard output.
///
/// # Errors
/// When that fails. A reader that has gone (`twinmq ... | head`) counts as success.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(CliError::Output),
    }
}

/// Writes a line to standard error, for a process without a log.
fn complain(text: &str) {
    if let Err(error) = writeln!(std::io::stderr(), "{text}") {
        tracing::debug!(target: "twinmq::ha", %error, "standard error cannot be written");
    }
}

/// Standard output and error belong to nobody from now on: their readers see the end.
fn let_go_of_output() {
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null");
    let done = nowhere.and_then(|file| {
        nix::unistd::dup2_stdout(&file)?;
        nix::unistd::dup2_stderr(&file)?;
        Ok(())
    });
    if let Err(error) = done {
        tracing::debug!(target: "twinmq::ha", %error, "output not closed");
    }
}

/// Writes a value as indented JSON to standard output.
///
/// # Errors
/// When that fails.
pub fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(&format!("{value:#}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn ended(line: &str) -> (ExitCode, String) {
        let error = dispatch(Cli::try_parse_from(line.split(' ')).unwrap()).unwrap_err();
        (error.exit_code(), error.to_string())
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let (code, said) = ended("twinmq config show --set log.levl=debug");
        assert_eq!(code, ExitCode::Configuration);
        assert_eq!(
            said,
            "--set log.levl=debug: unknown key log.levl, did you mean log.level?"
        );
        let (code, said) =
            ended("twinmq pair init /nowhere --primary a --secondary a --lock-file /m/l");
        assert_eq!(code, ExitCode::Usage);
        assert_eq!(
            said,
            "--secondary a: is the primary too: a pair is two machines"
        );
        let error = CliError::of(ExitCode::StoreInUse, std::io::Error::other("taken"));
        assert_eq!(error.exit_code(), ExitCode::StoreInUse);
        assert_eq!(error.to_string(), "taken");
    }
}
