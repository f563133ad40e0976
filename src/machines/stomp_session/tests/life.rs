use super::super::*;
use super::support::*;

#[test]
fn the_highest_common_version_is_taken() {
    for (header, version) in [
        ("", "1.0"),
        ("accept-version:1.0\n", "1.0"),
        ("accept-version:1.0,1.1\n", "1.1"),
        ("accept-version:1.2,1.1,9.9\n", "1.2"),
    ] {
        let mut rig = Rig::fresh();
        let (text, effects) = rig.say(&format!("STOMP\n{header}\n\0"));
        assert_eq!(
            text,
            format!(
                "CONNECTED\nversion:{version}\nsession:7\nserver:TwinMQ/0.1\n\
                 heart-beat:1000,2000\n\n^@"
            )
        );
        assert_eq!(effects, []);
        assert_eq!(rig.session.version().map(Version::name), Some(version));
    }
}

#[test]
fn without_a_common_version_the_server_names_its_own() {
    let mut rig = Rig::fresh();
    let (text, effects) = rig.say("CONNECT\naccept-version:2.0\n\n\0");
    assert!(
        text.starts_with("ERROR\nversion:1.0,1.1,1.2\nmessage:no common version\n"),
        "{text}"
    );
    assert_eq!(effects, [SessionEffect::Close]);
}

#[test]
fn who_connected_is_known() {
    let mut rig = Rig::fresh();
    assert_eq!(rig.session.version(), None);
    rig.say("CONNECT\nclient-id:pump-1\nlogin:ann\npasscode:x\n\n\0");
    assert_eq!(rig.session.client_id(), Some("pump-1"));
    assert_eq!(rig.session.login(), Some("ann"));
}

#[test]
fn a_client_that_never_connects_is_given_up() {
    let mut rig = Rig::fresh();
    assert_eq!(rig.session.next_deadline(), Some(Moment(10_000 * MS)));
    assert_eq!(rig.at(9_999), (String::new(), vec![]));
    let (text, effects) = rig.at(10_000);
    assert_eq!(error_of(&text).as_deref(), Some("connect timeout"));
    assert_eq!(effects, [SessionEffect::Close]);
    assert_eq!(rig.session.next_deadline(), None);
}

#[test]
fn heart_beats_are_agreed_on_and_kept_both_ways() {
    let mut rig = Rig::fresh();
    // It sends every 500 ms, but we wish for 2000; it wishes for 4000, we can 1000.
    rig.say("CONNECT\nheart-beat:500,4000\n\n\0");
    // Ours leaves after three quarters of 4000; it is given up after twice 2000.
    assert_eq!(rig.session.next_deadline(), Some(Moment(3000 * MS)));
    assert_eq!(rig.at(3000), ("\n".into(), vec![]));
    assert_eq!(rig.session.next_deadline(), Some(Moment(4000 * MS)));
    rig.now = Moment(3500 * MS);
    rig.step(SessionInput::HeartBeat);
    assert_eq!(rig.at(4000), (String::new(), vec![]));
    assert_eq!(rig.session.next_deadline(), Some(Moment(6000 * MS)));
    assert_eq!(rig.at(7499), ("\n".into(), vec![]));
    let (text, effects) = rig.at(7500);
    assert_eq!(error_of(&text).as_deref(), Some("no heart-beat"));
    assert_eq!(effects, [SessionEffect::Close]);
}

#[test]
fn output_takes_the_place_of_a_heart_beat_and_frames_are_signs_of_life() {
    let mut rig = Rig::fresh();
    rig.say("CONNECT\nheart-beat:1000,1000\n\n\0");
    rig.now = Moment(700 * MS);
    rig.say("SEND\ndestination:/queue/a\nreceipt:r\n\n\0");
    assert_eq!(rig.session.next_deadline(), Some(Moment(750 * MS)));
    rig.committed(&[1]);
    assert_eq!(rig.session.next_deadline(), Some(Moment(1450 * MS)));
    rig.at(1450);
    rig.at(2200);
    rig.at(2950);
    rig.at(3700);
    assert_eq!(rig.at(4449), (String::new(), vec![]));
    assert_eq!(rig.at(4450), ("\n".into(), vec![]));
    assert_eq!(error_of(&rig.at(4700).0).as_deref(), Some("no heart-beat"));
}

#[test]
fn silence_is_not_the_clients_while_the_server_does_not_read() {
    let mut rig = Rig::fresh();
    rig.say("CONNECT\nheart-beat:1000,0\n\n\0");
    rig.say(&"SEND\ndestination:/queue/a\n\n\0".repeat(4));
    assert!(rig.session.is_full());
    assert_eq!(rig.session.next_deadline(), None);
    assert_eq!(rig.at(60_000), (String::new(), vec![]));
    rig.committed(&[1]);
    assert_eq!(rig.session.next_deadline(), Some(Moment(64_000 * MS)));
    assert_eq!(
        error_of(&rig.at(64_000).0).as_deref(),
        Some("no heart-beat")
    );
}

#[test]
fn without_heart_beats_nothing_is_due() {
    for offer in ["", "heart-beat:0,0\n"] {
        let mut rig = Rig::fresh();
        rig.say(&format!("CONNECT\n{offer}\n\0"));
        assert_eq!(rig.session.next_deadline(), None);
        assert_eq!(rig.at(1_000_000), (String::new(), vec![]));
    }
}

