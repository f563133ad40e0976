use proptest::prelude::*;

use super::*;
use crate::proto::duplicate::Scope;
use crate::proto::log::Batch;

fn record() -> impl Strategy<Value = LogRecord> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        (prop::collection::vec(any::<u32>(), 1..5), bytes()).prop_map(|(targets, message)| {
            LogRecord::Put {
                targets: targets.into_iter().map(DestId).collect(),
                message,
                offset: 0,
            }
        }),
        (any::<u32>(), prop::collection::vec(any::<u64>(), 0..20)).prop_map(|(dest, lsns)| {
            let mut lsns: Vec<Lsn> = lsns.into_iter().map(Lsn).collect();
            lsns.sort_unstable();
            LogRecord::Ack {
                dest: DestId(dest),
                lsns,
            }
        }),
        (any::<u32>(), 0..=Lane::DELAYED.0, any::<u32>()).prop_map(|(dest, lane, ahead)| {
            LogRecord::Delivered {
                dest: DestId(dest),
                lane: Lane(lane),
                ahead,
            }
        }),
        (any::<u32>(), prop::collection::vec(any::<u64>(), 0..20)).prop_map(|(dest, lsns)| {
            let mut lsns: Vec<Lsn> = lsns.into_iter().map(Lsn).collect();
            lsns.sort_unstable();
            LogRecord::DeliveredEach {
                dest: DestId(dest),
                lsns,
            }
        }),
        (
            any::<u32>(),
            prop::collection::vec(any::<(u64, u32)>(), 0..20)
        )
            .prop_map(|(dest, counts)| {
                let mut counts: Vec<(Lsn, u32)> = counts
                    .into_iter()
                    .map(|(lsn, count)| (Lsn(lsn), count))
                    .collect();
                counts.sort_unstable();
                LogRecord::Failed {
                    dest: DestId(dest),
                    counts,
                }
            }),
        (any::<u8>(), bytes(), bytes()).prop_map(|(space, key, value)| LogRecord::Kv {
            space,
            key,
            value
        }),
        any::<u64>().prop_map(|epoch| LogRecord::Epoch(Epoch(epoch))),
        (any::<u64>(), bytes()).prop_map(|(upload, bytes)| LogRecord::Part { upload, bytes }),
        any::<u64>().prop_map(LogRecord::UploadEnded),
        relogged(),
        any::<(u64, [u8; 16], u64)>().prop_map(|(scope, key, at_ms)| LogRecord::Seen {
            id: DuplicateId {
                scope: Scope(scope),
                key
            },
            at_ms
        }),
    ]
}

fn relogged() -> impl Strategy<Value = LogRecord> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    (
        any::<u64>(),
        prop::collection::btree_map(
            1..=u64::MAX,
            (prop::collection::vec(any::<u32>(), 0..3), bytes()),
            0..6,
        ),
    )
        .prop_map(|(from, messages)| LogRecord::Relogged {
            from: Lsn(from),
            messages: messages
                .into_iter()
                .map(|(lsn, (targets, message))| Straggler {
                    lsn: Lsn(lsn),
                    targets: targets.into_iter().map(DestId).collect(),
                    message,
                })
                .collect(),
        })
}

fn borrow(record: &LogRecord) -> Record<'_> {
    match record {
        LogRecord::Put {
            targets, message, ..
        } => Record::Put { targets, message },
        LogRecord::Ack { dest, lsns } => Record::Ack { dest: *dest, lsns },
        LogRecord::DeliveredEach { dest, lsns } => Record::DeliveredEach { dest: *dest, lsns },
        LogRecord::Failed { dest, counts } => Record::Failed {
            dest: *dest,
            counts,
        },
        LogRecord::Delivered { dest, lane, ahead } => Record::Delivered {
            dest: *dest,
            lane: *lane,
            ahead: *ahead,
        },
        LogRecord::Kv { space, key, value } => Record::Kv {
            space: *space,
            key,
            value,
        },
        LogRecord::Epoch(epoch) => Record::Epoch(*epoch),
        LogRecord::Seen { id, at_ms } => Record::Seen {
            id: *id,
            at_ms: *at_ms,
        },
        LogRecord::Part { upload, bytes } => Record::Part {
            upload: *upload,
            bytes,
        },
        LogRecord::UploadEnded(upload) => Record::UploadEnded(*upload),
        LogRecord::Relogged { from, messages } => Record::Relogged {
            from: *from,
            messages,
        },
    }
}

