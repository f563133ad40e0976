//! The data thread: client port, sessions, destinations, and the way in for the store's events and
//! for HAManager's commands.
//!
//! | command | what it does | done when |
//! |---|---|---|
//! | serve | takes the destinations from the store, listens | it listens |
//! | drain | stops accepting and reading, lets every request be answered | every session is closed |
//! | stop serving | closes every session and the port | nothing more is submitted |
//!
//! The order of what arrives through one handle is kept, also between commands and store events.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::actors::acceptor::Acceptor;
use crate::actors::admission::AdmissionBounds;
use crate::actors::client_roll::ClientRoll;
use crate::actors::directory::{
    Administration, ClientsDescription, DestinationDescription, Directory, DirectoryConfig,
};
use crate::actors::inbox::Order;
use crate::actors::lease::ServingLease;
use crate::actors::overload::Limit;
use crate::actors::session::{SessionConfig, SessionContext};
use crate::io::client_tcp::{BoundPort, PortError};
use crate::machines::policy::Policies;
use crate::proto::ids::Epoch;
use crate::storage::api::{Committed, Fetched, SharedStore};
use crate::time::{Clock, Moment};

/// How often it is looked how full the store and the memory are.
const LOOK: Duration = Duration::from_millis(100);

/// Validated values.
#[derive(Clone, Debug)]
pub struct DataPlaneConfig {
    /// Addresses of the client port.
    pub listen: Vec<SocketAddr>,
    /// New connections.
    pub admission: AdmissionBounds,
    /// Destinations and permits.
    pub directory: DirectoryConfig,
    /// How destinations behave, by their names.
    pub policies: Arc<Policies>,
    /// Each connection.
    pub session: SessionConfig,
}

/// Called once when a command is done; on the data thread, must not block.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// What the data plane is made of, at one moment.
#[derive(Clone, Debug, Default)]
pub struct DataPlaneDescription {
    /// Connections that stand.
    pub connections: usize,
    /// Messages and their bytes on the way to the store.
    pub in_flight: (usize, usize),
    /// Every connection that there may be is there.
    pub connections_full: bool,
    /// Bytes of messages in memory.
    pub memory_bytes: usize,
    /// What is limited now and why.
    pub limited: Vec<String>,
    /// How often each limit was met since the process began.
    pub limits_met: Vec<(Limit, u64)>,
    /// Messages that were sent again in this term and not stored again.
    pub duplicates: u64,
    /// By name.
    pub destinations: Vec<DestinationDescription>,
    /// Who may not come back after a failover, and who has not.
    pub clients: ClientsDescription,
}

enum DataCommand {
    Serve(Epoch, Done<Result<(), PortError>>),
    Drain(Duration, String, Done<()>),
    StopServing(String, Done<()>),
    Describe(Done<DataPlaneDescription>),
    Configure(Box<DataPlaneConfig>, Done<()>),
    Committed(Committed),
    Fetched(Fetched),
    PartsRead(u32, Vec<Bytes>),
    Administer(Box<Administration>),
}

/// The way to the data thread, for any thread. The plane ends when the last handle is dropped.
#[derive(Clone)]
pub struct DataHandle {
    commands: mpsc::UnboundedSender<DataCommand>,
    roll: Arc<ClientRoll>,
}

impl DataHandle {
    /// The roll of clients.
    #[must_use]
    pub fn roll(&self) -> &Arc<ClientRoll> {
        &self.roll
    }

    /// This server is the active one: the epoch is open, what came before it is committed.
    pub fn serve(&self, epoch: Epoch, done: Done<Result<(), PortError>>) {
        self.send(DataCommand::Serve(epoch, done));
    }

    /// Stops in good order: no new connections, nothing more is read, every request that was read is
    /// answered, then each client is told `reason` and closed. After `patience` it is as
    /// [`DataHandle::stop_serving`].
    pub fn drain(&self, patience: Duration, reason: String, done: Done<()>) {
        self.send(DataCommand::Drain(patience, reason, done));
    }

    /// Stops at once. When it is done, nothing more is submitted to the store.
    pub fn stop_serving(&self, reason: String, done: Done<()>) {
        self.send(DataCommand::StopServing(reason, done));
    }

    /// Takes other bounds, for what comes from now on; the addresses stay.
    pub fn configure(&self, config: DataPlaneConfig, done: Done<()>) {
        self.send(DataCommand::Configure(Box::new(config), done));
    }

    /// Figures for `status`.
    pub fn describe(&self, done: Done<DataPlaneDescription>) {
        self.send(DataCommand::Describe(done));
    }

    /// What an operator asks of the destinations.
    pub fn administer(&self, asked: Administration) {
        self.send(DataCommand::Administer(Box::new(asked)));
    }

    /// From the store's sink. One call is one message to the thread.
    pub fn committed(&self, committed: Committed) {
        self.send(DataCommand::Committed(committed));
    }

    /// From the store's sink.
    pub fn fetched(&self, fetched: Fetched) {
        self.send(DataCommand::Fetched(fetched));
    }

    /// From the store's sink.
    pub fn parts_read(&self, whose: u32, parts: Vec<Bytes>) {
        self.send(DataCommand::PartsRead(whose, parts));
    }

    fn send(&self, command: DataCommand) {
        if self.commands.send(command).is_err() {
            tracing::debug!(target: "twinmq::data", "the data thread has ended");
        }
    }
}

