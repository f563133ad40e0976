//! What the link machine is told, and what it wants done.

use std::time::Duration;

use crate::proto::auth::PairSecret;
use crate::proto::ids::{Epoch, NodeId, SessionId};
use crate::proto::peer::{Body, ClientNews, Frame, Hello, PeerFacts};
use crate::time::Moment;

/// A connection to (or from) the peer, numbered by the shell and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who this server is and how the channel is paced.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// This server.
    pub node: NodeId,
    /// The pair's name.
    pub cluster: String,
    /// Configured as the primary.
    pub primary: bool,
    /// For people.
    pub name: String,
    /// The peer's address, for texts.
    pub peer_address: String,
    /// Lowest and highest protocol version spoken.
    pub versions: (u16, u16),
    /// Values that must be equal on both servers: (key, value).
    pub must_agree: Vec<(String, String)>,
    /// The pair secret; none only where both ends are loopback.
    pub secret: Option<PairSecret>,
    /// `PingInterval`.
    pub ping_interval: Duration,
    /// The channel is silent when no ping was answered for so many ping intervals; at least 2 (Z11).
    pub ping_misses: u32,
    /// `SocketCreationTimeout`: bounds a dial, TLS included.
    pub creation_timeout: Duration,
    /// `SocketInitializationTimeout`: bounds hello, proof and welcome.
    pub initialization_timeout: Duration,
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkInput {
    /// Begin to dial; accepted connections count from here on.
    Started,
    /// The dial of this number gave a connection.
    Dialled {
        /// As in [`LinkEffect::Dial`].
        attempt: u64,
        /// The connection.
        conn: ConnId,
        /// Fresh random bytes for its hello.
        nonce: [u8; 16],
    },
    /// The dial of this number gave none.
    DialFailed {
        /// As in [`LinkEffect::Dial`].
        attempt: u64,
        /// In words.
        reason: String,
    },
    /// Somebody dialled this server.
    Accepted {
        /// The connection.
        conn: ConnId,
        /// Fresh random bytes for its hello.
        nonce: [u8; 16],
    },
    /// A frame came in.
    FrameReceived {
        /// Where.
        conn: ConnId,
        /// What.
        frame: Frame,
        /// When its bytes were read.
        at: Moment,
    },
    /// The connection is closed by the other side or broken. Also expected, and passed over, after
    /// [`LinkEffect::Close`].
    Closed {
        /// Which.
        conn: ConnId,
        /// How.
        cause: CloseCause,
    },
    /// From HAManager at each change: this server's facts. Sent to the peer when more than the
    /// position has changed.
    OwnFacts(PeerFacts),
    /// HAManager: tell the peer that this server ends in order.
    Goodbye {
        /// The epoch in which it says so.
        epoch: Epoch,
    },
    /// HAManager or the replication: this session is no good, close it.
    Drop {
        /// The session meant; another one is left alone.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// Time has passed.
    Tick,
}

/// How a connection came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The other side's kernel closed it: end of stream, reset, broken pipe. Its process has ended,
    /// or means it.
    Ended,
    /// It did not answer, or the network cannot reach it: says nothing about its process.
    Unreachable(String),
    /// It sent bytes that are no frames.
    Malformed(String),
}

/// Why a session is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkDownCause {
    /// The channel ended: `PassiveInterval` does not apply (A3).
    Ended,
    /// No answered ping for `ping_misses` ping intervals, or the network said that the peer is out of reach.
    Silent,
    /// A newer channel took its place: `LinkUp` follows.
    Replaced,
    /// The peer broke the protocol, in words.
    Broken(String),
    /// By `Drop`, with its reason.
    Dropped(String),
    /// The peer closed it by its own decision, in words.
    Refused(String),
}

impl LinkDownCause {
    /// The peer's end of the channel was closed without a word, as the kernel does for a process
    /// that has ended: the lock may be tried at once (A3).
    #[must_use]
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Silent
            | Self::Replaced
            | Self::Broken(_)
            | Self::Dropped(_)
            | Self::Refused(_) => false,
        }
    }
}

impl std::fmt::Display for LinkDownCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("the peer's end was closed"),
            Self::Silent => f.write_str("the peer has answered no ping in time"),
            Self::Replaced => f.write_str("a newer connection took its place"),
            Self::Broken(reason) => write!(f, "the peer broke the protocol: {reason}"),
            Self::Dropped(reason) => write!(f, "closed by this server: {reason}"),
            Self::Refused(reason) => write!(f, "closed by the peer: {reason}"),
        }
    }
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum LinkEffect {
    /// Dial the peer; answer with `Dialled` or `DialFailed`.
    Dial {
        /// Never used twice by one machine.
        attempt: u64,
        /// For the whole dial, TLS included.
        timeout: Duration,
    },
    /// Send this.
    Send {
        /// Where.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Close this after what was sent on it before.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The channel is up.
    LinkUp {
        /// Its session.
        session: SessionId,
        /// Its connection: session frames of others go there too.
        conn: ConnId,
        /// What the peer said of itself.
        hello: Box<Hello>,
    },
    /// The channel is down.
    LinkDown {
        /// Its session.
        session: SessionId,
        /// Why.
        cause: LinkDownCause,
        /// When a frame of it last came in.
        last_heard: Moment,
    },
    /// The peer's facts have changed.
    PeerFacts {
        /// In this session.
        session: SessionId,
        /// Now.
        facts: PeerFacts,
    },
    /// The peer ends in order.
    PeerGoodbye {
        /// In this session.
        session: SessionId,
        /// The epoch in which it said so.
        epoch: Epoch,
    },
    /// A ping was answered: a source of the lease.
    Answered {
        /// In this session.
        session: SessionId,
        /// When the ping was sent: the lease counts from here.
        ping_sent_at: Moment,
        /// When its answer was read.
        pong_received_at: Moment,
    },
    /// The peer's ping was answered: its lease may count from before this (A3).
    ReplySent {
        /// When.
        at: Moment,
    },
    /// A frame for the replication.
    Data {
        /// Of this session.
        session: SessionId,
        /// Any body from `SyncRequest` to `InSync`.
        body: Body,
    },
    /// The two servers cannot be a pair as they are configured. The connection is closed. A server
    /// that does not serve stops on this, one that serves alarms (H8).
    Mismatch {
        /// In words, all differences.
        reason: String,
        /// The peer serves.
        peer_serving: bool,
    },
    /// The watchdog of the peer's process says that this process has ended; proved.
    PeerDied {
        /// Whose.
        node: NodeId,
        /// The epoch in which it served.
        epoch: Epoch,
    },
    /// The peer says something of its clients.
    PeerClients {
        /// What.
        news: ClientNews,
    },
    /// An attempt to link came to nothing, in words: for `status` and the log.
    NotLinked {
        /// In words.
        reason: String,
    },
}
