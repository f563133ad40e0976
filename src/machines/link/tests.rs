//! The channel's machine: what the tests by subject share.

mod channel;
mod dialling;
mod handshake;

use super::*;
use crate::proto::arbiter::LockIdentity;
use crate::proto::auth::{PairSecret, ProofClaim, session_id};
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, StoreId};
use crate::proto::peer::{FEATURE_CLIENTS, Hello, ServerState};

pub(super) fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

pub(crate) fn facts(state: ServerState) -> PeerFacts {
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
        features: FEATURE_CLIENTS,
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
