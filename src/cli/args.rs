//! What the command line takes. Each subcommand's arguments are one struct; the subcommand's file
//! takes it from there.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod drill;
mod look;
mod operator;
mod queues;

pub use drill::DrillArgs;
pub use look::{CheckArgs, ExplainArgs, HistoryArgs, StoreCheckArgs};
pub use operator::{
    DivergenceCommand, DivergenceListArgs, DivergenceTailArgs, PromoteArgs, SwitchoverArgs,
};
pub use queues::{
    DeleteArgs, ListArgs, MoveArgs, PurgeArgs, QueueArgs, QueueBrowseArgs, QueueCommand, RetryArgs,
    SubscriptionCommand, TopicCommand, WhichArgs,
};

use super::CliError;
use crate::config::{ConfigSource, HostPort, Loaded, Mode, load, parse_target};
use crate::proto::peer::ServerState;

/// TwinMQ: a highly available message broker of two servers that look like one.
#[derive(Debug, Parser)]
#[command(name = "twinmq", version, about, max_term_width = 100)]
#[command(after_help = "\
Start here:
  twinmq demo                                see a pair lose a server and nothing else
  twinmq run                                 one server, data under ./data
  twinmq run -p replicated/primary           the first server of a pair on this machine
  twinmq run -p replicated/secondary         the second, in another terminal of the same folder
  twinmq pair init DIR --primary HOST ...    make a pair for two machines
  twinmq drill -p PROFILE                    rehearse its failures on a scratch pair

Results go to standard output, logs and progress to standard error. The exit code is 0 only when \
what was asked for is done or true.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one server; without -p the built-in standalone one
    Run(RunArgs),
    /// Show a server's state, its peer, lock, in-sync set and positions
    Status(StatusArgs),
    /// Wait until a server serves, is in sync, or has a state: for scripts
    Wait(WaitArgs),
    /// Stop a server in order: clients are drained and the peer takes over at once
    Stop(StopArgs),
    /// Empty a profile's store, for good; refused while its server runs
    ClearDb(ClearDbArgs),
    /// Send messages to a queue; each is confirmed durable before the command ends
    Send(SendArgs),
    /// Receive messages from a queue and print their bodies
    Receive(ReceiveArgs),
    /// Show the messages of a queue in the order of delivery; nothing is taken from it
    Browse(BrowseArgs),
    /// Measure throughput and latency per queue
    Bench(BenchArgs),
    /// See a pair survive: start two servers, kill the active under load, count what was lost
    Demo(DemoArgs),
    /// Explain why a server is in its state, and what gets it out of it; also of one that is down
    Explain(ExplainArgs),
    /// Show a server's events: states, claims, lock, link, starts and ends; also of one that is down
    History(HistoryArgs),
    /// Rehearse failures: strike a scratch pair made from your profile, one fault after the other
    Drill(DrillArgs),
    /// Check a profile before it is run: keys, lock share, gateway, peer, ports, and what each kind
    /// of failure costs
    Check(CheckArgs),
    /// Look at a store on disk
    #[command(subcommand)]
    Store(StoreCommand),
    /// Make the profiles of a pair on two machines
    #[command(subcommand)]
    Pair(PairCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Let the passive server serve instead of the active one, now and in order
    Switchover(SwitchoverArgs),
    /// Override: let a server serve that may lack confirmed messages, and give those up
    Promote(PromoteArgs),
    /// See what a server had that the pair gave up, and export it
    #[command(subcommand)]
    Divergence(DivergenceCommand),
    /// Look at a running server's queues, and purge, move, retry or delete
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look at what is subscribed to
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Look at subscriptions, or delete one
    #[command(subcommand)]
    Subscription(SubscriptionCommand),
    /// Watch the server that started this process
    #[command(hide = true)]
    Watchdog,
}

/// `twinmq store ...`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Walk a store, verify every checksum, and say what is in it; the server must be stopped
    Check(StoreCheckArgs),
}

