//! Arguments of the commands that look at a server, a profile or a store.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, ProfileArgs, ServerArgs};

/// Arguments of `twinmq explain`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Asks the running server over its admin port. Of a server that is down, its files are read (nothing in \
them is changed): what it would do if it were started now, and why.

Example: twinmq explain -p replicated/secondary")]
pub struct ExplainArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the explanation as JSON
    #[arg(long)]
    pub json: bool,
    /// Read this store in this process, whose death its parent explains
    #[arg(long, hide = true, value_name = "DIR")]
    pub reader: Option<PathBuf>,
}

/// Arguments of `twinmq history`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The newest event is the last line. Times are the wall clock's of that server. Of a server that is down, \
its files are read.")]
pub struct HistoryArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Show so many events at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Print the events as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Nothing of the pair is changed: the trials use files of their own beside the lock file, and remove \
them. Exit code 0: nothing speaks against running it (warnings do not count).

With both machines at once, which alone shows that the share excludes one from the other:
  twinmq check -p PRIMARY --with-peer        on the one
  twinmq check -p SECONDARY --with-peer      on the other, within two minutes")]
pub struct CheckArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
    /// Try the share together with the other machine, where the same command must be run
    #[arg(long)]
    pub with_peer: bool,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
    /// Take the lock on this file and hold it until killed, for the trial of another process
    #[arg(long, hide = true, value_name = "FILE")]
    pub hold: Option<PathBuf>,
}

/// Arguments of `twinmq store check`.
#[derive(Clone, Debug, Args)]
pub struct StoreCheckArgs {
    /// The data directory, instead of a profile's
    #[arg(value_name = "DIR", conflicts_with_all = ["profile", "set"])]
    pub dir: Option<PathBuf>,
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
    /// Read the store in this process, whose death its parent explains
    #[arg(long, hide = true)]
    pub reader: bool,
}

impl StoreCheckArgs {
    /// The data directory.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn data_directory(&self) -> Result<PathBuf, CliError> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(self.profile.load(None)?.config.store.path),
        }
    }
}
