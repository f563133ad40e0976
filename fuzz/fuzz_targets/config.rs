//! Text that claims to be a profile: taken, or refused with at least one reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::config::load_text;

fuzz_target!(|text: &str| {
    if let Err(errors) = load_text("fuzz", text) {
        assert!(!errors.to_string().is_empty());
    }
});
