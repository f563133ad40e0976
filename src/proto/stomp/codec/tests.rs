use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::proto::stomp::ClientFrame;

const LIMITS: Limits = Limits {
    frame_bytes: 400,
    headers: 8,
    header_bytes: 200,
    body_bytes: 300,
};

/// Everything that comes out of `bytes` when they arrive in pieces of at most `piece` bytes.
fn decode(bytes: &[u8], piece: usize) -> (Vec<ClientFrame>, Option<DecodeError>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut buffer), Err(error.clone()));
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

fn whole(bytes: &[u8]) -> (Vec<ClientFrame>, Option<DecodeError>) {
    decode(bytes, bytes.len().max(1))
}

fn one(bytes: &[u8]) -> ClientFrame {
    let (mut frames, error) = whole(bytes);
    assert_eq!(error, None);
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

fn error(bytes: &[u8]) -> DecodeError {
    whole(bytes).1.expect("the bytes are wrong")
}

/// CONNECT that settles a version, before `frame`.
fn with_version(version: &str, frame: &[u8]) -> Vec<u8> {
    let connect = format!("CONNECT\naccept-version:{version}\n\n\0");
    [connect.as_bytes(), frame].concat()
}

#[test]
fn every_command_is_known_with_either_end_of_line() {
    for command in ClientCommand::ALL {
        for end in ["\n", "\r\n"] {
            let text = format!("{}{end}a:b{end}{end}\0", command.name());
            let frame = one(text.as_bytes());
            assert_eq!(frame.command, *command);
            assert_eq!(frame.headers.get("a").as_deref(), Some("b"));
            assert!(frame.body.is_empty());
        }
    }
}

#[test]
fn a_body_ends_at_nul_or_after_its_length() {
    assert_eq!(&one(b"SEND\n\nhello\0").body[..], b"hello");
    let frame = one(b"SEND\ncontent-length:5\n\na\0b\0c\0");
    assert_eq!(&frame.body[..], b"a\0b\0c");
    assert_eq!(&one(b"SEND\ncontent-length: 2 \n\nab\0").body[..], b"ab");
    // The first of a repeated header counts.
    let frame = one(b"SEND\ncontent-length:1\ncontent-length:9\n\na\0");
    assert_eq!(&frame.body[..], b"a");
}

#[test]
fn ends_of_line_between_frames_are_passed_over() {
    let (frames, error) = whole(b"\n\r\n\nSEND\n\na\0\n\n\r\nSEND\n\nb\0\n");
    assert_eq!(error, None);
    let bodies: Vec<_> = frames.iter().map(|frame| &frame.body[..]).collect();
    assert_eq!(bodies, [b"a", b"b"]);
}

#[test]
fn escapes_follow_the_version_of_the_handshake() {
    let frame = b"SEND\nk\\c:a\\nb\\c\\\\\n\n\0";
    for (version, name, value) in [
        ("1.0", "k\\c", "a\\nb\\c\\\\"),
        ("1.1", "k:", "a\nb:\\"),
        ("1.0,1.2,1.9", "k:", "a\nb:\\"),
    ] {
        let (frames, error) = whole(&with_version(version, frame));
        assert_eq!(error, None);
        let headers = &frames[1].headers;
        let header = headers.raw().next().unwrap();
        assert_eq!(&headers.unescape(header.name)[..], name.as_bytes());
        assert_eq!(&headers.unescape(header.value)[..], value.as_bytes());
    }
    let carriage_return = b"SEND\na:b\nk:a\\r\n\n\0";
    assert_eq!(
        error(&with_version("1.1", carriage_return)),
        DecodeError::Escape {
            line: 3,
            version: Version::V1_1
        }
    );
    let (frames, _) = whole(&with_version("1.2", carriage_return));
    assert_eq!(frames[1].headers.get("k").as_deref(), Some("a\r"));
    for wrong in [
        "SEND\nk:a\\t\n\n\0",
        "SEND\nk:a\\\n\n\0",
        "SEND\nk\\x:a\n\n\0",
    ] {
        assert_eq!(
            error(&with_version("1.2", wrong.as_bytes())),
            DecodeError::Escape {
                line: 2,
                version: Version::V1_2
            },
            "{wrong:?}"
        );
    }
}

#[test]
fn a_handshake_is_never_unescaped() {
    let frame = one(b"STOMP\naccept-version:1.2\npasscode:a\\tb\\c\n\n\0");
    assert_eq!(frame.headers.get("passcode").as_deref(), Some("a\\tb\\c"));
}

#[test]
fn every_fault_is_named_with_its_place() {
    let long = "x".repeat(300);
    let many = format!("SEND\n{}\n\0", "a:b\n".repeat(9));
    let wide = format!("SEND\na:{long}");
    let body = format!("SEND\n\n{long}x");
    for (bytes, expected) in [
        (
            &b"SENT\n\n\0"[..],
            DecodeError::UnknownCommand("SENT".into()),
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x04\x05\x06",
            DecodeError::UnknownCommand("\u{16}\u{3}\u{1}\u{2}".into()),
        ),
        (
            b"GET / HTTP/1.1",
            DecodeError::UnknownCommand("GET / HTTP/1.".into()),
        ),
        (b"SEND\na:b\nc\n\n\0", DecodeError::NoColon { line: 3 }),
        (b"SEND\n:b\n\n\0", DecodeError::NoName { line: 2 }),
        (b"SEND\na:b\n\0", DecodeError::NulInHeaders { line: 3 }),
        (
            b"SEND\na:b\nc:\xff\n\n\0",
            DecodeError::Encoding { line: 3 },
        ),
        (
            b"SEND\ncontent-length:-1\n\n\0",
            DecodeError::ContentLength("-1".into()),
        ),
        (
            b"SEND\ncontent-length:\n",
            DecodeError::ContentLength(String::new()),
        ),
        (
            b"SEND\ncontent-length:99999999999999999999999\n",
            DecodeError::ContentLength("999999999999999999999999"[..23].into()),
        ),
        (
            b"SEND\ncontent-length:18446744073709551615\n\n",
            DecodeError::BodyBytes { limit: 300 },
        ),
        (
            b"SEND\ncontent-length:301\n\n",
            DecodeError::BodyBytes { limit: 300 },
        ),
        (
            b"SEND\ncontent-length:2\n\nabc",
            DecodeError::NoNul { length: 2 },
        ),
        (many.as_bytes(), DecodeError::HeaderCount { limit: 8 }),
        (wide.as_bytes(), DecodeError::HeaderBytes { limit: 200 }),
        (body.as_bytes(), DecodeError::BodyBytes { limit: 300 }),
    ] {
        assert_eq!(error(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn headers_and_body_together_have_a_limit() {
    let head = format!("SEND\na:{}\n", "x".repeat(150));
    for tail in [
        format!("content-length:290\n\n{}\0", "y".repeat(290)),
        format!("\n{}\0", "y".repeat(290)),
    ] {
        let bytes = [head.as_bytes(), tail.as_bytes()].concat();
        assert_eq!(error(&bytes), DecodeError::FrameBytes { limit: 400 });
    }
    // Up to the limit it passes: 159 + 240 + 1.
    let bytes = [head.as_bytes(), b"\n", "y".repeat(240).as_bytes(), b"\0"].concat();
    assert_eq!(bytes.len(), 400);
    assert_eq!(one(&bytes).body.len(), 240);
    let over = [head.as_bytes(), b"\n", "y".repeat(241).as_bytes(), b"\0"].concat();
    assert_eq!(error(&over), DecodeError::FrameBytes { limit: 400 });
}

#[test]
fn what_is_missing_of_an_announced_body_is_known() {
    let mut decoder = Decoder::<ClientCommand>::new(LIMITS);
    let mut buffer = BytesMut::from(&b"SEND\ncontent-length:100\n\nabc"[..]);
    assert_eq!(decoder.missing(buffer.len()), None);
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!(decoder.missing(buffer.len()), Some(98));
}

#[test]
fn a_body_in_small_pieces_is_searched_once() {
    // A NUL that was put behind the place up to which the search came is not seen: the decoder does
    // not go back.
    let mut decoder = Decoder::<ClientCommand>::new(LIMITS);
    let mut buffer = BytesMut::from(&b"SEND\n\nabcdef"[..]);
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    buffer[8] = 0;
    buffer.extend_from_slice(b"gh\0");
    let frame = decoder.decode(&mut buffer).unwrap().unwrap();
    assert_eq!(&frame.body[..], b"ab\0defgh");
}

#[test]
fn versions_are_negotiated_to_the_highest_in_common() {
    for (offered, version) in [
        (None, Some(Version::V1_0)),
        (Some(&b"1.0"[..]), Some(Version::V1_0)),
        (Some(b"1.1,1.0"), Some(Version::V1_1)),
        (Some(b" 1.2 , 2.0"), Some(Version::V1_2)),
        (Some(b"2.0"), None),
        (Some(b""), None),
    ] {
        assert_eq!(Version::negotiate(offered), version);
    }
}

fn frame_bytes() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::sample::select(ClientCommand::ALL);
    let headers = prop::collection::vec(("[a-z\\\\]{1,6}", "[a-z:\\\\nrc]{0,8}"), 0..6);
    let body = prop::collection::vec(any::<u8>(), 0..40);
    (command, headers, body, any::<bool>(), any::<bool>()).prop_map(
        |(command, headers, body, announced, carriage)| {
            let end = if carriage { "\r\n" } else { "\n" };
            let mut text = format!("{}{end}", command.name());
            for (name, value) in headers {
                text += &format!("{name}:{value}{end}");
            }
            if announced {
                text += &format!("content-length:{}{end}", body.len());
            }
            text += end;
            [text.as_bytes(), &body, b"\0\n"].concat()
        },
    )
}

proptest! {
    #[test]
    fn pieces_of_any_size_equal_the_whole(
        version in prop::sample::select(vec!["1.0", "1.1", "1.2"]),
        frames in prop::collection::vec(frame_bytes(), 1..4),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = with_version(version, &frames.concat());
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let expected = whole(&bytes);
        for piece in [1, 2, 3, 7, 64] {
            prop_assert_eq!(&decode(&bytes, piece), &expected);
        }
        // Cut in two at every byte.
        for cut in 1..bytes.len() {
            let mut decoder = Decoder::new(LIMITS);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut frames = Vec::new();
            let mut error = None;
            for part in [&[][..], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while error.is_none() {
                    match decoder.decode(&mut buffer) {
                        Ok(Some(frame)) => frames.push(frame),
                        Ok(None) => break,
                        Err(wrong) => error = Some(wrong),
                    }
                }
            }
            prop_assert_eq!(&(frames, error), &expected, "cut at {}", cut);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_pieces_agree(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(0), Just(b':')], 0..200)
    ) {
        prop_assert_eq!(decode(&bytes, 1), whole(&bytes));
    }
}
