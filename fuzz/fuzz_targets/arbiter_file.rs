//! Bytes that claim to be an arbiter record or a lock file. What can be read is written again and must
//! read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::proto::arbiter_codec::{decode_lock, decode_record, encode_lock, encode_record};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = decode_record(bytes, None) {
        let again = encode_record(&file.record, 0, None);
        let read = decode_record(&again, None).expect("just written");
        assert_eq!(read.record, file.record);
    }
    if let Ok((nonce, last)) = decode_lock(bytes, None) {
        let again = encode_lock(nonce, last.as_ref(), None);
        let read = decode_lock(&again, None).expect("just written");
        assert_eq!(read, (nonce, last));
    }
});
