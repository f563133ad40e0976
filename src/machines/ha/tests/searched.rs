//! What the search in `tests/model` has found, as scenarios.

use super::*;
use crate::proto::ids::Position;
use crate::proto::peer::Hello;

/// As this peer would say it with these facts.
pub(super) fn hello(peer: &Peer, facts: PeerFacts) -> Box<Hello> {
    Box::new(Hello {
        versions: (1, 1),
        features: 0,
        cluster: "pair".into(),
        node: peer.node,
        primary: peer.primary,
        name: peer.name.clone(),
        nonce: [0; 16],
        must_agree: Vec::new(),
        facts,
    })
}

/// The peer says once that it serves; a claimant cannot heed it, and must when its claim is over.
#[test]
fn a_claimant_that_loses_the_lock_follows_who_serves() {
    let mut pair = Pair::formed();
    let active = pair.machine(SECONDARY).peer().unwrap().clone();
    pair.held_answers = Some(Vec::new());
    pair.kill(PRIMARY);
    assert_eq!(
        pair.machine(SECONDARY).state(),
        &HaState::Waiting(Claim::Claiming)
    );
    let facts = PeerFacts {
        state: Standalone,
        ..active.facts.clone()
    };
    let session = SessionId(99);
    let mut machine = pair.machine(SECONDARY).clone();
    let own = pair.servers[SECONDARY].own;
    let mut effects = Vec::new();
    let hello = hello(&active, facts);
    machine.step(own, HaInput::LinkUp { session, hello }, &mut effects);
    let reason = "it was replaced".to_owned();
    machine.step(own, HaInput::LockLost { reason }, &mut effects);
    assert_eq!(
        machine.state(),
        &HaState::PassiveSync {
            session,
            started: false
        }
    );
}

/// The set names the other store until it is shrunk: were its place forgotten before, it could be set
/// back and be promoted.
#[test]
fn the_place_of_an_in_sync_store_stays_written_when_it_no_longer_follows() {
    let pair = Pair::formed();
    let mut machine = pair.machine(PRIMARY).clone();
    let stores = &machine.record().unwrap().isr;
    let (mine, theirs) = (stores[0], stores[1]);
    let all = vec![(mine, position(1, 9)), (theirs, position(1, 7))];
    let told = machine.positions((mine, position(1, 9)), Some((theirs, position(1, 7))));
    assert_eq!(told, all);
    assert_eq!(machine.positions((mine, position(1, 9)), None), all);
    let other = StoreId([77; 16]);
    let stranger = Some((other, Position::default()));
    assert_eq!(machine.positions((mine, position(1, 9)), stranger), all);
}

/// An active that drains before a switchover loses its peer, says goodbye over a channel of which it has
/// not heard yet, and then takes that channel for a new beginning. To the peer it is over: unless it
/// ends for both, one speaks and the other does not listen.
#[test]
fn a_goodbye_ends_the_channel_for_both() {
    let pair = Pair::formed();
    let active = pair.machine(SECONDARY).peer().unwrap().clone();
    let mut machine = pair.machine(PRIMARY).clone();
    let own = pair.servers[PRIMARY].own;
    let mut effects = Vec::new();
    let lost = HaInput::LinkDown {
        session: active.session,
        cause: LinkEnd::Ended,
    };
    for input in [
        HaInput::SwitchoverRequested,
        lost,
        HaInput::ClientsDrained,
        HaInput::LockReleased,
    ] {
        machine.step(own, input, &mut effects);
    }
    let epoch = machine.epoch();
    assert!(effects.contains(&HaEffect::SayGoodbye { epoch }));

    let mut peer = pair.machine(SECONDARY).clone();
    let own = pair.servers[SECONDARY].own;
    let session = SessionId(99);
    let hello = hello(&active, active.facts.clone());
    peer.step(own, HaInput::LinkUp { session, hello }, &mut Vec::new());
    let mut effects = Vec::new();
    peer.step(own, HaInput::PeerGoodbye { session, epoch }, &mut effects);
    let ended = |effect: &HaEffect| matches!(effect, HaEffect::DropLink { session: ended, .. } if *ended == session);
    assert!(effects.iter().any(ended), "{effects:?}");
}
