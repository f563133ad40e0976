//! Two texts with a zero byte between them: a pattern over names, and the name of a destination; and
//! bytes that claim to be lines of the event history.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::proto::destination::DestinationName;
use twinmq::proto::history::events_in;
use twinmq::proto::pattern::NamePattern;

fuzz_target!(|bytes: &[u8]| {
    for event in events_in(bytes) {
        assert_eq!(events_in(&event.line()).len(), 1);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (pattern, name) = text.split_once('\0').unwrap_or((text, text));
    let name = DestinationName::parse(name);
    if let Ok(name) = &name {
        assert_eq!(DestinationName::parse(name.spelling()).as_ref(), Ok(name));
    }
    if let Ok(pattern) = NamePattern::parse(pattern) {
        assert!(pattern.by_specificity(&pattern).is_eq());
        if let Ok(name) = name {
            std::hint::black_box(pattern.matches(&name));
        }
    }
});
