//! ConnectionManager: the channel to the peer.
//! Owns: LinkMachine, the connections (through its transport). Sends: LinkEvent to HAManager, the
//! replication's frames to Replicator.
//! Does not: decide roles; understand what belongs to the replication.

use std::sync::Arc;

use actix::prelude::{Actor, Context, Handler};

use crate::actors::board::Board;
use crate::actors::client_roll::ClientRoll;
use crate::actors::ha_manager::{HaMessage, LinkEvent};
use crate::actors::post::{Port, Posted, post};
use crate::actors::replicator::{PeerSender, ReplicatorCommand};
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::ha::LinkEnd;
use crate::machines::link::{
    CloseCause, ConnId, LinkDownCause, LinkEffect, LinkInput, LinkMachine,
};
use crate::proto::ids::{Epoch, SessionId};
use crate::proto::peer::{Frame, PeerFacts};
use crate::time::{Clock, Moment};

/// What ConnectionManager is told.
pub enum LinkCommand {
    /// Begin to dial and to listen.
    Start,
    /// HAManager: what this server is now.
    OwnFacts(PeerFacts),
    /// HAManager: close this session.
    Drop {
        /// Which.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// HAManager: tell the peer that this server ends in order.
    Goodbye {
        /// In which epoch.
        epoch: Epoch,
    },
    /// The transport: what happened to a connection.
    Transport(TransportEvent),
}

/// What the transport tells.
pub enum TransportEvent {
    /// A dial gave a connection.
    Dialled {
        /// As asked.
        attempt: u64,
        /// The connection.
        conn: ConnId,
    },
    /// A dial gave none.
    DialFailed {
        /// As asked.
        attempt: u64,
        /// In words.
        reason: String,
    },
    /// Somebody dialled this server.
    Accepted {
        /// The connection.
        conn: ConnId,
    },
    /// A frame came in.
    Frame {
        /// Where.
        conn: ConnId,
        /// What.
        frame: Frame,
        /// When.
        at: Moment,
    },
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
        /// How.
        cause: CloseCause,
    },
}

/// The connections to the peer: dialled, accepted, written, closed.
pub trait PeerTransport {
    /// Begins a dial; `Dialled` or `DialFailed` follows.
    fn dial(&mut self, attempt: u64, timeout: std::time::Duration);
    /// Queues a frame; silently nothing on a connection that has ended.
    fn send(&mut self, conn: ConnId, frame: Frame);
    /// A way to queue frames on a connection from elsewhere.
    fn sender(&mut self, conn: ConnId) -> PeerSender;
    /// Closes a connection after what was queued on it.
    fn close(&mut self, conn: ConnId);
    /// Fresh random bytes.
    fn nonce(&mut self) -> [u8; 16];
}

/// ConnectionManager's neighbours.
pub struct LinkPorts {
    /// HAManager.
    pub manager: Port<HaMessage>,
    /// Replicator.
    pub replicator: Port<ReplicatorCommand>,
    /// Whose clients are whose.
    pub roll: Arc<ClientRoll>,
}

/// The actor.
pub struct ConnectionManager {
    shell: Shell<LinkEffect>,
    machine: LinkMachine,
    transport: Box<dyn PeerTransport>,
    board: Arc<Board>,
    ports: LinkPorts,
    /// For the console lines.
    peer_address: String,
}

impl ConnectionManager {
    /// An actor that waits for `Start`.
    #[must_use]
    pub fn new(
        machine: LinkMachine,
        transport: Box<dyn PeerTransport>,
        board: Arc<Board>,
        ports: LinkPorts,
        peer_address: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shell = Shell::new("connection_manager", clock);
        Self {
            shell,
            machine,
            transport,
            board,
            ports,
            peer_address,
        }
    }

    fn input_of(&mut self, command: LinkCommand) -> LinkInput {
        match command {
            LinkCommand::Start => LinkInput::Started,
            LinkCommand::OwnFacts(facts) => LinkInput::OwnFacts(facts),
            LinkCommand::Drop { session, reason } => LinkInput::Drop { session, reason },
            LinkCommand::Goodbye { epoch } => LinkInput::Goodbye { epoch },
            LinkCommand::Transport(event) => match event {
                TransportEvent::Dialled { attempt, conn } => LinkInput::Dialled {
                    attempt,
                    conn,
                    nonce: self.transport.nonce(),
                },
                TransportEvent::DialFailed { attempt, reason } => {
                    LinkInput::DialFailed { attempt, reason }
                }
                TransportEvent::Accepted { conn } => LinkInput::Accepted {
                    conn,
                    nonce: self.transport.nonce(),
                },
                TransportEvent::Frame { conn, frame, at } => {
                    LinkInput::FrameReceived { conn, frame, at }
                }
                TransportEvent::Closed { conn, cause } => LinkInput::Closed { conn, cause },
            },
        }
    }

