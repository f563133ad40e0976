//! A channel that stands: pings, changes of state, and how it ends.

use super::*;
use crate::proto::peer::ClientNews;

#[test]
fn only_answered_pings_keep_the_channel_up() {
    let mut machine = linked();
    assert_eq!(machine.next_deadline(), Some(at(500)));
    assert_eq!(
        step(&mut machine, 3, body(2, Body::Pong { number: 1 })),
        [LinkEffect::Answered {
            session: session(),
            ping_sent_at: at(0),
            pong_received_at: at(2),
        }]
    );
    assert_eq!(step(&mut machine, 500, LinkInput::Tick), [ping(2)]);
    // The peer is heard all the time, but does not hear this server: one-way loss.
    let ping_heard = Body::Ping {
        number: 1,
        facts: facts(ServerState::Waiting),
    };
    assert_eq!(
        step(&mut machine, 900, body(900, ping_heard)),
        [
            send(Frame::Session(session(), Body::Pong { number: 1 })),
            LinkEffect::ReplySent { at: at(900) },
        ]
    );
    assert_eq!(step(&mut machine, 1000, LinkInput::Tick), [ping(3)]);
    assert_eq!(step(&mut machine, 1001, LinkInput::Tick), []);
    assert_eq!(machine.next_deadline(), Some(at(1002)));
    assert_eq!(
        step(&mut machine, 1002, LinkInput::Tick),
        [
            refuse("no ping was answered"),
            close(),
            down(LinkDownCause::Silent, 900),
            dial(2),
        ]
    );
}

#[test]
fn the_channel_bears_as_many_intervals_without_an_answer_as_configured() {
    for ping_misses in [2, 3, 5] {
        let config = LinkConfig {
            ping_misses,
            ..config(1)
        };
        let mut machine = linked_as(config);
        step(&mut machine, 1, body(1, Body::Pong { number: 1 }));
        let silent = 1 + 500 * u64::from(ping_misses);
        for ms in (500..silent).step_by(500) {
            step(&mut machine, ms, LinkInput::Tick);
        }
        assert_eq!(step(&mut machine, silent - 1, LinkInput::Tick), []);
        let effects = step(&mut machine, silent, LinkInput::Tick);
        assert!(
            effects.contains(&down(LinkDownCause::Silent, 1)),
            "{ping_misses}: {effects:?}"
        );
    }
}

#[test]
fn an_answer_counts_once_and_for_its_own_ping() {
    let mut machine = linked();
    step(&mut machine, 500, LinkInput::Tick);
    assert_eq!(
        step(&mut machine, 600, body(600, Body::Pong { number: 2 })),
        [LinkEffect::Answered {
            session: session(),
            ping_sent_at: at(500),
            pong_received_at: at(600),
        }]
    );
    for number in [1, 2, 3] {
        assert_eq!(
            step(&mut machine, 601, body(601, Body::Pong { number })),
            []
        );
    }
}

#[test]
fn a_server_that_was_held_up_itself_does_not_blame_the_peer_at_once() {
    let mut machine = linked();
    step(&mut machine, 1, body(1, Body::Pong { number: 1 }));
    assert_eq!(step(&mut machine, 5000, LinkInput::Tick), [ping(2)]);
    assert_eq!(machine.next_deadline(), Some(at(5500)));
    let effects = step(&mut machine, 5500, LinkInput::Tick);
    assert!(
        effects.contains(&down(LinkDownCause::Silent, 1)),
        "{effects:?}"
    );
}

