//! What `explain` says and what the machine does are the same: each way is open in some situation and
//! leads where it says, each transition of random runs was an open way just before, and nothing that
//! happens by itself is left undone.

use super::pair::{PRIMARY, Pair, SECONDARY};
use super::random::{Random, act};
use crate::machines::ha::table::{inputs, own, states};
use crate::machines::ha::*;

/// The events that an input may be.
fn events(input: &HaInput) -> Vec<Event> {
    match input {
        HaInput::LinkUp { .. } => vec![Event::ChannelUp, Event::PeerSays, Event::ChannelDown],
        HaInput::LinkDown { .. } | HaInput::PeerGoodbye { .. } => vec![Event::ChannelDown],
        HaInput::PeerFacts { .. } => vec![Event::PeerSays, Event::ChannelDown],
        HaInput::PeerMismatch { .. } => vec![Event::PeerMismatched],
        HaInput::LockAcquired(_) => {
            vec![Event::LockObtained, Event::ClaimRefused, Event::RecordMoved]
        }
        HaInput::LockConfirmed { .. } => vec![Event::RecordMoved],
        HaInput::LockLost { .. } => vec![Event::LockLost],
        HaInput::ArbiterAnswered { .. } => vec![
            Event::RecordRead,
            Event::LockInVain,
            Event::RecordMade,
            Event::RecordChanged,
            Event::RecordTaken,
            Event::RecordMoved,
            Event::ClaimRefused,
            Event::PeerMismatched,
        ],
        HaInput::Persisted => vec![Event::RecordKept],
        HaInput::EpochBegun(_) => vec![Event::EpochOpened],
        HaInput::EpochRefused(_) => vec![Event::EpochRefused],
        HaInput::SyncDone { .. } => vec![Event::CopyWhole],
        HaInput::PeerHoldsAll { .. } => vec![Event::PeerHoldsAll],
        HaInput::InSync { .. } => vec![Event::NamedInSync],
        HaInput::SyncFailed { .. } | HaInput::Timer(HaTimer::MaxWait) => vec![Event::ResyncFails],
        HaInput::AckOverdue { .. } => vec![Event::PeerTooSlow],
        HaInput::LeaseExpired => vec![Event::LeaseOver],
        HaInput::PeerDied { .. } => vec![Event::ChannelDown, Event::FenceOver],
        HaInput::Timer(HaTimer::FenceWait) => vec![Event::FenceOver],
        HaInput::Timer(HaTimer::Drain) | HaInput::ClientsDrained => vec![Event::ClientsGone],
        HaInput::Timer(HaTimer::ReEntry) => vec![Event::PeerSays],
        HaInput::StopRequested => vec![Event::StopAsked],
        HaInput::LockReleased => vec![Event::LockLetGo],
        // Only an override is given up by these at once.
        HaInput::LockRefused { .. }
        | HaInput::LockUnreachable { .. }
        | HaInput::PromotionRefused { .. } => vec![Event::ClaimRefused],
        HaInput::SwitchoverRequested => vec![Event::SwitchoverAsked],
        HaInput::PromoteRequested { .. } => vec![Event::PromotionAsked],
        HaInput::Started
        | HaInput::GatewayUnreachable(_)
        | HaInput::SyncProgress { .. }
        | HaInput::StoreAnswered { .. }
        | HaInput::Timer(HaTimer::PeerWait | HaTimer::Patience | HaTimer::Retry) => Vec::new(),
    }
}

