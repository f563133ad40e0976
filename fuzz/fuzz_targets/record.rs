//! Bytes that claim to be a chunk of the log, as they are and with a good head and checksum, and bytes
//! that claim to be a piece of a snapshot, with and without its checksum.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use twinmq::proto::record::{decodes, decodes_body};
use twinmq::storage::snapshot::{decode_items, decode_piece};

fuzz_target!(|bytes: &[u8]| {
    // Taken or refused: either is right for bytes that nobody vouches for.
    std::hint::black_box(decodes(bytes));
    std::hint::black_box(decodes_body(bytes));
    let piece = Bytes::copy_from_slice(bytes);
    if let Ok(found) = decode_piece(&piece) {
        let body = piece.slice(..piece.len() - 4);
        let inner = decode_items(&body).expect("the checksum covers the same items");
        assert_eq!(inner.0, found.0);
        assert_eq!(inner.1.len(), found.1.len());
    }
    drop(decode_items(&piece));
});
