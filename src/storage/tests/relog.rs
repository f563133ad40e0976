//! Stragglers: messages that are left in chunks of which nothing else is owed.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::*;
use crate::storage::check::{check, check_view};

use super::rig::*;
use super::{assert_same, catch_up, media};

pub(super) const SLACK: u64 = 400 << 10;

pub(super) fn open(medium: &Medium) -> Rig {
    Rig::open_with(medium, |config| {
        config.checkpoint_bytes = 100 << 10;
        config.retain_bytes = 200 << 10;
        config.slack_bytes = SLACK;
    })
}

fn body(number: u64, size: usize) -> Bytes {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(8.max(size), u8::try_from(number % 251).unwrap());
    Bytes::from(body)
}

/// Units of one PUT each, which fill chunks.
fn send(rig: &Rig, targets: &[u32], count: u64, size: usize) {
    let units = (0..count).map(|number| unit(0, vec![put(targets, body(number, size))]));
    rig.store.submit(units.collect());
    rig.flush();
}

pub(super) fn acknowledge(rig: &Rig, dest: u32, keep: impl Fn(usize) -> bool) {
    let owed = rig.owed(dest).into_iter().enumerate();
    let gone: Vec<u64> = owed
        .filter(|(place, _)| !keep(*place))
        .map(|(_, (lsn, _))| lsn)
        .collect();
    rig.store.submit(vec![unit(0, vec![ack(dest, &gone)])]);
    rig.flush();
}

pub(super) fn assert_sound(medium: &Medium) {
    let report = match medium {
        Medium::Memory(disk) => check_view(&disk.present().unwrap()).unwrap(),
        Medium::Inline(dir) | Medium::Threads(dir) => check(dir).unwrap(),
    };
    assert_eq!(report.findings, []);
}

/// Until no more is in use than may be.
pub(super) fn settle(rig: &Rig, most: u64) {
    for _ in 0..3000 {
        rig.idle();
        if rig.store.facts().bytes <= most {
            return;
        }
    }
    panic!(
        "{} bytes are in use, {most} may be",
        rig.store.facts().bytes
    );
}

fn live(rig: &Rig, dests: &[u32]) -> u64 {
    let mut bodies = BTreeMap::new();
    for dest in dests {
        bodies.extend(rig.owed(*dest));
    }
    bodies.values().map(|body| body.len() as u64).sum()
}

#[test]
fn one_message_of_a_hundred_is_left_and_the_log_shrinks() {
    let (_a, _b, media) = media();
    for medium in media {
        let mut rig = open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1)])]);
        send(&rig, &[1], 4000, 1000);
        acknowledge(&rig, 1, |place| place % 100 == 7);
        let left = rig.owed(1);
        assert_eq!(left.len(), 40);
        let marked = [Lsn(left[3].0), Lsn(left[30].0)];
        let counts = vec![(marked[1], 4)];
        rig.store.submit(vec![unit(
            0,
            vec![
                Draft::DeliveredEach {
                    dest: DestId(1),
                    lsns: marked.to_vec(),
                },
                Draft::Failed {
                    dest: DestId(1),
                    counts,
                },
            ],
        )]);
        settle(&rig, 2 * live(&rig, &[1]) + SLACK);
        for epoch in 2..4 {
            assert_eq!(rig.owed(1), left);
            let found = rig.ask(DestId(1), Seek::All { after: Lsn::ZERO }, 100, 1 << 20);
            let known = |entry: &&Entry| entry.marked || entry.failures > 0;
            let known = found.entries.iter().filter(known);
            let known: Vec<_> = known
                .map(|entry| (entry.lsn, entry.marked, entry.failures))
                .collect();
            assert_eq!(known, [(marked[0], true, 0), (marked[1], true, 4)]);
            rig.store.close();
            drop(rig);
            assert_sound(&medium);
            rig = open(&medium);
            rig.serve(epoch);
        }
        acknowledge(&rig, 1, |_| false);
        assert_eq!(rig.store.facts().messages, 0);
        settle(&rig, SLACK);
    }
}

