//! The HA channel's frames as values (their bytes are in `peer_codec`). Every frame after the hello carries its
//! session; whoever receives one of another session drops it (R3).

use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto::arbiter::LockIdentity;
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Position, RecordSeq, SessionId, StoreId};
use crate::proto::log::{Batch, EpochStart};

/// A server's state, spelled as the reference does. `Activating` is shared mode's, `Dead` is only
/// ever said of the other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerState {
    /// Waits for the peer or for the lock. No clients.
    Waiting,
    /// Receives the active's data. No clients.
    PassiveSync,
    /// Serves, and brings its peer into step.
    ActiveSync,
    /// Serves with a peer in step.
    Active,
    /// In step, ready to take over. No clients.
    Passive,
    /// Serves alone.
    Standalone,
    /// Shared mode: opens the store before it serves.
    Activating,
    /// The other server is down or cannot be reached.
    Dead,
}

impl ServerState {
    /// As the interface spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::PassiveSync => "PASSIVE_SYNC",
            Self::ActiveSync => "ACTIVE_SYNC",
            Self::Active => "ACTIVE",
            Self::Passive => "PASSIVE",
            Self::Standalone => "STANDALONE",
            Self::Activating => "ACTIVATING",
            Self::Dead => "DEAD",
        }
    }

    /// Clients are served in this state.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Active | Self::ActiveSync | Self::Standalone)
    }
}

impl std::fmt::Display for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The bit of [`Hello::features`] of who understands [`Body::Clients`].
pub const FEATURE_CLIENTS: u64 = 1;
/// Clients of each kind in one [`ClientNews`] at most.
pub const CLIENT_NEWS_MAX: usize = 500;
/// Bytes of a client's name that are told.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;

/// A client's connection, as the peer is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerClient {
    /// Of the connection; once in a term of service.
    pub number: u32,
    /// What it calls itself, cut to [`CLIENT_NAME_BYTES_MAX`].
    pub client_id: Option<Box<str>>,
    /// As whom it logged in, cut the same way.
    pub login: Option<Box<str>>,
    /// Where it is.
    pub address: SocketAddr,
}

impl PeerClient {
    /// Names are cut to [`CLIENT_NAME_BYTES_MAX`].
    #[must_use]
    pub fn new(
        number: u32,
        client_id: Option<&str>,
        login: Option<&str>,
        address: SocketAddr,
    ) -> Self {
        let cut = |name: &str| Box::from(&name[..name.floor_char_boundary(CLIENT_NAME_BYTES_MAX)]);
        Self {
            number,
            client_id: client_id.map(cut),
            login: login.map(cut),
            address,
        }
    }

    /// How it is known again.
    #[must_use]
    pub fn identity(&self) -> ClientIdentity {
        match &self.client_id {
            Some(id) => ClientIdentity::Named(id.clone()),
            None => ClientIdentity::Unnamed(self.login.clone(), self.address.ip()),
        }
    }
}

/// How a client is known again on another connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientIdentity {
    /// By its client-id, wherever it is.
    Named(Box<str>),
    /// By login and host; several may be alike.
    Unnamed(Option<Box<str>>, IpAddr),
}

/// Changes among the clients of the server that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNews {
    /// What was said before is void.
    pub afresh: bool,
    /// Numbers of those that have gone by themselves.
    pub gone: Vec<u32>,
    /// Those that have come.
    pub came: Vec<PeerClient>,
}

/// What both servers say first. Unauthenticated until the proof (see [`Frame::Proof`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest and highest protocol version that this server speaks.
    pub versions: (u16, u16),
    /// Optional parts of the protocol that this server understands, as bits: [`FEATURE_CLIENTS`].
    pub features: u64,
    /// The pair's name; must be equal.
    pub cluster: String,
    /// The server.
    pub node: NodeId,
    /// Configured as the primary.
    pub primary: bool,
    /// `primary` or `secondary`, or the name given in the profile: for people.
    pub name: String,
    /// Random, fresh for each connection; both go into the proofs and the session id.
    pub nonce: [u8; 16],
    /// The reference's six values that must be equal on both (S101), in words: (key, value).
    pub must_agree: Vec<(String, String)>,
    /// What this server knows and where it is.
    pub facts: PeerFacts,
}

