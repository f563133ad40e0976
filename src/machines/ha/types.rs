//! Inputs, effects and states of the HA machine.

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat};
use crate::proto::ids::{Epoch, NodeId, SessionId, StoreId};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::{GatePolicy, StoreAnswer, StoreCall};

/// How this server is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HaMode {
    /// The standalone profile: no peer, no arbiter.
    Single,
    /// Two full copies.
    Replicated,
    /// One store, which both servers can reach and one has open.
    Shared,
}

/// How a server takes over from one that does not answer (A2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Takeover {
    /// Only with the lock of the old holder, which the kernel or the share must have freed.
    Lock,
    /// The same where that lock is free; else the record is changed first, and the old holder's lease
    /// ends its service.
    Fence,
}

/// Validated settings that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HaConfig {
    /// The mode.
    pub mode: HaMode,
    /// Configured as the primary: breaks ties (S40, H13).
    pub primary: bool,
    /// This server.
    pub node: NodeId,
    /// The pair's name.
    pub cluster: String,
    /// Identity for an arbiter that this server would create; random, made at start.
    pub new_arbiter: crate::proto::ids::ArbiterId,
    /// How it takes over.
    pub takeover: Takeover,
}

/// Timers of the machine; how long each runs is the shell's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HaTimer {
    /// PassiveLockAcquisitionInterval since the peer was heard last, or since the start.
    PeerWait,
    /// MaxWaitTimeout for a better peer to claim first.
    Patience,
    /// ActiveLockReAcquisitionInterval until the next attempt.
    Retry,
    /// Until the old holder's lease must be over (A3).
    FenceWait,
    /// MaxWaitTimeout for a transition; armed anew while bytes move.
    MaxWait,
    /// Until a peer that was too slow is taken back (A6); longer each time.
    ReEntry,
    /// How long an orderly stop waits for confirms.
    Drain,
}

/// How a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkEnd {
    /// EOF, reset, or closed by either side: the peer's process or connection is gone.
    Ended,
    /// Nothing was heard for too long: nobody knows.
    Silent,
}

/// The lock, as it was obtained.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldLock {
    /// The locked file.
    pub lock: LockFacts,
    /// The record, read under the lock.
    pub record: Option<ArbiterRecord>,
}

