//! Replicator's inbox.

use std::sync::Arc;

use crate::proto::arbiter::ArbiterRecord;
use crate::proto::ids::{Epoch, Lsn, SessionId};
use crate::proto::peer::{Body, Frame};
use crate::storage::api::{GatePolicy, StoreEvent};

/// What Replicator is told.
pub enum ReplicatorCommand {
    /// HAManager: bring this session's peer into step.
    Lead {
        /// The channel.
        session: SessionId,
        /// The epoch.
        epoch: Epoch,
    },
    /// HAManager: follow this session's peer.
    Follow {
        /// The channel.
        session: SessionId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// HAManager: neither.
    Rest,
    /// HAManager: who must hold a batch before it counts.
    Gate(GatePolicy),
    /// HAManager: open an epoch in the log.
    BeginEpoch(Epoch),
    /// HAManager: remember the record.
    Persist(ArbiterRecord),
    /// HAManager: copy the store aside under this name, and note why.
    SetAside {
        /// The epoch that the override ends; echoed.
        epoch: Epoch,
        /// See `Job::SetAside`.
        name: String,
        /// See `Job::SetAside`.
        note: String,
    },
    /// HAManager: tell the peer that the record names it.
    InSync {
        /// The channel.
        session: SessionId,
        /// The epoch.
        epoch: Epoch,
    },
    /// ConnectionManager: a channel is up; frames for it go here.
    Channel {
        /// Its session.
        session: SessionId,
        /// The way to the peer.
        peer: PeerSender,
    },
    /// ConnectionManager: a frame of the peer's.
    Frame {
        /// Its session.
        session: SessionId,
        /// What it carries.
        body: Body,
    },
    /// The store: any event that is not for the client side.
    Store(StoreEvent),
    /// The store: the commit index moved.
    Committed(Lsn),
}

/// The way to the peer on one channel.
pub type PeerSender = Arc<dyn Fn(Frame) + Send + Sync>;
