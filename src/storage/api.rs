//! What the rest of the server sees of the store: the trait [`LogStore`], what is handed to it and
//! what it tells. Calls only queue work; every answer is a [`StoreEvent`] given to the sink that the
//! store was opened with, on a thread of the store's choosing.
//!
//! The life of a batch on the active: units are drained from the queue and cut into a batch with
//! LSNs, a chain and checksums ([`StoreEvent::Cut`], to the Replicator, before the local commit);
//! committed and flushed ([`StoreEvent::Durable`]); applied to the index when the commit index
//! reaches it ([`StoreEvent::Committed`], to the data threads: only now confirms and deliveries
//! leave). The commit index is `min(local durable, peer durable)` while the gate needs the peer and
//! `local durable` otherwise; the gate is shared so that whichever side moves it last applies.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::proto::duplicate::{DuplicateBounds, DuplicateId, Scope};
use crate::proto::ids::{DestId, Epoch, Lsn, Position, StoreId};
pub use crate::proto::lane::{Lane, Times};
pub use crate::proto::log::{Batch, EpochStart};

use super::error::StoreError;

pub use self::door::{StoreAnswer, StoreAnswerTo, StoreCall, StoreDoor};

mod door;

/// Returned to whoever submitted a unit when it is committed. The store gives it no meaning.
/// Zero means that nobody waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Records that become visible together: never split over batches (engine 6.6, decision 2).
#[derive(Clone, Debug)]
pub struct Unit {
    /// Answered in [`Committed::tickets`].
    pub ticket: Ticket,
    /// In this order in the log. None: the ticket is answered when all that was submitted before is
    /// committed.
    pub records: Vec<Draft>,
}

/// A record before the writer has given it an LSN.
#[derive(Clone, Debug)]
pub enum Draft {
    /// A message for each of the targets; its body is stored once.
    Put {
        /// The destinations that owe it; at least one.
        targets: Vec<DestId>,
        /// The canonical message (`proto::message`), opaque to the store.
        message: Bytes,
    },
    /// These messages of one destination are done with.
    Ack {
        /// Whose they are.
        dest: DestId,
        /// Their LSNs, in any order.
        lsns: Vec<Lsn>,
    },
    /// Raises the delivery mark of a lane to this record's own LSN plus `ahead`: what lies in it at
    /// or below the mark may have been delivered before a restart or take-over.
    Delivered {
        /// Whose mark.
        dest: DestId,
        /// Which of its lanes.
        lane: Lane,
        /// How far beyond this record.
        ahead: u32,
    },
    /// A definition. An empty value removes the key. Space 1 is destinations: key = `DestId` as u32
    /// big-endian, value = kind byte (`b'q'`) and UTF-8 name. Removing one drops its messages.
    Kv {
        /// The kind of definition.
        space: u8,
        /// Unique in its space; at most 400 bytes.
        key: Bytes,
        /// Empty: removed.
        value: Bytes,
    },
    /// These messages may have been delivered, whatever the marks of their lanes say. Those that are
    /// not owed are passed over. A record stays within a chunk with 4,096 of them.
    DeliveredEach {
        /// Whose they are.
        dest: DestId,
        /// Their LSNs, in any order.
        lsns: Vec<Lsn>,
    },
    /// So often were these messages delivered in vain; kept until they are acknowledged. Those that
    /// are not owed are passed over.
    Failed {
        /// Whose they are.
        dest: DestId,
        /// Which, and how often in all.
        counts: Vec<(Lsn, u32)>,
    },
    /// A message with this id is stored by the same unit: [`LogStore::seen`] knows it for as long as
    /// the bounds allow.
    Seen {
        /// Its hash, and where it counts.
        id: DuplicateId,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A part of a body, told by [`Committed::parts`]. The message that names it comes later.
    Part {
        /// Whose parts belong together; unique in a term.
        upload: u64,
        /// At most `PART_BYTES`.
        bytes: Bytes,
    },
    /// No more comes of this upload, and the message that names its parts, if there is one, was
    /// submitted before.
    UploadEnded(u64),
}

/// The space of [`Draft::Kv`] that holds destinations.
pub const SPACE_DESTINATION: u8 = 1;

/// The space of [`Draft::Kv`] that holds the bounds of known ids: key [`DUPLICATE_BOUNDS`], value
/// [`DuplicateBounds::encode`]. Without them the default holds.
pub const SPACE_DUPLICATES: u8 = 3;
/// The one key in [`SPACE_DUPLICATES`].
pub const DUPLICATE_BOUNDS: &[u8] = b"bounds";

/// What a store says of its log, for hello, eligibility and resync. A consistent copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// This copy's identity.
    pub store: StoreId,
    /// Last epoch and LSN that are durable here.
    pub durable: Position,
    /// Checksum of the last chunk: what the next one chains to.
    pub chain: u32,
    /// Every epoch that the log knows, oldest first.
    pub epochs: Vec<EpochStart>,
    /// The last LSN below which something may be missing from the log because it was deleted: an
    /// incremental resync can start at or above it only.
    pub floor: Lsn,
    /// The position of the last checkpoint: a log is not truncated below it.
    pub checkpoint: Lsn,
    /// A resync into this store began and has not ended (R4): it may not serve.
    pub sync_in_progress: bool,
}

