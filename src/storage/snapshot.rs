//! A full copy of a store's content in pieces: the pages of the pinned checkpoint, then every chunk
//! in which something is owed. The log after it follows as ordinary batches.
//!
//! A piece is magic, version, number, items, CRC-32C. The first item of all is the manifest, the last
//! says how many there were.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::proto::ids::{Epoch, Lsn, Position, StoreId};
use crate::proto::log::EpochStart;
use crate::proto::record::{Chunk, DecodeError, Reader, put_varint};

use super::backend::{Backend, Table, View, Write, log_key};
use super::checkpoint;
use super::error::StoreError;
use super::ledger::{ChunkFacts, Content, page_of};
use super::meta::{Mark, Meta};
use super::recover;

/// A piece is closed when it has this many bytes.
const PIECE_BYTES: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"TMQs";
const VERSION: u8 = 3;

const MANIFEST: u8 = 1;
const PAGE: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;

/// What a snapshot shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose data it is.
    pub cluster: String,
    /// The point of the log.
    pub at: Mark,
    /// The epochs up to there.
    pub epochs: Vec<EpochStart>,
}

/// One part of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// First of all.
    Manifest(Manifest),
    /// A key and value of the checkpoint's table.
    Page(Bytes, Bytes),
    /// A chunk of the log.
    Chunk(Bytes),
    /// Last of all: pages and chunks in all pieces.
    End(u64),
}

/// Reads a pinned snapshot, piece by piece.
pub(crate) struct Cursor {
    manifest: Option<Manifest>,
    /// The next key of the checkpoint's table; none when all pages are read.
    page: Option<Vec<u8>>,
    chunks: VecDeque<Lsn>,
    number: u64,
    items: u64,
    ended: bool,
}

impl Cursor {
    pub(crate) fn new(
        cluster: &str,
        at: Mark,
        epochs: Vec<EpochStart>,
        chunks: VecDeque<Lsn>,
    ) -> Self {
        Self {
            manifest: Some(Manifest {
                cluster: cluster.to_owned(),
                at,
                epochs,
            }),
            page: Some(Vec::new()),
            chunks,
            number: 0,
            items: 0,
            ended: false,
        }
    }

    /// The next piece; empty when all was given.
    pub(crate) fn read<V: View>(&mut self, view: &V) -> Result<Vec<u8>, StoreError> {
        if self.ended {
            return Ok(Vec::new());
        }
        let mut piece = MAGIC.to_vec();
        piece.push(VERSION);
        put_varint(&mut piece, self.number);
        self.number += 1;
        if let Some(manifest) = self.manifest.take() {
            put_manifest(&mut piece, &manifest);
        }
        if let Some(from) = self.page.take() {
            self.page = self.read_pages(view, &from, &mut piece)?;
        }
        while self.page.is_none() && piece.len() < PIECE_BYTES {
            let Some(lsn) = self.chunks.pop_front() else {
                piece.push(END);
                put_varint(&mut piece, self.items);
                self.ended = true;
                break;
            };
            let chunk = view.get(Table::Log, &log_key(lsn))?.ok_or_else(|| {
                view.damaged(Table::Log, lsn.to_string(), "is missing".to_owned())
            })?;
            piece.push(CHUNK);
            put_bytes(&mut piece, &chunk);
            self.items += 1;
        }
        let crc = crc32c::crc32c(&piece);
        piece.extend_from_slice(&crc.to_le_bytes());
        Ok(piece)
    }

