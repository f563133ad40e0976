//! Media that fail, lie or are full.

use bytes::Bytes;
use proptest::prelude::*;

use crate::proto::ids::{DestId, Lsn, NodeId};
use crate::storage::api::*;
use crate::storage::backend::{Backend as _, Space, Table, Write};
use crate::storage::check::check_view;
use crate::storage::error::StoreError;
use crate::storage::memory::MemoryDisk;
use crate::storage::meta;
use crate::storage::snapshot::{decode_items, decode_piece};

use super::rig::*;

fn disk(medium: &Medium) -> &crate::storage::memory::MemoryDisk {
    match medium {
        Medium::Memory(disk) => disk,
        Medium::Inline(_) | Medium::Threads(_) => panic!("in memory only"),
    }
}

#[test]
fn after_a_failed_commit_nothing_is_confirmed_any_more() {
    // The last two: the flush fails, and the commit after it.
    for good in 0..6 {
        let medium = memory(1);
        let rig = Rig::open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1)])]);
        rig.flush();
        rig.probe.take();
        disk(&medium).fail_commits_after(good);
        for ticket in 1..=4 {
            rig.store.submit(vec![unit(ticket, vec![put(&[1], "x")])]);
            rig.pump_one();
        }
        rig.pump();
        rig.store.submit(vec![unit(9, vec![put(&[1], "late")])]);
        rig.store.set_gate(GatePolicy::WithPeer);
        rig.store.set_gate(GatePolicy::Alone);
        rig.pump();
        let events = rig.probe.take();
        let failed = events
            .iter()
            .position(|event| matches!(event, StoreEvent::Failed(_)));
        let failed = failed.expect("a commit failed");
        assert_eq!(failed, events.len() - 1, "{events:?}");
        let confirmed: u64 = events
            .iter()
            .map(|event| match event {
                StoreEvent::Committed(committed) => committed.tickets.len() as u64,
                _ => 0,
            })
            .sum();
        // A commit is confirmed by the one after it.
        assert_eq!(confirmed, u64::from(good.saturating_sub(1).min(4)));
        drop(rig);
        disk(&medium).lose_unflushed();
        disk(&medium).fail_commits_after(u32::MAX);
        let rig = Rig::open(&medium);
        assert!(rig.end().0 >= 2 + confirmed);
    }
}

#[test]
fn a_disk_that_lies_loses_what_it_said_it_had_flushed() {
    for (lies, kept) in [(false, 3), (true, 1)] {
        let medium = memory(1);
        let rig = Rig::open(&medium);
        rig.serve(1);
        let first = vec![define(1), put(&[1], "before")];
        rig.store.submit(vec![unit(1, first)]);
        rig.flush();
        if lies {
            disk(&medium).lie();
        }
        for ticket in 2..4 {
            rig.store
                .submit(vec![unit(ticket, vec![put(&[1], "after")])]);
            rig.flush();
        }
        drop(rig);
        disk(&medium).lose_unflushed();
        let rig = Rig::open(&medium);
        rig.store.set_gate(GatePolicy::Alone);
        assert_eq!(rig.owed(1).len(), kept);
    }
}

#[test]
fn a_disk_that_is_put_back_holds_what_it_held_and_never_gives_a_store_id_twice() {
    let medium = memory(1);
    let send = |text: &str| {
        let rig = Rig::open(&medium);
        let epoch = rig.store.log_facts().durable.epoch.0;
        rig.serve(epoch + 1);
        rig.store
            .submit(vec![unit(1, vec![define(1), put(&[1], text.to_owned())])]);
        rig.flush();
        let owed: Vec<_> = rig.owed(1).into_iter().map(|(_, text)| text).collect();
        (owed, rig.store.log_facts().store)
    };
    let (_, store) = send("kept");
    let earlier = disk(&medium).copy();
    send("gone");
    disk(&medium).revert_to(&earlier);
    assert_eq!(
        send("new"),
        (vec!["kept".into(), "new".into()], store),
        "it is the same store"
    );
    disk(&medium).wipe();
    let (_, second) = send("other");
    disk(&medium).revert_to(&earlier);
    disk(&medium).wipe();
    let (_, third) = send("another");
    assert!(store != second && second != third && third != store);
}

#[test]
fn sends_are_refused_on_a_full_disk_and_taken_again_when_there_is_room() {
    let medium = memory(1);
    let rig = Rig::open_with(&medium, |config| config.quota_bytes = 1 << 40);
    assert!(!rig.store.facts().refuses_sends);
    for (free, total, refuses) in [
        (63u64 << 20, 1 << 30, true),
        (65 << 20, 1 << 30, false),
        (199 << 20, 10_000 << 20, true),
        (201 << 20, 10_000 << 20, false),
    ] {
        disk(&medium).set_space(Space { free, total });
        rig.flush();
        assert_eq!(rig.store.facts().refuses_sends, refuses);
        assert_eq!(rig.store.facts().disk_free, free);
    }
    drop(rig);
    let rig = Rig::open_with(&medium, |config| config.quota_bytes = 64 << 20);
    assert!(rig.store.facts().refuses_sends);
    rig.serve(1);
    rig.store
        .submit(vec![unit(1, vec![define(1), put(&[1], "all the same")])]);
    rig.flush();
    assert_eq!(rig.owed(1).len(), 1);
}

