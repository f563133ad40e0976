use super::*;
use crate::proto::arbiter::LockIdentity;
use crate::proto::auth::{PairSecret, ProofClaim, session_id};
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, StoreId};
use crate::proto::peer::{Hello, ServerState};

pub(super) fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

pub(super) fn facts(state: ServerState) -> PeerFacts {
    PeerFacts {
        state,
        previous: ServerState::Dead,
        claiming: false,
        epoch: Epoch(0),
        store: StoreId([9; 16]),
        position: Position::default(),
        sync_in_progress: false,
        arbiter: None,
        last_record: RecordSeq(0),
        looked: true,
        eligible: true,
        lock: None,
    }
}

/// Node 1 is the primary and decides.
pub(super) fn config(node: u8) -> LinkConfig {
    LinkConfig {
        node: NodeId([node; 16]),
        cluster: "pair".to_owned(),
        primary: node == 1,
        name: if node == 1 { "primary" } else { "secondary" }.to_owned(),
        peer_address: "peer:3000".to_owned(),
        versions: (1, 1),
        must_agree: vec![("ping_interval_ms".to_owned(), "500".to_owned())],
        secret: Some(PairSecret::new(b"secret")),
        ping_interval: Duration::from_millis(500),
        ping_misses: 2,
        creation_timeout: Duration::from_secs(1),
        initialization_timeout: Duration::from_secs(10),
    }
}

pub(super) fn machine(config: LinkConfig) -> LinkMachine {
    LinkMachine::new(config, facts(ServerState::Waiting), at(0))
}

pub(super) fn step(machine: &mut LinkMachine, ms: u64, input: LinkInput) -> Vec<LinkEffect> {
    let mut effects = Vec::new();
    machine.step(at(ms), input, &mut effects);
    effects
}

const CONN: ConnId = ConnId(1);
const OWN: [u8; 16] = [11; 16];
const PEER: [u8; 16] = [22; 16];

fn session() -> SessionId {
    session_id(&OWN, &PEER)
}

fn hello(config: &LinkConfig, nonce: [u8; 16]) -> Hello {
    Hello {
        versions: config.versions,
        features: 0,
        cluster: config.cluster.clone(),
        node: config.node,
        primary: config.primary,
        name: config.name.clone(),
        nonce,
        must_agree: config.must_agree.clone(),
        facts: facts(ServerState::Waiting),
    }
}

fn send(frame: Frame) -> LinkEffect {
    LinkEffect::Send { conn: CONN, frame }
}

fn refuse(reason: &str) -> LinkEffect {
    send(Frame::Refuse(reason.to_owned()))
}

fn close() -> LinkEffect {
    LinkEffect::Close { conn: CONN }
}

fn received(ms: u64, frame: Frame) -> LinkInput {
    LinkInput::FrameReceived {
        conn: CONN,
        frame,
        at: at(ms),
    }
}

fn body(ms: u64, body: Body) -> LinkInput {
    received(ms, Frame::Session(session(), body))
}

fn proof_of(node: u8, secret: &[u8]) -> Frame {
    let claim = ProofClaim {
        sender_nonce: PEER,
        receiver_nonce: OWN,
        sender: NodeId([node; 16]),
        sender_dialled: false,
    };
    Frame::Proof(claim.prove(Some(&PairSecret::new(secret))))
}

fn ping(number: u64) -> LinkEffect {
    send(Frame::Session(
        session(),
        Body::Ping {
            number,
            facts: facts(ServerState::Waiting),
        },
    ))
}

/// Has dialled, said hello on `CONN` at 0 ms and waits for the peer's.
fn dialled(config: LinkConfig) -> LinkMachine {
    let own = hello(&config, OWN);
    let mut machine = machine(config);
    assert_eq!(
        step(&mut machine, 0, LinkInput::Started),
        [LinkEffect::Dial {
            attempt: 1,
            timeout: Duration::from_secs(1),
        }]
    );
    assert_eq!(
        step(
            &mut machine,
            0,
            LinkInput::Dialled {
                attempt: 1,
                conn: CONN,
                nonce: OWN,
            }
        ),
        [send(Frame::Hello(Box::new(own)))]
    );
    machine
}

