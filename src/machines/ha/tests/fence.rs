//! Take-over by fence: the old holder keeps its lock and is silent.

use super::pair::{PRIMARY, Pair, SECONDARY, node};
use super::*;

use ServerState::{Active, Dead, Passive, Standalone, Waiting};

fn generation(pair: &Pair) -> Epoch {
    pair.record.as_ref().expect("a record").generation
}

#[test]
fn a_stopped_active_is_fenced_when_its_lease_must_be_over_and_follows_when_it_wakes() {
    let mut pair = Pair::formed();
    pair.write();
    pair.pause(PRIMARY);
    assert_eq!(pair.states().1, Passive);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    // Claimed, the new lock is held, and nobody serves before the wait is over.
    assert_eq!(pair.states().1, Waiting);
    assert_eq!((pair.isr(), generation(&pair)), (vec![SECONDARY], Epoch(2)));
    assert_eq!(pair.lock_holder, Some(SECONDARY));
    assert!(!pair.servers[SECONDARY].serving);
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states().1, Standalone);
    pair.write();
    pair.resume(PRIMARY);
    assert_eq!(pair.states(), (Waiting, Standalone));
    pair.connect();
    assert_eq!(pair.states(), (Passive, Active));
    // And back again, from one new generation to the next.
    pair.pause(SECONDARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    pair.fire(PRIMARY, HaTimer::FenceWait);
    assert_eq!((pair.states().0, generation(&pair)), (Standalone, Epoch(3)));
    pair.check_nothing_is_lost();
}

#[test]
fn one_that_wakes_within_its_lease_finds_the_record_moved_on_before_the_other_serves() {
    let mut pair = Pair::formed();
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    pair.resume(PRIMARY);
    // Its shrink conflicts, or its check of the old lock does: it is out either way.
    assert_eq!(pair.states(), (Waiting, Waiting));
    assert!(!pair.servers[PRIMARY].serving);
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states(), (Waiting, Standalone));
}

#[test]
fn the_record_that_moved_on_ends_service_at_the_next_check_of_the_old_lock() {
    let mut pair = Pair::formed();
    let mut next = pair.record.clone().unwrap();
    (next.seq, next.epoch) = (next.seq.next(), next.epoch.next());
    (next.owner, next.generation) = (node(SECONDARY), next.epoch);
    next.isr = vec![pair.servers[SECONDARY].own.store];
    pair.record = Some(next);
    pair.check_lock(PRIMARY);
    assert!(!pair.servers[PRIMARY].serving);
    assert!(!pair.machine(PRIMARY).holds_lock());
}

#[test]
fn on_a_link_cut_the_active_shrinks_first_and_nothing_is_fenced() {
    let mut pair = Pair::formed();
    pair.cut();
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Waiting));
    assert_eq!(
        (pair.isr(), generation(&pair)),
        (vec![PRIMARY], Epoch::ZERO)
    );
}

#[test]
fn an_active_whose_shrink_comes_second_steps_down_and_never_confirms() {
    let mut pair = Pair::formed();
    pair.arbiter_fails = true;
    pair.cut();
    assert_eq!(pair.states(), (Active, Passive));
    pair.arbiter_fails = false;
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.isr(), [SECONDARY]);
    pair.write();
    assert!(pair.confirmed.is_empty(), "held back by the active");
    pair.fire(PRIMARY, HaTimer::Retry);
    assert_eq!(pair.states(), (Waiting, Waiting));
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states(), (Waiting, Standalone));
    assert!(pair.confirmed.is_empty());
}

#[test]
fn an_ended_channel_lets_the_lock_be_tried_at_once_but_fences_only_after_silence() {
    let mut pair = Pair::formed();
    pair.power_off(PRIMARY);
    let session = SessionId(1);
    let cause = LinkEnd::Ended;
    // As if the channel had been reset, by a firewall, say.
    pair.give(SECONDARY, HaInput::LinkDown { session, cause });
    assert_eq!(generation(&pair), Epoch::ZERO);
    assert_eq!(pair.states(), (Dead, Passive));
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(generation(&pair), Epoch(2));
}

#[test]
fn a_host_that_lost_its_power_is_waited_for_without_and_not_with_the_watchdogs_word() {
    for word in [false, true] {
        let mut pair = Pair::formed();
        pair.power_off(PRIMARY);
        assert_eq!(pair.states(), (Dead, Passive));
        if word {
            let (node, epoch) = (node(PRIMARY), Epoch(1));
            pair.give(SECONDARY, HaInput::PeerDied { node, epoch });
            assert_eq!(pair.states(), (Dead, Standalone), "no silence, no wait");
        } else {
            pair.fire(SECONDARY, HaTimer::PeerWait);
            assert_eq!(pair.states(), (Dead, Waiting));
            pair.fire(SECONDARY, HaTimer::FenceWait);
            assert_eq!(pair.states(), (Dead, Standalone));
        }
        assert_eq!(generation(&pair), Epoch(2));
    }
}

