//! Backlogs that are much deeper than what memory is kept for. Ten million messages by command:
//! `cargo bench --bench deep_backlog`.

use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::LogRecord;
use crate::storage::api::*;
use crate::storage::index::{Index, Notes};
use crate::storage::ledger::ChunkFacts;

use super::rig::*;

const MESSAGES: u64 = 100_000;

/// Bytes of memory for each of 100,000 messages in chunks of 400, given to destinations in turn.
fn memory_each(destinations: u32) -> f64 {
    let mut index = Index::new(0);
    let mut notes = Notes::new(false);
    index.begin_chunk(ChunkFacts {
        first: Lsn(1),
        last: Lsn(u64::from(destinations)),
        bytes: 1000,
    });
    for (lsn, dest) in (1..).zip(0..destinations) {
        let define = LogRecord::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&dest.to_be_bytes()),
            value: Bytes::from_static(b"qdeep"),
        };
        index.apply(Lsn(lsn), Lsn(1), &define, &mut notes);
    }
    let begin = u64::from(destinations) + 1;
    for first in (begin..begin + MESSAGES).step_by(400) {
        index.begin_chunk(ChunkFacts {
            first: Lsn(first),
            last: Lsn(first + 399),
            bytes: 60_000,
        });
        for lsn in first..first + 400 {
            let dest = u32::try_from(lsn % u64::from(destinations)).unwrap();
            let record = LogRecord::Put {
                targets: vec![DestId(dest)],
                message: Bytes::from_static(b"m"),
                offset: 0,
            };
            index.apply(Lsn(lsn), Lsn(first), &record, &mut notes);
        }
    }
    assert_eq!(index.messages(), MESSAGES);
    index.memory() as f64 / MESSAGES as f64
}

#[test]
fn an_owed_message_takes_a_bit_or_a_few_bytes() {
    for (destinations, most) in [(1, 0.5), (8, 2.5), (100, 8.0)] {
        let each = memory_each(destinations);
        assert!(
            each < most,
            "{each} bytes each in {destinations} destinations"
        );
    }
}

/// Takes nothing.
#[derive(Debug)]
struct Nothing;

impl MessageFilter for Nothing {
    fn takes(&self, _: &[u8]) -> bool {
        false
    }
}

#[test]
fn both_ends_of_a_deep_backlog_are_found_and_found_again_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::Inline(dir.path().to_path_buf());
    let rig = Rig::open_with(&medium, |config| config.checkpoint_bytes = 4 << 20);
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1)])]);
    let body = Bytes::from(vec![b'x'; 128]);
    for _ in 0..MESSAGES / 1000 {
        let records = (0..1000).map(|_| put(&[1], body.clone())).collect();
        rig.store.submit(vec![unit(0, records)]);
        rig.pump();
    }
    rig.flush();
    let first = rig.end().0 - MESSAGES + 1;
    let look = |rig: &Rig| {
        assert_eq!(rig.store.facts().messages, MESSAGES);
        for from in [first, first + MESSAGES - 3000] {
            let seek = Seek::Lane {
                lane: Lane::DEFAULT,
                after: Lsn(from - 1),
            };
            let found = rig.ask(DestId(1), seek, 3000, 1 << 20);
            let lsns: Vec<u64> = found.entries.iter().map(|entry| entry.lsn.0).collect();
            let expected: Vec<u64> = (from..from + 3000).collect();
            assert_eq!(lsns, expected);
            assert!(found.entries.iter().all(|entry| entry.message == body));
            assert_eq!(found.scanned.0, from + 2999);
        }
    };
    look(&rig);
    let checkpoint = rig.store.log_facts().checkpoint;
    assert!(
        checkpoint.0 > rig.end().0 / 2,
        "{checkpoint} is the last checkpoint"
    );
    drop(rig);
    let rig = Rig::open(&medium);
    look(&rig);
    // Searching in vain goes on in bounded steps, and misses nothing.
    let (mut after, mut questions) = (Lsn::ZERO, 0);
    while after < rig.end() {
        let seek = Seek::Matching {
            lane: Lane::DEFAULT,
            after,
            filter: Arc::new(Nothing),
        };
        let found = rig.ask(DestId(1), seek, 100, 1 << 20);
        assert!(found.entries.is_empty() && found.scanned > after);
        after = found.scanned;
        questions += 1;
    }
    assert!(
        (10..30).contains(&questions),
        "{questions} questions for 15 MB"
    );
}
