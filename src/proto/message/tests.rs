use proptest::prelude::*;

use super::*;

/// What the writer takes, owned.
#[derive(Clone, Debug)]
struct Sample {
    numbers: (Option<u64>, Option<u64>),
    texts: [Option<String>; 7],
    priority: u8,
    persistent: bool,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Sample {
    fn envelope(&self) -> Envelope<'_> {
        Envelope {
            persistent: self.persistent,
            priority: self.priority,
            expiry_ms: self.numbers.0,
            due_ms: self.numbers.1,
            group: self.texts[0].as_deref(),
            duplicate_id: self.texts[1].as_deref(),
            user: self.texts[2].as_deref(),
        }
    }

    fn properties(&self) -> Properties<'_> {
        Properties {
            to: self.texts[3].as_deref(),
            reply_to: self.texts[4].as_deref(),
            correlation_id: self.texts[5].as_deref(),
            content_type: self.texts[6].as_deref(),
        }
    }

    fn encode(&self) -> Bytes {
        let mut writer = MessageWriter::new(&self.envelope(), &self.properties(), self.body.len());
        for (name, value) in &self.headers {
            writer.header(name, value);
        }
        writer.finish(&self.body).unwrap()
    }
}

fn text() -> impl Strategy<Value = String> {
    // Both sides of the lengths at which AMQP's short encodings end.
    prop_oneof![
        "\\PC{0,12}",
        (250usize..260).prop_map(|length| "x".repeat(length)),
    ]
}

