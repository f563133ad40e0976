//! Bodies that come and go in parts.

use super::support::*;
use crate::machines::delivery::{RequestNumber, SessionEvent};
use crate::machines::stomp_session::{SessionEffect, SessionInput};
use crate::proto::ids::Lsn;
use crate::proto::message::{self, Envelope, Message, MessageWriter, Parts, Properties};
use crate::proto::stomp::{ClientCommand, DecodeError, Decoder, Limits, Piece, PieceSizes};
use bytes::{Bytes, BytesMut};

impl Rig {
    /// As a shell whose pieces are of four bytes reads it.
    fn read(&mut self, text: &str) -> (String, Vec<SessionEffect>) {
        let mut decoder = Decoder::<ClientCommand>::new(Limits::default());
        let mut bytes = BytesMut::from(text.as_bytes());
        let sizes = PieceSizes { whole: 4, piece: 4 };
        while let Some(piece) = decoder.decode_piece(&mut bytes, sizes).unwrap() {
            self.step(match piece {
                Piece::Whole(frame) => SessionInput::Frame(frame),
                Piece::Head(frame) => SessionInput::Head(frame),
                Piece::Part(bytes) => SessionInput::Part(bytes),
                Piece::End => SessionInput::BodyEnd,
            });
        }
        self.take()
    }

    fn stored(&mut self, upload: u32, lsns: &[u64]) -> (String, Vec<SessionEffect>) {
        let lsns = lsns.iter().copied().map(Lsn).collect();
        self.event(SessionEvent::PartsStored { upload, lsns })
    }

    fn parts(&mut self, parts: &[&'static str]) -> (String, Vec<SessionEffect>) {
        let parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes()));
        self.event(SessionEvent::PartsRead {
            parts: parts.collect(),
        })
    }
}

fn upload(upload: u32, request: u32, bytes: &'static str) -> SessionEffect {
    SessionEffect::Upload {
        upload,
        request: RequestNumber(request),
        bytes: Bytes::from_static(bytes.as_bytes()),
    }
}

fn ended(upload: u32, after: u32) -> SessionEffect {
    SessionEffect::EndUpload {
        upload,
        after: RequestNumber(after),
    }
}

fn list(lsns: &[u64], bytes: usize) -> Parts {
    let mut parts = Parts::default();
    for lsn in lsns {
        assert!(parts.push(Lsn(*lsn), bytes));
    }
    parts
}

/// The one message that is published, and its request.
fn published(effects: &[SessionEffect]) -> (&Bytes, u32) {
    let [
        SessionEffect::Publish {
            request, message, ..
        },
    ] = effects
    else {
        panic!("{effects:?}");
    };
    (message, request.0)
}

const SEND: &str = "SEND\ndestination:/queue/a\nreceipt:r\nown:1\n\nabcdefghij\0";

#[test]
fn a_large_message_is_published_when_its_parts_are_stored_and_its_frame_is_whole() {
    let mut rig = Rig::connected("1.2");
    let (text, effects) = rig.read(&SEND[..SEND.len() - 1]);
    assert_eq!(effects, [upload(1, 1, "abcd"), upload(1, 2, "efgh")]);
    assert!(text.is_empty() && !rig.session.is_full());
    let mut rig = Rig::connected("1.2");
    let (_, effects) = rig.read(SEND);
    let parts = [
        upload(1, 1, "abcd"),
        upload(1, 2, "efgh"),
        upload(1, 3, "ij"),
    ];
    assert_eq!(effects, parts);
    assert!(rig.session.is_full(), "what comes next is behind it");
    assert_eq!(rig.stored(1, &[5, 6]).1, []);
    assert_eq!(rig.stored(9, &[8]).1, [], "another's");
    let (_, effects) = rig.stored(1, &[9]);
    let (message, request) = published(&effects);
    let mut expected = list(&[5, 6], 4);
    assert!(expected.push(Lsn(9), 2));
    assert_eq!(message::parts(message), Some(expected));
    let message = Message::read(message).unwrap();
    assert_eq!(message.headers().collect::<Vec<_>>(), [("own", "1")]);
    assert_eq!(request, 4);
    assert_eq!(rig.committed(&[1, 2, 3]), (String::new(), vec![]));
    assert_eq!(rig.committed(&[4]), (receipt("r"), vec![ended(1, 0)]));
    assert!(!rig.session.is_full());
}

