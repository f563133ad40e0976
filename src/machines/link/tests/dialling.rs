//! Which connection counts, and when the next is tried; and every input in every stage.

use super::*;

#[test]
fn a_second_connection_is_refused_unless_the_channel_is_in_doubt() {
    let second = |machine: &mut LinkMachine, ms| {
        let conn = ConnId(2);
        let peer = hello(&config(2), [44; 16]);
        let claim = ProofClaim {
            sender_nonce: [44; 16],
            receiver_nonce: [33; 16],
            sender: NodeId([2; 16]),
            sender_dialled: true,
        };
        let proof = claim.prove(Some(&PairSecret::new(b"secret")));
        let nonce = [33; 16];
        step(machine, ms, LinkInput::Accepted { conn, nonce });
        let mut last = Vec::new();
        for frame in [Frame::Hello(Box::new(peer)), Frame::Proof(proof)] {
            let at = at(ms);
            last = step(machine, ms, LinkInput::FrameReceived { conn, frame, at });
        }
        last
    };
    let mut machine = linked();
    assert_eq!(
        second(&mut machine, 400),
        [
            LinkEffect::Send {
                conn: ConnId(2),
                frame: Frame::Refuse("another channel is up".to_owned()),
            },
            LinkEffect::Close { conn: ConnId(2) },
        ]
    );
    // The first ping is unanswered for a whole interval.
    let mut machine = linked();
    let effects = second(&mut machine, 500);
    let renewed = session_id(&[44; 16], &[33; 16]);
    assert_eq!(
        effects[..3],
        [
            refuse("a newer connection takes its place"),
            close(),
            down(LinkDownCause::Replaced, 0)
        ]
    );
    assert_eq!(
        effects[3],
        LinkEffect::Send {
            conn: ConnId(2),
            frame: Frame::Welcome(renewed),
        }
    );
    assert_eq!(machine.session(), Some(renewed));
}

#[test]
fn dials_come_every_half_ping_interval_and_say_a_failure_once() {
    let mut machine = machine(config(1));
    assert_eq!(step(&mut machine, 0, LinkInput::Started), [dial(1)]);
    let failed = |attempt| LinkInput::DialFailed {
        attempt,
        reason: "connection refused".to_owned(),
    };
    assert_eq!(
        step(&mut machine, 1, failed(1)),
        [LinkEffect::NotLinked {
            reason: "not linked to peer:3000: connection refused".to_owned()
        }]
    );
    assert_eq!(machine.next_deadline(), Some(at(250)));
    assert_eq!(step(&mut machine, 250, LinkInput::Tick), [dial(2)]);
    assert_eq!(step(&mut machine, 251, failed(2)), []);
    // The second's connection, after it was given up as failed.
    let late = LinkInput::Dialled {
        attempt: 2,
        conn: CONN,
        nonce: OWN,
    };
    assert_eq!(step(&mut machine, 252, late), [close()]);
}

#[test]
fn a_handshake_ends_in_time_and_strangers_do_not_pile_up() {
    let mut machine = dialled(config(1));
    assert_eq!(machine.next_deadline(), Some(at(2000)));
    let effects = step(&mut machine, 2000, LinkInput::Tick);
    assert_eq!(effects[..2], [refuse("no hello came in time"), close()]);
    for number in 10..30 {
        let conn = ConnId(number);
        let effects = step(&mut machine, 2001, LinkInput::Accepted { conn, nonce: OWN });
        assert_eq!(
            effects.contains(&LinkEffect::Close {
                conn: ConnId(number.saturating_sub(8))
            }),
            number >= 18
        );
    }
    // All that are left go with their own timeout, the accepted ones after ten seconds.
    let effects = step(&mut machine, 12_001, LinkInput::Tick);
    let closed = effects
        .iter()
        .filter(|effect| matches!(effect, LinkEffect::Close { .. }))
        .count();
    assert_eq!(closed, 8);
}

#[test]
fn no_input_in_any_stage_panics() {
    let frames = || {
        vec![
            Frame::Hello(Box::new(hello(&config(2), PEER))),
            Frame::Hello(Box::new(hello(&config(1), OWN))),
            proof_of(2, b"secret"),
            proof_of(2, b"wrong"),
            Frame::Welcome(session()),
            Frame::Welcome(SessionId(1)),
            Frame::Refuse("no".to_owned()),
            Frame::Session(session(), Body::Pong { number: 1 }),
            Frame::Session(session(), Body::InSync { epoch: Epoch(1) }),
            Frame::Session(SessionId(1), Body::Goodbye { epoch: Epoch(1) }),
        ]
    };
    let inputs = || {
        let mut inputs = vec![
            LinkInput::Started,
            LinkInput::Dialled {
                attempt: 1,
                conn: ConnId(3),
                nonce: [3; 16],
            },
            LinkInput::DialFailed {
                attempt: 1,
                reason: String::new(),
            },
            LinkInput::Accepted {
                conn: ConnId(4),
                nonce: [4; 16],
            },
            LinkInput::Closed {
                conn: CONN,
                cause: CloseCause::Ended,
            },
            LinkInput::Closed {
                conn: ConnId(9),
                cause: CloseCause::Ended,
            },
            LinkInput::OwnFacts(facts(ServerState::Passive)),
            LinkInput::Goodbye { epoch: Epoch(1) },
            LinkInput::Drop {
                session: session(),
                reason: String::new(),
            },
            LinkInput::Tick,
        ];
        inputs.extend(frames().into_iter().map(|frame| received(1, frame)));
        inputs
    };
    let stages: [&dyn Fn() -> LinkMachine; 5] = [
        &|| machine(config(1)),
        &|| dialled(config(1)),
        &|| dialled(config(2)),
        &|| {
            let mut machine = dialled(config(2));
            let peer = hello(&config(1), PEER);
            step(&mut machine, 0, received(0, Frame::Hello(Box::new(peer))));
            step(&mut machine, 0, received(0, proof_of(1, b"secret")));
            machine
        },
        &linked,
    ];
    for stage in stages {
        for first in inputs() {
            for second in inputs() {
                let mut machine = stage();
                step(&mut machine, 1, first.clone());
                step(&mut machine, 2, second);
                step(&mut machine, 90_000, LinkInput::Tick);
            }
        }
    }
}