/// Facts that the machine is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HaInput {
    /// The process is ready.
    Started,
    /// A channel to the peer is established.
    LinkUp {
        /// Its session.
        session: SessionId,
        /// What the peer said.
        hello: Box<Hello>,
    },
    /// The channel is gone.
    LinkDown {
        /// Which.
        session: SessionId,
        /// How.
        cause: LinkEnd,
    },
    /// The peer's facts, with a change of its state or a ping.
    PeerFacts {
        /// In which session.
        session: SessionId,
        /// The facts.
        facts: PeerFacts,
    },
    /// The peer ends in order and has let the lock go.
    PeerGoodbye {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// The peer's configuration or identity does not fit (S101, H7, Z18).
    PeerMismatch {
        /// The difference, readable.
        reason: String,
    },
    /// The lock is held now.
    LockAcquired(HeldLock),
    /// An attempt failed; more follow.
    LockRefused {
        /// Who holds it, if the file says so.
        holder: Option<LockHeartbeat>,
    },
    /// A periodic check found the lock held (L4 reads the record as well).
    LockConfirmed {
        /// The record.
        record: Option<ArbiterRecord>,
    },
    /// The lock is gone.
    LockLost {
        /// In words.
        reason: String,
    },
    /// The share does not answer, or refuses.
    LockUnreachable {
        /// In words.
        reason: String,
    },
    /// The lock has been let go.
    LockReleased,
    /// Answer to `HaEffect::Arbiter`.
    ArbiterAnswered {
        /// Which call.
        id: u64,
        /// What came.
        answer: ArbiterAnswer,
    },
    /// The gateway's verdict changed: true is "unreachable".
    GatewayUnreachable(bool),
    /// Answer to `HaEffect::Persist`.
    Persisted,
    /// Answer to `HaEffect::BeginEpoch`: durable.
    EpochBegun(Epoch),
    /// Answer to `HaEffect::BeginEpoch`: the log did not take it, in words.
    EpochRefused(String),
    /// Active: the peer holds a whole copy, up to where it was asked to.
    SyncDone {
        /// In which session.
        session: SessionId,
        /// Its copy.
        store: StoreId,
    },
    /// Active: since the gate demands the peer, everything that was confirmed before is durable there.
    PeerHoldsAll {
        /// In which session.
        session: SessionId,
    },
    /// Passive: the active's record names this store.
    InSync {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Either: bytes of a resync moved.
    SyncProgress {
        /// In which session.
        session: SessionId,
    },
    /// Either: a resync cannot go on.
    SyncFailed {
        /// In which session.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// Active: the oldest batch has been unacknowledged for replication_ack_timeout_ms (A6).
    AckOverdue {
        /// In which session.
        session: SessionId,
    },
    /// The lease is over: nothing may be confirmed or delivered.
    LeaseExpired,
    /// A timer that was armed.
    Timer(HaTimer),
    /// SIGTERM, or the operator's stop.
    StopRequested,
    /// Everything that clients had sent is answered, and they are gone.
    ClientsDrained,
    /// The operator wants the peer to serve.
    SwitchoverRequested,
    /// The operator gives up what only the other server has, and wants this one to serve.
    PromoteRequested {
        /// The epoch that this ends, as it was typed.
        epoch: Epoch,
    },
    /// An override was given up before it began.
    PromotionRefused {
        /// In words.
        reason: String,
    },
    /// Shared mode: answer to `HaEffect::Store`.
    StoreAnswered {
        /// Which call.
        id: u64,
        /// What came.
        answer: StoreAnswer,
    },
    /// The process in which that server served this epoch has ended: its parent has seen it end (A8).
    PeerDied {
        /// The server.
        node: NodeId,
        /// The epoch that its process knew last.
        epoch: Epoch,
    },
}

/// What the shell is to do, in order.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaEffect {
    /// Start a timer, anew if it runs.
    Arm(HaTimer),
    /// Stop a timer.
    Disarm(HaTimer),
    /// Call the arbiter (not for the lock).
    Arbiter {
        /// For the answer.
        id: u64,
        /// The call.
        call: ArbiterCall,
    },
    /// Try to take the lock, again and again; quickly at first after an ended channel.
    AcquireLock,
    /// Try to get a lost lock back while the peer's word lets this server serve.
    RecoverLock,
    /// Let the lock go, or stop trying.
    ReleaseLock,
    /// Write the record to `node/`, durably.
    Persist(ArbiterRecord),
    /// Who must hold a batch before it counts.
    Gate(GatePolicy),
    /// Open an epoch in the log.
    BeginEpoch(Epoch),
    /// Listen on the client port.
    OpenClients {
        /// In this epoch.
        epoch: Epoch,
    },
    /// Close the client port and all client connections at once; nothing more is confirmed.
    CloseClients {
        /// In words.
        reason: String,
    },
    /// Stop reading from clients, answer what they sent, then close.
    DrainClients,
    /// Bring this peer into step, then keep it there.
    Lead {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Ask the peer for what is lacking, then follow it.
    Follow {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Neither lead nor follow.
    StopReplication,
    /// Tell the peer that the record names it.
    SendInSync {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Close the channel.
    DropLink {
        /// Which session.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// Tell the peer that this server ends in order.
    SayGoodbye {
        /// In which epoch.
        epoch: Epoch,
    },
    /// Tell everybody what this server is now.
    Announce(Announcement),
    /// The peer's state, as seen from here, changed.
    PeerChanged {
        /// Before.
        old: ServerState,
        /// Now.
        new: ServerState,
    },
    /// An epoch of service ended without an orderly stop, or a claim was given up.
    SteppedDown {
        /// In words.
        reason: String,
    },
    /// Something that an operator must know while this server serves.
    Alarmed {
        /// In words.
        reason: String,
    },
    /// A claim was refused.
    ClaimRefused {
        /// Why.
        reason: String,
    },
    /// End the process.
    Exit(ExitCause),
    /// Shared mode: a call on the store that both servers can reach.
    Store {
        /// For the answer.
        id: u64,
        /// The call.
        call: StoreCall,
    },
}

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// As asked.
    Stopped,
    /// The peer does not fit this server's configuration.
    PeerMismatch(String),
    /// Shared mode: whatever was open must not be written any more, which only the end of the process
    /// makes certain.
    SteppedDown(String),
}

/// What others see of the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    /// The state.
    pub state: ServerState,
    /// The one before.
    pub previous: ServerState,
    /// A claim has begun and not failed yet.
    pub claiming: bool,
    /// The epoch served, followed, or last seen.
    pub epoch: Epoch,
    /// Has looked at the arbiter since the start.
    pub looked: bool,
    /// May be promoted, by record and store.
    pub eligible: bool,
    /// What led to the state, in words; what is announced only once does not depend on it.
    pub cause: Option<String>,
}

/// The state, with the phase inside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HaState {
    /// No role yet.
    Waiting(Claim),
    /// Receives from this session; `started` once the active said that it sends.
    PassiveSync {
        /// The active's session.
        session: SessionId,
        /// See above.
        started: bool,
    },
    /// In the in-sync set; `session` is none once the channel is gone.
    Passive {
        /// The active's session.
        session: Option<SessionId>,
    },
    /// Serves and brings this session's peer into step.
    ActiveSync {
        /// The peer's session.
        session: SessionId,
        /// How far that is.
        step: SyncStep,
    },
    /// Serves with this session's peer.
    Active {
        /// The peer's session.
        session: SessionId,
    },
    /// Serves, but confirms nothing until the record names this store alone. Shown as it was before.
    Shrinking {
        /// The state that it came from.
        was: ServerState,
    },
    /// Serves alone.
    Standalone,
    /// Ends in order: answers what clients have sent. Shown as it was before.
    Draining(ServerState),
    /// Ends in order: lets the lock go.
    Releasing(ServerState),
    /// Nothing more is done.
    Stopped,
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// None.
    Idle,
    /// Reads the record.
    Reading,
    /// Creates the record.
    Creating,
    /// Tries to get the lock.
    Locking,
    /// The compare-and-set is under way, or its outcome is being found out.
    Claiming,
    /// Writes the record to `node/`.
    Persisting,
    /// Waits until the old holder's lease must be over.
    Fencing,
    /// Opens the epoch in the log.
    Opening,
    /// By fence: the record is claimed, the lock of the generation that it names is being taken.
    FenceLocking,
}

/// How far a peer has been brought into step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncStep {
    /// It receives.
    Streaming,
    /// It is demanded for each confirm from now on (R5); not yet known to hold all earlier ones.
    Requiring(StoreId),
    /// The compare-and-set that names it is under way, or its outcome is being found out.
    Extending,
}

/// What an arbiter call is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallPurpose {
    /// To know.
    Look,
    /// To decide whether to claim.
    LookToClaim,
    /// First boot or re-forming.
    Create,
    /// A compare-and-set of this record.
    Set(ArbiterRecord),
    /// Its outcome was not told: look for it.
    Resolve(ArbiterRecord),
    /// The lock is not to be had: to decide whether to claim without it.
    LookToFence,
}