/// `twinmq pair ...`
#[derive(Debug, Subcommand)]
pub enum PairCommand {
    /// Write a folder per server: profile, certificates, pair secret, admin token, systemd unit
    Init(PairInitArgs),
}

/// `twinmq config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every key's value in effect and where it came from
    Show(ConfigShowArgs),
}

/// Which configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct ProfileArgs {
    /// The profile: a file or its folder, or a name looked up under conf/profiles/,
    /// /etc/twinmq/profiles/ and in the binary (standalone, replicated/primary,
    /// replicated/secondary, shared/primary, shared/secondary) [default: standalone]
    #[arg(short, long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Set a key, over the file and the environment; may be repeated. Example: log.level=debug
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ProfileArgs {
    /// Where the configuration is to be loaded from.
    #[must_use]
    pub fn source(&self, db_path: Option<PathBuf>) -> ConfigSource {
        ConfigSource::from_process(self.profile.as_deref(), db_path, self.set.clone())
    }

    /// Loads the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, db_path: Option<PathBuf>) -> Result<Loaded, CliError> {
        Ok(load(&self.source(db_path))?)
    }
}

/// Arguments of `twinmq run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
    /// Go to the background once the admin port answers; logs go to log.file only
    #[arg(long)]
    pub background: bool,
}

/// Which running server: by its profile or by its admin URL.
#[derive(Clone, Debug, Default, Args)]
pub struct ServerArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The server's admin URL instead of a profile, such as http://127.0.0.1:1858
    #[arg(long, conflicts_with_all = ["profile", "set"])]
    pub url: Option<String>,
}

/// A running server's admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAddress {
    /// Without a slash at the end.
    pub url: String,
    /// The file with the token that changing calls must show; none where only a URL was given.
    pub token_file: Option<PathBuf>,
    /// Standalone servers have no peer to ask for; none where only a URL was given.
    pub mode: Option<Mode>,
    /// The peer's admin port, as a URL; none where only a URL was given or there is no peer.
    pub peer: Option<String>,
}

impl ServerArgs {
    /// Finds the server's admin port.
    ///
    /// # Errors
    /// When the configuration is wrong, or the URL is no `http://HOST:PORT`.
    pub fn admin(&self) -> Result<AdminAddress, CliError> {
        let Some(url) = &self.url else {
            let config = self.profile.load(None)?.config;
            let mut listen = config.admin.listen;
            listen.set_ip(reachable(listen.ip()));
            return Ok(AdminAddress {
                url: format!("http://{listen}"),
                token_file: Some(config.admin.token_file),
                mode: Some(config.mode),
                peer: config.ha.map(|ha| format!("http://{}", ha.peer_admin)),
            });
        };
        let bare = url.trim_end_matches('/');
        let target = bare.strip_prefix("http://").and_then(parse_target);
        if target.is_none() {
            return Err(CliError::Usage(format!(
                "--url {url}: expected http://HOST:PORT, the admin address of a server"
            )));
        }
        Ok(AdminAddress {
            url: bare.to_owned(),
            token_file: None,
            mode: None,
            peer: None,
        })
    }
}

/// Arguments of `twinmq status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
    /// Show it anew every second until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `twinmq wait`.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("condition").required(true)
    .args(["serving", "in_sync", "state"])))]
pub struct WaitArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Until it serves clients
    #[arg(long)]
    pub serving: bool,
    /// Until both servers hold every confirmed message
    #[arg(long)]
    pub in_sync: bool,
    /// Until it is in this state: WAITING, PASSIVE_SYNC, ACTIVE_SYNC, ACTIVE, PASSIVE, STANDALONE
    #[arg(long, value_parser = parse_state)]
    pub state: Option<ServerState>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// Arguments of `twinmq stop`.
#[derive(Clone, Debug, Args)]
pub struct StopArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Wait so many seconds for the server to end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// Arguments of `twinmq clear-db`.
#[derive(Clone, Debug, Args)]
pub struct ClearDbArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
    /// Even if this is the only copy that holds every confirmed message
    #[arg(long)]
    pub force: bool,
}

