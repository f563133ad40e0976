use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::proto::peer::{CLIENT_NAME_BYTES_MAX, CLIENT_NEWS_MAX, ClientNews, PeerClient};

fn encoded(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes).unwrap();
    bytes
}

fn hello() -> Hello {
    Hello {
        versions: (1, 1),
        features: 0,
        cluster: "pair".to_owned(),
        node: NodeId([1; 16]),
        primary: true,
        name: "primary".to_owned(),
        nonce: [2; 16],
        must_agree: vec![("a".to_owned(), "b".to_owned())],
        facts: PeerFacts {
            state: ServerState::Waiting,
            previous: ServerState::Dead,
            claiming: false,
            epoch: Epoch(6),
            store: StoreId([7; 16]),
            position: Position {
                epoch: Epoch(6),
                lsn: Lsn(8),
            },
            sync_in_progress: false,
            arbiter: Some(ArbiterId([9; 16])),
            last_record: RecordSeq(10),
            looked: true,
            eligible: true,
            lock: Some(LockIdentity {
                nonce: Nonce([3; 16]),
                device: 4,
                inode: 5,
            }),
        },
    }
}

/// The first release's hello. These bytes never change: a later release adds to the end.
const HELLO_HEX: &str = "000000ba6898a2d401\
    5457494e4d510d0a\
    000100010000000000000000\
    01010101010101010101010101010101\
    01\
    02020202020202020202020202020202\
    000470616972\
    00077072696d617279\
    01000161000162\
    0068\
    010800\
    0000000000000006\
    07070707070707070707070707070707\
    00000000000000060000000000000008\
    0001\
    09090909090909090909090909090909\
    000000000000000a0101\
    01030303030303030303030303030303030000000000000004\
    0000000000000005";