/// A message as it is handed out for delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position, also its identity within the pair.
    pub lsn: Lsn,
    /// The canonical message.
    pub message: Bytes,
    /// A [`Draft::DeliveredEach`] named it.
    pub marked: bool,
    /// What the last [`Draft::Failed`] said of it.
    pub failures: u32,
}

impl Entry {
    /// A message of which nothing is known but itself.
    #[must_use]
    pub fn new(lsn: Lsn, message: Bytes) -> Self {
        Self {
            lsn,
            message,
            marked: false,
            failures: 0,
        }
    }

    /// The lane that it waits in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.message)
    }
}

/// Picks messages where they are read, on a thread of the store's.
pub trait MessageFilter: Send + Sync + fmt::Debug {
    /// Whether this canonical message is wanted. Quick, and without side effects.
    fn takes(&self, message: &[u8]) -> bool;
}

/// Which of a destination's owed messages are asked for.
#[derive(Clone, Debug)]
pub enum Seek {
    /// Those of all lanes after an LSN, in LSN order.
    All {
        /// Where to go on.
        after: Lsn,
    },
    /// Those in a lane, in LSN order.
    Lane {
        /// Which.
        lane: Lane,
        /// Where to go on.
        after: Lsn,
    },
    /// The same, where a filter takes them. A bounded amount of log is read for one question;
    /// [`Fetched::scanned`] says how far.
    Matching {
        /// Which.
        lane: Lane,
        /// Where to go on.
        after: Lsn,
        /// What is wanted.
        filter: Arc<dyn MessageFilter>,
    },
    /// Those of [`Lane::DELAYED`] that are due at `until_ms`, in the order of (due, LSN).
    Due {
        /// Where to go on: due time and LSN of the last one that was had.
        after: (u64, Lsn),
        /// Milliseconds since 1970.
        until_ms: u64,
    },
    /// Those of any lane whose expiry is at or before `now_ms`, in LSN order. A bounded amount of log
    /// is read for one question; [`Fetched::scanned`] says how far.
    Expired {
        /// Milliseconds since 1970.
        now_ms: u64,
        /// Where to go on.
        after: Lsn,
    },
}

/// What a [`LogStore::fetch`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Whose messages.
    pub dest: DestId,
    /// Echoed.
    pub tag: u32,
    /// Owed messages, in the order of the question.
    pub entries: Vec<Entry>,
    /// The highest LSN up to which the question asks for nothing more than `entries`; without meaning
    /// for [`Seek::Due`], which goes on after the last of `entries`.
    pub scanned: Lsn,
    /// For [`Seek::Due`] and [`Seek::Expired`]: there is nothing more before this time, at which it is
    /// worth to ask again; none when nothing in store has a time. At or before the time that was asked
    /// for when a bound of the question was reached: ask on at once. For `Expired` it may be too early,
    /// never too late, and holds for messages after the one that was asked after.
    pub next_ms: Option<u64>,
}

/// What became committed on every server of the in-sync set, for the data threads.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The commit index now.
    pub upto: Lsn,
    /// What changed, once for each destination concerned. Only what is committed under a serving gate
    /// (`Alone`, `WithPeer`); what `set_gate` itself releases on a server that did not serve is read by
    /// `destinations` and `fetch`.
    pub changes: Vec<(DestId, Change)>,
    /// Units that became committed, in log order.
    pub tickets: Vec<Ticket>,
    /// They are on this server's disk alone: it happened under [`GatePolicy::Alone`].
    pub alone: bool,
    /// Parts of bodies: their uploads and LSNs, in log order.
    pub parts: Vec<(u64, Lsn)>,
}

/// What a commit changed of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New messages, in LSN order.
    pub entries: Vec<Entry>,
    /// Delivery marks that rose, in log order.
    pub marks: Vec<(Lane, Lsn)>,
    /// Owed messages that a [`Draft::DeliveredEach`] named.
    pub marked: Vec<Lsn>,
    /// Owed messages that a [`Draft::Failed`] named, with what it said.
    pub failed: Vec<(Lsn, u32)>,
    /// Messages of it that acknowledgements settled. They are applied in the order in which they were
    /// submitted, and each settles each of its messages that is owed exactly once.
    pub settled: u32,
    /// See [`DestinationFacts::bytes`], as they are after the commit; none when it did not change them.
    pub bytes: Option<u64>,
}

