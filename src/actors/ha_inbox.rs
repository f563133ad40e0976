//! HAManager's inbox: the facts that its leaves report.

use crate::actors::ha_chronicle::ExplainAsked;
use crate::actors::ha_operator::OperatorOrder;
use crate::machines::gateway::GatewayVerdict;
use crate::machines::ha::LinkEnd;
use crate::machines::lock::LockReport;
use crate::machines::replication::ReplicationReport;
use crate::proto::ids::{Epoch, NodeId, SessionId};
use crate::proto::peer::{Hello, PeerFacts};
use crate::storage::api::StoreAnswer;
use crate::time::Moment;

/// Facts for HAManager, from its leaves.
#[derive(Debug)]
pub enum HaMessage {
    /// Wiring is done.
    Start,
    /// From ConnectionManager.
    Link(LinkEvent),
    /// From LockKeeper.
    Lock(LockReport),
    /// From GatewayPinger.
    Gateway(GatewayVerdict),
    /// From Replicator.
    Replication(ReplicationReport),
    /// The record is in `node/`.
    RecordPersisted,
    /// The epoch is in the log, durably.
    EpochBegun(Epoch),
    /// The log did not take it, in words.
    EpochRefused(String),
    /// Clients are answered and gone.
    ClientsDrained,
    /// End in order.
    Stop,
    /// A command of the operator's, with the way for its answer.
    Operator(OperatorOrder),
    /// The store was copied aside before an override, or, in words, was not.
    SetAside {
        /// The epoch that the override ends.
        epoch: Epoch,
        /// What came of it.
        outcome: Result<(), String>,
    },
    /// Shared mode: the store's door answered a call.
    Store {
        /// Which call.
        id: u64,
        /// What it said.
        answer: StoreAnswer,
    },
    /// The process in which that server served this epoch has ended, says its parent.
    PeerDied {
        /// The server.
        node: NodeId,
        /// The epoch that its process knew last.
        epoch: Epoch,
    },
    /// Why is this server in its state?
    Explain(ExplainAsked),
}

/// What happens on the HA channel, as far as roles go.
#[derive(Debug)]
pub enum LinkEvent {
    /// The channel is up.
    Up {
        /// Its session.
        session: SessionId,
        /// What the peer said.
        hello: Box<Hello>,
    },
    /// The channel is down.
    Down {
        /// Its session.
        session: SessionId,
        /// How it ended.
        end: LinkEnd,
        /// Why, in words.
        why: String,
        /// When the peer was heard last.
        last_heard: Moment,
    },
    /// The peer's facts.
    Facts {
        /// In which session.
        session: SessionId,
        /// The facts.
        facts: PeerFacts,
    },
    /// The peer ends in order.
    Goodbye {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// A ping was answered.
    Answered {
        /// When it had been sent.
        ping_sent_at: Moment,
    },
    /// The peer's ping was answered.
    ReplySent {
        /// When.
        at: Moment,
    },
    /// The peer's process, which served in this epoch, has ended: its watchdog says so (A8).
    PeerDied {
        /// Whose.
        node: NodeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The peer does not fit.
    Mismatch {
        /// The differences.
        reason: String,
    },
}
