//! Who is accepted as the peer, and what is said to everybody else.

use super::*;

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
            "cluster differs: here pair, on the peer orders ",
        ),
        (
            with(&|hello| hello.must_agree[0].1 = "600".to_owned()),
            "ping_interval_ms differs: here 500, on the peer 600",
        ),
        (
            with(&|hello| hello.must_agree[0].0 = "PingInterval".to_owned()),
            "ping_interval_ms differs: here 500, on the peer not set; \
             PingInterval differs: here not set, on the peer 500",
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
                refuse(reason),
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
fn a_server_that_was_fenced_meanwhile_is_let_in_with_the_lock_file_that_it_knows() {
    let mut machine = dialled(config(1));
    let mut own = facts(ServerState::Active);
    (own.lock, own.last_record) = (Some(lock(8)), RecordSeq(4));
    step(&mut machine, 0, LinkInput::OwnFacts(own));
    let mut peer = hello(&config(2), PEER);
    (peer.facts.lock, peer.facts.last_record) = (Some(lock(7)), RecordSeq(3));
    step(&mut machine, 1, received(1, Frame::Hello(Box::new(peer))));
    let effects = step(&mut machine, 2, received(2, proof_of(2, b"secret")));
    let refused = |effect: &LinkEffect| matches!(effect, LinkEffect::Mismatch { .. });
    assert!(!effects.iter().any(refused), "{effects:?}");
}