/// A destination as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationFacts {
    /// Its id.
    pub id: DestId,
    /// Kind byte and name, as in its definition.
    pub definition: Bytes,
    /// Lanes in which something is owed or that have a delivery mark, by number.
    pub lanes: Vec<LaneFacts>,
    /// The LSN of its newest message, owed or not, or zero.
    pub tail: Lsn,
    /// Bytes of the messages owed. The same on every store with the same log, however it was restarted;
    /// exact to within what the messages of 4,096 LSNs differ in size, and exact when none is owed.
    pub bytes: u64,
    /// When the first of its delayed messages is due, milliseconds since 1970.
    pub next_due_ms: Option<u64>,
    /// None of its messages expires before this; none when none ever does.
    pub next_expiry_ms: Option<u64>,
}

/// One lane of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFacts {
    /// Which.
    pub lane: Lane,
    /// Messages that are owed.
    pub depth: u64,
    /// The newest of these, or zero.
    pub tail: Lsn,
    /// Its delivery mark.
    pub mark: Lsn,
}

impl DestinationFacts {
    /// Messages that are owed, in all lanes.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.depth).sum()
    }

    /// The delivery mark of a lane.
    #[must_use]
    pub fn mark(&self, lane: Lane) -> Lsn {
        let facts = self.lanes.iter().find(|facts| facts.lane == lane);
        facts.map_or(Lsn::ZERO, |facts| facts.mark)
    }
}

/// Sizes for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// Bytes of pages in use.
    pub bytes: u64,
    /// (message, destination) pairs that are owed.
    pub messages: u64,
    /// Destinations defined.
    pub destinations: u64,
    /// Free bytes on the store's file system.
    pub disk_free: u64,
    /// Below the disk or quota watermark: sends are refused, acks go through. The same as
    /// [`RoomLevel::Refuses`].
    pub refuses_sends: bool,
    /// How full it is.
    pub level: RoomLevel,
    /// The share of its room in use, in percent.
    pub filled_percent: u8,
}

/// How full a store is. Acknowledgements go through at every level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomLevel {
    /// Nothing to say.
    #[default]
    Enough,
    /// Worth a warning.
    Low,
    /// Senders wait.
    Blocks,
    /// Sends are refused.
    Refuses,
}

impl RoomLevel {
    /// As `status` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Low => "low",
            Self::Blocks => "blocks",
            Self::Refuses => "refuses",
        }
    }
}

/// What the store tells. `Cut` of one batch comes before its `Durable`; `Committed` are in order.
#[derive(Debug)]
pub enum StoreEvent {
    /// A batch has LSNs and is about to be committed here: send it to the peer.
    Cut(Batch),
    /// Everything up to here is on this server's disk.
    Durable(Position),
    /// Everything up to here is durable on the whole in-sync set and in the index.
    Committed(Committed),
    /// Answer to [`LogStore::fetch`].
    Fetched(Fetched),
    /// Answer to [`LogStore::read_parts`].
    PartsRead {
        /// Echoed.
        whose: u32,
        /// In the order of the question, up to the first that is not there any more.
        parts: Vec<Bytes>,
    },
    /// Answer to [`LogStore::read_log`].
    LogRead {
        /// Echoed.
        request: u64,
        /// Whole batches or chunks in log order, contiguous from the LSN that was asked for. Empty
        /// when nothing after it is committed here yet.
        batches: Vec<Batch>,
    },
    /// Answer to [`LogStore::run`].
    Done {
        /// Echoed.
        request: u64,
        /// What came of it.
        outcome: Result<JobOutcome, JobRefusal>,
    },
    /// A commit or flush failed, or the store is damaged: stop confirming, step down, exit. The last
    /// event.
    Failed(StoreError),
}

/// Work besides the stream of units; done between two batches, each ends with [`StoreEvent::Done`],
/// after its effects are durable.
#[derive(Debug)]
pub enum Job {
    /// The active opens an epoch: writes the epoch record, after which units may be submitted.
    BeginEpoch(Epoch),
    /// Rewrites `node/last_record`: the arbiter record that this server saw last (Z17).
    PersistRecord(Bytes),
    /// Marks that a resync into this store begins (R4).
    BeginSync,
    /// Drops the log after this LSN; the tail is copied aside into `node/divergent/` first. Refused
    /// below the checkpoint, or inside a chunk. Answers with what remains.
    Truncate(Lsn),
    /// Clears the mark of `BeginSync`.
    EndSync,
    /// Active: pin a snapshot at the commit index for a full resync. GC and checkpoints rest until
    /// `UnpinSnapshot`.
    PinSnapshot,
    /// Active: the next piece of the pinned snapshot, at most about 1 MiB. Opaque bytes; empty when
    /// all is told.
    ReadSnapshot,
    /// Active: ends `PinSnapshot`.
    UnpinSnapshot,
    /// Passive: start an empty store beside the present one.
    BeginSnapshot,
    /// Passive: put a piece into it.
    WriteSnapshot(Bytes),
    /// Passive: it is complete at this position; switch to it (with a new store id, the sync mark
    /// still set) and drop the old one, its tail kept as evidence.
    EndSnapshot,
    /// Write out and flush whatever is queued; answers when it is durable here.
    Flush,
    /// Before an operator's override: a copy of the whole store as a data directory of its own,
    /// `kept/<name>/`, and a line for `node/overrides`. Refused if the copy cannot be made.
    SetAside {
        /// The copy's name: letters, digits, `-` and `.`.
        name: String,
        /// What is being overruled, in one line.
        note: String,
    },
}