/// The primary with its channel up since 0 ms.
fn linked() -> LinkMachine {
    linked_as(config(1))
}

fn linked_as(own: LinkConfig) -> LinkMachine {
    let mut machine = dialled(own);
    let peer = hello(&config(2), PEER);
    step(
        &mut machine,
        0,
        received(0, Frame::Hello(Box::new(peer.clone()))),
    );
    assert_eq!(
        step(&mut machine, 0, received(0, proof_of(2, b"secret"))),
        [
            send(Frame::Welcome(session())),
            LinkEffect::LinkUp {
                session: session(),
                conn: CONN,
                hello: Box::new(peer),
            },
            ping(1),
        ]
    );
    machine
}

fn down(cause: LinkDownCause, last_heard: u64) -> LinkEffect {
    LinkEffect::LinkDown {
        session: session(),
        cause,
        last_heard: at(last_heard),
    }
}

fn dial(attempt: u64) -> LinkEffect {
    LinkEffect::Dial {
        attempt,
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn the_server_that_follows_waits_for_the_welcome_of_this_very_session() {
    let mut machine = dialled(config(2));
    let peer = hello(&config(1), PEER);
    step(
        &mut machine,
        0,
        received(0, Frame::Hello(Box::new(peer.clone()))),
    );
    assert_eq!(
        step(&mut machine, 1, received(1, proof_of(1, b"secret"))),
        []
    );
    let mut other = machine.clone();
    assert_eq!(
        step(&mut machine, 2, received(2, Frame::Welcome(session()))),
        [
            LinkEffect::LinkUp {
                session: session(),
                conn: CONN,
                hello: Box::new(peer),
            },
            ping(1),
        ]
    );
    assert_eq!(machine.session(), Some(session()));
    let effects = step(&mut other, 2, received(2, Frame::Welcome(SessionId(5))));
    assert_eq!(
        effects[..2],
        [refuse("the peer welcomed another session"), close()]
    );
    assert_eq!(other.session(), None);
}

#[test]
fn a_wrong_secret_is_refused_and_stops_nobody() {
    let mut machine = dialled(config(1));
    step(
        &mut machine,
        0,
        received(0, Frame::Hello(Box::new(hello(&config(2), PEER)))),
    );
    assert_eq!(
        step(&mut machine, 300, received(300, proof_of(2, b"guessed"))),
        [
            refuse("the pair secrets differ"),
            close(),
            LinkEffect::NotLinked {
                reason: "not linked to peer:3000: the pair secrets differ".to_owned()
            },
            dial(2),
        ]
    );
}

#[test]
fn a_replayed_or_reflected_proof_is_refused() {
    // Recorded on a connection where this server's nonce was another.
    let replayed = {
        let claim = ProofClaim {
            sender_nonce: PEER,
            receiver_nonce: [77; 16],
            sender: NodeId([2; 16]),
            sender_dialled: false,
        };
        Frame::Proof(claim.prove(Some(&PairSecret::new(b"secret"))))
    };
    // This server's own, sent back with the nonces swapped.
    let reflected = {
        let claim = ProofClaim {
            sender_nonce: OWN,
            receiver_nonce: PEER,
            sender: NodeId([1; 16]),
            sender_dialled: true,
        };
        Frame::Proof(claim.prove(Some(&PairSecret::new(b"secret"))))
    };
    for proof in [replayed, reflected] {
        let mut machine = dialled(config(1));
        step(
            &mut machine,
            0,
            received(0, Frame::Hello(Box::new(hello(&config(2), PEER)))),
        );
        let effects = step(&mut machine, 1, received(1, proof));
        assert_eq!(effects[..2], [refuse("the pair secrets differ"), close()]);
        assert_eq!(machine.session(), None);
    }
}

#[test]
fn an_echo_is_noticed() {
    let mut machine = dialled(config(1));
    let effects = step(
        &mut machine,
        1,
        received(1, Frame::Hello(Box::new(hello(&config(1), OWN)))),
    );
    assert_eq!(
        effects[..2],
        [
            refuse("what was said comes back: something echoes there"),
            close()
        ]
    );
}

#[test]
fn a_server_notices_that_it_dialled_itself() {
    let mut machine = dialled(config(1));
    let accepted = ConnId(2);
    step(
        &mut machine,
        1,
        LinkInput::Accepted {
            conn: accepted,
            nonce: [33; 16],
        },
    );
    let reason = "peer:3000 is this server itself: set the other server's address".to_owned();
    assert_eq!(
        step(
            &mut machine,
            2,
            LinkInput::FrameReceived {
                conn: accepted,
                frame: Frame::Hello(Box::new(hello(&config(1), OWN))),
                at: at(2),
            }
        ),
        [
            LinkEffect::Send {
                conn: accepted,
                frame: Frame::Refuse(reason.clone()),
            },
            LinkEffect::Close { conn: accepted },
            LinkEffect::Mismatch {
                reason,
                peer_serving: false,
            },
        ]
    );
}

fn lock(nonce: u8) -> LockIdentity {
    LockIdentity {
        nonce: Nonce([nonce; 16]),
        device: 1,
        inode: 1,
    }
}

/// Hellos of a peer that cannot be one, and what is said about them.
fn differing_hellos() -> [(Hello, &'static str); 7] {
    let with = |change: &dyn Fn(&mut Hello)| {
        let mut hello = hello(&config(2), PEER);
        change(&mut hello);
        hello
    };
    [
        (
            with(&|hello| hello.versions = (2, 3)),
            "this server speaks versions 1 to 1 of the protocol, the peer 2 to 3",
        ),
        (
            with(&|hello| hello.cluster = "orders\n".to_owned()),
            "cluster differs:\n- pair (this server)\n+ orders  (the peer)",
        ),
        (
            with(&|hello| hello.must_agree[0].1 = "600".to_owned()),
            "ping_interval_ms differs:\n- 500 (this server)\n+ 600 (the peer)",
        ),
        (
            with(&|hello| hello.must_agree[0].0 = "PingInterval".to_owned()),
            "ping_interval_ms differs:\n- 500 (this server)\n+ not set (the peer)\n\
             PingInterval differs:\n- not set (this server)\n+ 500 (the peer)",
        ),
        (
            with(&|hello| hello.facts.arbiter = Some(ArbiterId([7; 16]))),
            "the stores belong to different arbiters: here 08080808080808080808080808080808, \
             on the peer 07070707070707070707070707070707",
        ),
        (
            with(&|hello| hello.facts.lock = Some(lock(7))),
            "the servers use different lock files (identity here \
             08080808080808080808080808080808, on the peer 07070707070707070707070707070707): \
             let lock_file name the same file on both",
        ),
        (
            with(&|hello| hello.node = NodeId([1; 16])),
            "both servers have the identity 01010101010101010101010101010101: was one's data \
             directory copied from the other?",
        ),
    ]
}

#[test]
fn every_difference_is_named_and_only_after_the_proof() {
    for (mut peer, reason) in differing_hellos() {
        peer.facts.state = ServerState::Active;
        let node = peer.node.0[0];
        let mut machine = dialled(config(1));
        let mut own = facts(ServerState::Waiting);
        own.arbiter = Some(ArbiterId([8; 16]));
        own.lock = Some(lock(8));
        step(&mut machine, 0, LinkInput::OwnFacts(own));
        let effects = step(&mut machine, 1, received(1, Frame::Hello(Box::new(peer))));
        assert!(
            matches!(
                effects[..],
                [LinkEffect::Send {
                    frame: Frame::Proof(_),
                    ..
                }]
            ),
            "{effects:?}"
        );
        assert_eq!(
            step(&mut machine, 2, received(2, proof_of(node, b"secret"))),
            [
                refuse(&reason.replace('\n', "; ")),
                close(),
                LinkEffect::Mismatch {
                    reason: reason.to_owned(),
                    peer_serving: true,
                },
            ]
        );
        assert_eq!(
            machine.next_deadline(),
            Some(at(5002)),
            "dials again, but later"
        );
    }
}

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