/// The linked peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The channel.
    pub session: SessionId,
    /// The server.
    pub node: NodeId,
    /// Configured as the primary.
    pub primary: bool,
    /// For people.
    pub name: String,
    /// What it said last.
    pub facts: PeerFacts,
}

/// Claims since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claims {
    /// Begun.
    pub tried: u64,
    /// Refused.
    pub refused: u64,
    /// Why the last was refused; none once one has succeeded.
    pub reason: Option<String>,
}

impl Claims {
    /// One more was refused, for this reason.
    pub(super) fn refuse(&mut self, reason: String) {
        self.refused = self.refused.saturating_add(1);
        self.reason = Some(reason);
    }
}

impl HaState {
    /// As the reference names it.
    #[must_use]
    pub fn shown(&self) -> ServerState {
        match self {
            Self::Waiting(_) | Self::Stopped => ServerState::Waiting,
            Self::PassiveSync { .. } => ServerState::PassiveSync,
            Self::Passive { .. } => ServerState::Passive,
            Self::ActiveSync { .. } => ServerState::ActiveSync,
            Self::Active { .. } => ServerState::Active,
            Self::Standalone => ServerState::Standalone,
            Self::Shrinking { was } | Self::Draining(was) | Self::Releasing(was) => *was,
        }
    }

    /// It will serve unless something fails.
    #[must_use]
    pub fn claiming(&self) -> bool {
        matches!(
            self,
            Self::Waiting(
                Claim::Creating
                    | Claim::Locking
                    | Claim::Claiming
                    | Claim::Persisting
                    | Claim::Fencing
                    | Claim::Opening
                    | Claim::FenceLocking
            )
        )
    }
}