fn unhex(text: &str) -> BytesMut {
    (0..text.len() / 2)
        .map(|byte| u8::from_str_radix(&text[2 * byte..2 * byte + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_first_releases_hello_stays_readable() {
    assert_eq!(
        decode(&mut unhex(HELLO_HEX), HANDSHAKE_FRAME_BYTES_MAX),
        Ok(Some(Frame::Hello(Box::new(hello()))))
    );
    assert_eq!(encoded(&Frame::Hello(Box::new(hello()))), unhex(HELLO_HEX));
}

#[test]
fn a_later_releases_hello_with_more_fields_is_readable() {
    let mut bytes = encoded(&Frame::Hello(Box::new(hello())));
    bytes.extend_from_slice(b"more");
    reseal(&mut bytes);
    assert_eq!(
        decode(&mut bytes, HANDSHAKE_FRAME_BYTES_MAX),
        Ok(Some(Frame::Hello(Box::new(hello()))))
    );
}

/// Makes length and checksum right again.
fn reseal(bytes: &mut BytesMut) {
    let length = u32::try_from(bytes.len() - 4).unwrap().to_be_bytes();
    let crc = crc32c::crc32c(&bytes[8..]).to_be_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes[4..8].copy_from_slice(&crc);
}

#[test]
fn other_protocols_are_told_apart_and_sizes_are_bounded() {
    let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]);
    assert_eq!(
        decode(&mut http, HANDSHAKE_FRAME_BYTES_MAX),
        Err(PeerDecodeError::TooLarge {
            bytes: 0x4745_5420,
            max: HANDSHAKE_FRAME_BYTES_MAX,
        })
    );
    let mut magic = encoded(&Frame::Hello(Box::new(hello())));
    magic[9] = b'X';
    reseal(&mut magic);
    assert_eq!(decode(&mut magic, 4096), Err(PeerDecodeError::NotHello));
    let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
    assert_eq!(
        decode(&mut huge, usize::MAX),
        Err(PeerDecodeError::TooLarge {
            bytes: usize::try_from(u32::MAX).unwrap(),
            max: FRAME_BYTES_MAX,
        })
    );
    let mut short = BytesMut::from(&[0, 0, 0, 4, 0, 0, 0, 0][..]);
    assert_eq!(decode(&mut short, 4096), Err(PeerDecodeError::TooShort(4)));
    let mut unknown = encoded(&Frame::Welcome(SessionId(1)));
    unknown[8] = 200;
    reseal(&mut unknown);
    assert_eq!(
        decode(&mut unknown, 4096),
        Err(PeerDecodeError::UnknownKind(200))
    );
    let piece = Body::SnapshotPiece(Bytes::from(vec![0; FRAME_BYTES_MAX]));
    let mut to = BytesMut::from(&b"before"[..]);
    assert!(encode(&Frame::Session(SessionId(1), piece), &mut to).is_err());
    assert_eq!(&to[..], b"before");
}

#[test]
fn a_flipped_bit_is_noticed() {
    let good = encoded(&Frame::Hello(Box::new(hello())));
    for byte in 4..good.len() {
        let mut bytes = good.clone();
        bytes[byte] ^= 0x10;
        assert_eq!(
            decode(&mut bytes, 4096),
            Err(PeerDecodeError::Checksum),
            "{byte}"
        );
    }
}

#[test]
fn chunks_share_the_buffers_memory() {
    let chunk = Bytes::from(vec![5; 1000]);
    let batch = Batch {
        epoch: Epoch(1),
        first: Lsn(1),
        last: Lsn(2),
        prev_chain: 3,
        chunks: vec![chunk.clone(), chunk],
    };
    let committed = Lsn(0);
    let mut bytes = encoded(&Frame::Session(
        SessionId(1),
        Body::Batch { committed, batch },
    ));
    let memory = bytes.as_ptr_range();
    let Ok(Some(Frame::Session(_, Body::Batch { batch, .. }))) = decode(&mut bytes, 4096) else {
        panic!("a batch was sent");
    };
    assert_eq!(batch.chunks.len(), 2);
    for chunk in &batch.chunks {
        assert!(memory.contains(&chunk.as_ptr()));
    }
}

fn state() -> impl Strategy<Value = ServerState> {
    prop::sample::select(vec![
        ServerState::Waiting,
        ServerState::PassiveSync,
        ServerState::ActiveSync,
        ServerState::Active,
        ServerState::Passive,
        ServerState::Standalone,
        ServerState::Activating,
        ServerState::Dead,
    ])
}

prop_compose! {
    fn position()(epoch in any::<u64>(), lsn in any::<u64>()) -> Position {
        Position { epoch: Epoch(epoch), lsn: Lsn(lsn) }
    }
}

prop_compose! {
    fn facts()(
        state in state(),
        previous in state(),
        flags in any::<[bool; 4]>(),
        numbers in any::<[u64; 2]>(),
        store in any::<[u8; 16]>(),
        position in position(),
        arbiter in option::of(any::<[u8; 16]>()),
        lock in option::of(any::<([u8; 16], u64, u64)>()),
    ) -> PeerFacts {
        PeerFacts {
            state,
            previous,
            claiming: flags[0],
            epoch: Epoch(numbers[0]),
            store: StoreId(store),
            position,
            sync_in_progress: flags[1],
            arbiter: arbiter.map(ArbiterId),
            last_record: RecordSeq(numbers[1]),
            looked: flags[3],
            eligible: flags[2],
            lock: lock.map(|(nonce, device, inode)| LockIdentity {
                nonce: Nonce(nonce),
                device,
                inode,
            }),
        }
    }
}

prop_compose! {
    fn any_hello()(
        versions in any::<(u16, u16)>(),
        features in any::<u64>(),
        texts in any::<(String, String)>(),
        node in any::<[u8; 16]>(),
        primary in any::<bool>(),
        nonce in any::<[u8; 16]>(),
        must_agree in vec(("[a-z_]{0,20}", "\\PC{0,20}"), 0..8),
        facts in facts(),
    ) -> Hello {
        Hello {
            versions,
            features,
            cluster: texts.0,
            node: NodeId(node),
            primary,
            name: texts.1,
            nonce,
            must_agree,
            facts,
        }
    }
}

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), len).prop_map(Bytes::from)
}

fn body() -> impl Strategy<Value = Body> {
    let epoch = || any::<u64>().prop_map(Epoch);
    let lsn = || any::<u64>().prop_map(Lsn);
    let store = || any::<[u8; 16]>().prop_map(StoreId);
    let starts = vec(
        (epoch(), lsn()).prop_map(|(epoch, start)| EpochStart { epoch, start }),
        0..5,
    );
    let batch = (epoch(), lsn(), lsn(), any::<u32>(), vec(bytes(1..50), 0..5)).prop_map(
        |(epoch, first, last, prev_chain, chunks)| Batch {
            epoch,
            first,
            last,
            prev_chain,
            chunks,
        },
    );
    prop_oneof![
        (any::<u64>(), facts()).prop_map(|(number, facts)| Body::Ping { number, facts }),
        any::<u64>().prop_map(|number| Body::Pong { number }),
        (any::<u64>(), facts()).prop_map(|(number, facts)| Body::RoleChanged { number, facts }),
        epoch().prop_map(|epoch| Body::Goodbye { epoch }),
        (starts, position(), any::<u32>(), lsn()).prop_map(
            |(epochs, position, chain, checkpoint)| Body::SyncRequest {
                epochs,
                position,
                chain,
                checkpoint,
            }
        ),
        (lsn(), any::<u64>())
            .prop_map(|(common, bytes)| Body::SyncPlan(SyncPlan::Incremental { common, bytes })),
        (any::<u64>(), any::<String>())
            .prop_map(|(bytes, reason)| Body::SyncPlan(SyncPlan::Full { bytes, reason })),
        (lsn(), any::<u32>()).prop_map(|(at, chain)| Body::SyncReady { at, chain }),
        bytes(0..200).prop_map(Body::SnapshotPiece),
        position().prop_map(|at| Body::SnapshotEnd { at }),
        any::<u64>().prop_map(|bytes| Body::SnapshotAck { bytes }),
        lsn().prop_map(|at| Body::SyncEnd { at }),
        (store(), position()).prop_map(|(store, position)| Body::SyncDone { store, position }),
        (lsn(), batch).prop_map(|(committed, batch)| Body::Batch { committed, batch }),
        lsn().prop_map(|committed| Body::CommitIndex { committed }),
        (store(), position()).prop_map(|(store, position)| Body::Durable { store, position }),
        epoch().prop_map(|epoch| Body::InSync { epoch }),
        (
            any::<bool>(),
            vec(any::<u32>(), 0..5),
            vec(peer_client(), 0..5)
        )
            .prop_map(|(afresh, gone, came)| Body::Clients(ClientNews {
                afresh,
                gone,
                came
            })),
    ]
}

