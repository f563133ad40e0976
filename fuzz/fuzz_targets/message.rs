//! Bytes that claim to be a canonical message. What can be read is written again and must read the
//! same; so does what it says of the parts of a large body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinmq::proto::message::{Field, Message, MessageWriter, Parts, PropertyValue};

fn parts_are_written_as_they_were_read(parts: &Parts) {
    let mut again = Vec::new();
    parts.encode(&mut again);
    assert_eq!(Parts::read(&again).as_ref(), Some(parts));
    let first = parts.first();
    let next = parts.after(first, 3);
    assert!(next.iter().all(|lsn| *lsn > first));
    assert_eq!(
        u64::try_from(next.len()).expect("three"),
        (parts.len() - 1).min(3)
    );
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(parts) = Parts::read(bytes) {
        parts_are_written_as_they_were_read(&parts);
    }
    let Ok(message) = Message::read(bytes) else {
        return;
    };
    if let Some(parts) = message.parts() {
        parts_are_written_as_they_were_read(&parts);
    }
    for field in [Field::MessageId, Field::CreationTime, Field::GroupId] {
        if let Some(PropertyValue::Text(text)) = message.field(field) {
            assert!(text.len() <= bytes.len());
        }
    }
    for (name, _) in message.headers().take(16) {
        // One of another type may come first.
        if let Some(PropertyValue::Text(text)) = message.property(name) {
            assert!(message.headers().any(|header| header == (name, text)));
        }
    }
    let properties = message.properties();
    let mut writer = MessageWriter::new(message.envelope(), &properties, message.body().len());
    for (name, value) in message.headers() {
        writer.header(name, value);
    }
    let again = writer
        .finish(message.body())
        .expect("no larger than its source");
    let read = Message::read(&again).expect("just written");
    assert_eq!(read.envelope(), message.envelope());
    assert_eq!(read.properties(), properties);
    assert!(read.headers().eq(message.headers()));
    assert_eq!(read.body(), message.body());
});