/// What a [`Job`] gives.
#[derive(Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Done and durable.
    Durable,
    /// The snapshot that was pinned.
    Snapshot {
        /// The log position that it shows; the log after it is to be streamed.
        at: Position,
        /// About how many bytes it has.
        bytes: u64,
    },
    /// A piece of it.
    Piece(Bytes),
}

/// Why a [`Job`] was not done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// Truncation is only possible at a batch boundary at or above the checkpoint.
    #[error("cannot truncate the log to {to}: {why}")]
    CannotTruncate {
        /// Where to.
        to: Lsn,
        /// In words.
        why: &'static str,
    },
    /// The piece does not belong to the snapshot or is damaged.
    #[error("snapshot piece refused: {0}")]
    BadPiece(String),
    /// The job does not fit the store's present state.
    #[error("not possible now: {0}")]
    NotNow(&'static str),
    /// The store could not be copied aside.
    #[error("the store could not be copied aside: {0}")]
    NotKept(String),
}

/// Takes the store's events, one at a time and in order, on the store's threads or on that of whoever
/// calls `set_gate` or `peer_holds`: must be quick and must not block. May call the store.
pub trait StoreSink: Send + Sync {
    /// One event.
    fn event(&self, event: StoreEvent);
}

/// Who must hold a batch before it counts as committed. Set by the HA side, moved by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatePolicy {
    /// Nothing is committed: not serving, and not following.
    Closed,
    /// This server alone (STANDALONE, and ACTIVE_SYNC until the peer holds everything).
    Alone,
    /// This server and its peer (ACTIVE; also from before the in-sync set is extended, R5).
    WithPeer,
    /// Following: the active's commit index, sent with each batch.
    Following,
}

/// The store, as actors see it. All calls queue and return at once.
pub trait LogStore: Send + Sync {
    /// Units for the next batch, in order. Only while this server serves.
    fn submit(&self, units: Vec<Unit>);
    /// A batch of the active's, to be verified (checksums, chain, epoch, next LSN), committed and
    /// answered with `Durable`. One that does not follow is a [`StoreEvent::Failed`] of kind
    /// `ReplicaMismatch`, which is not fatal: the log is as before.
    fn append(&self, batch: Batch);
    /// Sets who must hold a batch. Returns the commit index at that moment. Changing to `WithPeer`
    /// forgets what an earlier peer held.
    fn set_gate(&self, policy: GatePolicy) -> Lsn;
    /// The peer has everything up to here on disk (`WithPeer`), or the active says that this is
    /// committed (`Following`). Applies what that releases, on the caller's thread.
    fn peer_holds(&self, upto: Lsn);
    /// Owed messages of a destination: at most `count`, and about `bytes`. `tag` comes back with the
    /// answer; answers come in the order of the questions.
    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize);
    /// A few parts of a body. `whose` comes back with the answer.
    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>);
    /// The log after an LSN, about `bytes` of it, for a peer that catches up.
    fn read_log(&self, request: u64, after: Lsn, bytes: usize);
    /// Queues a job.
    fn run(&self, request: u64, job: Job);
    /// What the log is now.
    fn log_facts(&self) -> LogFacts;
    /// Bytes of the durable log after an LSN: those of each chunk that has records after it.
    fn log_bytes(&self, after: Lsn) -> u64;
    /// The commit index.
    fn committed(&self) -> Lsn;
    /// Who must hold a batch now.
    fn gate(&self) -> GatePolicy;
    /// Every destination.
    fn destinations(&self) -> Vec<DestinationFacts>;
    /// Which of these ids were stored, in the window that ends at `now_ms` (milliseconds since 1970).
    fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool>;
    /// Sizes.
    fn facts(&self) -> StoreFacts;
    /// Does what is queued, flushes, and ends the store's threads. Nothing may be asked of it after.
    fn close(&self);
}

/// A store that many hands hold.
pub type SharedStore = Arc<dyn LogStore>;