/// Where a client connects: the first server of the list that takes it, the next when it is lost.
#[derive(Clone, Debug, Default, Args)]
pub struct ConnectArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The servers as stomp://HOST:PORT,HOST:PORT
    #[arg(long, conflicts_with_all = ["profile", "set", "connect"])]
    pub url: Option<String>,
    /// A server; repeat it for the other server of a pair
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["profile", "set"])]
    pub connect: Vec<String>,
}

impl ConnectArgs {
    /// The servers to try, in order: never empty.
    ///
    /// # Errors
    /// When the configuration is wrong, or an address is no `HOST:PORT`.
    pub fn servers(&self) -> Result<Vec<HostPort>, CliError> {
        let listed: Vec<&str> = match &self.url {
            Some(url) => url
                .strip_prefix("stomp://")
                .or_else(|| url.strip_prefix("tcp://"))
                .unwrap_or(url)
                .trim_end_matches('/')
                .split(',')
                .collect(),
            None => self.connect.iter().map(String::as_str).collect(),
        };
        if !listed.is_empty() {
            return listed
                .into_iter()
                .map(|text| {
                    parse_target(text).ok_or_else(|| {
                        CliError::Usage(format!("{text:?}: expected HOST:PORT of a client port"))
                    })
                })
                .collect();
        }
        let config = self.profile.load(None)?.config;
        let own = config.client.listen.first().map(|address| HostPort {
            host: reachable(address.ip()).to_string(),
            port: address.port(),
        });
        let peer = config.ha.map(|ha| ha.peer_client);
        Ok(own.into_iter().chain(peer).collect())
    }
}

/// Arguments of `twinmq send`.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// Where to.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The queue
    #[arg(short, long, value_name = "NAME")]
    pub queue: String,
    /// How many messages; without it one, or one per line of standard input
    #[arg(short = 'n', long)]
    pub count: Option<u64>,
    /// A body of so many bytes
    #[arg(long, value_name = "BYTES", conflicts_with = "body")]
    pub size: Option<usize>,
    /// The body; without --body and --size each line of standard input is one
    #[arg(long, value_name = "TEXT")]
    pub body: Option<String>,
    /// Print what was confirmed as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq receive`.
