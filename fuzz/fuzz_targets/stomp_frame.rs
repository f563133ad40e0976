//! Bytes from a client, in pieces and whole: both must give the same frames. How a session reads them is
//! in `stomp_pieces`.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use twinmq::proto::stomp::{ClientFrame, DecodeError, Decoder, Limits};

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

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, 1), whole);
});
