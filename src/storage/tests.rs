//! The store as a whole, on both media.

mod deep;
mod directory;
mod door;
mod faults;
mod pair;
mod properties;
mod reference;
mod relog;
mod relog_parts;
mod resync;
mod rig;

use bytes::Bytes;

use crate::proto::ids::{DestId, Epoch, Lsn};
use crate::proto::record::{BatchWriter, Record};

use super::api::*;
use rig::*;

fn media() -> (tempfile::TempDir, tempfile::TempDir, Vec<Medium>) {
    let (inline, threads) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let media = vec![
        memory(1),
        Medium::Inline(inline.path().to_path_buf()),
        Medium::Threads(threads.path().to_path_buf()),
    ];
    (inline, threads, media)
}

#[test]
fn what_is_submitted_is_cut_durable_committed_in_this_order_and_found_again() {
    let (_a, _b, media) = media();
    for medium in media {
        let rig = Rig::open(&medium);
        rig.serve(1);
        rig.probe.take();
        rig.store.submit(vec![
            unit(7, vec![define(1), define(2)]),
            unit(8, vec![put(&[1, 2], "both"), put(&[2], "second")]),
            unit(0, vec![put(&[1], "third"), put(&[9], "nobody's")]),
        ]);
        rig.flush();
        let events = rig.probe.take();
        let names: Vec<_> = events
            .iter()
            .map(|event| match event {
                StoreEvent::Cut(batch) => format!("cut {}-{}", batch.first, batch.last),
                StoreEvent::Durable(at) => format!("durable {}", at.lsn),
                StoreEvent::Committed(committed) => format!("committed {}", committed.upto),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["cut 2-7", "durable 7", "committed 7"]);
        let Some(StoreEvent::Committed(committed)) = events.last() else {
            unreachable!("seen above");
        };
        assert_eq!(committed.tickets, [Ticket(7), Ticket(8)]);
        let ready: Vec<_> = committed
            .changes
            .iter()
            .map(|(dest, change)| {
                (
                    dest.0,
                    change.entries.iter().map(|e| e.lsn.0).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(ready, [(1, vec![4, 6]), (2, vec![4, 5])]);
        rig.store.submit(vec![unit(9, vec![ack(2, &[4])])]);
        rig.flush();
        let expected = |rig: &Rig| {
            assert_eq!(
                rig.owed(1),
                [(4, Bytes::from("both")), (6, Bytes::from("third"))]
            );
            assert_eq!(rig.owed(2), [(5, Bytes::from("second"))]);
            assert_eq!(rig.store.facts().messages, 3);
            let facts = rig.store.destinations();
            assert_eq!(facts.len(), 2);
            assert_eq!(
                facts[1],
                DestinationFacts {
                    id: DestId(2),
                    definition: Bytes::from("qqueue2"),
                    lanes: vec![LaneFacts {
                        lane: Lane::DEFAULT,
                        depth: 1,
                        tail: Lsn(5),
                        mark: Lsn::ZERO,
                    }],
                    tail: Lsn(5),
                    // Of the ten of "both" and "second", the average is left.
                    bytes: 5,
                    next_due_ms: None,
                    next_expiry_ms: None,
                }
            );
        };
        expected(&rig);
        let before = rig.store.log_facts();
        rig.store.close();
        drop(rig);
        let rig = Rig::open(&medium);
        assert_eq!(rig.store.log_facts(), before);
        expected(&rig);
        assert_eq!(rig.store.set_gate(GatePolicy::Alone), Lsn(8));
    }
}

/// Two transactions may both send to a queue that neither knows to be defined.
#[test]
fn a_destination_that_is_defined_again_keeps_what_it_owes() {
    let (_a, _b, media) = media();
    for medium in media {
        let rig = Rig::open(&medium);
        rig.serve(1);
        rig.store.submit(vec![
            unit(1, vec![define(1), put(&[1], "a")]),
            unit(2, vec![define(1), put(&[1], "b")]),
        ]);
        rig.flush();
        let owed = [(3, Bytes::from("a")), (5, Bytes::from("b"))];
        assert_eq!(rig.owed(1), owed);
        rig.store.close();
        drop(rig);
        let rig = Rig::open(&medium);
        rig.store.set_gate(GatePolicy::Alone);
        assert_eq!(rig.owed(1), owed);
        assert_eq!(rig.store.destinations().len(), 1);
    }
}

#[test]
fn a_unit_over_the_bounds_of_a_batch_is_one_batch_all_the_same() {
    let rig = Rig::open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    rig.flush();
    rig.probe.take();
    let body = Bytes::from(vec![b'x'; 800]);
    let puts = (0..10_000).map(|_| put(&[1], body.clone())).collect();
    rig.store.submit(vec![
        unit(2, vec![put(&[1], "before")]),
        unit(3, puts),
        unit(4, vec![put(&[1], "after")]),
    ]);
    rig.flush();
    let events = rig.probe.take();
    let cuts: Vec<(Lsn, Lsn)> = events
        .iter()
        .filter_map(|event| match event {
            StoreEvent::Cut(batch) => Some((batch.first, batch.last)),
            _ => None,
        })
        .collect();
    let whole = cuts
        .iter()
        .any(|(first, last)| *first <= Lsn(4) && Lsn(10_003) <= *last);
    assert!(whole, "it is torn: {cuts:?}");
}

#[test]
fn nothing_is_committed_before_the_peer_holds_it() {
    let rig = Rig::open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    rig.flush();
    assert_eq!(rig.store.set_gate(GatePolicy::WithPeer), Lsn(2));
    rig.probe.take();
    rig.store.submit(vec![unit(2, vec![put(&[1], "a")])]);
    rig.flush();
    rig.store.submit(vec![unit(3, vec![put(&[1], "b")])]);
    rig.flush();
    let committed = |rig: &Rig| -> Vec<Vec<Ticket>> {
        rig.probe
            .take()
            .into_iter()
            .filter_map(|event| match event {
                StoreEvent::Committed(committed) => Some(committed.tickets),
                _ => None,
            })
            .collect()
    };
    assert!(committed(&rig).is_empty());
    assert_eq!(rig.store.facts().messages, 0);
    rig.store.peer_holds(Lsn(3));
    assert_eq!(committed(&rig), [[Ticket(2)]]);
    assert_eq!(rig.store.committed(), Lsn(3));
    // An older answer that comes late moves nothing back.
    rig.store.peer_holds(Lsn(1));
    assert_eq!(rig.store.committed(), Lsn(3));
    // Alone again: what waited for the peer is committed, to those that deliver.
    assert_eq!(rig.store.set_gate(GatePolicy::Alone), Lsn(4));
    let events = rig.probe.take();
    assert!(matches!(
        &events[..],
        [StoreEvent::Committed(Committed { changes, .. })] if changes.len() == 1
    ));
    // A new peer holds nothing until it says so.
    rig.store.set_gate(GatePolicy::WithPeer);
    rig.store.submit(vec![unit(4, vec![put(&[1], "c")])]);
    rig.flush();
    assert_eq!(rig.store.committed(), Lsn(4));
    assert_eq!(
        rig.job(Job::BeginEpoch(Epoch(1))),
        Err(JobRefusal::NotNow(
            "the log knows this epoch or a later one"
        ))
    );
}

/// Everything of `from` after `to`'s end goes to `to`, as the Replicator does it.
fn catch_up(from: &Rig, to: &Rig) {
    let mut after = to.end();
    loop {
        let batches = from.read_log(after, 10_000);
        let Some(last) = batches.last() else {
            break;
        };
        after = last.last;
        for batch in batches {
            to.store.append(batch);
        }
    }
    to.flush();
    to.store.peer_holds(from.store.committed());
}

fn assert_same(one: &Rig, other: &Rig) {
    assert_eq!(one.store.destinations(), other.store.destinations());
    assert_eq!(one.store.facts().messages, other.store.facts().messages);
    for facts in one.store.destinations() {
        assert_eq!(one.owed(facts.id.0), other.owed(facts.id.0));
    }
    let (one, other) = (one.store.log_facts(), other.store.log_facts());
    assert_eq!(
        (one.durable, one.chain, one.epochs),
        (other.durable, other.chain, other.epochs)
    );
}

#[test]
fn a_follower_becomes_what_the_active_is_and_takes_over() {
    let (_a, _b, media) = media();
    for medium in media {
        let active = Rig::open(&memory(9));
        active.serve(1);
        let passive = Rig::open(&medium);
        passive.store.set_gate(GatePolicy::Following);
        active.store.submit(vec![unit(1, vec![define(1)])]);
        active.flush();
        for round in 0..20u64 {
            let text = Bytes::from(vec![b'x'; 5000]);
            let records = (0..30).map(|_| put(&[1], text.clone())).collect();
            active.store.submit(vec![unit(round, records)]);
            active.flush();
        }
        active.store.submit(vec![unit(1, vec![ack(1, &[3, 4, 5])])]);
        active.flush();
        catch_up(&active, &passive);
        assert_same(&active, &passive);
        // Nothing that is not committed on the active is in the passive's index.
        active.store.set_gate(GatePolicy::WithPeer);
        active.store.submit(vec![unit(99, vec![put(&[1], "late")])]);
        active.flush();
        catch_up(&active, &passive);
        assert_eq!(passive.store.facts().messages, 597);
        assert_eq!(passive.end(), active.end());
        assert_eq!(passive.store.set_gate(GatePolicy::Alone), active.end());
        assert_eq!(passive.store.facts().messages, 598);
        passive.serve(2);
        assert_eq!(
            passive.store.log_facts().epochs,
            [
                EpochStart {
                    epoch: Epoch(1),
                    start: Lsn(1)
                },
                EpochStart {
                    epoch: Epoch(2),
                    start: active.end().next()
                }
            ]
        );
    }
}

#[test]
fn batches_that_do_not_follow_change_nothing() {
    let active = Rig::open(&memory(1));
    active.serve(1);
    for _ in 0..3 {
        active.store.submit(vec![unit(0, vec![define(1)])]);
        active.flush();
    }
    let batches = active.read_log(Lsn::ZERO, 1 << 20);
    assert_eq!(batches.len(), 4);
    let passive = Rig::open(&memory(2));
    passive.store.set_gate(GatePolicy::Following);
    let refused = |batch: Batch, why: &str| {
        let before = passive.store.log_facts();
        passive.store.append(batch);
        passive.pump();
        let text = passive.probe.wait(|event| match event {
            StoreEvent::Failed(error) if !error.is_fatal() => Some(error.to_string()),
            _ => None,
        });
        assert!(text.contains(why), "{text}");
        assert_eq!(passive.store.log_facts(), before);
    };
    refused(batches[1].clone(), "the log ends at 0");
    passive.store.append(batches[0].clone());
    passive.store.append(batches[1].clone());
    passive.flush();
    refused(batches[1].clone(), "it goes on at 2");
    refused(batches[3].clone(), "it goes on at 4");
    let mut damaged = batches[2].clone();
    let mut bytes = damaged.chunks[0].to_vec();
    bytes[60] ^= 1;
    damaged.chunks[0] = Bytes::from(bytes);
    refused(damaged, "checksum");
    let mut short = batches[2].clone();
    short.last = Lsn(9);
    refused(short, "not whole");
    let other = Rig::open(&memory(3));
    other.serve(1);
    other.store.submit(vec![unit(0, vec![define(7)])]);
    other.store.submit(vec![unit(0, vec![define(8)])]);
    other.flush();
    refused(other.read_log(Lsn(1), 1)[0].clone(), "it goes on at 2");
    let forged = |epoch: u64, record: Record<'_>| {
        let chain = passive.store.log_facts().chain;
        let mut writer = BatchWriter::new(Epoch(epoch), Lsn(3), chain, 100);
        writer.push(&record);
        writer.finish().unwrap().0
    };
    let delivered = Record::Delivered {
        dest: DestId(1),
        lane: Lane::DEFAULT,
        ahead: 1,
    };
    refused(forged(0, delivered), "it is of epoch 0");
    refused(forged(2, delivered), "epoch 2 does not begin");
    refused(forged(2, Record::Epoch(Epoch(3))), "epoch 2 does not begin");
    refused(forged(1, Record::Epoch(Epoch(1))), "epoch 1 does not begin");
    passive.store.append(batches[2].clone());
    passive.flush();
    assert_eq!(passive.end(), Lsn(3));
    passive.store.set_gate(GatePolicy::Alone);
    refused(batches[3].clone(), "serves");
}

#[test]
fn many_threads_get_every_ticket_once_and_commits_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open_with(&Medium::Threads(dir.path().to_path_buf()), |config| {
        config.checkpoint_bytes = 200_000;
        config.retain_bytes = 200_000;
    });
    rig.serve(1);
    rig.store
        .submit(vec![unit(0, (1..5).map(define).collect())]);
    rig.flush();
    rig.store.set_gate(GatePolicy::WithPeer);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| {
            // The peer's answers come from another thread, sometimes ahead of this disk.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let end = rig.store.log_facts().durable.lsn;
                rig.store.peer_holds(Lsn(end.0 + 50));
                std::thread::yield_now();
            }
        });
        let senders: Vec<_> = (0..4u64)
            .map(|sender| {
                let store = &rig.store;
                scope.spawn(move || {
                    for number in 0..250u64 {
                        let dest = u32::try_from(1 + number % 4).unwrap();
                        store.submit(vec![unit(
                            1 + sender * 1000 + number,
                            vec![put(&[dest], vec![1; 700])],
                        )]);
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        rig.flush();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        peer.join().unwrap();
    });
    rig.store.peer_holds(rig.end());
    rig.flush();
    let (mut upto, mut tickets, mut ready) = (Lsn::ZERO, Vec::new(), Vec::new());
    for event in rig.probe.take() {
        match event {
            StoreEvent::Committed(committed) => {
                assert!(committed.upto > upto, "commits out of order");
                upto = committed.upto;
                tickets.extend(committed.tickets);
                for (_, change) in committed.changes {
                    let entries = change.entries;
                    assert!(entries.is_sorted_by_key(|entry| entry.lsn));
                    ready.extend(entries.into_iter().map(|entry| entry.lsn));
                }
            }
            StoreEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    assert_eq!(upto, rig.end());
    // Each sender's in its own order, each once.
    for sender in 0..4 {
        let own = |ticket: &&Ticket| ticket.0 > sender * 1000 && ticket.0 <= sender * 1000 + 1000;
        let seen: Vec<u64> = tickets.iter().filter(own).map(|ticket| ticket.0).collect();
        let sent: Vec<u64> = (1..=250).map(|number| sender * 1000 + number).collect();
        assert_eq!(seen, sent);
    }
    ready.sort_unstable();
    ready.dedup();
    assert_eq!(ready.len(), 1000);
    assert_eq!(rig.store.facts().messages, 1000);
    let last = rig.end();
    // An orderly close does what is queued.
    rig.store.submit(vec![unit(0, vec![put(&[1], "last")])]);
    rig.store.close();
    assert_eq!(rig.end(), last.next());
}