/// What a server says of itself in hello, at each change of state, and with each ping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Its state now.
    pub state: ServerState,
    /// Its state before that.
    pub previous: ServerState,
    /// It is claiming or fencing: it will serve unless it fails.
    pub claiming: bool,
    /// The epoch that it serves or follows; zero before the first.
    pub epoch: Epoch,
    /// Its copy.
    pub store: StoreId,
    /// How far that is durable.
    pub position: Position,
    /// A resync into it has not ended.
    pub sync_in_progress: bool,
    /// The arbiter that its store belongs to; none for a new store.
    pub arbiter: Option<ArbiterId>,
    /// The `seq` of the last arbiter record that it has seen.
    pub last_record: RecordSeq,
    /// It has looked at the arbiter since it started: before that `eligible` means nothing.
    pub looked: bool,
    /// By the record and its own store, it may be promoted.
    pub eligible: bool,
    /// The lock file as this server sees it, where it has been read.
    pub lock: Option<LockIdentity>,
}

/// One frame of the HA channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First in both directions.
    Hello(Box<Hello>),
    /// Second in both directions: HMAC-SHA-256 of both nonces and the sender's node id under the
    /// pair secret.
    Proof([u8; 32]),
    /// From the server that decides (see `machines::link`): this connection is the channel now.
    Welcome(SessionId),
    /// Instead of a welcome, or at any time: why the sender closes, in words. A close without it
    /// means that the sender's process has ended.
    Refuse(String),
    /// All others.
    Session(SessionId, Body),
    /// Instead of a hello, from the watchdog of a server whose process has ended (A8): its epoch is
    /// dead. Answered by closing the connection.
    LastWord {
        /// Whose process.
        node: NodeId,
        /// The epoch in which it served.
        epoch: Epoch,
        /// See `auth::DeathNotice`.
        proof: [u8; 32],
    },
}

/// What an established channel carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Heartbeat; answered with `Pong` of the same number.
    Ping {
        /// Counts up.
        number: u64,
        /// The sender's facts now: a lost or delayed change of state heals by itself.
        facts: PeerFacts,
    },
    /// See `Ping`.
    Pong {
        /// The ping's.
        number: u64,
    },
    /// A change of state, numbered without a gap within the session (A7).
    RoleChanged {
        /// Counts from 1 in each session; a gap closes the link.
        number: u64,
        /// The sender's facts after it.
        facts: PeerFacts,
    },
    /// The sender ends in order and has released the lock: no timer need be waited out (H59).
    Goodbye {
        /// The epoch in which it says so.
        epoch: Epoch,
    },
    /// Passive: asks for what it lacks.
    SyncRequest {
        /// Its epoch table, oldest first.
        epochs: Vec<EpochStart>,
        /// Where its log ends.
        position: Position,
        /// The checksum that its log ends with.
        chain: u32,
        /// The lowest LSN that it can truncate to.
        checkpoint: Lsn,
    },
    /// Active: how.
    SyncPlan(SyncPlan),
    /// Passive: has truncated (or switched to the snapshot) and is ready for the log after `at`.
    SyncReady {
        /// Where its log ends now.
        at: Lsn,
        /// The checksum there.
        chain: u32,
    },
    /// Active, full resync: a piece of the snapshot.
    SnapshotPiece(Bytes),
    /// Active, full resync: that was all.
    SnapshotEnd {
        /// The position that it shows.
        at: Position,
    },
    /// Passive, full resync: bytes of the snapshot that are written; the window of pieces.
    SnapshotAck {
        /// In all.
        bytes: u64,
    },
    /// Active: a batch of the log. `committed` is the active's commit index when it was sent.
    Batch {
        /// See above.
        committed: Lsn,
        /// As encoded in the log.
        batch: Batch,
    },
    /// Active: the commit index, when no batch is there to carry it.
    CommitIndex {
        /// See `Batch`.
        committed: Lsn,
    },
    /// Active: that was everything up to here; clear the mark of the resync (R4) and say so.
    SyncEnd {
        /// The last LSN that was sent.
        at: Lsn,
    },
    /// Passive: answer to `SyncEnd`: a whole copy, durable.
    SyncDone {
        /// Which copy.
        store: StoreId,
        /// How far it reaches.
        position: Position,
    },
    /// Passive: durable here up to this position of this store.
    Durable {
        /// Which copy: a resync changes it.
        store: StoreId,
        /// How far.
        position: Position,
    },
    /// Active: the record names both stores now: you are PASSIVE (R5).
    InSync {
        /// In this epoch.
        epoch: Epoch,
    },
    /// The server that serves, to a peer that understands it: who its clients are. For people only.
    Clients(ClientNews),
}

/// How a returning server is brought into step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncPlan {
    /// Truncate to `common`, then the log from there.
    Incremental {
        /// The last LSN that both logs share.
        common: Lsn,
        /// Bytes of log to come, about.
        bytes: u64,
    },
    /// A snapshot into a new store, then the log from there.
    Full {
        /// Bytes of snapshot to come, about.
        bytes: u64,
        /// Why not incremental, in words.
        reason: String,
    },
}