#[test]
fn a_store_that_was_full_takes_sends_again_once_its_messages_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let medium = Medium::Inline(folder.path().to_owned());
    let rig = Rig::open_with(&medium, |config| {
        config.quota_bytes = 128 << 20;
        config.retain_bytes = 1 << 20;
    });
    rig.serve(1);
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    let body = "x".repeat(1 << 20);
    let mut sent = 0;
    while rig.store.facts().level < RoomLevel::Blocks {
        rig.store
            .submit(vec![unit(1, vec![put(&[1], body.clone())])]);
        rig.flush();
        sent += 1;
        assert!(sent < 100, "{:?}", rig.store.facts());
    }
    let lsns = rig.owed(1).into_iter().map(|(lsn, _)| Lsn(lsn)).collect();
    let dest = crate::proto::ids::DestId(1);
    rig.store
        .submit(vec![unit(1, vec![Draft::Ack { dest, lsns }])]);
    rig.flush();
    // Little more is written, as where senders wait: it looks again.
    let little = "x".repeat(300 << 10);
    rig.store.submit(vec![unit(1, vec![put(&[1], little)])]);
    rig.flush();
    let facts = rig.store.facts();
    assert_eq!(facts.level, RoomLevel::Enough, "{facts:?}");
    assert_eq!(rig.owed(1).len(), 1);
}

#[test]
fn a_damaged_chunk_is_found_by_the_check_and_refused_by_reading() {
    let medium = memory(1);
    let rig = Rig::open_with(&medium, |config| config.checkpoint_bytes = 1);
    rig.serve(1);
    rig.store
        .submit(vec![unit(1, vec![define(1), put(&[1], "abc")])]);
    rig.flush();
    rig.store.submit(vec![unit(1, vec![put(&[1], "def")])]);
    rig.flush();
    assert!(disk(&medium).damage(Lsn(2), 70));
    let report = check_view(&disk(&medium).present().unwrap()).unwrap();
    let places: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.table, finding.key.as_str()))
        .collect();
    assert!(places.contains(&("log", "2")), "{:?}", report.findings);
    assert!(report.findings[0].what.contains("checksum"));
    rig.store
        .fetch(DestId(1), 0, Seek::All { after: Lsn::ZERO }, 10, 1000);
    rig.pump();
    let text = rig.probe.wait(|event| match event {
        StoreEvent::Failed(error @ StoreError::Damaged { .. }) => Some(error.to_string()),
        _ => None,
    });
    assert!(text.contains("log 2"), "{text}");
}

#[test]
fn units_of_a_server_that_follows_are_dropped() {
    let rig = Rig::open(&memory(1));
    rig.serve(1);
    rig.store.set_gate(GatePolicy::Following);
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    rig.flush();
    assert_eq!(rig.end(), Lsn(1));
}

#[test]
fn large_bursts_are_cut_into_batches_of_whole_units() {
    let rig = Rig::open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1)])]);
    let body = Bytes::from(vec![1; 1 << 20]);
    let units = (1..=10)
        .map(|ticket| {
            unit(
                ticket,
                vec![put(&[1], body.clone()), put(&[1], body.clone())],
            )
        })
        .collect();
    rig.store.submit(units);
    rig.store
        .submit((0..5000).map(|_| unit(0, vec![put(&[1], "s")])).collect());
    rig.flush();
    let mut cut = Vec::new();
    for event in rig.probe.take() {
        if let StoreEvent::Cut(batch) = event {
            assert!(batch.bytes() <= (4 << 20) + 1000);
            cut.push(batch.last.0 - batch.first.0 + 1);
        }
    }
    assert_eq!(cut.iter().sum::<u64>(), 5022);
    assert!(cut.iter().all(|count| *count <= 4096));
    assert_eq!(rig.owed(1).len(), 5020);
}

proptest! {
    #[test]
    fn damaged_pieces_are_refused_and_nothing_worse(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        prop_assert!(decode_piece(&Bytes::from(bytes.clone())).is_err());
        let mut body = b"TMQs\x01\x00".to_vec();
        body.extend(bytes);
        let at = place.index(body.len());
        body[at] = byte;
        // Whatever it is, what it claims to hold is there.
        if let Ok((_, items)) = decode_items(&Bytes::from(body.clone())) {
            prop_assert!(items.len() <= body.len());
        }
    }
}

#[test]
fn a_store_of_an_earlier_format_is_refused_with_both_numbers() {
    let disk = MemoryDisk::new(NodeId([1; 16]));
    drop(Rig::open(&Medium::Memory(disk.clone())));
    let mut env = disk.present().unwrap();
    let earlier = Bytes::from_static(&[1, 0, 0, 0]);
    env.commit(&[Write::Put(Table::Meta, b"format".to_vec(), earlier)])
        .unwrap();
    let refused = meta::load(&env).unwrap_err().to_string();
    assert!(
        refused.contains("has format 1, this release knows 3"),
        "{refused}"
    );
}