#[test]
fn what_is_owed_to_many_is_not_moved_for_the_room_of_their_ids() {
    let rig = open(&memory(1));
    rig.serve(1);
    // Five bytes each in a record, and nearly all of it.
    let dests: Vec<u32> = (0..400).map(|id| u32::MAX - 1 - id).collect();
    let defined = dests.iter().map(|dest| define(*dest));
    rig.store.submit(vec![unit(0, defined.collect())]);
    send(&rig, &dests, 600, 8);
    let end = rig.end();
    for _ in 0..20 {
        rig.idle_once();
    }
    assert_eq!(rig.end(), end);
}

#[test]
fn what_was_moved_once_moves_again() {
    let rig = open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1), define(2)])]);
    send(&rig, &[1, 2], 6000, 400);
    let mut last = rig.end();
    for keep in [5, 25, 125, 625] {
        for dest in [1, 2] {
            let owed = rig.owed(dest);
            let left: Vec<_> = owed
                .iter()
                .filter(|(_, body)| u64::from_be_bytes(body[..8].try_into().unwrap()) % keep == 0)
                .cloned()
                .collect();
            let gone: Vec<u64> = owed
                .iter()
                .filter(|one| !left.contains(one))
                .map(|(lsn, _)| *lsn)
                .collect();
            rig.store.submit(vec![unit(0, vec![ack(dest, &gone)])]);
            rig.flush();
            assert_eq!(rig.owed(dest), left);
        }
        // So much that what was moved is no part of the retained log.
        send(&rig, &[2], 800, 400);
        let old = 6000usize.div_ceil(usize::try_from(keep).unwrap());
        acknowledge(&rig, 2, |place| place < old);
        settle(&rig, 2 * live(&rig, &[1, 2]) + SLACK);
        assert!(rig.end() > last, "nothing was moved");
        last = rig.end();
        assert_eq!(rig.owed(1).len(), old);
    }
}

#[test]
fn the_passive_appends_nothing_and_lets_go_what_the_active_moved() {
    let (active, passive) = (open(&memory(1)), open(&memory(2)));
    active.serve(1);
    active.store.submit(vec![unit(0, vec![define(1)])]);
    send(&active, &[1], 4000, 1000);
    passive.store.set_gate(GatePolicy::Following);
    catch_up(&active, &passive);
    acknowledge(&active, 1, |place| place % 50 == 0);
    catch_up(&active, &passive);
    let (end, most) = (passive.end(), 2 * live(&active, &[1]) + SLACK);
    passive.idle();
    assert_eq!(passive.end(), end);
    assert!(passive.store.facts().bytes > most);
    settle(&active, most);
    catch_up(&active, &passive);
    settle(&passive, most);
    assert_same(&active, &passive);
    // It takes over and goes on with what is left.
    passive.store.set_gate(GatePolicy::Closed);
    passive.serve(2);
    acknowledge(&passive, 1, |place| place % 8 == 0);
    assert_eq!(passive.owed(1).len(), 10);
    settle(&passive, 2 * live(&passive, &[1]) + SLACK);
}

#[test]
fn nothing_is_appended_to_an_epoch_that_another_server_began() {
    let (active, passive) = (open(&memory(1)), open(&memory(2)));
    active.serve(1);
    active.store.submit(vec![unit(0, vec![define(1)])]);
    send(&active, &[1], 4000, 1000);
    passive.store.set_gate(GatePolicy::Following);
    catch_up(&active, &passive);
    acknowledge(&active, 1, |place| place % 50 == 0);
    catch_up(&active, &passive);
    let (end, most) = (passive.end(), 2 * live(&active, &[1]) + SLACK);
    let waits = || {
        // A writer that nothing was asked of is idle before the job comes that begins the epoch.
        passive.store.set_gate(GatePolicy::Alone);
        passive.idle();
        assert_eq!(passive.end(), end);
        assert!(passive.store.facts().bytes > most);
    };
    waits();
    // An epoch that was not used is over when the server serves no more.
    passive.store.set_gate(GatePolicy::Closed);
    waits();
    passive.serve(2);
    settle(&passive, most);
    assert!(passive.end() > end, "nothing was moved");
    let facts = passive.store.log_facts();
    assert_eq!(
        facts.epochs.last().map(|epoch| epoch.start),
        Some(end.next())
    );
}