#[test]
fn the_watchdogs_word_ends_a_fence_wait_if_it_is_of_the_epoch_that_was_served() {
    let mut pair = Pair::formed();
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    let dead = |node, epoch| HaInput::PeerDied { node, epoch };
    pair.give(SECONDARY, dead(node(PRIMARY), Epoch(0)));
    pair.give(SECONDARY, dead(node(SECONDARY), Epoch(1)));
    assert_eq!(pair.states().1, Waiting, "another process, another server");
    pair.kill(PRIMARY);
    pair.give(SECONDARY, dead(node(PRIMARY), Epoch(1)));
    assert_eq!(pair.states(), (Dead, Standalone));
    let timers = &pair.servers[SECONDARY].timers;
    assert!(!timers.contains(&HaTimer::FenceWait));
}

#[test]
fn the_watchdogs_word_is_enough_while_the_channel_still_stands() {
    let mut pair = Pair::formed();
    let session = pair.link.take();
    pair.power_off(PRIMARY);
    assert_eq!(pair.machine(SECONDARY).peer().map(|it| it.session), session);
    let (node, epoch) = (node(PRIMARY), Epoch(1));
    pair.give(SECONDARY, HaInput::PeerDied { node, epoch });
    assert_eq!(pair.states(), (Dead, Standalone));
}

#[test]
fn one_that_ends_while_it_waits_for_the_old_holder_waits_anew_when_it_starts_again() {
    let mut pair = Pair::formed();
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    // The record names this server already, but it never served by it.
    assert_eq!(pair.record.as_ref().unwrap().epoch, Epoch(3));
    assert_eq!(pair.states().1, Waiting);
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states().1, Standalone);
    // Once it has, nobody else can be serving when it starts again.
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states().1, Standalone);
}

#[test]
fn by_lock_nothing_moves_while_a_stopped_active_has_it_and_the_reason_says_so() {
    let mut pair = Pair::new();
    pair.takeover = Takeover::Lock;
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect();
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states().1, Passive);
    assert_eq!(pair.isr(), [PRIMARY, SECONDARY]);
    let reason = pair.machine(SECONDARY).claims().reason.clone().unwrap();
    assert!(reason.contains("ha.lock.takeover is \"lock\""), "{reason}");
}

#[test]
fn one_that_is_cut_off_itself_fences_nobody() {
    let mut pair = Pair::formed();
    pair.give(SECONDARY, HaInput::GatewayUnreachable(true));
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!((pair.states().1, generation(&pair)), (Passive, Epoch::ZERO));
    pair.give(SECONDARY, HaInput::GatewayUnreachable(false));
    assert_eq!((pair.states().1, generation(&pair)), (Waiting, Epoch(2)));
}

#[test]
fn a_copy_that_is_not_in_sync_fences_nobody() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.pause(PRIMARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    let reason = pair.machine(SECONDARY).reason().unwrap().to_owned();
    assert!(reason.starts_with("not in sync"), "{reason}");
    assert_eq!(
        (pair.isr(), generation(&pair)),
        (vec![PRIMARY], Epoch::ZERO)
    );
}

#[test]
fn a_pair_that_waits_takes_over_from_a_strangers_lock_after_patience() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    pair.lock_holder = Some(SECONDARY + 1);
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect();
    assert_eq!(pair.states(), (Waiting, Waiting));
    pair.fire(PRIMARY, HaTimer::Patience);
    assert_eq!(pair.states(), (Active, Passive));
}

#[test]
fn what_is_said_over_a_channel_that_this_server_does_not_follow_on_proves_no_lease() {
    let pair = Pair::formed();
    assert!(pair.machine(PRIMARY).pings_extend_lease());
    let mut machine = pair.machine(PRIMARY).clone();
    let session = pair.link.unwrap();
    let own = pair.servers[PRIMARY].own;
    machine.step(own, HaInput::StopRequested, &mut Vec::new());
    assert!(machine.pings_extend_lease());
    let mut facts = pair.machine(PRIMARY).peer().unwrap().facts.clone();
    facts.state = Waiting;
    let waits = HaInput::PeerFacts { session, facts };
    machine.step(own, waits, &mut Vec::new());
    assert!(!machine.pings_extend_lease(), "it may be claiming by fence");
}

#[test]
fn one_that_was_fenced_while_it_drained_still_ends() {
    let mut pair = Pair::formed();
    let mut machine = pair.machine(PRIMARY).clone();
    let own = pair.servers[PRIMARY].own;
    machine.step(own, HaInput::StopRequested, &mut Vec::new());
    pair.pause(PRIMARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    let mut effects = Vec::new();
    let record = pair.record.clone();
    machine.step(
        own,
        HaInput::LockConfirmed {
            record: record.clone(),
        },
        &mut effects,
    );
    let closes = |effect: &HaEffect| matches!(effect, HaEffect::CloseClients { .. });
    assert!(effects.iter().any(closes), "{effects:?}");
    // A check that was under way when the lock was let go changes nothing.
    machine.step(own, HaInput::LockConfirmed { record }, &mut effects);
    machine.step(own, HaInput::LockReleased, &mut effects);
    assert_eq!(*machine.state(), HaState::Stopped);
    assert!(effects.contains(&HaEffect::Exit(ExitCause::Stopped)));
}