#[test]
fn a_transaction_keeps_its_large_messages_until_it_ends() {
    for (frame, request) in [("ABORT", 0), ("COMMIT", 4)] {
        let mut rig = Rig::connected("1.2");
        rig.say("BEGIN\ntransaction:t\n\n\0");
        let send = SEND.replace("receipt", "transaction:t\nreceipt");
        rig.read(&send);
        let (text, effects) = rig.stored(1, &[5, 6, 7]);
        assert_eq!((text, effects), (receipt("r"), vec![]));
        rig.committed(&[1, 2, 3]);
        let (_, effects) = rig.say(&format!("{frame}\ntransaction:t\n\n\0"));
        if request == 0 {
            assert_eq!(effects, [ended(1, 0)]);
            continue;
        }
        let [SessionEffect::Commit { operations, .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(operations.sends.len(), 1);
        assert!(message::is_in_parts(&operations.sends[0].1));
        assert_eq!(rig.committed(&[request]).1, [ended(1, 0)]);
    }
}

#[test]
fn however_a_session_ends_its_uploads_do() {
    // Half read; whole and not stored; published and not answered; in a transaction.
    let mut rig = Rig::connected("1.2");
    rig.read(&SEND[..SEND.len() - 1]);
    let mut effects = Vec::new();
    rig.session.abandon(&mut effects);
    assert_eq!(effects, [ended(1, 0)]);
    let mut rig = Rig::connected("1.2");
    rig.read(SEND);
    rig.stored(1, &[5, 6, 7]);
    let mut effects = Vec::new();
    rig.session.abandon(&mut effects);
    assert_eq!(effects, [ended(1, 4)], "its message needs them");
    let mut rig = Rig::connected("1.2");
    rig.say("BEGIN\ntransaction:t\n\n\0");
    rig.read(&SEND.replace("receipt", "transaction:t\nreceipt"));
    rig.stored(1, &[5, 6, 7]);
    let mut effects = Vec::new();
    rig.session.abandon(&mut effects);
    assert_eq!(effects, [ended(1, 0)]);
}

#[test]
fn a_large_send_that_cannot_be_is_refused_at_its_head_or_with_its_receipt() {
    for (head, expected) in [
        ("SEND\nreceipt:r\n\nabcdefghij\0", "a header is missing"),
        (
            "SEND\ndestination:/queue/a\ntransaction:no\n\nabcdefghij\0",
            "unknown transaction",
        ),
        ("ACK\nid:1\n\nabcdefghij\0", "the frame is malformed"),
    ] {
        let (text, effects) = Rig::connected("1.2").read(head);
        assert_eq!(error_of(&text).as_deref(), Some(expected));
        assert_eq!(effects, [SessionEffect::Close]);
    }
    let mut rig = Rig::connected("1.2");
    rig.read(SEND);
    let (text, effects) = rig.event(SessionEvent::Refused {
        request: RequestNumber(2),
        reason: "full".to_owned(),
    });
    assert!(text.contains("receipt-id:r\n"), "{text}");
    assert_eq!(effects, [ended(1, 0), SessionEffect::Close]);
}

#[test]
fn a_large_send_that_turns_out_to_be_malformed_is_refused_with_its_receipt() {
    let mut rig = Rig::connected("1.2");
    rig.read("SEND\ndestination:/queue/a\nreceipt:r\ncontent-length:6\n\nabcdef");
    let error = DecodeError::NoNul { length: 6 };
    rig.take();
    rig.step(SessionInput::Malformed(error));
    let (text, effects) = rig.take();
    assert_eq!(error_of(&text).as_deref(), Some("the frame is malformed"));
    assert!(text.contains("receipt-id:r\n"), "{text}");
    assert_eq!(effects, [ended(1, 0), SessionEffect::Close]);
}

fn in_parts(lsns: &[u64]) -> Bytes {
    let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
    writer.finish_in_parts(&list(lsns, 4)).unwrap()
}

#[test]
fn a_message_in_parts_is_written_as_its_parts_come() {
    let mut rig = Rig::subscribed("1.2", "client");
    let (text, effects) = rig.event(SessionEvent::Delivered {
        consumer: 1,
        deliveries: vec![
            delivery(3, plain()),
            delivery(20, in_parts(&[5, 6, 7, 9, 12])),
        ],
    });
    assert!(text.starts_with(&message(3, true)), "{text}");
    assert!(text.ends_with("content-length:20\n\n"), "{text}");
    let ask = |lsns: &[u64]| SessionEffect::ReadParts {
        lsns: lsns.iter().copied().map(Lsn).collect(),
    };
    assert_eq!(effects, [ask(&[5, 6, 7, 9])]);
    assert!(rig.session.is_within_message());
    let (text, effects) = rig.parts(&["abcd", "efgh", "ijkl", "mnop"]);
    assert_eq!((&text[..], effects), ("abcdefghijklmnop", vec![ask(&[12])]));
    let (text, effects) = rig.parts(&["qrst"]);
    assert_eq!((&text[..], effects), ("qrst^@", vec![]));
    assert!(!rig.session.is_within_message());
    assert_eq!(rig.parts(&["late"]), (String::new(), vec![]));
    let (_, effects) = rig.say("ACK\nid:1-20\n\n\0");
    assert_eq!(effects.len(), 1, "both are acknowledged: {effects:?}");
}

#[test]
fn a_message_whose_parts_are_gone_ends_the_connection_without_another_word() {
    for parts in [&["abcd"][..], &["abcd", "efghi"], &["abcd", "efg"]] {
        let mut rig = Rig::subscribed("1.2", "client");
        rig.event(SessionEvent::Delivered {
            consumer: 1,
            deliveries: vec![delivery(20, in_parts(&[5, 6]))],
        });
        let (text, effects) = rig.parts(parts);
        assert!(!text.contains("ERROR") && !text.ends_with("^@"), "{text}");
        let detach = SessionEffect::Detach { consumer: 1 };
        assert_eq!(effects, [detach, SessionEffect::Close]);
    }
}

#[test]
fn a_session_that_ends_within_a_message_says_nothing_and_the_message_stays_broken_off() {
    let refused = SessionEvent::Refused {
        request: RequestNumber(1),
        reason: "full".to_owned(),
    };
    let closing = SessionEvent::Closing {
        reason: "stop".to_owned(),
    };
    for event in [refused, closing] {
        let mut rig = Rig::subscribed("1.2", "client");
        rig.say("SEND\ndestination:/queue/a\nreceipt:r\n\n\0");
        rig.event(SessionEvent::Delivered {
            consumer: 1,
            deliveries: vec![delivery(20, in_parts(&[5, 6]))],
        });
        let (text, effects) = rig.event(event);
        assert_eq!(text, "");
        assert_eq!(effects.last(), Some(&SessionEffect::Close));
        assert!(rig.session.is_within_message());
        assert_eq!(rig.parts(&["abcd", "efgh"]), (String::new(), vec![]));
    }
}

#[test]
fn a_client_that_leaves_gets_its_message_whole_before_its_receipt() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.event(SessionEvent::Delivered {
        consumer: 1,
        deliveries: vec![delivery(20, in_parts(&[5, 6]))],
    });
    assert_eq!(
        rig.say("DISCONNECT\nreceipt:bye\n\n\0"),
        (String::new(), vec![])
    );
    // What waits behind the message is written before the last word.
    let (text, effects) = rig.parts(&["abcd", "efgh"]);
    assert_eq!((&text[..], effects), ("abcdefgh^@", vec![]));
    assert!(!rig.session.is_within_message());
    let (text, effects) = rig.flushed();
    assert_eq!(text, receipt("bye"));
    assert_eq!(effects.last(), Some(&SessionEffect::Close));
}