#[test]
fn an_epoch_of_this_server_is_over_with_its_service_and_with_its_process() {
    let medium = memory(1);
    let rig = open(&medium);
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1)])]);
    send(&rig, &[1], 4000, 1000);
    acknowledge(&rig, 1, |place| place % 50 == 0);
    let end = rig.end();
    for ended in [GatePolicy::Closed, GatePolicy::Following] {
        rig.store.set_gate(ended);
        rig.store.set_gate(GatePolicy::Alone);
        rig.idle();
        assert_eq!(rig.end(), end);
    }
    rig.store.close();
    drop(rig);
    let rig = open(&medium);
    rig.store.set_gate(GatePolicy::Alone);
    rig.idle();
    assert_eq!(rig.end(), end);
    rig.serve(2);
    settle(&rig, 2 * live(&rig, &[1]) + SLACK);
}

#[test]
fn nothing_is_appended_before_the_peer_holds_what_was() {
    let rig = open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1)])]);
    send(&rig, &[1], 16_000, 1000);
    acknowledge(&rig, 1, |place| place % 4 == 0);
    rig.store.set_gate(GatePolicy::WithPeer);
    rig.store.peer_holds(rig.end());
    let used = rig.store.facts().bytes;
    let before = rig.end();
    // The first portion waits for the peer, and with it everything else.
    for _ in 0..5 {
        rig.idle_once();
    }
    let first = rig.end();
    assert!(first > before);
    assert!(
        rig.store.facts().bytes >= used,
        "no chunk goes before both have it"
    );
    for _ in 0..200 {
        rig.store.peer_holds(rig.end());
        rig.idle_once();
    }
    assert!(rig.end() > first);
    assert!(rig.store.facts().bytes <= 2 * live(&rig, &[1]) + SLACK);
}

#[test]
fn readers_find_what_moves_while_they_read() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(&Medium::Threads(dir.path().to_path_buf()));
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1), define(2)])]);
    for round in 0..6 {
        send(&rig, &[1, 2], 1500, 900);
        acknowledge(&rig, 2, |_| false);
        acknowledge(&rig, 1, |place| place < round * 15 || place % 100 == 0);
        let owed = rig.owed(1);
        for _ in 0..20 {
            assert_eq!(rig.owed(1), owed);
        }
    }
    settle(&rig, 2 * live(&rig, &[1]) + SLACK);
}

#[derive(Clone, Debug)]
enum Churn {
    /// To these, so many of this size, each in a batch of its own or not.
    Send(Vec<u32>, u64, usize, bool),
    /// Of one, all but one in so many.
    Settle(u32, usize),
    Idle,
}

fn churn() -> impl Strategy<Value = Churn> {
    let targets = prop::collection::btree_set(1u32..4, 1..4);
    let targets = targets.prop_map(|some| some.into_iter().collect());
    prop_oneof![
        6 => (targets, 1u64..300, prop_oneof![9 => 100usize..3000, 1 => 3000usize..70_000], prop::bool::weighted(0.2))
            .prop_map(|(targets, count, size, alone)| {
                let count = count.min(600_000 / size as u64);
                Churn::Send(targets, count, size, alone)
            }),
        5 => (1u32..4, 1usize..30).prop_map(|(dest, keep)| Churn::Settle(dest, keep)),
        1 => Just(Churn::Idle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn after_any_churn_a_store_takes_twice_what_is_owed_and_the_slack(
        steps in prop::collection::vec(churn(), 1..40),
        lmdb in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let medium = if lmdb { Medium::Inline(dir.path().to_path_buf()) } else { memory(1) };
        let rig = open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, (1..4).map(define).collect())]);
        rig.flush();
        for step in steps {
            match step {
                Churn::Send(targets, count, size, false) => send(&rig, &targets, count, size),
                Churn::Send(targets, count, size, true) => {
                    for number in 0..count {
                        let message = body(number, size);
                        rig.store.submit(vec![unit(0, vec![put(&targets, message)])]);
                        rig.pump();
                    }
                }
                Churn::Settle(dest, keep) => acknowledge(&rig, dest, |place| place % keep == 0),
                Churn::Idle => rig.idle(),
            }
        }
        let owed: Vec<_> = (1..4).map(|dest| rig.owed(dest)).collect();
        settle(&rig, 2 * live(&rig, &[1, 2, 3]) + SLACK);
        for (dest, owed) in (1..4).zip(owed) {
            prop_assert_eq!(rig.owed(dest), owed);
        }
        rig.store.close();
        drop(rig);
        assert_sound(&medium);
    }
}