fn encode(records: &[LogRecord], first: Lsn, prev: u32) -> (Batch, u32, Vec<Placed>) {
    let mut writer = BatchWriter::new(Epoch(3), first, prev, 1 << 16);
    let placed = records
        .iter()
        .map(|record| writer.push(&borrow(record)))
        .collect();
    let (batch, chain) = writer.finish().unwrap();
    (batch, chain, placed)
}

proptest! {
    #[test]
    fn records_read_back_as_they_were_written(
        records in prop::collection::vec(record(), 1..400),
        first in 1u64..1 << 40,
    ) {
        let (batch, chain, placed) = encode(&records, Lsn(first), 77);
        prop_assert_eq!(batch.last.0, first + records.len() as u64 - 1);
        let mut prev = 77;
        let mut back = Vec::new();
        for (index, bytes) in batch.chunks.iter().enumerate() {
            prop_assert!(bytes.len() <= CHUNK_BYTES);
            let chunk = Chunk::decode(bytes.clone(), CHUNK_BYTES).unwrap();
            prop_assert_eq!(chunk.header.prev, prev);
            prop_assert_eq!(usize::from(chunk.header.index), index);
            prop_assert_eq!(usize::from(chunk.header.of), batch.chunks.len());
            prop_assert_eq!(chunk.header.batch, Lsn(first));
            prev = chunk.header.crc;
            for record in chunk.records() {
                let (lsn, mut record) = record.unwrap();
                let place = placed[back.len()];
                prop_assert_eq!(place.lsn, lsn);
                prop_assert_eq!(place.chunk, chunk.header.first);
                if let LogRecord::Put { message, offset, .. } = &mut record {
                    let at = place.offset as usize;
                    prop_assert_eq!(place.offset, *offset);
                    prop_assert_eq!(&bytes[at..at + message.len()], &message[..]);
                    *offset = 0;
                }
                back.push(record);
            }
        }
        prop_assert_eq!(prev, chain);
        prop_assert_eq!(back, records);
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_nothing_worse(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        prop_assert!(!decodes(&bytes));
        // Whether this one is sound depends on the bytes; that it returns is the property.
        prop_assert!(!decodes_body(&bytes) || bytes.len() > CHUNK_HEADER);
    }

    #[test]
    fn any_flipped_bit_is_noticed(
        records in prop::collection::vec(record(), 1..20),
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (batch, _, _) = encode(&records, Lsn(1), 0);
        let mut bytes = batch.chunks[0].to_vec();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Chunk::decode(Bytes::from(bytes), CHUNK_BYTES).is_err());
    }

    #[test]
    fn a_sound_checksum_over_damaged_records_never_panics(
        records in prop::collection::vec(record(), 1..20),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (batch, _, _) = encode(&records, Lsn(1), 0);
        let mut bytes = batch.chunks[0].to_vec();
        let at = CHUNK_HEADER + place.index(bytes.len() - CHUNK_HEADER);
        let same = bytes[at] == byte;
        bytes[at] = byte;
        let sound = decodes_body(&bytes);
        prop_assert!(sound || !same);
    }
}

