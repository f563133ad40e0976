//! The bytes of the HA channel's frames.
//!
//! ```text
//! u32 length of all that follows | u32 CRC32C of the rest | u8 kind | fields
//! ```
//!
//! Numbers are big-endian. A session frame begins with its session. A hello begins with a magic;
//! what a later release adds at its end, or at the end of the facts, is passed over by an earlier
//! one, so that any two releases can tell each other their versions.

use bytes::{BufMut, Bytes, BytesMut};

use crate::proto::arbiter::LockIdentity;
use crate::proto::fields::{BadField, FieldReader, put_part, put_text};
use crate::proto::ids::{
    ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, SessionId, StoreId,
};
use crate::proto::log::{Batch, EpochStart};
use crate::proto::peer::{Body, Frame, Hello, PeerFacts, ServerState, SyncPlan};

/// No frame is larger, whatever is configured: 20 MiB.
pub const FRAME_BYTES_MAX: usize = 20 * 1024 * 1024;
/// No frame is larger before the other side has proved who it is.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 16 * 1024;

const HELLO_MAGIC: &[u8; 8] = b"TWINMQ\r\n";
const TEXT_BYTES_MAX: usize = 1024;
const AGREE_MAX: usize = 64;
const HEAD_BYTES: usize = 4;
/// Checksum and kind.
const LENGTH_MIN: usize = 5;

mod clients;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const PROOF: u8 = 2;
    pub(super) const WELCOME: u8 = 3;
    pub(super) const REFUSE: u8 = 4;
    pub(super) const LAST_WORD: u8 = 5;
    pub(super) const PING: u8 = 16;
    pub(super) const PONG: u8 = 17;
    pub(super) const ROLE_CHANGED: u8 = 18;
    pub(super) const GOODBYE: u8 = 19;
    pub(super) const SYNC_REQUEST: u8 = 32;
    pub(super) const SYNC_PLAN_INCREMENTAL: u8 = 33;
    pub(super) const SYNC_PLAN_FULL: u8 = 34;
    pub(super) const SYNC_READY: u8 = 35;
    pub(super) const SNAPSHOT_PIECE: u8 = 36;
    pub(super) const SNAPSHOT_END: u8 = 37;
    pub(super) const SNAPSHOT_ACK: u8 = 38;
    pub(super) const SYNC_END: u8 = 39;
    pub(super) const SYNC_DONE: u8 = 40;
    pub(super) const BATCH: u8 = 48;
    pub(super) const COMMIT_INDEX: u8 = 49;
    pub(super) const DURABLE: u8 = 50;
    pub(super) const IN_SYNC: u8 = 51;
    pub(super) const CLIENTS: u8 = 64;
}

/// Bytes that are no frame. The connection is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerDecodeError {
    /// Longer than the limit.
    #[error("a frame of {bytes} bytes came, the limit is {max}")]
    TooLarge {
        /// As it says.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Shorter than a frame can be.
    #[error("a frame of {0} bytes came, which is too short")]
    TooShort(usize),
    /// Damaged on its way, or no frame at all.
    #[error("a frame's checksum is wrong")]
    Checksum,
    /// A kind that this release does not know.
    #[error("a frame of the unknown kind {0} came")]
    UnknownKind(u8),
    /// The first frame is not this protocol's.
    #[error("the other side does not speak the protocol of twinmq's HA channel")]
    NotHello,
    /// A field is missing or out of its range.
    #[error("a frame of kind {kind} is not valid: {what}")]
    Invalid {
        /// Its kind.
        kind: u8,
        /// The field.
        what: &'static str,
    },
}

/// A frame that may not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes may not be sent, the limit is {FRAME_BYTES_MAX}")]
pub struct FrameTooLarge {
    /// Its size.
    pub bytes: usize,
}

