//! The bytes of the arbiter's two files.
//!
//! Both begin with a magic of eight bytes and the version of their layout, and end with a MAC under
//! the pair secret (zeros without one) and a CRC32C of all before it; these ends stay as they are in
//! every version. The lock file is padded to one sector, so that writing it in place cannot tear it.

use bytes::{BufMut, Bytes};

use crate::proto::arbiter::{ArbiterRecord, LockHeartbeat};
use crate::proto::auth::{PairSecret, file_mac};
use crate::proto::fields::{BadField, FieldReader};
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, StoreId};

/// Bytes of a lock file.
pub const LOCK_FILE_BYTES: usize = 512;
/// More bytes than this are no record.
pub const RECORD_BYTES_MAX: usize = 1024;

const RECORD_MAGIC: &[u8; 8] = b"TMQRECRD";
const LOCK_MAGIC: &[u8; 8] = b"TMQLOCKF";
/// Of a record that names the configured lock file, and of every lock file.
const VERSION: u16 = 1;
/// Of a record that names another generation's lock file: the generation follows the in-sync set.
/// A pair that never took over by fence is still read by the first release.
const VERSION_OF_GENERATIONS: u16 = 2;
const CLUSTER_BYTES_MAX: usize = 64;
const MEMBERS_MAX: usize = 2;
const MAC_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
const ENVELOPE_BYTES: usize = 8 + 2 + MAC_BYTES + CRC_BYTES;

/// Why bytes are no record or lock file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArbiterFileError {
    /// Too short, or the checksum is wrong: written in part, or damaged.
    #[error("it is damaged or was written in part (its checksum is wrong)")]
    Torn,
    /// Another kind of file.
    #[error("it is not a file of twinmq's arbiter")]
    WrongMagic,
    /// Written by a later release.
    #[error("it has format {0}, which is newer than this release can read: update this server")]
    NewerVersion(u16),
    /// Written under another pair secret, or none.
    #[error(
        "it was not written under this pair's secret: are the secret files of both servers the same?"
    )]
    WrongMac,
    /// The checksum is right and the content is not.
    #[error("its content is not valid: {0}")]
    Invalid(&'static str),
}

impl From<BadField> for ArbiterFileError {
    fn from(bad: BadField) -> Self {
        Self::Invalid(bad.0)
    }
}

/// A record with the checksums that chain it to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFile {
    /// The record.
    pub record: ArbiterRecord,
    /// The checksum of the record before it; zero for the first.
    pub prev_crc: u32,
    /// Its own.
    pub crc: u32,
}

/// A record's file. `record.cluster` may have at most 64 bytes, `record.isr` at most two members.
///
/// # Panics
/// On a record that is larger than that: the machines make none.
#[must_use]
pub fn encode_record(
    record: &ArbiterRecord,
    prev_crc: u32,
    secret: Option<&PairSecret>,
) -> Vec<u8> {
    assert!(
        record.cluster.len() <= CLUSTER_BYTES_MAX && record.isr.len() <= MEMBERS_MAX,
        "a record names one cluster of at most 64 bytes and at most two stores"
    );
    let generations = record.generation != Epoch::ZERO;
    let mut file = start(
        RECORD_MAGIC,
        if generations {
            VERSION_OF_GENERATIONS
        } else {
            VERSION
        },
    );
    file.put_slice(&record.arbiter.0);
    file.put_u64(record.seq.0);
    file.put_u64(record.epoch.0);
    file.put_slice(&record.owner.0);
    file.put_u32(prev_crc);
    put_short(&mut file, record.cluster.len());
    file.put_slice(record.cluster.as_bytes());
    put_short(&mut file, record.isr.len());
    for store in &record.isr {
        file.put_slice(&store.0);
    }
    if generations {
        file.put_u64(record.generation.0);
    }
    seal(file, secret)
}

