//! Bytes that claim to be an arbiter record or a lock file, as they are and with a good magic and
//! checksums, so that the fields are reached. What can be read is written again and must read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::proto::arbiter_codec::{decode_lock, decode_record, encode_lock, encode_record};

/// Version and fields, as a file without a secret.
fn sealed(magic: &[u8; 8], fields: &[u8]) -> Vec<u8> {
    let mut file = [magic.as_slice(), fields, &[0; 32]].concat();
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_be_bytes());
    file
}

fn record(bytes: &[u8]) {
    if let Ok(file) = decode_record(bytes, None) {
        let again = encode_record(&file.record, 0, None);
        let read = decode_record(&again, None).expect("just written");
        assert_eq!(read.record, file.record);
    }
}

fn lock(bytes: &[u8]) {
    if let Ok((nonce, last)) = decode_lock(bytes, None) {
        let again = encode_lock(nonce, last.as_ref(), None);
        let read = decode_lock(&again, None).expect("just written");
        assert_eq!(read, (nonce, last));
    }
}

fuzz_target!(|bytes: &[u8]| {
    record(bytes);
    record(&sealed(b"TMQRECRD", bytes));
    lock(bytes);
    lock(&sealed(b"TMQLOCKF", bytes));
});
