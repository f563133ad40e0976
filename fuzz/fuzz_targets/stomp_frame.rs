//! Bytes from a client, in pieces and whole: both must give the same frames, and the session must
//! take whatever comes out.
#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use twinmq::machines::delivery::SessionKey;
use twinmq::machines::stomp_session::{
    HeartBeatOffer, SessionInput, StompSession, StompSessionConfig,
};
use twinmq::proto::stomp::{ClientFrame, DecodeError, Decoder, Limits};
use twinmq::time::Moment;

const LIMITS: Limits = Limits {
    frame_bytes: 2048,
    headers: 16,
    header_bytes: 512,
    body_bytes: 1024,
};

fn decode(bytes: &[u8], piece: usize) -> (Vec<ClientFrame>, Option<DecodeError>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn config() -> Arc<StompSessionConfig> {
    Arc::new(StompSessionConfig {
        limits: LIMITS,
        heart_beat_ms: HeartBeatOffer {
            send: 1000,
            receive: 1000,
        },
        default_prefetch: 10,
        max_prefetch: 100,
        max_subscriptions: 4,
        max_unsettled_requests: 100,
        transactions: twinmq::machines::stomp_session::TransactionLimits {
            open: 3,
            messages: 5,
            bytes: 1000,
            connection_bytes: 1500,
        },
        server_name: "TwinMQ".into(),
        connect_timeout_ms: 1000,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (frames, error) = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, 1), (frames.clone(), error.clone()));

    let mut session = StompSession::new(config(), SessionKey(1), Moment(0));
    let (mut out, mut effects) = (BytesMut::new(), Vec::new());
    let inputs = frames.into_iter().map(SessionInput::Frame);
    for input in inputs.chain(error.map(SessionInput::Malformed)) {
        session.step(Moment(0), input, &mut out, &mut effects);
    }
});