/// A record as a server keeps it in `node/`: no chain, no MAC.
///
/// # Panics
/// As [`encode_record`].
#[must_use]
pub fn encode_last_record(record: &ArbiterRecord) -> Bytes {
    encode_record(record, 0, None).into()
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode_record(
    bytes: &[u8],
    secret: Option<&PairSecret>,
) -> Result<RecordFile, ArbiterFileError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(ArbiterFileError::Torn);
    }
    let (mut fields, version, crc) = open(bytes, RECORD_MAGIC, VERSION_OF_GENERATIONS, secret)?;
    let arbiter = ArbiterId(fields.array("arbiter")?);
    let seq = RecordSeq(fields.u64("seq")?);
    let epoch = Epoch(fields.u64("epoch")?);
    let owner = NodeId(fields.array("owner")?);
    let prev_crc = fields.u32("prev_crc")?;
    let cluster_bytes = take_short(&mut fields, CLUSTER_BYTES_MAX, "cluster")?;
    let cluster = std::str::from_utf8(&fields.bytes(cluster_bytes, "cluster")?)
        .map_err(|_| ArbiterFileError::Invalid("cluster"))?
        .to_owned();
    let isr = (0..take_short(&mut fields, MEMBERS_MAX, "isr")?)
        .map(|_| fields.array("isr").map(StoreId))
        .collect::<Result<_, _>>()?;
    let generation = match version {
        VERSION_OF_GENERATIONS => match fields.u64("generation")? {
            0 => return Err(ArbiterFileError::Invalid("generation")),
            generation => Epoch(generation),
        },
        _ => Epoch::ZERO,
    };
    fields.end()?;
    let record = ArbiterRecord {
        arbiter,
        cluster,
        seq,
        epoch,
        owner,
        isr,
        generation,
    };
    Ok(RecordFile {
        record,
        prev_crc,
        crc,
    })
}

/// A lock file, always of [`LOCK_FILE_BYTES`].
///
/// # Panics
/// On more than two positions: the machines make none.
#[must_use]
pub fn encode_lock(
    nonce: Nonce,
    last: Option<&LockHeartbeat>,
    secret: Option<&PairSecret>,
) -> Vec<u8> {
    let mut file = start(LOCK_MAGIC, VERSION);
    file.put_slice(&nonce.0);
    file.put_u8(u8::from(last.is_some()));
    if let Some(last) = last {
        assert!(
            last.positions.len() <= MEMBERS_MAX,
            "a pair has at most two stores"
        );
        file.put_slice(&last.owner.0);
        file.put_u64(last.epoch.0);
        file.put_u64(last.seq.0);
        file.put_u64(last.counter);
        put_short(&mut file, last.positions.len());
        for (store, position) in &last.positions {
            file.put_slice(&store.0);
            file.put_u64(position.epoch.0);
            file.put_u64(position.lsn.0);
        }
    }
    file.resize(LOCK_FILE_BYTES - MAC_BYTES - CRC_BYTES, 0);
    seal(file, secret)
}

/// Reads what [`encode_lock`] wrote.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode_lock(
    bytes: &[u8],
    secret: Option<&PairSecret>,
) -> Result<(Nonce, Option<LockHeartbeat>), ArbiterFileError> {
    if bytes.len() > LOCK_FILE_BYTES {
        return Err(ArbiterFileError::Torn);
    }
    let (mut fields, _, _) = open(bytes, LOCK_MAGIC, VERSION, secret)?;
    let nonce = Nonce(fields.array("nonce")?);
    if !fields.bool("heartbeat")? {
        return Ok((nonce, None));
    }
    let owner = NodeId(fields.array("owner")?);
    let epoch = Epoch(fields.u64("epoch")?);
    let seq = RecordSeq(fields.u64("seq")?);
    let counter = fields.u64("counter")?;
    let positions = (0..take_short(&mut fields, MEMBERS_MAX, "positions")?)
        .map(|_| {
            let store = StoreId(fields.array("position")?);
            let epoch = Epoch(fields.u64("position")?);
            let lsn = Lsn(fields.u64("position")?);
            Ok((store, Position { epoch, lsn }))
        })
        .collect::<Result<_, BadField>>()?;
    let last = LockHeartbeat {
        owner,
        epoch,
        seq,
        counter,
        positions,
    };
    Ok((nonce, Some(last)))
}

