use bytes::{BufMut, BytesMut};

use crate::proto::message::{Envelope, MessageWriter, Properties};

use super::*;

mod reference;
mod refusals;

/// An application property of a message in a test.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

/// A persistent message of priority 4 with these application properties, as AMQP writes them.
fn message(given: &[(&str, Given)]) -> Vec<u8> {
    let mut map = BytesMut::new();
    for (name, value) in given {
        map.put_slice(&[0xa1, u8::try_from(name.len()).unwrap()]);
        map.put_slice(name.as_bytes());
        match value {
            Given::Null => map.put_u8(0x40),
            Given::Boolean(value) => map.put_u8(if *value { 0x41 } else { 0x42 }),
            Given::Integer(number) => {
                map.put_u8(0x81);
                map.put_i64(*number);
            }
            Given::Float(number) => {
                map.put_u8(0x82);
                map.put_f64(*number);
            }
            Given::Text(text) => {
                map.put_u8(0xb1);
                map.put_u32(u32::try_from(text.len()).unwrap());
                map.put_slice(text.as_bytes());
            }
        }
    }
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[1, 1, 4, 0x00, 0x53, 0x74, 0xd1]);
    bytes.put_u32(u32::try_from(map.len() + 4).unwrap());
    bytes.put_u32(u32::try_from(given.len() * 2).unwrap());
    bytes.put_slice(&map);
    bytes.to_vec()
}

fn text(text: &str) -> Given {
    Given::Text(text.to_owned())
}

fn parse(text: &str, dialect: Dialect) -> Arc<Selector> {
    Selector::parse(text, dialect)
        .unwrap_or_else(|error| panic!("{text}: {error}\n{}", error.marked()))
}

const T: Option<bool> = Some(true);
const F: Option<bool> = Some(false);
const U: Option<bool> = None;

