use super::*;
use crate::cli::toy_server::{Faults, ToyServer};

const SOON: Duration = Duration::from_secs(5);

fn parse(bytes: &[u8]) -> Result<Option<Frame>, StompError> {
    take_frame(&mut BytesMut::from(bytes))
}

fn hosts(list: &str) -> Hosts {
    Hosts::parse(list, StompOptions::default()).unwrap()
}

#[test]
fn a_frame_is_taken_only_when_it_is_whole() {
    let whole = b"\n\r\nMESSAGE\r\nack:7\ncontent-length:3\n\na\0b\0";
    for end in 0..whole.len() {
        assert!(parse(&whole[..end]).unwrap().is_none(), "cut at {end}");
    }
    let frame = parse(whole).unwrap().unwrap();
    assert_eq!(frame.command(), b"MESSAGE");
    assert_eq!(frame.number("ack"), Some(7));
    assert_eq!(&frame.body[..], b"a\0b");
}

#[test]
fn without_content_length_a_body_ends_at_its_first_nul() {
    let mut inbox = BytesMut::from(&b"RECEIPT\nreceipt-id:1\n\n\0\nMESSAGE\n\nhello\0"[..]);
    let first = take_frame(&mut inbox).unwrap().unwrap();
    let second = take_frame(&mut inbox).unwrap().unwrap();
    assert_eq!(first.header("receipt-id").unwrap(), "1");
    assert_eq!(&second.body[..], b"hello");
    assert!(take_frame(&mut inbox).unwrap().is_none());
}

#[test]
fn headers_are_read_by_their_whole_name_the_first_one_wins_and_escapes_are_undone() {
    let frame = parse(b"MESSAGE\nidx:no\nid:a\\cb\\\\\\n\nid:second\n\n\0")
        .unwrap()
        .unwrap();
    assert_eq!(frame.header("id").unwrap(), "a:b\\\n");
    assert_eq!(frame.headers().len(), 3);
}

#[test]
fn what_is_escaped_comes_back() {
    let text = "a:b\\c\r\nd";
    let mut escaped = Vec::new();
    escape(text, &mut escaped);
    assert_eq!(unescape(std::str::from_utf8(&escaped).unwrap()), text);
}

#[test]
fn lengths_out_of_bounds_and_missing_ends_are_refused_before_anything_is_allocated() {
    for bytes in [
        &b"MESSAGE\ncontent-length:99999999999\n\n"[..],
        b"MESSAGE\ncontent-length:-1\n\n",
        b"MESSAGE\ncontent-length:1\n\nab",
    ] {
        assert!(matches!(parse(bytes), Err(StompError::Malformed { .. })));
    }
    let endless = vec![b'x'; HEAD_BYTES_MAX + 1];
    assert!(matches!(parse(&endless), Err(StompError::Malformed { .. })));
}

#[test]
fn host_lists_are_checked_entry_by_entry() {
    assert!(Hosts::parse("a:1, b:2", StompOptions::default()).is_ok());
    for bad in ["", "a", "a:", ":1", "a:99999", "a:1,,b:2"] {
        assert!(
            matches!(
                Hosts::parse(bad, StompOptions::default()),
                Err(StompError::BadHost { .. })
            ),
            "{bad}"
        );
    }
}

#[test]
fn a_message_goes_out_and_comes_back_with_its_headers_and_body() {
    let server = ToyServer::start(Faults::default());
    let mut connection = hosts(&server.address.to_string())
        .connect(SOON, &|| false)
        .unwrap();
    let body = b"zero\0inside";
    let send = [("destination", "/queue/q")];
    assert!(
        connection
            .request("SEND", &send, body, SOON)
            .unwrap()
            .is_empty()
    );
    let mut early = connection
        .subscribe("0", "/queue/q", "client-individual", 10, SOON)
        .unwrap();
    let message = match early.pop() {
        Some(message) => message,
        None => connection.next(SOON).unwrap().unwrap(),
    };
    assert_eq!(&message.body[..], body);
    assert_eq!(message.header("message-id").unwrap(), "id:1");
    let ack = message.header("ack").unwrap().into_owned();
    connection.queue("ACK", &[("id", &ack)], &[]);
    connection.close(SOON).unwrap();
    assert_eq!(server.stored(), 0);
}

#[test]
fn a_dead_first_host_is_skipped() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = free.local_addr().unwrap();
    drop(free);
    let server = ToyServer::start(Faults::default());
    let mut hosts = hosts(&format!("{dead},{}", server.address));
    hosts.connect(SOON, &|| false).unwrap();
    assert_eq!(hosts.current, 1);
}

#[test]
fn when_no_host_answers_the_error_names_them_and_the_last_reason() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = free.local_addr().unwrap();
    drop(free);
    let error = hosts(&dead.to_string())
        .connect(Duration::ZERO, &|| false)
        .unwrap_err();
    assert!(matches!(error, StompError::Unreachable { .. }));
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.to_string().contains(&dead.to_string()), "{error}");
}

#[test]
fn a_refused_login_is_not_tried_again() {
    let server = ToyServer::start(Faults::default());
    let options = StompOptions {
        credentials: Some(("wrong".to_owned(), "x".to_owned())),
        ..StompOptions::default()
    };
    let error = Hosts::parse(&server.address.to_string(), options)
        .unwrap()
        .connect(Duration::from_secs(3600), &|| false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server refused: access refused: who are you"
    );
}

#[test]
fn a_server_that_hangs_up_is_a_lost_connection() {
    let server = ToyServer::start(Faults {
        cut_every: 1,
        ..Faults::default()
    });
    let mut connection = hosts(&server.address.to_string())
        .connect(SOON, &|| false)
        .unwrap();
    connection.queue("SEND", &[("destination", "/queue/q")], b"x");
    connection.flush().unwrap();
    let error = connection.next(SOON).unwrap_err();
    assert!(error.is_connection_loss(), "{error}");
}