#[test]
fn how_a_channel_ended_is_told_apart() {
    for (closed, cause) in [
        (CloseCause::Ended, LinkDownCause::Ended),
        (
            CloseCause::Unreachable("timed out".to_owned()),
            LinkDownCause::Silent,
        ),
        (
            CloseCause::Malformed("checksum".to_owned()),
            LinkDownCause::Broken("checksum".to_owned()),
        ),
    ] {
        let mut machine = linked();
        assert_eq!(
            step(
                &mut machine,
                7,
                LinkInput::Closed {
                    conn: CONN,
                    cause: closed,
                }
            ),
            [down(cause, 0), dial(2)]
        );
    }
    let mut machine = linked();
    assert_eq!(
        step(
            &mut machine,
            7,
            received(7, Frame::Refuse("too\nslow".to_owned()))
        ),
        [
            close(),
            down(LinkDownCause::Refused("too slow".to_owned()), 0),
            dial(2)
        ]
    );
}

#[test]
fn a_gap_in_the_changes_of_state_closes_the_channel() {
    let mut machine = linked();
    let changed = |number| Body::RoleChanged {
        number,
        facts: facts(ServerState::Standalone),
    };
    assert_eq!(
        step(&mut machine, 1, body(1, changed(1))),
        [LinkEffect::PeerFacts {
            session: session(),
            facts: facts(ServerState::Standalone),
        }]
    );
    let reason = "change of state 3 came where 2 was due".to_owned();
    assert_eq!(
        step(&mut machine, 2, body(2, changed(3))),
        [
            refuse(&reason),
            close(),
            down(LinkDownCause::Broken(reason), 2),
            dial(2),
        ]
    );
}

#[test]
fn own_changes_are_numbered_and_a_mere_position_is_not_one() {
    let mut machine = linked();
    let mut own = facts(ServerState::Waiting);
    own.position.lsn = Lsn(10);
    assert_eq!(step(&mut machine, 1, LinkInput::OwnFacts(own.clone())), []);
    for number in [1, 2] {
        own.epoch = Epoch(number);
        assert_eq!(
            step(&mut machine, 2, LinkInput::OwnFacts(own.clone())),
            [send(Frame::Session(
                session(),
                Body::RoleChanged {
                    number,
                    facts: own.clone(),
                }
            ))]
        );
    }
}

#[test]
fn frames_of_another_session_are_dropped() {
    let mut machine = linked();
    let old = Frame::Session(SessionId(5), Body::InSync { epoch: Epoch(1) });
    assert_eq!(step(&mut machine, 1, received(1, old)), []);
    assert_eq!(
        step(&mut machine, 1, body(1, Body::InSync { epoch: Epoch(1) })),
        [LinkEffect::Data {
            session: session(),
            body: Body::InSync { epoch: Epoch(1) },
        }]
    );
}

#[test]
fn what_the_peer_says_of_its_clients_is_passed_on() {
    let mut machine = linked();
    let news = ClientNews {
        afresh: true,
        gone: vec![3],
        came: Vec::new(),
    };
    assert_eq!(
        step(&mut machine, 1, body(1, Body::Clients(news.clone()))),
        [LinkEffect::PeerClients { news }]
    );
}

#[test]
fn goodbye_and_drop_reach_the_peer() {
    let mut machine = linked();
    assert_eq!(
        step(&mut machine, 1, LinkInput::Goodbye { epoch: Epoch(4) }),
        [send(Frame::Session(
            session(),
            Body::Goodbye { epoch: Epoch(4) }
        ))]
    );
    assert_eq!(
        step(&mut machine, 1, body(1, Body::Goodbye { epoch: Epoch(3) })),
        [LinkEffect::PeerGoodbye {
            session: session(),
            epoch: Epoch(3),
        }]
    );
    let other = LinkInput::Drop {
        session: SessionId(5),
        reason: "slow".to_owned(),
    };
    assert_eq!(step(&mut machine, 2, other), []);
    let this = LinkInput::Drop {
        session: session(),
        reason: "slow".to_owned(),
    };
    assert_eq!(
        step(&mut machine, 2, this),
        [
            refuse("slow"),
            close(),
            down(LinkDownCause::Dropped("slow".to_owned()), 1),
            dial(2),
        ]
    );
}