const JUDGED: &[(&str, Option<bool>)] = &[
    ("", T),
    (" \t\n", T),
    ("TRUE", T),
    ("false", F),
    ("yes", T),
    ("no", F),
    ("gone", U),
    ("age", U),
    // comparisons
    ("age = 20", T),
    ("age=20.0", T),
    ("age <> 20", F),
    ("age<>21", T),
    ("age < 21", T),
    ("age <= 20", T),
    ("age > 20", F),
    ("age >= 20", T),
    ("20 = age", T),
    ("weight > age", T),
    ("weight = 72.5", T),
    ("color = 'red'", T),
    ("color <> 'red'", F),
    ("color = 'RED'", F),
    ("quote = 'it''s'", T),
    ("yes = TRUE", T),
    ("yes <> TRUE", F),
    ("no = false", T),
    ("(age = 20) = yes", T),
    ("gone = 1", U),
    ("gone <> 1", U),
    ("gone = gone", U),
    ("NULL_ IS NULL", T),
    ("Age = 20", U),
    ("_x$1 = 1 and größe = 2 and JMSX_mine = 3", T),
    // types that have nothing to do with each other
    ("color = 1", F),
    ("color <> 1", F),
    ("NOT color = 1", T),
    ("age = 'x'", F),
    ("yes = 1", F),
    ("yes = 'true'", F),
    ("yes < no", F),
    ("color < color", F),
    ("number = 20", F),
    ("truth", U),
    ("nan = nan", F),
    ("nan <> nan", T),
    ("nan < 1 OR nan >= 1", F),
    // literals
    ("0x14 = age AND 0X14l = age AND 024 = age AND 20L = age", T),
    ("0 = 00", T),
    (
        "2e1 = age AND 20. = age AND .2E+2 = age AND 2000e-2 = age",
        T,
    ),
    ("20d = age and 20.0F = age AND 20D = age", T),
    ("0.1f = 0.1", F),
    ("max = 9223372036854775807", T),
    ("min = -9223372036854775808", T),
    ("min = - 0x8000000000000000", T),
    ("-57.9E2 < 0 AND +6.2 > 0", T),
    // arithmetic
    (
        "age + 1 = 21 AND age - 1 = 19 AND age * 2 = 40 AND age / 3 = 6",
        T,
    ),
    ("age / 8.0 = 2.5", T),
    ("-age = -20", T),
    ("- - age = +20", T),
    ("2 + 3 * 4 = 14", T),
    ("(2 + 3) * 4 = 20", T),
    ("20 - 5 - 5 = 10", T),
    ("100 / 10 / 5 = 2", T),
    ("-2 * -3 = 6", T),
    ("age-1=19", T),
    ("color + 1 = 1", U),
    ("-color = 1", U),
    ("gone + 1 = 1", U),
    ("age / 0 = 1", U),
    ("age / 0.0 > 1", T),
    ("max + 1 > 0", U),
    ("min - 1 < 0", U),
    ("max * 2 = 0", U),
    ("-min > 0", U),
    ("min / -1 > 0", U),
    // logic
    ("yes AND yes", T),
    ("yes AND no", F),
    ("no AND gone", F),
    ("gone AND no", F),
    ("yes AND gone", U),
    ("gone AND yes", U),
    ("gone AND gone", U),
    ("yes OR gone", T),
    ("gone OR yes", T),
    ("no OR gone", U),
    ("gone OR no", U),
    ("gone OR gone", U),
    ("no OR no", F),
    ("NOT yes", F),
    ("NOT no", T),
    ("NOT gone", U),
    ("NOT NOT yes", T),
    ("yes OR yes AND no", T),
    ("(yes OR yes) AND no", F),
    ("NOT no AND no", F),
    ("NOT (no AND no)", T),
    ("NOT age = 21", T),
    ("yes or no and gone", T),
    // BETWEEN
    ("age BETWEEN 20 AND 30", T),
    ("age between 10 and 20", T),
    ("age BETWEEN 21 AND 30", F),
    ("age NOT BETWEEN 21 AND 30", T),
    ("age NOT BETWEEN 20 AND 30", F),
    ("age BETWEEN 30 AND 10", F),
    ("age BETWEEN gone AND 10", F),
    ("age BETWEEN gone AND 30", U),
    ("age NOT BETWEEN gone AND 10", T),
    ("gone NOT BETWEEN 1 AND 2", U),
    ("color BETWEEN 1 AND 2", F),
    ("color NOT BETWEEN 1 AND 2", F),
    ("age + 1 BETWEEN 7 * 3 AND 21 AND yes", T),
    // IN
    ("color IN ('blue', 'red')", T),
    ("color IN ('blue')", F),
    ("color NOT IN ('blue')", T),
    ("color NOT IN ('red','blue','red')", F),
    ("gone IN ('a')", U),
    ("gone NOT IN ('a')", U),
    ("age IN ('20')", F),
    ("age NOT IN ('20')", T),
    ("(color) IN ('red')", T),
    // LIKE
    ("phone LIKE '12%3'", T),
    ("phone LIKE '12_3'", F),
    ("phone LIKE '12__3'", T),
    ("phone LIKE '12993'", T),
    ("phone LIKE '%'", T),
    ("phone LIKE ''", F),
    ("phone NOT LIKE '12%3'", F),
    ("color LIKE 'r_d'", T),
    ("under LIKE '\\_%' ESCAPE '\\'", T),
    ("color LIKE '\\_%' ESCAPE '\\'", F),
    ("under LIKE 'x_5x%' escape 'x'", T),
    ("under LIKE '%%%%'", T),
    ("color LIKE 'rxxed' ESCAPE 'x'", F),
    ("quote LIKE '%''%'", T),
    ("gone LIKE '%'", U),
    ("gone NOT LIKE '%'", U),
    ("age LIKE '%'", F),
    ("age NOT LIKE '%'", T),
    // NULL
    ("gone IS NULL", T),
    ("gone IS NOT NULL", F),
    ("nothing IS NULL", T),
    ("nothing = 1", U),
    ("age is null", F),
    ("age Is Not Null", T),
    // headers
    ("JMSPriority = 4", T),
    ("JMSDeliveryMode = 'PERSISTENT'", T),
    (
        "JMSMessageID IS NULL AND JMSTimestamp IS NULL AND JMSType IS NULL",
        T,
    ),
];

#[test]
fn selectors_are_judged_as_jms_says() {
    let bytes = message(&[
        ("age", Given::Integer(20)),
        ("weight", Given::Float(72.5)),
        ("color", text("red")),
        ("quote", text("it's")),
        ("phone", text("12993")),
        ("under", text("_5%")),
        ("yes", Given::Boolean(true)),
        ("no", Given::Boolean(false)),
        ("nothing", Given::Null),
        ("number", text("20")),
        ("truth", text("true")),
        ("max", Given::Integer(i64::MAX)),
        ("min", Given::Integer(i64::MIN)),
        ("_x$1", Given::Integer(1)),
        ("größe", Given::Integer(2)),
        ("JMSX_mine", Given::Integer(3)),
        ("nan", Given::Float(f64::NAN)),
    ]);
    let message = Message::read(&bytes).unwrap();
    for (selector, expected) in JUDGED.iter().copied() {
        let judged = parse(selector, Dialect::Strict).judge(&message);
        assert_eq!(judged, expected, "{selector}");
        let matches = parse(selector, Dialect::Strict).matches_bytes(&bytes);
        assert_eq!(matches, expected == T, "{selector}");
    }
}

