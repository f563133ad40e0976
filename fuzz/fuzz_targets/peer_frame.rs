//! Bytes from the peer, in pieces and whole: both must give the same frames, and what can be read is
//! written again and must read the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use twinmq::proto::peer::Frame;
use twinmq::proto::peer_codec::{FRAME_BYTES_MAX, decode, encode};

fn frames(bytes: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match decode(&mut buffer, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(frames(bytes, 1), whole);
    for frame in whole.0 {
        let mut again = BytesMut::new();
        encode(&frame, &mut again).expect("no larger than its source");
        let read = decode(&mut again, FRAME_BYTES_MAX).expect("just written");
        assert_eq!(read, Some(frame));
        assert!(again.is_empty());
    }
});