/// The machine with what an input tells, before it acts on it: the guards are judged on this.
fn told(machine: &HaMachine, now: OwnStore, input: &HaInput) -> HaMachine {
    let mut machine = machine.clone();
    machine.own = now;
    match input {
        HaInput::LinkUp { session, hello } => {
            machine.peer = Some(Peer {
                session: *session,
                node: hello.node,
                primary: hello.primary,
                name: hello.name.clone(),
                facts: hello.facts.clone(),
            });
            (machine.patience_over, machine.peer_wait_over) = (false, false);
        }
        HaInput::LinkDown { session, cause } if machine.session() == Some(*session) => {
            machine.peer = None;
            machine.peer_wait_over = *cause == LinkEnd::Ended;
        }
        HaInput::PeerGoodbye { session, .. } if machine.session() == Some(*session) => {
            machine.peer = None;
            machine.peer_wait_over = true;
        }
        HaInput::PeerFacts { session, facts } => {
            if let Some(peer) = machine.peer.as_mut().filter(|it| it.session == *session) {
                peer.facts = facts.clone();
            }
        }
        HaInput::LockAcquired(held) => {
            machine.arbiter = ArbiterView::Read {
                record: held.record.clone(),
                lock: Some(held.lock.clone()),
            };
        }
        HaInput::ArbiterAnswered { id, answer }
            if machine
                .call
                .as_ref()
                .is_some_and(|(awaited, _)| awaited == id) =>
        {
            machine.call = None;
            machine.saw(answer);
        }
        HaInput::PeerDied { node, epoch } => {
            machine.peer_died = Some((*node, *epoch));
            let served = machine
                .record()
                .is_some_and(|record| machine.has_ended(record));
            machine.peer_wait_over |= machine.peer.is_none() && served;
        }
        HaInput::Timer(HaTimer::PeerWait) => {
            machine.peer_wait_over = true;
            machine.silent = true;
        }
        HaInput::Timer(HaTimer::Patience) => machine.patience_over = true,
        HaInput::Timer(HaTimer::Retry) => machine.resting = false,
        HaInput::Timer(HaTimer::ReEntry) => machine.reentry_barred = false,
        _ => {}
    }
    machine
}

/// Where a way may have led after one input, other ways that opened at once among it.
fn reached(to: &str, after: &HaState) -> bool {
    let claims = matches!(after, HaState::Waiting(claim) if *claim != Claim::Idle);
    match to {
        "WAITING" => matches!(
            after,
            HaState::Waiting(Claim::Idle | Claim::Reading) | HaState::PassiveSync { .. }
        ),
        "STANDALONE" => {
            claims
                || matches!(
                    after,
                    HaState::Standalone | HaState::ActiveSync { .. } | HaState::Shrinking { .. }
                )
        }
        "ACTIVE" => matches!(after, HaState::Active { .. } | HaState::ActiveSync { .. }),
        "stopped" => matches!(
            after,
            HaState::Draining(_) | HaState::Releasing(_) | HaState::Stopped
        ),
        other => after.place() == other,
    }
}

fn brief(explanation: &Explanation) -> Vec<String> {
    let brief = |way: &Way| {
        let shut: Vec<&str> = way
            .guards
            .iter()
            .filter(|it| it.truth != Truth::Holds)
            .map(|it| it.guard)
            .collect();
        format!("{:?} to {}, shut by {shut:?}", way.event, way.to)
    };
    explanation.ways.iter().map(brief).collect()
}

/// A step that changed the state went a way that was explained, and open.
fn was_explained(before: &HaMachine, now: OwnStore, input: &HaInput, after: &HaMachine) {
    if before.state == after.state || *input == HaInput::Started {
        return;
    }
    let here = told(before, now, input);
    let explanation = here.explain();
    let events = events(input);
    // A copy that it begins to receive, and its first batches, are no change of place.
    if before.state.place() == after.state.place() && !matches!(input, HaInput::LinkUp { .. }) {
        return;
    }
    let found = explanation.ways.iter().any(|way| {
        (way.event == Event::ByItself || events.contains(&way.event))
            && way.is_open()
            && reached(way.to, &after.state)
    });
    assert!(
        found,
        "from {} to {} by {input:?} was no open way of {:#?}",
        before.state.place(),
        after.state.place(),
        brief(&explanation)
    );
}

/// What needs no event has happened.
fn nothing_is_left_undone(machine: &HaMachine) {
    let explanation = machine.explain();
    let left = explanation
        .ways
        .iter()
        .find(|way| way.event == Event::ByItself && way.is_open());
    assert_eq!(left, None, "{machine:#?}");
}

/// Ways that open when the peer says where it is are taken when it says so once more.
fn what_the_peer_opens_is_taken(machine: &HaMachine, now: OwnStore) {
    let Some(peer) = &machine.peer else { return };
    for way in machine.explain().ways {
        if way.event == Event::PeerSays && way.is_open() {
            let mut after = machine.clone();
            let facts = peer.facts.clone();
            let session = peer.session;
            after.step(now, HaInput::PeerFacts { session, facts }, &mut Vec::new());
            assert!(reached(way.to, &after.state), "{way:#?} {machine:#?}");
        }
    }
}

