//! What commands about the destinations of a running server take.

use clap::{Args, Subcommand};

use super::ServerArgs;

/// `twinmq queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues with what waits in them and who consumes
    List(ListArgs),
    /// Show one queue
    Show(QueueArgs),
    /// Show messages that wait in a queue; takes nothing from anybody
    Browse(QueueBrowseArgs),
    /// Throw messages of a queue away, for good
    Purge(PurgeArgs),
    /// Move messages to another queue
    Move(MoveArgs),
    /// Send dead messages back to the queues they came from
    Retry(RetryArgs),
    /// Delete a queue with what is in it
    Delete(DeleteArgs),
}

/// `twinmq topic ...`
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// List what is subscribed to, with what its subscriptions are owed
    List(ListArgs),
}

/// `twinmq subscription ...`
#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// List subscriptions with what they are owed
    List(ListArgs),
    /// Delete a durable subscription with what it is owed
    Delete(DeleteArgs),
}

/// Which of them, and how they are shown.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Only names that fit: `*` stands for any text
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// Which server; the one that serves
    #[command(flatten)]
    pub server: ServerArgs,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub limit: usize,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// One queue.
#[derive(Clone, Debug, Args)]
pub struct QueueArgs {
    /// The queue: NAME, or another destination spelled in full
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// Which server; the one that serves
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `twinmq queue browse`.
#[derive(Clone, Debug, Args)]
pub struct QueueBrowseArgs {
    /// Which queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Begin after this position, as it was printed
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    pub after: u64,
    /// At most so many messages
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    pub count: usize,
    /// So many bytes of each body
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    pub bytes: usize,
}

/// Which messages.
#[derive(Clone, Debug, Args)]
pub struct WhichArgs {
    /// Which queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Only messages that this JMS selector takes, such as "kind = 'order' AND amount > 100"
    #[arg(long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// At most so many, the oldest first
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub count: Option<u64>,
}

/// Arguments of `twinmq queue purge`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Takes what is there when it begins; what consumers hold at that moment is left to them. Without --yes the \
queue's name is to be typed.")]
pub struct PurgeArgs {
    /// Which messages.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `twinmq queue move`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Messages are moved in order, in batches of which each is whole or not: none is lost and none is in both \
queues, whatever server dies meanwhile. A further run goes on. What consumers hold is left to them.")]
pub struct MoveArgs {
    /// Which messages.
    #[command(flatten)]
    pub which: WhichArgs,
    /// The queue to move to; it is made if there is none
    #[arg(long, value_name = "QUEUE")]
    pub to: String,
}

/// Arguments of `twinmq queue retry`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Each message goes back to the destination that its headers name, as the server wrote them when it gave the \
message up. Those that name none stay.")]
pub struct RetryArgs {
    /// Which messages, and of which dead message queue.
    #[command(flatten)]
    pub which: WhichArgs,
}

/// Arguments of `twinmq queue delete` and `twinmq subscription delete`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Refused while it has consumers. If it holds messages, they go with it: then its name is to be typed, unless \
--yes is given. Clients that send to it meanwhile wait, and make it anew, empty, with their next message.")]
pub struct DeleteArgs {
    /// Its name, as it is listed
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Which server; the one that serves
    #[command(flatten)]
    pub server: ServerArgs,
    /// Do not ask, whatever it holds
    #[arg(long)]
    pub yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}
