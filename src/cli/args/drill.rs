//! Arguments of `twinmq drill`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::drill::Fault;

/// Arguments of `twinmq drill`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The scratch pair has the mode, intervals, limits and store settings of the profile, and folders, ports \
and a lock file of its own on this machine: neither the real pair nor its lock file is touched. Each \
fault comes under load and is healed, and the ledger says what was confirmed and what arrived.

Exit code 0: nothing confirmed was lost, nothing came twice unflagged, never two servers served.

Example: twinmq drill -p /etc/twinmq/profile.toml --faults kill-active,hang-active --rounds 5")]
pub struct DrillArgs {
    /// Which configuration: that of either server of a pair [default: replicated/primary]
    #[arg(short, long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Set a key of the scratch pair, over the profile; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The faults to strike with, with commas between them [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub faults: Vec<Fault>,
    /// How often each fault is struck
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Repeat the order of an earlier drill: it printed its seed
    #[arg(long)]
    pub seed: Option<u64>,
    /// A folder on your lock share: the scratch pair's lock file is made in it, and in shared mode
    /// its store, and removed at the end
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// Messages per second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Keep the scratch folder, with both servers' stores and logs
    #[arg(long)]
    pub keep: bool,
    /// Use this folder, which must be empty or missing, instead of a scratch one; it is kept
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print the ledger as JSON
    #[arg(long)]
    pub json: bool,
}