    fn tell(&self, event: LinkEvent) {
        post(&self.ports.manager, HaMessage::Link(event));
    }

    fn link_up(&mut self, session: SessionId, conn: ConnId, hello: Box<crate::proto::peer::Hello>) {
        tracing::info!(target: "twinmq::net", peer = hello.name, session = session.0,
            "connected to the peer server");
        let mut view = self.board.link();
        view.peer = Some((hello.node, hello.name.clone()));
        view.connected = true;
        view.facts = Some(hello.facts.clone());
        view.trouble = None;
        drop(view);
        self.ports.roll.linked(session, hello.features);
        let peer = self.transport.sender(conn);
        // The way to the peer is known before anybody is told that there is one.
        post(
            &self.ports.replicator,
            ReplicatorCommand::Channel { session, peer },
        );
        self.tell(LinkEvent::Up { session, hello });
    }

    fn link_down(&mut self, session: SessionId, cause: &LinkDownCause, last_heard: Moment) {
        tracing::warn!(target: "twinmq::net", session = session.0, %cause, "lost the peer server");
        let mut view = self.board.link();
        view.connected = false;
        view.trouble = Some(cause.to_string());
        drop(view);
        let end = match cause.is_ended() {
            true => LinkEnd::Ended,
            false => LinkEnd::Silent,
        };
        self.tell(LinkEvent::Down {
            session,
            end,
            why: cause.to_string(),
            last_heard,
        });
    }
}

impl Actor for ConnectionManager {
    type Context = Context<Self>;
}

impl Handler<Posted<LinkCommand>> for ConnectionManager {
    type Result = ();

    fn handle(&mut self, posted: Posted<LinkCommand>, ctx: &mut Self::Context) {
        let input = self.input_of(posted.open());
        drive(self, ctx, input);
    }
}

impl Shelled for ConnectionManager {
    type Input = LinkInput;
    type Effect = LinkEffect;

    fn shell(&mut self) -> &mut Shell<LinkEffect> {
        &mut self.shell
    }

    fn step(&mut self, now: Moment, input: LinkInput, effects: &mut Vec<LinkEffect>) {
        self.machine.step(now, input, effects);
    }

    fn run(&mut self, _: &mut Context<Self>, effect: LinkEffect) {
        match effect {
            LinkEffect::Dial { attempt, timeout } => {
                tracing::debug!(target: "twinmq::net", "Trying to establish connection with {} ...", self.peer_address);
                self.transport.dial(attempt, timeout);
            }
            LinkEffect::Send { conn, frame } => self.transport.send(conn, frame),
            LinkEffect::Close { conn } => self.transport.close(conn),
            LinkEffect::LinkUp {
                session,
                conn,
                hello,
            } => self.link_up(session, conn, hello),
            LinkEffect::LinkDown {
                session,
                cause,
                last_heard,
            } => self.link_down(session, &cause, last_heard),
            LinkEffect::PeerFacts { session, facts } => {
                self.board.link().facts = Some(facts.clone());
                self.tell(LinkEvent::Facts { session, facts });
            }
            LinkEffect::PeerGoodbye { session, epoch } => {
                self.tell(LinkEvent::Goodbye { session, epoch });
            }
            LinkEffect::Answered {
                session: _,
                ping_sent_at,
                pong_received_at,
            } => {
                self.board.link().last_heard = Some(pong_received_at);
                self.tell(LinkEvent::Answered { ping_sent_at });
            }
            LinkEffect::ReplySent { at } => self.tell(LinkEvent::ReplySent { at }),
            LinkEffect::Data { session, body } => {
                post(
                    &self.ports.replicator,
                    ReplicatorCommand::Frame { session, body },
                );
            }
            LinkEffect::Mismatch { reason, .. } => {
                self.board.link().trouble = Some(reason.clone());
                self.tell(LinkEvent::Mismatch { reason });
            }
            LinkEffect::PeerDied { node, epoch } => {
                tracing::warn!(target: "twinmq::net", %node, epoch = epoch.0, "the peer's watchdog says that its process has ended");
                self.tell(LinkEvent::PeerDied { node, epoch });
            }
            LinkEffect::PeerClients { news } => self.ports.roll.machine().hear(news),
            LinkEffect::NotLinked { reason } => {
                tracing::info!(target: "twinmq::net", reason,
                    "Trying to establish connection with {} ...", self.peer_address);
                self.board.link().trouble = Some(reason);
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.machine.next_deadline()
    }

    fn deadline() -> Option<LinkInput> {
        Some(LinkInput::Tick)
    }
}