#[test]
fn texts_count_as_numbers_where_all_is_text() {
    let bytes = message(&[
        ("n", text("20")),
        ("f", text("-2.5e0")),
        ("plus", text("+7")),
        ("big", text("9223372036854775808")),
        ("t", text("true")),
        ("u", text("False")),
        ("word", text("red")),
        ("inf", text("inf")),
        ("nan", text("NaN")),
        ("space", text(" 1")),
        ("hex", text("0x10")),
        ("empty", text("")),
        ("typed", Given::Integer(20)),
    ]);
    let message = Message::read(&bytes).unwrap();
    for (selector, expected) in [
        ("n = 20", T),
        ("n > 19.5", T),
        ("20 = n", T),
        ("n + 1 = 21", T),
        ("-n = -20", T),
        ("n BETWEEN 20 AND 21", T),
        ("n NOT BETWEEN 20 AND 21", F),
        ("f < -2", T),
        ("plus = 7", T),
        ("big > 9.2e18", T),
        ("n > f", T),
        ("n = typed", T),
        ("typed = '20'", T),
        ("n = '20'", T),
        ("n = '20.0'", F),
        ("n = 20.0", T),
        ("t", T),
        ("NOT u", T),
        ("t = TRUE AND u = FALSE AND u <> TRUE", T),
        ("t AND n = 20", T),
        ("u OR word", U),
        ("word = 1", F),
        ("word <> 1", F),
        ("word = TRUE", F),
        ("word > 1", F),
        ("word + 1 = 1", U),
        ("word < n", F),
        ("inf > 1", F),
        ("nan <> 1", F),
        ("space = 1", F),
        ("hex = 16", F),
        ("empty = 0", F),
        ("empty = ''", T),
        ("n LIKE '2_'", T),
        ("n IN ('20')", T),
        ("gone = 1", U),
    ] {
        let judged = parse(selector, Dialect::TextIsNumeric).judge(&message);
        assert_eq!(judged, expected, "{selector}");
    }
}

#[test]
fn headers_come_from_the_envelope_the_properties_section_or_a_header_of_that_name() {
    let envelope = Envelope {
        persistent: false,
        priority: 7,
        group: Some("g"),
        ..Envelope::default()
    };
    let properties = Properties {
        correlation_id: Some("c-1"),
        ..Properties::default()
    };
    let mut writer = MessageWriter::new(&envelope, &properties, 0);
    writer.header("JMSPriority", "1");
    writer.header("JMSCorrelationID", "other");
    writer.header("JMSType", "order");
    writer.header("JMSTimestamp", "1000");
    let bytes = writer.finish(b"").unwrap();
    for selector in [
        "JMSPriority = 7",
        "JMSDeliveryMode = 'NON_PERSISTENT'",
        "JMSXGroupID = 'g'",
        "JMSCorrelationID = 'c-1'",
        "JMSType LIKE 'ord%'",
        "JMSTimestamp < 1001",
    ] {
        let selector = parse(selector, Dialect::TextIsNumeric);
        assert!(selector.matches_bytes(&bytes), "{selector}");
    }
    // message-id a number, subject, creation-time, group-id, in the properties section
    let fields = [
        &[0x53, 9, 0x40, 0x40][..],
        &[0xa1, 1, b's', 0x40, 0x40, 0x40, 0x40, 0x40],
        &[0x83, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0xa1, 1, b'h'],
    ]
    .concat();
    let size = u8::try_from(fields.len() + 1).unwrap();
    let bytes = [&[1, 1, 4, 0x00, 0x53, 0x73, 0xc0, size, 11][..], &fields].concat();
    for selector in [
        "JMSMessageID IS NULL",
        "JMSType = 's'",
        "JMSTimestamp = 256",
        "JMSXGroupID = 'h'",
    ] {
        let selector = parse(selector, Dialect::Strict);
        assert!(selector.matches_bytes(&bytes), "{selector}");
    }
}

#[test]
fn long_chains_and_deep_nesting_are_judged() {
    let bytes = message(&[("a", Given::Integer(1)), ("t", Given::Boolean(true))]);
    for (selector, expected) in [
        (format!("{}a = 2000", "1+".repeat(1999)), true),
        (format!("{}t", "t AND ".repeat(1300)), true),
        (format!("{}t", "NOT t OR ".repeat(800)), true),
        (format!("{}t", "NOT ".repeat(63)), false),
        (
            format!("{}1 + a{} = 65", "1 + (".repeat(63), ")".repeat(63)),
            true,
        ),
        (format!("{}t{}", "t AND (".repeat(64), ")".repeat(64)), true),
    ] {
        assert_eq!(
            parse(&selector, Dialect::Strict).matches_bytes(&bytes),
            expected
        );
    }
}

#[test]
fn a_selector_can_be_shared_and_knows_its_text() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let selector = parse(" a = 1 ", Dialect::Strict);
    shared(&selector);
    assert_eq!(selector.text(), " a = 1 ");
    assert_eq!(selector.to_string(), " a = 1 ");
    assert_eq!(selector.dialect(), Dialect::Strict);
    assert_eq!(selector, parse(" a = 1 ", Dialect::Strict));
    assert_ne!(selector, parse(" a = 1 ", Dialect::TextIsNumeric));
    // White space around it makes no difference.
    assert_eq!(selector, parse("a = 1", Dialect::Strict));
    assert_ne!(selector, parse("a  = 1", Dialect::Strict));
    assert!(!selector.matches_bytes(b"no message"));
}