#[test]
fn a_bad_heart_beat_offer_is_refused() {
    for offer in ["", "1", "1,", "a,b", "-1,0", "1,2,3"] {
        let mut rig = Rig::fresh();
        let connect = format!("CONNECT\nheart-beat:{offer}\n\n\0");
        assert_refused(&mut rig, &connect, "the heart-beat header is wrong");
    }
}

#[test]
fn disconnect_waits_for_every_answer_and_then_closes() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.delivered(&[5]);
    rig.say("SEND\ndestination:/queue/a\nreceipt:s\n\n\0ACK\nid:1-5\n\n\0");
    assert_eq!(
        rig.say("DISCONNECT\nreceipt:d\n\n\0"),
        (String::new(), vec![])
    );
    // Nothing new goes either way.
    assert_eq!(rig.delivered(&[6]), (String::new(), vec![]));
    assert_eq!(
        rig.say("SEND\ndestination:/queue/a\n\n\0"),
        (String::new(), vec![])
    );
    assert_eq!(rig.committed(&[2]), (String::new(), vec![]));
    let (text, effects) = rig.committed(&[1]);
    assert_eq!(text, receipt("s") + &receipt("d"));
    assert_eq!(
        effects,
        [SessionEffect::Detach { consumer: 1 }, SessionEffect::Close]
    );
}

#[test]
fn disconnect_waits_for_the_socket_in_auto_mode() {
    let mut rig = Rig::subscribed("1.2", "auto");
    rig.delivered(&[5]);
    assert_eq!(rig.say("DISCONNECT\n\n\0"), (String::new(), vec![]));
    assert_eq!(
        rig.flushed(),
        (
            String::new(),
            vec![
                settle(1, &[5], Outcome::Accepted, 0),
                SessionEffect::Detach { consumer: 1 },
                SessionEffect::Close
            ]
        )
    );
}

#[test]
fn disconnect_waits_for_subscriptions_that_are_being_attached() {
    let mut rig = Rig::connected("1.2");
    rig.say(
        "SUBSCRIBE\nid:1\ndestination:/queue/a\nreceipt:r1\n\n\0\
         SUBSCRIBE\nid:2\ndestination:/queue/a\nreceipt:r2\n\n\0UNSUBSCRIBE\nid:2\n\n\0",
    );
    rig.say("DISCONNECT\nreceipt:d\n\n\0");
    let first = rig.event(SessionEvent::Attached { consumer: 1 });
    assert_eq!(first, (receipt("r1"), vec![]));
    let (text, effects) = rig.event(SessionEvent::Attached { consumer: 2 });
    assert_eq!(text, receipt("r2") + &receipt("d"));
    assert_eq!(
        effects,
        [SessionEffect::Detach { consumer: 1 }, SessionEffect::Close]
    );
}

#[test]
fn an_idle_client_disconnects_at_once() {
    let mut rig = Rig::connected("1.2");
    assert_eq!(
        rig.say("DISCONNECT\nreceipt:d\n\n\0"),
        (receipt("d"), vec![SessionEffect::Close])
    );
}

#[test]
fn a_closing_server_says_why() {
    let mut rig = Rig::subscribed("1.2", "auto");
    let (text, effects) = rig.event(SessionEvent::Closing {
        reason: "the other server takes over".into(),
    });
    assert_eq!(
        text,
        "ERROR\nmessage:the server closes the connection\ncontent-type:text/plain\n\
         content-length:27\n\nthe other server takes over^@"
    );
    assert_eq!(
        effects,
        [SessionEffect::Detach { consumer: 1 }, SessionEffect::Close]
    );
}

#[test]
fn the_shell_can_end_a_session_once() {
    let mut rig = Rig::connected("1.2");
    let (mut out, mut effects) = (BytesMut::new(), Vec::new());
    for _ in 0..2 {
        rig.session.end(
            "a SEND waited too long",
            "try again",
            Some(b"a\\c1"),
            &mut out,
            &mut effects,
        );
    }
    assert_eq!(
        &out[..],
        b"ERROR\nmessage:a SEND waited too long\ncontent-type:text/plain\nreceipt-id:a\\c1\n\
          content-length:9\n\ntry again\0"
    );
    assert_eq!(effects, [SessionEffect::Close]);
}

#[test]
fn a_lost_socket_detaches_every_consumer_once() {
    let mut rig = Rig::subscribed("1.2", "auto");
    rig.delivered(&[5]);
    rig.say("UNSUBSCRIBE\nid:s\n\n\0SUBSCRIBE\nid:t\ndestination:/queue/b\n\n\0");
    let mut effects = Vec::new();
    rig.session.abandon(&mut effects);
    rig.session.abandon(&mut effects);
    assert_eq!(
        effects,
        [
            SessionEffect::Detach { consumer: 1 },
            SessionEffect::Detach { consumer: 2 }
        ]
    );
    assert_eq!(rig.flushed(), (String::new(), vec![]));
}

#[test]
fn malformed_frames_are_explained() {
    for (bytes, message) in [
        ("NOPE\n\n\0", "unknown command"),
        ("SEND\nx\n\n\0", "the frame is malformed"),
        ("SEND\na:\\t\n\n\0", "the frame is malformed"),
        (
            "SEND\ncontent-length:5000000\n\n",
            "the frame is over a limit",
        ),
    ] {
        let mut rig = Rig::connected("1.2");
        assert_refused(&mut rig, bytes, message);
    }
    let mut rig = Rig::connected("1.2");
    let (text, _) = rig.say("SEND\na:b\nx\n\n\0");
    assert!(
        text.contains("line 3 of the frame is no header: it has no colon"),
        "{text}"
    );
}
