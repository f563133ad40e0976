//! Bytes from the peer, in pieces and whole: both must give the same frames, and what can be read is
//! written again and must read the same. The same bytes with a good length and checksum before them,
//! so that the fields are reached; what a frame says of clients is heard.
#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use twinmq::machines::roll::{CLIENTS_MAX, RollMachine};
use twinmq::proto::peer::{Body, Frame};
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

/// A kind and fields, as one frame.
fn sealed(fields: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + fields.len());
    frame.put_u32(u32::try_from(fields.len() + 4).expect("inputs are small"));
    frame.put_u32(crc32c::crc32c(fields));
    frame.put_slice(fields);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(frames(bytes, 1), whole);
    let mut roll = RollMachine::default();
    for frame in whole
        .0
        .into_iter()
        .chain(frames(&sealed(bytes), usize::MAX).0)
    {
        let mut again = BytesMut::new();
        encode(&frame, &mut again).expect("no larger than its source");
        let read = decode(&mut again, FRAME_BYTES_MAX).expect("just written");
        assert_eq!(read.as_ref(), Some(&frame));
        assert!(again.is_empty());
        if let Frame::Session(_, Body::Clients(news)) = frame {
            roll.hear(news);
            assert!(roll.peers() <= CLIENTS_MAX);
        }
    }
});