fn start(magic: &[u8; 8], version: u16) -> Vec<u8> {
    let mut file = Vec::with_capacity(LOCK_FILE_BYTES);
    file.put_slice(magic);
    file.put_u16(version);
    file
}

fn seal(mut file: Vec<u8>, secret: Option<&PairSecret>) -> Vec<u8> {
    let mac = file_mac(secret, &file);
    file.put_slice(&mac);
    let crc = crc32c::crc32c(&file);
    file.put_u32(crc);
    file
}

/// The fields between the version and the MAC, the version, and the checksum.
fn open(
    bytes: &[u8],
    magic: &[u8; 8],
    newest: u16,
    secret: Option<&PairSecret>,
) -> Result<(FieldReader, u16, u32), ArbiterFileError> {
    let known = bytes.len().min(magic.len());
    if bytes[..known] != magic[..known] {
        return Err(ArbiterFileError::WrongMagic);
    }
    if bytes.len() < ENVELOPE_BYTES {
        return Err(ArbiterFileError::Torn);
    }
    let (sealed, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    let crc = FieldReader::new(Bytes::copy_from_slice(crc)).u32("crc")?;
    if crc32c::crc32c(sealed) != crc {
        return Err(ArbiterFileError::Torn);
    }
    let (content, mac) = sealed.split_at(sealed.len() - MAC_BYTES);
    let mut fields = FieldReader::new(Bytes::copy_from_slice(&content[magic.len()..]));
    let version = fields.u16("version")?;
    if version > newest {
        return Err(ArbiterFileError::NewerVersion(version));
    }
    if file_mac(secret, content) != mac {
        return Err(ArbiterFileError::WrongMac);
    }
    Ok((fields, version, crc))
}

fn put_short(to: &mut Vec<u8>, count: usize) {
    to.put_u8(u8::try_from(count).expect("the caller has checked it"));
}

fn take_short(from: &mut FieldReader, max: usize, what: &'static str) -> Result<usize, BadField> {
    let count = usize::from(from.u8(what)?);
    if count > max {
        return Err(BadField(what));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> PairSecret {
        PairSecret::new(b"secret")
    }

    fn record() -> ArbiterRecord {
        ArbiterRecord {
            arbiter: ArbiterId([1; 16]),
            cluster: "pair".to_owned(),
            seq: RecordSeq(7),
            epoch: Epoch(3),
            owner: NodeId([2; 16]),
            isr: vec![StoreId([3; 16]), StoreId([4; 16])],
            generation: Epoch::ZERO,
        }
    }

    fn fenced() -> ArbiterRecord {
        ArbiterRecord {
            generation: Epoch(3),
            ..record()
        }
    }

    fn heartbeat() -> LockHeartbeat {
        LockHeartbeat {
            owner: NodeId([2; 16]),
            epoch: Epoch(3),
            seq: RecordSeq(7),
            counter: 12,
            positions: vec![(
                StoreId([3; 16]),
                Position {
                    epoch: Epoch(3),
                    lsn: Lsn(900),
                },
            )],
        }
    }

    #[test]
    fn both_files_read_back_with_and_without_a_secret() {
        for secret in [None, Some(secret())] {
            let secret = secret.as_ref();
            let file = decode_record(&encode_record(&record(), 99, secret), secret).unwrap();
            assert_eq!((file.record, file.prev_crc), (record(), 99));
            let file = decode_record(&encode_record(&fenced(), 99, secret), secret).unwrap();
            assert_eq!((file.record, file.prev_crc), (fenced(), 99));
            for last in [None, Some(heartbeat())] {
                let bytes = encode_lock(Nonce([5; 16]), last.as_ref(), secret);
                assert_eq!(bytes.len(), LOCK_FILE_BYTES);
                assert_eq!(decode_lock(&bytes, secret), Ok((Nonce([5; 16]), last)));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let secret = secret();
        let good = encode_record(&record(), 0, Some(&secret));
        assert_eq!(decode_record(&good, None), Err(ArbiterFileError::WrongMac));
        let other = PairSecret::new(b"other");
        assert_eq!(
            decode_record(&good, Some(&other)),
            Err(ArbiterFileError::WrongMac)
        );
        let plain = encode_record(&record(), 0, None);
        assert_eq!(
            decode_record(&plain, Some(&secret)),
            Err(ArbiterFileError::WrongMac)
        );
        assert_eq!(
            decode_record(b"root:x:0:0:root:/root:/bin/bash", None),
            Err(ArbiterFileError::WrongMagic)
        );
        let lock = encode_lock(Nonce([5; 16]), None, None);
        assert_eq!(
            decode_record(&lock, None),
            Err(ArbiterFileError::WrongMagic)
        );
        let mut newer = plain.clone();
        newer[9] = 3;
        let end = newer.len() - 4;
        let crc = crc32c::crc32c(&newer[..end]).to_be_bytes();
        newer[end..].copy_from_slice(&crc);
        assert_eq!(
            decode_record(&newer, None),
            Err(ArbiterFileError::NewerVersion(3))
        );
        for cut in 0..plain.len() {
            assert_eq!(
                decode_record(&plain[..cut], None),
                Err(ArbiterFileError::Torn),
                "{cut}"
            );
        }
        for byte in 8..plain.len() {
            let mut flipped = plain.clone();
            flipped[byte] ^= 1;
            assert_eq!(
                decode_record(&flipped, None),
                Err(ArbiterFileError::Torn),
                "{byte}"
            );
        }
    }

    /// The first release's files stay readable.
    #[test]
    fn the_bytes_of_the_first_version_are_these() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
        let bytes = encode_record(&record(), 0x0102_0304, None);
        assert_eq!(
            hex(&bytes[..bytes.len() - 36]),
            "544d5152454352440001\
             01010101010101010101010101010101\
             00000000000000070000000000000003\
             02020202020202020202020202020202\
             01020304\
             0470616972\
             020303030303030303030303030303030304040404040404040404040404040404"
        );
        let known = hex(&bytes[10..bytes.len() - 36]);
        let bytes = encode_record(&fenced(), 0x0102_0304, None);
        assert_eq!(
            hex(&bytes[..bytes.len() - 36]),
            format!("544d5152454352440002{known}0000000000000003")
        );
        let mut zero = bytes[..bytes.len() - 36].to_vec();
        let generation = zero.len() - 8;
        zero[generation..].fill(0);
        assert_eq!(
            decode_record(&super::seal(zero, None), None),
            Err(ArbiterFileError::Invalid("generation"))
        );
        let bytes = encode_lock(Nonce([5; 16]), Some(&heartbeat()), None);
        assert_eq!(
            hex(&bytes[..100]),
            "544d514c4f434b460001\
             05050505050505050505050505050505\
             01\
             02020202020202020202020202020202\
             00000000000000030000000000000007000000000000000c\
             01\
             03030303030303030303030303030303\
             00000000000000030000000000000384"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            magic in any::<bool>(),
            version in 1..3_u16,
            seal in any::<bool>(),
        ) {
            for expected in [RECORD_MAGIC, LOCK_MAGIC] {
                let mut file = if magic { start(expected, version) } else { Vec::new() };
                file.extend_from_slice(&bytes);
                if seal {
                    file = super::seal(file, None);
                }
                prop_assert!(decode_record(&file, Some(&secret())).is_err());
                if let Ok(read) = decode_record(&file, None) {
                    prop_assert_eq!(encode_record(&read.record, read.prev_crc, None), file.clone());
                }
                if let Ok((nonce, last)) = decode_lock(&file, None) {
                    prop_assert_eq!(
                        decode_lock(&encode_lock(nonce, last.as_ref(), None), None),
                        Ok((nonce, last))
                    );
                }
            }
        }
    }
}