/// Appends the frame's bytes. Texts over 1,024 bytes are cut.
///
/// # Errors
/// A frame over [`FRAME_BYTES_MAX`]; nothing is appended then.
pub fn encode(frame: &Frame, to: &mut BytesMut) -> Result<(), FrameTooLarge> {
    let start = to.len();
    to.put_bytes(0, HEAD_BYTES + 4);
    put_frame(frame, to);
    let bytes = to.len() - start - HEAD_BYTES;
    if bytes > FRAME_BYTES_MAX {
        to.truncate(start);
        return Err(FrameTooLarge { bytes });
    }
    let length = u32::try_from(bytes).expect("the limit is far below 4 GiB");
    let crc = crc32c::crc32c(&to[start + HEAD_BYTES + 4..]);
    to[start..start + 4].copy_from_slice(&length.to_be_bytes());
    to[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Takes the first frame off `from`; none until all its bytes are there. Bodies share the buffer's
/// memory, nothing is copied.
///
/// # Errors
/// Bytes that are no frame of at most `bytes_max` (and [`FRAME_BYTES_MAX`]) bytes.
pub fn decode(from: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, PeerDecodeError> {
    let Some(head) = from.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    let max = bytes_max.min(FRAME_BYTES_MAX);
    if bytes > max {
        return Err(PeerDecodeError::TooLarge { bytes, max });
    }
    if bytes < LENGTH_MIN {
        return Err(PeerDecodeError::TooShort(bytes));
    }
    if from.len() < HEAD_BYTES + bytes {
        from.reserve(HEAD_BYTES + bytes - from.len());
        return Ok(None);
    }
    let frame = from.split_to(HEAD_BYTES + bytes).freeze();
    let mut fields = FieldReader::new(frame.slice(HEAD_BYTES + 4..));
    let mut crc = [0; 4];
    crc.copy_from_slice(&frame[HEAD_BYTES..HEAD_BYTES + 4]);
    if crc32c::crc32c(&frame[HEAD_BYTES + 4..]) != u32::from_be_bytes(crc) {
        return Err(PeerDecodeError::Checksum);
    }
    let kind = frame[HEAD_BYTES + 4];
    let invalid = |bad: BadField| PeerDecodeError::Invalid { kind, what: bad.0 };
    fields.u8("kind").map_err(invalid)?;
    if kind == kind::HELLO {
        let magic: [u8; 8] = fields
            .array("magic")
            .map_err(|_| PeerDecodeError::NotHello)?;
        if magic != *HELLO_MAGIC {
            return Err(PeerDecodeError::NotHello);
        }
    }
    match take_frame(kind, fields) {
        Ok(Some(frame)) => Ok(Some(frame)),
        Ok(None) => Err(PeerDecodeError::UnknownKind(kind)),
        Err(bad) => Err(invalid(bad)),
    }
}

fn put_frame(frame: &Frame, to: &mut BytesMut) {
    match frame {
        Frame::Hello(hello) => {
            to.put_u8(kind::HELLO);
            put_hello(hello, to);
        }
        Frame::Proof(proof) => {
            to.put_u8(kind::PROOF);
            to.put_slice(proof);
        }
        Frame::Welcome(session) => {
            to.put_u8(kind::WELCOME);
            to.put_u64(session.0);
        }
        Frame::Refuse(reason) => {
            to.put_u8(kind::REFUSE);
            put_text(to, reason, TEXT_BYTES_MAX);
        }
        Frame::LastWord { node, epoch, proof } => {
            to.put_u8(kind::LAST_WORD);
            to.put_slice(&node.0);
            to.put_u64(epoch.0);
            to.put_slice(proof);
        }
        Frame::Session(session, body) => {
            to.put_u8(kind_of(body));
            to.put_u64(session.0);
            put_body(body, to);
        }
    }
}

fn kind_of(body: &Body) -> u8 {
    match body {
        Body::Ping { .. } => kind::PING,
        Body::Pong { .. } => kind::PONG,
        Body::RoleChanged { .. } => kind::ROLE_CHANGED,
        Body::Goodbye { .. } => kind::GOODBYE,
        Body::SyncRequest { .. } => kind::SYNC_REQUEST,
        Body::SyncPlan(SyncPlan::Incremental { .. }) => kind::SYNC_PLAN_INCREMENTAL,
        Body::SyncPlan(SyncPlan::Full { .. }) => kind::SYNC_PLAN_FULL,
        Body::SyncReady { .. } => kind::SYNC_READY,
        Body::SnapshotPiece(_) => kind::SNAPSHOT_PIECE,
        Body::SnapshotEnd { .. } => kind::SNAPSHOT_END,
        Body::SnapshotAck { .. } => kind::SNAPSHOT_ACK,
        Body::SyncEnd { .. } => kind::SYNC_END,
        Body::SyncDone { .. } => kind::SYNC_DONE,
        Body::Batch { .. } => kind::BATCH,
        Body::CommitIndex { .. } => kind::COMMIT_INDEX,
        Body::Durable { .. } => kind::DURABLE,
        Body::InSync { .. } => kind::IN_SYNC,
        Body::Clients(_) => kind::CLIENTS,
    }
}

fn put_body(body: &Body, to: &mut BytesMut) {
    match body {
        Body::Ping { number, facts } | Body::RoleChanged { number, facts } => {
            to.put_u64(*number);
            put_facts(facts, to);
        }
        Body::Pong { number } => to.put_u64(*number),
        Body::Goodbye { epoch } | Body::InSync { epoch } => to.put_u64(epoch.0),
        Body::SyncRequest {
            epochs,
            position,
            chain,
            checkpoint,
        } => {
            put_position(*position, to);
            to.put_u32(*chain);
            to.put_u64(checkpoint.0);
            for start in epochs {
                to.put_u64(start.epoch.0);
                to.put_u64(start.start.0);
            }
        }
        Body::SyncPlan(SyncPlan::Incremental { common, bytes }) => {
            to.put_u64(common.0);
            to.put_u64(*bytes);
        }
        Body::SyncPlan(SyncPlan::Full { bytes, reason }) => {
            to.put_u64(*bytes);
            put_text(to, reason, TEXT_BYTES_MAX);
        }
        Body::SyncReady { at, chain } => {
            to.put_u64(at.0);
            to.put_u32(*chain);
        }
        Body::SnapshotPiece(piece) => to.put_slice(piece),
        Body::SnapshotEnd { at } => put_position(*at, to),
        Body::SnapshotAck { bytes } => to.put_u64(*bytes),
        Body::SyncEnd { at } => to.put_u64(at.0),
        Body::SyncDone { store, position } | Body::Durable { store, position } => {
            to.put_slice(&store.0);
            put_position(*position, to);
        }
        Body::Batch { committed, batch } => put_batch(*committed, batch, to),
        Body::CommitIndex { committed } => to.put_u64(committed.0),
        Body::Clients(news) => clients::put(news, to),
    }
}

fn put_batch(committed: Lsn, batch: &Batch, to: &mut BytesMut) {
    to.reserve(batch.bytes() + 8 * batch.chunks.len() + 64);
    to.put_u64(committed.0);
    to.put_u64(batch.epoch.0);
    to.put_u64(batch.first.0);
    to.put_u64(batch.last.0);
    to.put_u32(batch.prev_chain);
    for chunk in &batch.chunks {
        // A chunk that does not fit 32 bits makes a frame over the limit, which is not sent.
        to.put_u32(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        to.put_slice(chunk);
    }
}

fn put_hello(hello: &Hello, to: &mut BytesMut) {
    to.put_slice(HELLO_MAGIC);
    to.put_u16(hello.versions.0);
    to.put_u16(hello.versions.1);
    to.put_u64(hello.features);
    to.put_slice(&hello.node.0);
    to.put_u8(u8::from(hello.primary));
    to.put_slice(&hello.nonce);
    put_text(to, &hello.cluster, TEXT_BYTES_MAX);
    put_text(to, &hello.name, TEXT_BYTES_MAX);
    let agree = &hello.must_agree[..hello.must_agree.len().min(AGREE_MAX)];
    to.put_u8(u8::try_from(agree.len()).expect("cut to fit"));
    for (key, value) in agree {
        // Sixty-four pairs of these fit into a frame before authentication.
        put_text(to, key, 64);
        put_text(to, value, 128);
    }
    put_facts(&hello.facts, to);
}

fn put_facts(facts: &PeerFacts, to: &mut BytesMut) {
    let mut part = Vec::with_capacity(96);
    part.put_u8(state_code(facts.state));
    part.put_u8(state_code(facts.previous));
    part.put_u8(u8::from(facts.claiming));
    part.put_u64(facts.epoch.0);
    part.put_slice(&facts.store.0);
    put_position(facts.position, &mut part);
    part.put_u8(u8::from(facts.sync_in_progress));
    part.put_u8(u8::from(facts.arbiter.is_some()));
    part.put_slice(&facts.arbiter.unwrap_or_default().0);
    part.put_u64(facts.last_record.0);
    part.put_u8(u8::from(facts.looked));
    part.put_u8(u8::from(facts.eligible));
    part.put_u8(u8::from(facts.lock.is_some()));
    if let Some(lock) = &facts.lock {
        part.put_slice(&lock.nonce.0);
        part.put_u64(lock.device);
        part.put_u64(lock.inode);
    }
    put_part(to, &part);
}

fn put_position(position: Position, to: &mut impl BufMut) {
    to.put_u64(position.epoch.0);
    to.put_u64(position.lsn.0);
}

/// `fields` follow the kind, and a hello's magic.
fn take_frame(kind: u8, mut fields: FieldReader) -> Result<Option<Frame>, BadField> {
    let frame = match kind {
        // What a later release adds at the end is passed over.
        kind::HELLO => return take_hello(&mut fields).map(|it| Some(Frame::Hello(Box::new(it)))),
        kind::PROOF => Frame::Proof(fields.array("proof")?),
        kind::WELCOME => Frame::Welcome(SessionId(fields.u64("session")?)),
        kind::REFUSE => Frame::Refuse(take_text(&mut fields, "reason")?),
        kind::LAST_WORD => Frame::LastWord {
            node: NodeId(fields.array("node")?),
            epoch: Epoch(fields.u64("epoch")?),
            proof: fields.array("proof")?,
        },
        _ => {
            let session = SessionId(fields.u64("session")?);
            let Some(body) = take_body(kind, &mut fields)? else {
                return Ok(None);
            };
            Frame::Session(session, body)
        }
    };
    fields.end()?;
    Ok(Some(frame))
}

fn take_body(kind: u8, from: &mut FieldReader) -> Result<Option<Body>, BadField> {
    let body = match kind {
        kind::PING => Body::Ping {
            number: from.u64("number")?,
            facts: take_facts(from)?,
        },
        kind::PONG => Body::Pong {
            number: from.u64("number")?,
        },
        kind::ROLE_CHANGED => Body::RoleChanged {
            number: from.u64("number")?,
            facts: take_facts(from)?,
        },
        kind::GOODBYE => Body::Goodbye {
            epoch: Epoch(from.u64("epoch")?),
        },
        kind::SYNC_REQUEST => take_sync_request(from)?,
        kind::SYNC_PLAN_INCREMENTAL => Body::SyncPlan(SyncPlan::Incremental {
            common: Lsn(from.u64("common")?),
            bytes: from.u64("bytes")?,
        }),
        kind::SYNC_PLAN_FULL => Body::SyncPlan(SyncPlan::Full {
            bytes: from.u64("bytes")?,
            reason: take_text(from, "reason")?,
        }),
        kind::SYNC_READY => Body::SyncReady {
            at: Lsn(from.u64("at")?),
            chain: from.u32("chain")?,
        },
        kind::SNAPSHOT_PIECE => Body::SnapshotPiece(from.take_rest()),
        kind::SNAPSHOT_END => Body::SnapshotEnd {
            at: take_position(from)?,
        },
        kind::SNAPSHOT_ACK => Body::SnapshotAck {
            bytes: from.u64("bytes")?,
        },
        kind::SYNC_END => Body::SyncEnd {
            at: Lsn(from.u64("at")?),
        },
        kind::SYNC_DONE => Body::SyncDone {
            store: StoreId(from.array("store")?),
            position: take_position(from)?,
        },
        kind::BATCH => take_batch(from)?,
        kind::COMMIT_INDEX => Body::CommitIndex {
            committed: Lsn(from.u64("committed")?),
        },
        kind::DURABLE => Body::Durable {
            store: StoreId(from.array("store")?),
            position: take_position(from)?,
        },
        kind::IN_SYNC => Body::InSync {
            epoch: Epoch(from.u64("epoch")?),
        },
        kind::CLIENTS => Body::Clients(clients::take(from)?),
        _ => return Ok(None),
    };
    Ok(Some(body))
}

fn take_sync_request(from: &mut FieldReader) -> Result<Body, BadField> {
    let position = take_position(from)?;
    let chain = from.u32("chain")?;
    let checkpoint = Lsn(from.u64("checkpoint")?);
    let mut epochs = Vec::new();
    while !from.is_empty() {
        epochs.push(EpochStart {
            epoch: Epoch(from.u64("epochs")?),
            start: Lsn(from.u64("epochs")?),
        });
    }
    Ok(Body::SyncRequest {
        epochs,
        position,
        chain,
        checkpoint,
    })
}

fn take_batch(from: &mut FieldReader) -> Result<Body, BadField> {
    let committed = Lsn(from.u64("committed")?);
    let epoch = Epoch(from.u64("epoch")?);
    let first = Lsn(from.u64("first")?);
    let last = Lsn(from.u64("last")?);
    let prev_chain = from.u32("prev_chain")?;
    let mut chunks: Vec<Bytes> = Vec::new();
    while !from.is_empty() {
        let bytes = usize::try_from(from.u32("chunk")?).unwrap_or(usize::MAX);
        if bytes == 0 {
            // Else a small frame would become a large list.
            return Err(BadField("chunk"));
        }
        chunks.push(from.bytes(bytes, "chunk")?);
    }
    let batch = Batch {
        epoch,
        first,
        last,
        prev_chain,
        chunks,
    };
    Ok(Body::Batch { committed, batch })
}

fn take_hello(from: &mut FieldReader) -> Result<Hello, BadField> {
    let versions = (from.u16("versions")?, from.u16("versions")?);
    let features = from.u64("features")?;
    let node = NodeId(from.array("node")?);
    let primary = from.bool("primary")?;
    let nonce = from.array("nonce")?;
    let cluster = take_text(from, "cluster")?;
    let name = take_text(from, "name")?;
    let count = usize::from(from.u8("must_agree")?);
    if count > AGREE_MAX {
        return Err(BadField("must_agree"));
    }
    let must_agree = (0..count)
        .map(|_| {
            Ok((
                take_text(from, "must_agree")?,
                take_text(from, "must_agree")?,
            ))
        })
        .collect::<Result<_, BadField>>()?;
    let facts = take_facts(from)?;
    Ok(Hello {
        versions,
        features,
        cluster,
        node,
        primary,
        name,
        nonce,
        must_agree,
        facts,
    })
}

fn take_facts(from: &mut FieldReader) -> Result<PeerFacts, BadField> {
    let mut part = from.part("facts")?;
    let state = take_state(&mut part)?;
    let previous = take_state(&mut part)?;
    let claiming = part.bool("claiming")?;
    let epoch = Epoch(part.u64("epoch")?);
    let store = StoreId(part.array("store")?);
    let position = take_position(&mut part)?;
    let sync_in_progress = part.bool("sync_in_progress")?;
    let known = part.bool("arbiter")?;
    let arbiter = ArbiterId(part.array("arbiter")?);
    let last_record = RecordSeq(part.u64("last_record")?);
    let looked = part.bool("looked")?;
    let eligible = part.bool("eligible")?;
    let lock = if part.bool("lock")? {
        Some(LockIdentity {
            nonce: Nonce(part.array("lock")?),
            device: part.u64("lock")?,
            inode: part.u64("lock")?,
        })
    } else {
        None
    };
    Ok(PeerFacts {
        state,
        previous,
        claiming,
        epoch,
        store,
        position,
        sync_in_progress,
        arbiter: known.then_some(arbiter),
        last_record,
        looked,
        eligible,
        lock,
    })
}

fn take_position(from: &mut FieldReader) -> Result<Position, BadField> {
    Ok(Position {
        epoch: Epoch(from.u64("position")?),
        lsn: Lsn(from.u64("position")?),
    })
}

fn take_text(from: &mut FieldReader, what: &'static str) -> Result<String, BadField> {
    let text = from.text(what)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(BadField(what));
    }
    Ok(text)
}

fn state_code(state: ServerState) -> u8 {
    match state {
        ServerState::Waiting => 1,
        ServerState::PassiveSync => 2,
        ServerState::ActiveSync => 3,
        ServerState::Active => 4,
        ServerState::Passive => 5,
        ServerState::Standalone => 6,
        ServerState::Activating => 7,
        ServerState::Dead => 8,
    }
}

fn take_state(from: &mut FieldReader) -> Result<ServerState, BadField> {
    Ok(match from.u8("state")? {
        1 => ServerState::Waiting,
        2 => ServerState::PassiveSync,
        3 => ServerState::ActiveSync,
        4 => ServerState::Active,
        5 => ServerState::Passive,
        6 => ServerState::Standalone,
        7 => ServerState::Activating,
        8 => ServerState::Dead,
        _ => return Err(BadField("state")),
    })
}

#[cfg(test)]
mod tests;