prop_compose! {
    fn sample()(
        numbers in any::<(Option<u64>, Option<u64>)>(),
        texts in proptest::array::uniform7(proptest::option::of(text())),
        priority in 0u8..=9,
        persistent in any::<bool>(),
        headers in proptest::collection::vec((text(), text()), 0..5),
        body in proptest::collection::vec(any::<u8>(), 0..600),
    ) -> Sample {
        Sample { numbers, texts, priority, persistent, headers, body }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(sample in sample()) {
        let bytes = sample.encode();
        let message = Message::read(&bytes).unwrap();
        prop_assert_eq!(*message.envelope(), sample.envelope());
        prop_assert_eq!(message.properties(), sample.properties());
        let headers: Vec<_> = message
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        prop_assert_eq!(headers, sample.headers.clone());
        prop_assert_eq!(message.body(), &sample.body[..]);
    }

    #[test]
    fn a_cut_message_is_an_error_or_lacks_whole_sections(sample in sample(), cut in any::<prop::sample::Index>()) {
        let bytes = sample.encode();
        let cut = cut.index(bytes.len());
        if let Ok(message) = Message::read(&bytes[..cut]) {
            // The data section comes last and is never taken in part.
            prop_assert!(message.body().is_empty());
        }
    }

    #[test]
    fn damaged_messages_never_panic(sample in sample(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = sample.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        walk(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        walk(&bytes);
        walk(&[&[FORMAT, 0, 4], &bytes[..]].concat());
        walk(&[&[FORMAT, 0, 4, 0, 0x53, 0x74], &bytes[..]].concat());
    }
}

const FIELDS: [Field; 5] = [
    Field::MessageId,
    Field::Subject,
    Field::CorrelationId,
    Field::CreationTime,
    Field::GroupId,
];

fn walk(bytes: &[u8]) {
    if let Ok(message) = Message::read(bytes) {
        assert!(message.headers().count() <= bytes.len());
        assert!(message.body().len() <= bytes.len());
        let properties = message.properties();
        let names = message.headers().map(|(name, _)| name).chain(["", "a"]);
        let found = names.take(50).map(|name| message.property(name));
        for value in found.chain(FIELDS.map(|field| message.field(field))) {
            if let Some(PropertyValue::Text(text)) = value {
                assert!(text.len() <= bytes.len());
            }
        }
        assert!(properties.to.is_none_or(|to| to.len() <= bytes.len()));
    }
}

#[test]
fn the_bytes_are_those_of_the_standard() {
    let envelope = Envelope {
        expiry_ms: Some(0x0102),
        user: Some("u"),
        ..Envelope::default()
    };
    let properties = Properties {
        to: Some("/queue/a"),
        content_type: Some("t/p"),
        ..Properties::default()
    };
    let mut writer = MessageWriter::new(&envelope, &properties, 0);
    writer.header("k", "v");
    let expected = [
        &[1, 0x23, 4][..],
        &[0, 0, 0, 0, 0, 0, 1, 2],
        &[0, 0, 0, 1, b'u'],
        // properties: list8 of 21 bytes and 7 fields, null, null, str8, null, null, null, sym8
        &[0x00, 0x53, 0x73, 0xc0, 21, 7, 0x40, 0x40, 0xa1, 8],
        b"/queue/a",
        &[0x40, 0x40, 0x40, 0xa3, 3],
        b"t/p",
        // application-properties: map32 of 4 + 6 bytes and 2 values
        &[0x00, 0x53, 0x74, 0xd1, 0, 0, 0, 10, 0, 0, 0, 2],
        &[0xa1, 1, b'k', 0xa1, 1, b'v'],
        &[0x00, 0x53, 0x75, 0xa0, 4],
        b"body",
    ]
    .concat();
    assert_eq!(&writer.finish(b"body").unwrap()[..], &expected[..]);
}

#[test]
fn a_bare_message_costs_eight_bytes() {
    let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
    assert_eq!(
        &writer.finish(b"").unwrap()[..],
        &[1, 1, 4, 0x00, 0x53, 0x75, 0xa0, 0]
    );
}

#[test]
fn each_kind_of_damage_is_named() {
    for (bytes, error) in [
        (&[1, 1][..], MessageError::Truncated("envelope")),
        (&[2, 1, 4], MessageError::Format(2)),
        (&[1, 1, 10], MessageError::Priority(10)),
        (&[1, EXPIRY, 4, 0, 0], MessageError::Truncated("envelope")),
        (
            &[1, USER, 4, 0, 0, 0, 9, b'u'],
            MessageError::Truncated("envelope"),
        ),
        (
            &[1, USER, 4, 0, 0, 0, 1, 0xff],
            MessageError::Encoding("envelope"),
        ),
        (&[1, 1, 4, 9], MessageError::Section("section header")),
        (
            &[1, 1, 4, 0x00, 0x53, 0x79, 0x40],
            MessageError::Section("section header"),
        ),
        (
            &[1, 1, 4, 0x00, 0x53, 0x75, 0xb0, 0xff, 0xff, 0xff, 0xff],
            MessageError::Truncated("sections"),
        ),
        (
            &[1, 1, 4, 0x00, 0x53, 0x75, 0x40],
            MessageError::Section("data section"),
        ),
        (
            &[1, 1, 4, 0x00, 0x53, 0x73, 0x40],
            MessageError::Section("properties section"),
        ),
        (
            &[1, 1, 4, 0x00, 0x53, 0x74, 0x45],
            MessageError::Section("application-properties section"),
        ),
    ] {
        assert_eq!(Message::read(bytes).map(|_| ()), Err(error), "{bytes:?}");
    }
}

#[test]
fn sections_and_values_of_amqp_clients_are_passed_over() {
    let bytes = [
        &[1, 1, 4][..],
        // header: durable true, priority 7
        &[0x00, 0x53, 0x70, 0xc0, 4, 2, 0x41, 0x50, 7],
        // application-properties: a number, then a text
        &[0x00, 0x53, 0x74, 0xc1, 12, 4],
        &[0xa1, 1, b'n', 0x54, 5],
        &[0xa1, 1, b't', 0xa1, 1, b'v'],
        &[0x00, 0x53, 0x75, 0xa0, 1, b'x'],
        // footer: a described value inside
        &[0x00, 0x53, 0x78, 0xc1, 1, 0],
    ]
    .concat();
    let message = Message::read(&bytes).unwrap();
    assert_eq!(message.headers().collect::<Vec<_>>(), [("t", "v")]);
    assert_eq!(message.body(), b"x");
}

/// A message with one application property `p`, whose value is these bytes.
fn with_property(value: &[u8]) -> Vec<u8> {
    let size = u8::try_from(value.len() + 4).unwrap();
    let head = [1, 1, 4, 0x00, 0x53, 0x74, 0xc1, size, 2, 0xa1, 1, b'p'];
    [&head[..], value].concat()
}

#[test]
fn every_type_of_property_is_read() {
    use PropertyValue::{Boolean, Float, Integer, Text, Unsigned};
    let cases: &[(&[u8], Option<PropertyValue<'_>>)] = &[
        (&[0x40], None),
        (&[0x41], Some(Boolean(true))),
        (&[0x42], Some(Boolean(false))),
        (&[0x56, 0], Some(Boolean(false))),
        (&[0x56, 1], Some(Boolean(true))),
        (&[0x56, 2], None),
        (&[0x43], Some(Integer(0))),
        (&[0x44], Some(Integer(0))),
        (&[0x50, 0xff], Some(Integer(255))),
        (&[0x51, 0xff], Some(Integer(-1))),
        (&[0x52, 0xff], Some(Integer(255))),
        (&[0x53, 0xff], Some(Integer(255))),
        (&[0x54, 0x80], Some(Integer(-128))),
        (&[0x55, 0x7f], Some(Integer(127))),
        (&[0x60, 0xff, 0xfe], Some(Integer(0xfffe))),
        (&[0x61, 0xff, 0xfe], Some(Integer(-2))),
        (&[0x70, 0xff, 0xff, 0xff, 0xff], Some(Integer(0xffff_ffff))),
        (&[0x71, 0xff, 0xff, 0xff, 0xff], Some(Integer(-1))),
        (&[0x80, 0, 0, 0, 0, 0, 0, 1, 0], Some(Integer(256))),
        (
            &[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            Some(Unsigned(u64::MAX)),
        ),
        (&[0x81, 0x80, 0, 0, 0, 0, 0, 0, 0], Some(Integer(i64::MIN))),
        (&[0x83, 0, 0, 0, 0, 0, 0, 0, 7], Some(Integer(7))),
        (&[0x72, 0x3f, 0xc0, 0, 0], Some(Float(1.5))),
        (&[0x82, 0xbf, 0xf8, 0, 0, 0, 0, 0, 0], Some(Float(-1.5))),
        (&[0xa1, 2, b'h', b'i'], Some(Text("hi"))),
        (&[0xb1, 0, 0, 0, 1, b'x'], Some(Text("x"))),
        (&[0xa3, 1, b's'], Some(Text("s"))),
        (&[0xa1, 1, 0xff], None),
        // a described text: what it is called does not matter
        (&[0x00, 0x53, 1, 0xa1, 1, b'd'], Some(Text("d"))),
        // binary, character, uuid, decimal32, list, array
        (&[0xa0, 1, b'b'], None),
        (&[0x73, 0, 0, 0, b'c'], None),
        (
            &[0x98, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            None,
        ),
        (&[0x74, 0, 0, 0, 0], None),
        (&[0x45], None),
        (&[0xe0, 2, 1, 0x50], None),
        // codes that AMQP does not have
        (&[0x4f], None),
        (&[0x5f, 1], None),
        // ends too early
        (&[0x81, 0, 0], None),
        (&[], None),
    ];
    for (value, expected) in cases {
        let bytes = with_property(value);
        let message = Message::read(&bytes).unwrap();
        assert_eq!(message.property("p"), *expected, "{value:x?}");
        assert_eq!(message.property("P"), None);
    }
}

#[test]
fn the_first_property_of_a_name_counts() {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
    writer.header("a", "1");
    writer.header("b", "2");
    writer.header("a", "3");
    let bytes = writer.finish(b"").unwrap();
    let message = Message::read(&bytes).unwrap();
    assert_eq!(message.property("a"), Some(PropertyValue::Text("1")));
    assert_eq!(message.property("b"), Some(PropertyValue::Text("2")));
    assert_eq!(message.property("c"), None);
}

#[test]
fn fields_of_the_properties_section_are_read_as_they_are() {
    // message-id ulong, user-id, to, subject, reply-to, correlation-id, content-type,
    // content-encoding, absolute-expiry-time, creation-time, group-id
    let fields = [
        &[0x53, 9][..],
        &[0x40, 0x40],
        &[0xa1, 1, b's'],
        &[0x40],
        &[0xa1, 1, b'c'],
        &[0x40, 0x40, 0x40],
        &[0x83, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0xa1, 1, b'g'],
    ]
    .concat();
    let size = u8::try_from(fields.len() + 1).unwrap();
    let head = [1, 1, 4, 0x00, 0x53, 0x73, 0xc0, size, 11];
    let bytes = [&head[..], &fields].concat();
    let message = Message::read(&bytes).unwrap();
    let read = FIELDS.map(|field| message.field(field));
    use PropertyValue::{Integer, Text};
    assert_eq!(
        read,
        [Integer(9), Text("s"), Text("c"), Integer(256), Text("g")].map(Some)
    );
    let bare = Message::read(&[1, 1, 4]).unwrap();
    assert_eq!(FIELDS.map(|field| bare.field(field)), [None; 5]);
}