#[test]
fn a_message_that_was_brought_is_found_by_its_own_lsn_in_any_order() {
    let straggler = |lsn: u64| Straggler {
        lsn: Lsn(lsn),
        targets: vec![DestId(7)],
        message: Bytes::from(format!("message {lsn}")),
    };
    let brought = |from: u64, lsns: &[u64]| LogRecord::Relogged {
        from: Lsn(from),
        messages: lsns.iter().copied().map(straggler).collect(),
    };
    let put = LogRecord::Put {
        targets: vec![DestId(1)],
        message: Bytes::from_static(b"message 101"),
        offset: 0,
    };
    let records = [brought(50, &[3, 50, 51]), put, brought(1, &[4, 9])];
    let (batch, _, _) = encode(&records, Lsn(100), 0);
    let chunk = Chunk::decode(batch.chunks[0].clone(), CHUNK_BYTES).unwrap();
    let mut messages = Messages::new(&chunk.bytes, &chunk.header);
    for lsn in [3, 4, 9, 50, 51, 101, 3, 9, 4, 101, 51, 50, 50, 101, 101] {
        let (next, at) = messages.place();
        messages = Messages::resumed(&chunk.bytes, &chunk.header, next, at);
        let range = messages.find(Lsn(lsn)).unwrap().unwrap();
        assert_eq!(&chunk.bytes[range], format!("message {lsn}").as_bytes());
    }
    for lsn in [0, 1, 2, 8, 99, 100, 102, 103] {
        assert_eq!(messages.find(Lsn(lsn)), Ok(None), "{lsn}");
    }
}

#[test]
fn a_part_that_was_brought_is_found_as_a_part() {
    let straggler = |lsn: u64, targets: &[DestId]| Straggler {
        lsn: Lsn(lsn),
        targets: targets.to_vec(),
        message: Bytes::from(format!("bytes {lsn}")),
    };
    let brought = LogRecord::Relogged {
        from: Lsn(3),
        messages: vec![straggler(3, &[]), straggler(4, &[DestId(1)])],
    };
    let part = LogRecord::Part {
        upload: 9,
        bytes: Bytes::from_static(b"bytes 101"),
    };
    let (batch, _, _) = encode(&[brought, part], Lsn(100), 0);
    let chunk = Chunk::decode(batch.chunks[0].clone(), CHUNK_BYTES).unwrap();
    let mut messages = Messages::new(&chunk.bytes, &chunk.header);
    for lsn in [3, 101, 3] {
        let range = messages.find_part(Lsn(lsn)).unwrap().unwrap();
        assert_eq!(&chunk.bytes[range], format!("bytes {lsn}").as_bytes());
        assert_eq!(messages.find(Lsn(lsn)), Ok(None), "{lsn}");
    }
    assert_eq!(messages.find_part(Lsn(4)), Ok(None));
    assert!(messages.find(Lsn(4)).unwrap().is_some());
}

#[test]
fn a_record_over_64_kib_has_a_chunk_of_its_own() {
    let small = LogRecord::Delivered {
        dest: DestId(1),
        lane: Lane::DEFAULT,
        ahead: 9,
    };
    let large = LogRecord::Put {
        targets: vec![DestId(1)],
        message: Bytes::from(vec![7; 200_000]),
        offset: 0,
    };
    let (batch, _, placed) = encode(&[small.clone(), large, small], Lsn(10), 0);
    assert_eq!(batch.chunks.len(), 3);
    assert_eq!(
        placed.iter().map(|place| place.chunk).collect::<Vec<_>>(),
        [Lsn(10), Lsn(11), Lsn(12)]
    );
    assert_eq!(
        Chunk::decode(batch.chunks[1].clone(), CHUNK_BYTES).map(|_| ()),
        Err(DecodeError::TooLarge)
    );
}

#[test]
fn the_format_is_what_it_was() {
    let mut writer = BatchWriter::new(Epoch(2), Lsn(5), 0x0102_0304, 100);
    writer.push(&Record::Put {
        targets: &[DestId(300)],
        message: b"hi",
    });
    writer.push(&Record::Ack {
        dest: DestId(1),
        lsns: &[Lsn(4), Lsn(2)],
    });
    let (batch, chain) = writer.finish().unwrap();
    let mut expected = b"TMQc\x02\x00\x00\x00".to_vec();
    expected.extend_from_slice(&2u64.to_le_bytes());
    expected.extend_from_slice(&5u64.to_le_bytes());
    expected.extend_from_slice(&5u64.to_le_bytes());
    expected.extend_from_slice(&[0, 0, 1, 0, 13, 0, 0, 0, 2, 0, 0, 0, 4, 3, 2, 1]);
    expected.extend_from_slice(&chain.to_le_bytes());
    expected.extend_from_slice(&[1, 5, 1, 0xac, 2, b'h', b'i', 2, 4, 1, 2, 2, 2]);
    assert_eq!(&batch.chunks[0][..], &expected[..]);
}