/// The plane before it runs. Made first, so that the store's sink can have the handle.
pub struct DataPlane {
    ports: Vec<BoundPort>,
    config: DataPlaneConfig,
    commands: mpsc::UnboundedReceiver<DataCommand>,
    roll: Arc<ClientRoll>,
}

impl DataPlane {
    /// Takes the client port; nobody can connect yet.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub fn bind(config: DataPlaneConfig) -> Result<(DataHandle, Self), PortError> {
        let ports = config
            .listen
            .iter()
            .map(|address| BoundPort::bind(*address))
            .collect::<Result<Vec<_>, _>>()?;
        let (sender, commands) = mpsc::unbounded_channel();
        let roll = ClientRoll::new();
        let handle = DataHandle {
            commands: sender,
            roll: Arc::clone(&roll),
        };
        let plane = Self {
            ports,
            config,
            commands,
            roll,
        };
        Ok((handle, plane))
    }

    /// The addresses, with the ports that were given for 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(BoundPort::address).collect()
    }

    /// Runs until the last handle is dropped. Needs a `LocalSet`.
    pub async fn run(
        self,
        store: SharedStore,
        lease: Arc<dyn ServingLease>,
        clock: Arc<dyn Clock>,
    ) {
        let directory =
            Directory::with_roll(self.config.directory, store, Arc::clone(&clock), self.roll);
        directory.set_policies(self.config.policies);
        let session = Arc::new(self.config.session);
        let mut running = Running {
            acceptor: Acceptor::new(self.ports, self.config.admission, Arc::clone(&session)),
            context: SessionContext {
                directory,
                lease,
                clock,
                config: session,
            },
            drain: None,
        };
        let mut commands = self.commands;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => running.carry_out(command).await,
                    None => break,
                },
                () = drained(&running) => running.end_drain().await,
                _ = look.tick() => {
                    running.directory().look_at_store();
                    running.directory().look_at_expiry();
                    running.directory().look_at_deletions();
                    running.directory().look_at_idle();
                }
            }
        }
        running.stop("the server ends").await;
    }
}

/// A drain that goes on.
struct Drain {
    reason: String,
    until: Moment,
    done: Vec<Done<()>>,
}

struct Running {
    acceptor: Acceptor,
    context: SessionContext,
    drain: Option<Drain>,
}

impl Running {
    fn directory(&self) -> &Rc<Directory> {
        &self.context.directory
    }

    async fn carry_out(&mut self, command: DataCommand) {
        match command {
            DataCommand::Committed(committed) => self.directory().committed(committed),
            DataCommand::Fetched(fetched) => self.directory().fetched(fetched),
            DataCommand::PartsRead(whose, parts) => self.directory().parts_read(whose, parts),
            DataCommand::Administer(asked) => self.directory().administer(*asked),
            DataCommand::Serve(epoch, done) => {
                tracing::debug!(target: "twinmq::data", %epoch, "serving begins");
                self.finish_drain();
                self.directory().activate();
                done(self.acceptor.open(&self.context));
            }
            DataCommand::Drain(patience, reason, done) => {
                self.begin_drain(patience, reason, done).await
            }
            DataCommand::StopServing(reason, done) => {
                self.stop(&reason).await;
                done(());
            }
            DataCommand::Configure(config, done) => {
                self.directory().configure(config.directory);
                self.directory().set_policies(config.policies);
                self.acceptor
                    .configure(config.admission, Arc::new(config.session));
                done(());
            }
            DataCommand::Describe(done) => done(DataPlaneDescription {
                connections: self.acceptor.connections(),
                in_flight: self.directory().in_flight(),
                connections_full: self.acceptor.is_full(),
                memory_bytes: self.directory().overload().memory(),
                limited: self.directory().limited_now(),
                limits_met: self.directory().overload().counts(),
                duplicates: self.directory().duplicates(),
                destinations: self.directory().describe(),
                clients: self.directory().describe_clients(),
            }),
        }
    }

    async fn begin_drain(&mut self, patience: Duration, reason: String, done: Done<()>) {
        self.acceptor.close().await;
        self.directory().order_all(&Order::Drain(reason.clone()));
        let until = self.context.clock.now().after(patience);
        let drain = self.drain.get_or_insert(Drain {
            reason,
            until,
            done: Vec::new(),
        });
        drain.until = drain.until.min(until);
        drain.done.push(done);
    }

    async fn end_drain(&mut self) {
        let reason = self.drain.as_ref().map(|drain| drain.reason.clone());
        self.stop(&reason.unwrap_or_default()).await;
    }

    async fn stop(&mut self, reason: &str) {
        self.acceptor.close().await;
        self.directory().deactivate(reason);
        self.finish_drain();
    }

    fn finish_drain(&mut self) {
        for done in self.drain.take().into_iter().flat_map(|drain| drain.done) {
            done(());
        }
    }
}

/// Resolves when a drain is complete or out of patience; never without a drain.
async fn drained(running: &Running) {
    let Some(drain) = &running.drain else {
        return std::future::pending().await;
    };
    let quiet = async {
        while running.acceptor.connections() > 0
            || running.directory().sessions() > 0
            || running.directory().backlog() > 0
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let patience = drain.until.since(running.context.clock.now());
    if tokio::time::timeout(patience, quiet).await.is_err() {
        tracing::warn!(target: "twinmq::data", "the drain took too long: what is left is closed");
    }
}

#[cfg(test)]
mod tests;
