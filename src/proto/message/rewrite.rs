//! A message with other headers than it came with: what the broker says of one that it moves, and what it
//! says no more of one that goes back.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Envelope, MessageError, amqp, flag_parts, is_in_parts, put_envelope, read_envelope};

/// The same message, persistent, without expiry and due time, and with these application properties;
/// those of the same names are replaced. Everything else stays as it was, types included.
///
/// # Errors
/// The bytes are no message of a known format.
pub fn with_headers(bytes: &[u8], headers: &[(&str, String)]) -> Result<Bytes, MessageError> {
    let (envelope, rest) = read_envelope(bytes)?;
    let envelope = Envelope {
        persistent: true,
        expiry_ms: None,
        due_ms: None,
        ..envelope
    };
    rewritten(bytes, (&envelope, rest), &[], headers)
}

/// The same message without the application properties of these names. Everything else stays as it was.
///
/// # Errors
/// The bytes are no message of a known format.
pub fn without_headers(bytes: &[u8], names: &[&str]) -> Result<Bytes, MessageError> {
    let (envelope, rest) = read_envelope(bytes)?;
    rewritten(bytes, (&envelope, rest), names, &[])
}

/// `bytes` with this envelope, these sections, and application properties without `gone` and with `headers`.
fn rewritten(
    bytes: &[u8],
    (envelope, mut rest): (&Envelope<'_>, &[u8]),
    gone: &[&str],
    headers: &[(&str, String)],
) -> Result<Bytes, MessageError> {
    let added: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 10)
        .sum();
    let mut out = BytesMut::with_capacity(bytes.len() + added + 16);
    put_envelope(&mut out, envelope);
    if is_in_parts(bytes) {
        flag_parts(&mut out);
    }
    let mut is_written = false;
    while !rest.is_empty() {
        let (section, after) = amqp::Section::read(rest)?;
        let raw = &rest[..rest.len() - after.len()];
        rest = after;
        match section {
            amqp::Section::ApplicationProperties(pairs) if !is_written => {
                amqp::put_headers(&mut out, pairs, gone, headers);
                is_written = true;
            }
            amqp::Section::Data(_) | amqp::Section::Parts(_) if !is_written => {
                amqp::put_headers(&mut out, amqp::Values::default(), gone, headers);
                is_written = true;
                out.put_slice(raw);
            }
            amqp::Section::Properties(_)
            | amqp::Section::ApplicationProperties(_)
            | amqp::Section::Data(_)
            | amqp::Section::Parts(_)
            | amqp::Section::Other => out.put_slice(raw),
        }
    }
    if !is_written {
        amqp::put_headers(&mut out, amqp::Values::default(), gone, headers);
    }
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::Lsn;
    use crate::proto::message::{Message, MessageWriter, Parts, Properties};

    #[test]
    fn headers_are_added_and_replaced_and_the_rest_stays() {
        let envelope = Envelope {
            persistent: false,
            priority: 7,
            expiry_ms: Some(5),
            due_ms: Some(3),
            group: Some("g"),
            ..Envelope::default()
        };
        let properties = Properties {
            to: Some("/queue/a"),
            ..Properties::default()
        };
        let mut writer = MessageWriter::new(&envelope, &properties, 100);
        writer.header("own", "1");
        writer.header("reason", "old");
        let before = writer.finish(b"body").unwrap();
        let headers = [("reason", "new".to_owned()), ("time", "9".to_owned())];
        let after = with_headers(&before, &headers).unwrap();
        let message = Message::read(&after).unwrap();
        assert_eq!(
            *message.envelope(),
            Envelope {
                persistent: true,
                expiry_ms: None,
                due_ms: None,
                ..envelope
            }
        );
        assert_eq!(message.properties(), properties);
        let found: Vec<_> = message.headers().collect();
        assert_eq!(found, [("own", "1"), ("reason", "new"), ("time", "9")]);
        assert_eq!(message.body(), b"body");
    }

    #[test]
    fn a_message_without_headers_gets_some_before_its_body() {
        let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 9);
        let plain = writer.finish(b"body").unwrap();
        let after = with_headers(&plain, &[("a", "b".to_owned())]).unwrap();
        let message = Message::read(&after).unwrap();
        assert_eq!(message.headers().collect::<Vec<_>>(), [("a", "b")]);
        assert_eq!(message.body(), b"body");
        assert!(with_headers(b"no message", &[]).is_err());
    }

    #[test]
    fn a_body_in_parts_stays_where_it_is() {
        let mut parts = Parts::default();
        assert!(parts.push(Lsn(7), 100_000) && parts.push(Lsn(8), 5));
        let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 9);
        let head = writer.finish_in_parts(&parts).unwrap();
        assert!(is_in_parts(&head));
        let after = with_headers(&head, &[("a", "b".to_owned())]).unwrap();
        assert_eq!(crate::proto::message::parts(&after), Some(parts));
        let message = Message::read(&after).unwrap();
        assert_eq!(message.headers().collect::<Vec<_>>(), [("a", "b")]);
        assert_eq!(message.body(), b"");
        let whole = crate::proto::message::whole_bytes(&after);
        assert_eq!(whole, 100_005 + after.len() as u64);
    }

    #[test]
    fn headers_that_are_taken_out_leave_all_else_as_it_was() {
        let envelope = Envelope {
            persistent: false,
            priority: 7,
            expiry_ms: Some(5),
            due_ms: Some(3),
            group: Some("g"),
            ..Envelope::default()
        };
        let written = |headers: &[(&str, &str)], parts: Option<&Parts>| {
            let mut writer = MessageWriter::new(&envelope, &Properties::default(), 9);
            for (name, value) in headers {
                writer.header(name, value);
            }
            match parts {
                Some(parts) => writer.finish_in_parts(parts).unwrap(),
                None => writer.finish(b"body").unwrap(),
            }
        };
        let mut parts = Parts::default();
        assert!(parts.push(Lsn(7), 100_000));
        for parts in [None, Some(&parts)] {
            let before = written(&[("reason", "old"), ("own", "1"), ("time", "9")], parts);
            let after = without_headers(&before, &["reason", "time", "other"]).unwrap();
            assert_eq!(after, written(&[("own", "1")], parts));
            let none = without_headers(&after, &["own"]).unwrap();
            assert_eq!(none, written(&[], parts), "and no empty section");
        }
        assert!(without_headers(b"no message", &[]).is_err());
    }
}