    /// Adds pages from a key on. Gives the key to go on from, none at the end.
    fn read_pages<V: View>(
        &mut self,
        view: &V,
        from: &[u8],
        piece: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut next = None;
        view.scan(Table::Checkpoint, from, &mut |key, value| {
            if piece.len() >= PIECE_BYTES {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            if checkpoint::is_of_chunks(key) {
                return ControlFlow::Continue(());
            }
            piece.push(PAGE);
            put_bytes(piece, key);
            put_bytes(piece, value);
            self.items += 1;
            ControlFlow::Continue(())
        })?;
        Ok(next)
    }
}

/// A snapshot as it arrives.
pub(crate) struct Receiving<B> {
    env: B,
    manifest: Option<Manifest>,
    number: u64,
    items: u64,
    last_chunk: Lsn,
    /// The chunks of the page that is not complete yet.
    page: Vec<ChunkFacts>,
    ended: bool,
}

impl<B: Backend> Receiving<B> {
    pub(crate) fn new(env: B) -> Self {
        Self {
            env,
            manifest: None,
            number: 0,
            items: 0,
            last_chunk: Lsn::ZERO,
            page: Vec::new(),
            ended: false,
        }
    }

    pub(crate) fn into_env(self) -> B {
        self.env
    }

    /// Puts a piece into the new store. The inner error says why it is refused; nothing of it is kept
    /// then. The outer one is fatal.
    pub(crate) fn write(
        &mut self,
        piece: &Bytes,
        limit: usize,
    ) -> Result<Result<(), String>, StoreError> {
        match self.prepare(piece, limit) {
            Ok(writes) => {
                if !writes.is_empty() {
                    self.env.commit(&writes)?;
                }
                Ok(Ok(()))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    fn prepare(&mut self, piece: &Bytes, limit: usize) -> Result<Vec<Write>, String> {
        let (number, items) = decode_piece(piece).map_err(|error| error.to_string())?;
        if number != self.number || self.ended {
            return Err(format!("piece {number} instead of {}", self.number));
        }
        let mut writes = Vec::new();
        let (mut manifest, mut count) = (self.manifest.take(), self.items);
        let (mut last_chunk, mut ended) = (self.last_chunk, false);
        let mut page = self.page.clone();
        for item in items {
            match (item, &manifest) {
                (Item::Manifest(found), None) => manifest = Some(found),
                (Item::Page(key, value), Some(_)) if !checkpoint::is_of_chunks(&key) => {
                    writes.push(Write::Put(Table::Checkpoint, key.to_vec(), value));
                    count += 1;
                }
                (Item::Chunk(bytes), Some(manifest)) => {
                    let chunk = Chunk::decode(bytes, limit).map_err(|error| error.to_string())?;
                    let in_order = chunk.header.first > last_chunk
                        && chunk.header.last() <= manifest.at.position.lsn;
                    if !in_order {
                        return Err(format!("chunk {} is out of order", chunk.header.first));
                    }
                    last_chunk = chunk.header.last();
                    let facts = recover::facts(&chunk.header, chunk.bytes.len());
                    if page
                        .last()
                        .is_some_and(|last| page_of(last.first) != page_of(facts.first))
                    {
                        writes.extend(put_page(&mut page));
                    }
                    page.push(facts);
                    writes.push(Write::Append(chunk.header.first, chunk.bytes));
                    count += 1;
                }
                (Item::End(total), Some(_)) if total == count && !ended => {
                    writes.extend(put_page(&mut page));
                    ended = true;
                }
                _ => return Err("an item where none may be".to_owned()),
            }
        }
        self.manifest = manifest;
        self.items = count;
        self.last_chunk = last_chunk;
        self.page = page;
        self.ended = ended;
        self.number += 1;
        Ok(writes)
    }

    /// The `meta` table of the new store, if it is complete and of this pair.
    pub(crate) fn meta(&self, cluster: &str, store: StoreId) -> Result<Meta, String> {
        match &self.manifest {
            Some(manifest) if self.ended => {
                if manifest.cluster != cluster {
                    return Err(format!("it is of the pair \"{}\"", manifest.cluster));
                }
                Ok(Meta {
                    cluster: cluster.to_owned(),
                    store,
                    epochs: manifest.epochs.clone(),
                    checkpoint: manifest.at,
                    floor: manifest.at.position.lsn,
                    sync_in_progress: true,
                })
            }
            _ => Err("it is not complete".to_owned()),
        }
    }
}

/// The page of the checkpoint for these chunks, none for none.
fn put_page(chunks: &mut Vec<ChunkFacts>) -> Option<Write> {
    let number = page_of(chunks.first()?.first);
    let chunks = std::mem::take(chunks);
    // What is owed of them at least is not told: it is found when they are read.
    let unknown = |chunk| (chunk, Content::default());
    let chunks = chunks.into_iter().map(unknown);
    Some(checkpoint::chunks_page(number, chunks))
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_manifest(to: &mut Vec<u8>, manifest: &Manifest) {
    to.push(MANIFEST);
    put_bytes(to, manifest.cluster.as_bytes());
    put_varint(to, manifest.at.position.epoch.0);
    put_varint(to, manifest.at.position.lsn.0);
    put_varint(to, u64::from(manifest.at.chain));
    put_varint(to, manifest.epochs.len() as u64);
    for start in &manifest.epochs {
        put_varint(to, start.epoch.0);
        put_varint(to, start.start.0);
    }
}

/// Reads one piece: its number and what is in it. Also the target of the fuzzer.
///
/// # Errors
/// When it is not a piece or is damaged.
pub fn decode_piece(piece: &Bytes) -> Result<(u64, Vec<Item>), DecodeError> {
    let body_len = piece.len().checked_sub(4).ok_or(DecodeError::Short)?;
    let (body, crc) = piece.split_at(body_len);
    let stored = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    let found = crc32c::crc32c(body);
    if stored != found {
        return Err(DecodeError::Checksum { stored, found });
    }
    decode_items(&piece.slice(..body_len))
}

/// As [`decode_piece`] without the checksum, so that the fuzzer gets past it.
///
/// # Errors
/// When it is not the body of a piece.
pub fn decode_items(body: &Bytes) -> Result<(u64, Vec<Item>), DecodeError> {
    if !body.starts_with(&MAGIC) {
        return Err(DecodeError::Magic);
    }
    let mut from = Reader {
        bytes: body,
        at: MAGIC.len(),
    };
    match from.u8()? {
        VERSION => {}
        other => return Err(DecodeError::Version(other)),
    }
    let number = from.varint()?;
    let mut items = Vec::new();
    while from.at < body.len() {
        let item = match from.u8()? {
            MANIFEST => Item::Manifest(take_manifest(&mut from)?),
            PAGE => {
                let key = take_bytes(body, &mut from)?;
                // LMDB takes no empty key and none over 511 bytes.
                if key.is_empty() || key.len() > 511 {
                    return Err(DecodeError::TooLarge);
                }
                Item::Page(key, take_bytes(body, &mut from)?)
            }
            CHUNK => Item::Chunk(take_bytes(body, &mut from)?),
            END => Item::End(from.varint()?),
            other => return Err(DecodeError::Kind(other)),
        };
        items.push(item);
    }
    Ok((number, items))
}

fn take_bytes(body: &Bytes, from: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    let len = from.length()?;
    let taken = body.slice(from.at..from.at + len);
    from.at += len;
    Ok(taken)
}

fn take_manifest(from: &mut Reader<'_>) -> Result<Manifest, DecodeError> {
    let len = from.length()?;
    let cluster = std::str::from_utf8(from.take(len)?)
        .map_err(|_| DecodeError::Number)?
        .to_owned();
    let at = Mark {
        position: Position {
            epoch: Epoch(from.varint()?),
            lsn: Lsn(from.varint()?),
        },
        chain: from.u32()?,
    };
    let count = from.length()?;
    let mut epochs: Vec<EpochStart> = Vec::with_capacity(count);
    for _ in 0..count {
        let start = EpochStart {
            epoch: Epoch(from.varint()?),
            start: Lsn(from.varint()?),
        };
        let ascends = epochs
            .last()
            .is_none_or(|before| before.epoch < start.epoch && before.start < start.start);
        if !ascends || start.start > at.position.lsn {
            return Err(DecodeError::Number);
        }
        epochs.push(start);
    }
    Ok(Manifest {
        cluster,
        at,
        epochs,
    })
}
