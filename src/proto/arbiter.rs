//! The arbiter's two files as values (ha-protocol A9): the *record*, which says who may serve and
//! changes only by compare-and-set, and the *lock file*, which only the lock's holder writes.

use serde::{Deserialize, Serialize};

use crate::proto::ids::{ArbiterId, Epoch, NodeId, Nonce, Position, RecordSeq, StoreId};

/// Who may serve: the highest `LockFile.d/rec.N`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArbiterRecord {
    /// Made at first boot; stores remember it (Z18).
    pub arbiter: ArbiterId,
    /// The pair's name, at most 64 bytes.
    pub cluster: String,
    /// Raised by one with each change.
    pub seq: RecordSeq,
    /// Raised with each take-over.
    pub epoch: Epoch,
    /// The server that serves, or served last.
    pub owner: NodeId,
    /// The in-sync set: the stores that hold every confirmed message. One or two.
    pub isr: Vec<StoreId>,
    /// Which lock file counts: zero, the one that is configured; else `LockFile.<generation>`. A
    /// take-over by fence names a new one, the epoch's, so that it needs no lock of the old holder.
    pub generation: Epoch,
}

impl ArbiterRecord {
    /// Whether this store may be promoted, as far as the record says.
    #[must_use]
    pub fn holds(&self, store: StoreId) -> bool {
        self.isr.contains(&store)
    }
}

impl LockHeartbeat {
    /// The newer of two; of each store that it names, the furthest position of both.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        let (mut newest, older) = if (self.epoch, self.counter) >= (other.epoch, other.counter) {
            (self, other)
        } else {
            (other, self)
        };
        newest.seq = newest.seq.max(older.seq);
        newest.counter = newest.counter.max(older.counter);
        for (store, position) in &mut newest.positions {
            let further = older.positions.iter().filter(|(other, _)| other == store);
            *position = further.map(|(_, it)| *it).fold(*position, Position::max);
        }
        newest
    }
}

/// What the lock's holder writes into the lock file at each check, through the locked descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockHeartbeat {
    /// Who holds the lock.
    pub owner: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
    /// The newest record that the holder knew: an older one that is found later has gone back.
    pub seq: RecordSeq,
    /// Raised with each write.
    pub counter: u64,
    /// Where both stores were: what each has confirmed at least (A1). At most two.
    pub positions: Vec<(StoreId, Position)>,
}

/// The lock file, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockFacts {
    /// This file's life (Z16).
    pub nonce: Nonce,
    /// Device and inode, as this host sees them.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// The file system is this kernel's own (not NFS, CIFS, FUSE, 9p): a lock that is free there
    /// means that its holder's process has ended (A3).
    pub local: bool,
    /// The last holder's last words; none before the first.
    pub last: Option<LockHeartbeat>,
}

/// Identity of the lock file, exchanged in hello: the same file seen by both on one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockIdentity {
    /// This file's life.
    pub nonce: Nonce,
    /// Device as that host sees it.
    pub device: u64,
    /// Inode as that host sees it.
    pub inode: u64,
}

impl LockFacts {
    /// What this store has confirmed at least (A1), as far as the last holder has told.
    #[must_use]
    pub fn confirmed(&self, store: StoreId) -> Option<Position> {
        let told = self.last.iter().flat_map(|beat| &beat.positions);
        let own = told.filter(|(other, _)| *other == store);
        own.map(|(_, position)| *position).max()
    }

    /// What is exchanged in hello.
    #[must_use]
    pub fn identity(&self) -> LockIdentity {
        LockIdentity {
            nonce: self.nonce,
            device: self.device,
            inode: self.inode,
        }
    }
}

/// One call on the arbiter. All run on the `lock-io` thread, one at a time, and may hang with the
/// share: whoever asks keeps a deadline of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterCall {
    /// Read the record and the lock file.
    Read,
    /// Make the lock file and the record with `seq` 1 (A4). Never replaces anything.
    Create(ArbiterRecord),
    /// Try once to take the lock of the generation that the record names; does not wait. A lock of
    /// another generation that is still held is let go.
    TryLock,
    /// Let the lock go.
    Unlock,
    /// Holder only: write this through the locked descriptor and flush, then read the file again by
    /// its path, compare the nonce, and read the record, which may name another generation by then.
    Check(LockHeartbeat),
    /// Put `next` (its `seq` is the expected one plus one) as the next record, by `link()`. Where it
    /// names a new generation, that lock file is made before, with what the old one tells of both
    /// stores (A1).
    CompareAndSet(ArbiterRecord),
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterAnswer {
    /// Answer to `Read`: the record and the lock file, where they are there.
    Read {
        /// The highest record; none where there is none.
        record: Option<ArbiterRecord>,
        /// The lock file of its generation; none where there is none.
        lock: Option<LockFacts>,
    },
    /// Answer to `Create`: made by this call. If another was faster: `Conflict`.
    Created(ArbiterRecord),
    /// Answer to `TryLock`: this process holds it now; the file and the record as read after that.
    Locked {
        /// The file that is locked.
        lock: LockFacts,
        /// The record, read under the lock.
        record: Option<ArbiterRecord>,
    },
    /// Answer to `TryLock`: somebody else holds it.
    Refused {
        /// Who, if the file says so.
        holder: Option<LockHeartbeat>,
    },
    /// Answer to `Unlock`.
    Unlocked,
    /// Answer to `Check`: still ours.
    Held {
        /// The record now.
        record: Option<ArbiterRecord>,
    },
    /// Answer to `Check`: it is not ours any more, with the reason in words. Whatever is left of it is
    /// kept from others until `Unlock`, because its holder still serves while it hears this.
    Lost(String),
    /// Answer to `CompareAndSet`: it is the highest record now.
    Set(ArbiterRecord),
    /// Answer to `CompareAndSet` or `Create`: another record is there.
    Conflict(Option<ArbiterRecord>),
    /// Any call: the outcome is not known, or the share could not be read. In words, with the path.
    Failed(String),
}

/// The arbiter, as actors see it.
pub trait Arbiter: Send + Sync {
    /// Queues a call; the answer comes to the sink given at construction, with the id.
    fn call(&self, id: u64, call: ArbiterCall);
}
