use super::tests::{at, config, machine, step};
use super::*;
use crate::proto::auth::{DeathNotice, PairSecret};
use crate::proto::ids::{Epoch, NodeId};

const CONN: ConnId = ConnId(7);

fn word(node: u8, secret: &[u8]) -> Frame {
    let notice = DeathNotice {
        cluster: "pair".to_owned(),
        node: NodeId([node; 16]),
        epoch: Epoch(4),
    };
    Frame::LastWord {
        node: notice.node,
        epoch: notice.epoch,
        proof: notice.prove(Some(&PairSecret::new(secret))),
    }
}

/// What an accepted connection that says this first comes to; the own hello is left out.
fn said(frame: Frame) -> Vec<LinkEffect> {
    let mut machine = machine(config(1));
    assert_eq!(step(&mut machine, 0, LinkInput::Started).len(), 1, "a dial");
    let accepted = LinkInput::Accepted {
        conn: CONN,
        nonce: [1; 16],
    };
    assert_eq!(step(&mut machine, 1, accepted).len(), 1, "a hello");
    let received = LinkInput::FrameReceived {
        conn: CONN,
        frame,
        at: at(2),
    };
    step(&mut machine, 2, received)
}

#[test]
fn a_proved_last_word_is_passed_on_and_its_connection_closed() {
    let died = LinkEffect::PeerDied {
        node: NodeId([2; 16]),
        epoch: Epoch(4),
    };
    assert_eq!(
        said(word(2, b"secret")),
        [LinkEffect::Close { conn: CONN }, died]
    );
}

#[test]
fn a_last_word_of_a_stranger_or_of_this_server_itself_is_refused() {
    for frame in [word(2, b"guess"), word(1, b"secret")] {
        let effects = said(frame);
        assert!(
            matches!(
                effects.as_slice(),
                [
                    LinkEffect::Send {
                        frame: Frame::Refuse(_),
                        ..
                    },
                    LinkEffect::Close { conn: CONN },
                    LinkEffect::NotLinked { .. }
                ]
            ),
            "{effects:?}"
        );
    }
}
