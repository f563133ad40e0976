//! A text that claims to be a selector, a zero byte, and bytes that claim to be a message: whatever
//! compiles must judge, and errors must point into the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::machines::selector::{Dialect, Selector};

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0);
    let (text, message) = bytes.split_at(end.unwrap_or(bytes.len()));
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    for dialect in [Dialect::Strict, Dialect::TextIsNumeric] {
        match Selector::parse(text, dialect) {
            Ok(selector) => {
                let wanted = selector.matches_bytes(message.get(1..).unwrap_or(&[]));
                let negated = Selector::parse(&format!("NOT ({text})"), dialect);
                if let (true, Ok(negated)) = (wanted, negated) {
                    assert!(!negated.matches_bytes(message.get(1..).unwrap_or(&[])));
                }
            }
            Err(error) => {
                assert!(text.is_char_boundary(error.offset()));
                assert!(!error.marked().is_empty());
            }
        }
    }
});
