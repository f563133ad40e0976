//! Planned changes of roles.

use super::pair::{PRIMARY, Pair, SECONDARY};
use super::searched::hello;
use crate::machines::ha::*;
use crate::proto::ids::SessionId;
use crate::proto::peer::ServerState::{Active, Dead, Passive, Standalone, Waiting};

#[test]
fn a_switchover_and_one_back_change_the_roles_without_any_timer() {
    let mut pair = Pair::formed();
    // On a share a claim would wait for the old lease: a hand-over does not.
    pair.lock_file.as_mut().unwrap().local = false;
    pair.write();
    pair.give(PRIMARY, HaInput::SwitchoverRequested);
    assert_eq!(pair.states(), (Waiting, Standalone));
    assert!(!pair.servers[PRIMARY].serving && pair.servers[SECONDARY].serving);
    assert_eq!(pair.servers[PRIMARY].exited, None);
    pair.connect();
    assert_eq!(pair.states(), (Passive, Active));
    pair.write();
    pair.give(SECONDARY, HaInput::SwitchoverRequested);
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    pair.check_nothing_is_lost();
    assert_eq!(pair.confirmed.len(), 2);
}

#[test]
fn a_channel_that_is_back_before_the_claim_does_not_turn_it_round() {
    let mut pair = Pair::formed();
    // The lock is not to be had for the moment: as on a slow share.
    pair.lock_file.as_mut().unwrap().local = false;
    pair.hold_answers();
    pair.give(PRIMARY, HaInput::SwitchoverRequested);
    pair.connect();
    pair.release_answers();
    pair.connect_if_possible();
    assert_eq!(pair.states(), (Passive, Active));
}

/// The channel is back so soon that the hello was made before the active had ended its service.
#[test]
fn a_hello_from_before_the_goodbye_does_not_turn_it_round() {
    let pair = Pair::formed();
    let mut peer = pair.machine(SECONDARY).clone();
    let own = pair.servers[SECONDARY].own;
    let active = peer.peer().unwrap().clone();
    let (epoch, gone) = (peer.epoch(), active.session);
    let mut effects = Vec::new();
    let goodbye = HaInput::PeerGoodbye {
        session: gone,
        epoch,
    };
    peer.step(own, goodbye, &mut effects);
    assert!(effects.contains(&HaEffect::AcquireLock));
    assert_eq!(active.facts.state, Active);
    let session = SessionId(99);
    let hello = hello(&active, active.facts.clone());
    let mut effects = Vec::new();
    peer.step(own, HaInput::LinkUp { session, hello }, &mut effects);
    assert_eq!(*peer.state(), HaState::Passive { session: None });
    assert!(
        !effects.contains(&HaEffect::ReleaseLock),
        "it goes on taking over: {effects:?}"
    );
    assert_eq!(peer.peer().unwrap().facts.state, Waiting);
}

#[test]
fn the_old_active_claims_back_when_the_peer_dies_instead() {
    let mut pair = Pair::formed();
    // It hears nothing in time, while its channel stands.
    pair.servers[SECONDARY].paused = true;
    pair.give(PRIMARY, HaInput::SwitchoverRequested);
    assert_eq!(pair.states(), (Waiting, Passive));
    pair.kill(SECONDARY);
    assert_eq!(pair.states(), (Waiting, Dead));
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Dead));
    pair.check_nothing_is_lost();
}

#[test]
fn the_peer_goes_first_for_max_wait_timeout_and_no_longer() {
    let mut pair = Pair::formed();
    // It hears nothing in time, while its channel stands.
    pair.servers[SECONDARY].paused = true;
    pair.give(PRIMARY, HaInput::SwitchoverRequested);
    pair.connect();
    // The channel is back, and the peer has not claimed yet: nobody turns back.
    assert_eq!(pair.states(), (Waiting, Passive));
    assert_eq!(
        *pair.machine(PRIMARY).state(),
        HaState::Waiting(Claim::Idle)
    );
    pair.fire(PRIMARY, HaTimer::Patience);
    assert_eq!(pair.machine(PRIMARY).shown(), Standalone);
    pair.check_nothing_is_lost();
}

#[test]
fn a_switchover_is_refused_in_each_state_but_active_with_a_peer_in_step() {
    let refused = |pair: &Pair, at: usize, word: &str| {
        let missing: Vec<_> = pair
            .machine(at)
            .switchover_conditions()
            .into_iter()
            .filter(|condition| !condition.holds)
            .collect();
        assert!(
            missing
                .iter()
                .any(|condition| condition.found.contains(word)),
            "{missing:?}"
        );
    };
    let mut pair = Pair::formed();
    assert!(
        pair.machine(PRIMARY)
            .switchover_conditions()
            .iter()
            .all(|it| it.holds)
    );
    refused(&pair, SECONDARY, "PASSIVE");
    let before = pair.machine(SECONDARY).clone();
    pair.give(SECONDARY, HaInput::SwitchoverRequested);
    assert_eq!(*pair.machine(SECONDARY), before);
    pair.kill(SECONDARY);
    refused(&pair, PRIMARY, "STANDALONE");
    refused(&pair, PRIMARY, "no channel");
    pair.give(PRIMARY, HaInput::SwitchoverRequested);
    assert_eq!(pair.states(), (Standalone, Dead));
    let mut pair = Pair::new();
    pair.start(SECONDARY);
    refused(&pair, SECONDARY, "WAITING");
    let mut pair = Pair::formed();
    pair.lock_holder = None;
    let reason = "the share was restarted".to_owned();
    pair.lock_file = None;
    pair.give(PRIMARY, HaInput::LockLost { reason });
    refused(&pair, PRIMARY, "does not");
}

#[test]
fn a_stop_in_the_middle_of_a_switchover_ends_the_process() {
    let mut pair = Pair::formed();
    let mut effects = Vec::new();
    let mut machine = pair.machine(PRIMARY).clone();
    let own = pair.servers[PRIMARY].own;
    machine.step(own, HaInput::SwitchoverRequested, &mut effects);
    assert!(machine.hands_over() && effects.contains(&HaEffect::DrainClients));
    machine.step(own, HaInput::StopRequested, &mut effects);
    pair.servers[PRIMARY].machine = Some(machine);
    pair.servers[PRIMARY].serving = false;
    pair.give(PRIMARY, HaInput::ClientsDrained);
    assert_eq!(pair.servers[PRIMARY].exited, Some(ExitCause::Stopped));
}
