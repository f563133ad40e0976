//! What an operator's commands on a running pair take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ProfileArgs, ServerArgs};

/// `twinmq divergence ...`
#[derive(Debug, Subcommand)]
pub enum DivergenceCommand {
    /// List the tails of the log that resyncs dropped here: when, which positions, why
    List(DivergenceListArgs),
    /// Say what is in one of them, by destination
    Show(DivergenceTailArgs),
    /// Print its messages and acknowledgements, one JSON object a line
    Export(DivergenceTailArgs),
}

/// Arguments of `twinmq switchover`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The active answers what clients have sent, hands over, and comes back as the passive. Clients are \
disconnected once and find the other server in their host list. Nothing that was confirmed is lost, and \
no timer is waited for. In shared mode its process ends (exit 0), to free the store: it is the passive once \
its supervisor, or you, start it again. Name the server that is ACTIVE; --dry-run says whether it would be done.")]
pub struct SwitchoverArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only say what would happen, with each thing that must be so and whether it is
    #[arg(long)]
    pub dry_run: bool,
    /// Wait so many seconds until the other server serves and (but in shared mode) this one is PASSIVE
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq promote`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
For the case that the server with every confirmed message is lost, or that the arbiter's record went back: \
if it can be started, start it instead. What only it has is given up. The server named here must run and be \
WAITING. Without --accept-loss the command says what would be given up, and changes nothing. The store is \
copied aside first.")]
pub struct PromoteArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Give up the messages that only the other server has
    #[arg(long)]
    pub accept_loss: bool,
    /// The epoch that this ends, for scripts; without it, it is to be typed
    #[arg(long, value_name = "EPOCH", requires = "accept_loss")]
    pub epoch: Option<u64>,
    /// Wait so many seconds until it serves; a large store takes a while to copy
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq divergence list`.
#[derive(Clone, Debug, Args)]
pub struct DivergenceListArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq divergence show` and `export`.
#[derive(Clone, Debug, Args)]
pub struct DivergenceTailArgs {
    /// Its number in the list; it may be left out if there is one
    #[arg(value_name = "NUMBER")]
    pub number: Option<u64>,
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
}