fn watch(before: &HaMachine, now: OwnStore, input: &HaInput, after: &HaMachine) {
    was_explained(before, now, input, after);
    nothing_is_left_undone(after);
    what_the_peer_opens_is_taken(after, now);
}

#[test]
fn whatever_a_pair_does_under_random_faults_was_explained_before() {
    for seed in 1..=300 {
        let mut random = Random::new(seed);
        let mut pair = if seed % 2 == 0 {
            Pair::new()
        } else {
            Pair::formed()
        };
        pair.watch = Some(watch);
        for _ in 0..60 {
            act(&mut pair, &mut random);
        }
    }
}

#[test]
fn each_state_has_a_way_out_and_each_input_that_changes_it_is_a_way() {
    for (title, machine) in states() {
        let explanation = machine.explain();
        assert!(!explanation.ways.is_empty(), "{title}");
        assert_eq!(explanation.state, machine.shown(), "{title}");
        for (_, input) in inputs::of(&machine) {
            let mut after = machine.clone();
            after.step(own(), input.clone(), &mut Vec::new());
            was_explained(&machine, own(), &input, &after);
        }
    }
}

#[test]
fn an_open_way_is_taken_when_its_event_comes() {
    let mut taken = std::collections::BTreeSet::new();
    for (title, machine) in states() {
        for way in machine.explain().ways {
            // A refusal is a claim that was judged otherwise.
            if !way.is_open() || matches!(way.event, Event::ByItself | Event::ClaimRefused) {
                continue;
            }
            // After an attempt in vain the record is looked at once more, which is a state of its own.
            let looks = matches!(machine.call, Some((_, CallPurpose::LookToFence)));
            if way.event == Event::LockInVain && !looks {
                continue;
            }
            let led = inputs::of(&machine).into_iter().any(|(_, input)| {
                let opens = told(&machine, own(), &input)
                    .explain()
                    .ways
                    .iter()
                    .any(|it| it.event == way.event && it.to == way.to && it.is_open());
                let mut after = machine.clone();
                let event = events(&input).contains(&way.event);
                after.step(own(), input, &mut Vec::new());
                event && opens && reached(way.to, &after.state)
            });
            assert!(led, "{title}: {way:#?}");
            taken.insert((machine.state.place(), way.event));
        }
    }
    assert!(taken.len() > 60, "{}: {taken:?}", taken.len());
}

#[test]
fn a_stale_copy_says_why_it_may_not_serve_and_what_to_do() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.write();
    pair.kill(PRIMARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    let explanation = pair.machine(SECONDARY).explain();
    assert_eq!(explanation.place, "WAITING");
    let trouble = explanation.trouble.as_deref().unwrap_or_default();
    assert!(
        trouble.starts_with("not in sync since epoch 1"),
        "{trouble}"
    );
    let way = &explanation.ways[0];
    assert_eq!((way.to, way.event), ("STANDALONE", Event::ByItself));
    let copy = &way.ahead[0];
    assert_eq!(copy.truth, Truth::Fails);
    assert!(
        copy.facts.iter().any(|fact| fact.text
            == "record 4 (epoch 1, served by the other server) names only a copy that is not this server's"),
        "{copy:#?}"
    );
    assert!(
        copy.advice
            .as_deref()
            .is_some_and(|it| it.contains("twinmq run -p {other}"))
    );
}

#[test]
fn a_refused_lock_names_its_holder() {
    let mut pair = Pair::new();
    pair.takeover = Takeover::Lock;
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect();
    pair.check_lock(PRIMARY);
    // Stopped, not dead: its lock and the record stay as they are.
    let stopped = pair.servers[PRIMARY].machine.take();
    let session = pair.link.take().expect("they were linked");
    let cause = LinkEnd::Silent;
    pair.give(SECONDARY, HaInput::LinkDown { session, cause });
    pair.fire(SECONDARY, HaTimer::PeerWait);
    drop(stopped);
    let explanation = pair.machine(SECONDARY).explain();
    assert_eq!(explanation.place, "PASSIVE (no channel)");
    let way = &explanation.ways[0];
    assert_eq!((way.to, way.event), ("STANDALONE", Event::LockObtained));
    assert!(way.is_open());
    let lock = way.ahead.last().expect("the lock is ahead");
    assert_eq!(lock.truth, Truth::Fails);
    assert!(
        lock.facts[0]
            .text
            .starts_with("the lock is held by server 0101"),
        "{lock:?}"
    );
    assert!(lock.advice.is_some());
}