prop_compose! {
    fn peer_client()(
        number in any::<u32>(),
        client_id in option::of("\\PC{0,20}"),
        login in option::of("\\PC{0,20}"),
        ip in any::<std::net::IpAddr>(),
        port in any::<u16>(),
    ) -> PeerClient {
        PeerClient {
            number,
            client_id: client_id.map(String::into_boxed_str),
            login: login.map(String::into_boxed_str),
            address: (ip, port).into(),
        }
    }
}

#[test]
fn what_is_told_of_clients_is_bounded() {
    let client = PeerClient {
        number: 1,
        client_id: Some("\u{e4}".repeat(100).into()),
        login: None,
        address: ([127, 0, 0, 1], 7).into(),
    };
    let news = ClientNews {
        afresh: true,
        gone: vec![7; CLIENT_NEWS_MAX + 1],
        came: vec![client; CLIENT_NEWS_MAX + 1],
    };
    let frame = Frame::Session(SessionId(1), Body::Clients(news));
    let mut sent = BytesMut::new();
    encode(&frame, &mut sent).unwrap();
    let Ok(Some(Frame::Session(_, Body::Clients(news)))) = decode(&mut sent, usize::MAX) else {
        panic!("it reads back");
    };
    assert_eq!(
        (news.gone.len(), news.came.len()),
        (CLIENT_NEWS_MAX, CLIENT_NEWS_MAX)
    );
    let name = news.came[0].client_id.as_deref().unwrap();
    assert_eq!(name.len(), CLIENT_NAME_BYTES_MAX);
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_hello().prop_map(|hello| Frame::Hello(Box::new(hello))),
        any::<[u8; 32]>().prop_map(Frame::Proof),
        any::<u64>().prop_map(|session| Frame::Welcome(SessionId(session))),
        any::<String>().prop_map(Frame::Refuse),
        (any::<[u8; 16]>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(node, epoch, proof)| {
            Frame::LastWord {
                node: NodeId(node),
                epoch: Epoch(epoch),
                proof,
            }
        }),
        (any::<u64>(), body()).prop_map(|(id, body)| Frame::Session(SessionId(id), body)),
    ]
}

proptest! {
    #[test]
    fn frames_read_back_however_they_are_cut(
        frames in vec(frame(), 1..5),
        step in 1_usize..40,
    ) {
        let mut sent = BytesMut::new();
        for frame in &frames {
            encode(frame, &mut sent).unwrap();
        }
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for piece in sent.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decode(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                read.push(frame);
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_fields_never_panic(kind in any::<u8>(), fields in vec(any::<u8>(), 0..300)) {
        let mut frame = BytesMut::from(&[0; 8][..]);
        frame.put_u8(kind);
        frame.extend_from_slice(&fields);
        reseal(&mut frame);
        if let Ok(Some(frame)) = decode(&mut frame, FRAME_BYTES_MAX) {
            let mut again = encoded(&frame);
            prop_assert_eq!(decode(&mut again, FRAME_BYTES_MAX), Ok(Some(frame)));
        }
    }

    #[test]
    fn a_damaged_hello_never_panics(at in 8_usize..200, value in any::<u8>(), cut in 0_usize..220) {
        let mut frame = encoded(&Frame::Hello(Box::new(hello())));
        if at < frame.len() {
            frame[at] = value;
        }
        frame.truncate(cut.max(9));
        reseal(&mut frame);
        if let Ok(Some(frame)) = decode(&mut frame, FRAME_BYTES_MAX) {
            encoded(&frame);
        }
    }
}