#[derive(Clone, Debug, Args)]
pub struct ReceiveArgs {
    /// Where from.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The queue
    #[arg(short, long, value_name = "NAME")]
    pub queue: String,
    /// End after so many messages; without it, when none comes for --timeout
    #[arg(short = 'n', long)]
    pub count: Option<u64>,
    /// End when no message comes for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u64,
    /// When a message is done with: as it is sent here (auto), or after it was printed
    #[arg(long, value_enum, default_value_t = AckMode::ClientIndividual)]
    pub ack: AckMode,
    /// Print each message as JSON, with its headers
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq browse`.
#[derive(Clone, Debug, Args)]
pub struct BrowseArgs {
    /// Where from.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The queue
    #[arg(short, long, value_name = "NAME")]
    pub queue: String,
    /// Show at most so many messages
    #[arg(short = 'n', long)]
    pub count: Option<u64>,
    /// Show only messages for which this holds, such as "colour = 'red'"
    #[arg(long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Print each message as JSON, with its headers
    #[arg(long)]
    pub json: bool,
}

/// When a received message is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AckMode {
    /// When it is sent.
    Auto,
    /// When it was printed, with all before it.
    Client,
    /// When it was printed.
    ClientIndividual,
}

/// Arguments of `twinmq bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Where to.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Producers in all, spread over the queues
    #[arg(long, default_value_t = 4)]
    pub producers: usize,
    /// Consumers in all, spread over the queues
    #[arg(long, default_value_t = 4)]
    pub consumers: usize,
    /// Queues
    #[arg(long, default_value_t = 4)]
    pub queues: usize,
    /// Body of each message
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub size: usize,
    /// Unconfirmed messages of each producer
    #[arg(long, default_value_t = 1000)]
    pub window: usize,
    /// How long to send
    #[arg(long, default_value_t = 10, conflicts_with = "count")]
    pub seconds: u64,
    /// Send so many messages in all instead
    #[arg(long)]
    pub count: Option<u64>,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Which kind of pair: a copy on each server, or one store that both share
    #[arg(long, value_enum, default_value_t = PairMode::Replicated)]
    pub mode: PairMode,
    /// Keep the scratch folder, with both servers' stores and logs
    #[arg(long)]
    pub keep: bool,
    /// Send so many messages
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Send for so long, with the kill in the middle
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Print the ledger as JSON
    #[arg(long)]
    pub json: bool,
    /// Use this folder, which must be empty or missing, instead of a scratch one; it is kept
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Arguments of `twinmq pair init`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  twinmq pair init mypair --primary 10.0.0.1 --secondary 10.0.0.2 \\
      --lock-file /mnt/twinmq/pair.lck --gateway 10.0.0.9 --allow-anonymous

The two folders mypair/primary and mypair/secondary are then copied to the two machines, to \
/etc/twinmq; what to copy and to start is printed.")]
pub struct PairInitArgs {
    /// The folder to make; it must not exist, or be empty
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The primary's address or name, as the secondary and clients reach it
    #[arg(long, value_name = "HOST")]
    pub primary: String,
    /// The secondary's address or name, as the primary and clients reach it
    #[arg(long, value_name = "HOST")]
    pub secondary: String,
    /// The lock file on the share of a third machine, as both servers see it: an absolute path
    #[arg(long, value_name = "PATH")]
    pub lock_file: String,
    /// The machine that exports the lock file; without it the lock file's mount is asked
    #[arg(long, value_name = "HOST")]
    pub gateway: Option<String>,
    /// Which kind of pair. Shared: one store, in --db-path
    #[arg(long, value_enum, default_value_t = PairMode::Replicated)]
    pub mode: PairMode,
    /// Shared mode: the folder of the one store, on a share that both servers mount (NFSv4) at the
    /// same path: an absolute path
    #[arg(long, value_name = "DIR", required_if_eq("mode", "shared"))]
    pub db_path: Option<String>,
    /// What the servers run on: virtual machines are paused by snapshots and get slower intervals
    #[arg(long, value_enum, default_value_t = Platform::Metal)]
    pub on: Platform,
    /// The pair's name
    #[arg(long, value_name = "NAME", default_value = "twinmq")]
    pub cluster: String,
    /// Serve clients on the servers' addresses without asking who they are. This version has no
    /// users yet: without it each server listens to its own machine only
    #[arg(long)]
    pub allow_anonymous: bool,
}

/// The kinds of pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PairMode {
    /// A full copy of the data on each server.
    Replicated,
    /// One store on a share, open on the server that serves.
    Shared,
}

impl PairMode {
    /// As profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replicated => Mode::Replicated.name(),
            Self::Shared => Mode::Shared.name(),
        }
    }
}

/// What servers run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// Machines that do not pause.
    Metal,
    /// Virtual machines.
    Vm,
}

/// Arguments of `twinmq config show`.
#[derive(Clone, Debug, Args)]
pub struct ConfigShowArgs {
    /// Which configuration.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The data directory, over the profile's store.path
    #[arg(long, value_name = "DIR")]
    pub db_path: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// An address to connect to for one to listen on: loopback for "every address".
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    }
}

fn parse_state(text: &str) -> Result<ServerState, String> {
    const STATES: [ServerState; 7] = [
        ServerState::Waiting,
        ServerState::PassiveSync,
        ServerState::ActiveSync,
        ServerState::Active,
        ServerState::Passive,
        ServerState::Standalone,
        ServerState::Activating,
    ];
    let name = text.to_ascii_uppercase().replace(['-', ' '], "_");
    STATES
        .into_iter()
        .find(|state| state.name() == name)
        .ok_or_else(|| {
            let names: Vec<_> = STATES.iter().map(|state| state.name()).collect();
            format!("expected one of {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests;
