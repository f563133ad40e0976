//! Random histories against a reference in memory, killed and opened again between any two steps.

use bytes::Bytes;
use proptest::prelude::*;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::message::{self, Envelope, MessageWriter, Parts, Properties};
use crate::storage::api::*;
use crate::storage::check::{check, check_view};

use super::reference::{IDS, Reference, an_id, some_ids};
use super::resync::full_copy;
use super::rig::*;

#[derive(Clone, Debug)]
enum Op {
    Define(u32),
    Remove(u32),
    Put {
        targets: Vec<u32>,
        size: usize,
        kind: Kind,
    },
    Pick {
        dest: u32,
        picks: Vec<prop::sample::Index>,
        what: What,
    },
    Delivered(u32, u8),
    Other(u8, bool),
    /// A message with an id, at a time.
    Send(usize, u64),
    Bounds(DuplicateBounds),
    Body(BodyOp),
    /// Records of nobody, so that what follows is in another run.
    Skip(usize),
    Pump(usize),
    /// All is done, and chunks of which little is owed are emptied.
    Idle,
    Flush,
    /// And what was not flushed is lost.
    Kill(bool),
}

/// Bodies in parts.
#[derive(Clone, Debug)]
enum BodyOp {
    /// A message in parts of these sizes; its upload ends, or stays open.
    Large {
        targets: Vec<u32>,
        sizes: Vec<usize>,
        ends: bool,
    },
    /// A part of nobody's, and perhaps its end.
    Lost(bool),
    /// A message goes to another destination, with its body.
    Move(u32, prop::sample::Index, u32),
}

/// What the envelope of a message says.
#[derive(Clone, Copy, Debug)]
struct Kind {
    priority: u8,
    due: Option<u64>,
    expiry: Option<u64>,
}

/// What becomes of messages that are owed.
#[derive(Clone, Copy, Debug)]
enum What {
    Acknowledged,
    Delivered,
    Failed(u32),
}

fn kind() -> impl Strategy<Value = Kind> {
    let rarely = || prop_oneof![4 => Just(None), 1 => (1u64..60).prop_map(Some)];
    let priority = prop_oneof![3 => Just(4u8), 1 => 0u8..10];
    (priority, rarely(), rarely()).prop_map(|(priority, due, expiry)| Kind {
        priority,
        due,
        expiry,
    })
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        6 => Just(What::Acknowledged),
        1 => Just(What::Delivered),
        1 => (1u32..5).prop_map(What::Failed),
    ]
}

fn message(kind: Kind, size: usize) -> Bytes {
    let envelope = Envelope {
        priority: kind.priority,
        due_ms: kind.due,
        expiry_ms: kind.expiry,
        ..Envelope::default()
    };
    let writer = MessageWriter::new(&envelope, &Properties::default(), size);
    writer
        .finish(&vec![u8::try_from(size % 251).unwrap(); size])
        .unwrap()
}

fn body_op() -> impl Strategy<Value = BodyOp> {
    let dest = || 1u32..5;
    let sizes = prop::collection::vec(1usize..900, 1..5);
    let large = (prop::collection::vec(dest(), 1..3), sizes, any::<bool>());
    prop_oneof![
        4 => large.prop_map(|(targets, sizes, ends)| BodyOp::Large { targets, sizes, ends }),
        1 => any::<bool>().prop_map(BodyOp::Lost),
        3 => (dest(), any::<prop::sample::Index>(), dest())
            .prop_map(|(from, pick, to)| BodyOp::Move(from, pick, to)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let dest = || 1u32..5;
    prop_oneof![
        2 => dest().prop_map(Op::Define),
        1 => dest().prop_map(Op::Remove),
        12 => (prop::collection::vec(dest(), 1..3), 0usize..2000, kind())
            .prop_map(|(targets, size, kind)| Op::Put { targets, size, kind }),
        10 => (dest(), prop::collection::vec(any::<prop::sample::Index>(), 1..6), what())
            .prop_map(|(dest, picks, what)| Op::Pick { dest, picks, what }),
        2 => (dest(), 0u8..11).prop_map(|(dest, lane)| Op::Delivered(dest, lane)),
        1 => (0u8..4, any::<bool>()).prop_map(|(key, on)| Op::Other(key, on)),
        8 => (0..IDS, 0u64..500).prop_map(|(id, at_ms)| Op::Send(id, at_ms)),
        1 => (0u64..6, 1u64..12, 1u64..500).prop_map(|(per_scope, all, window_ms)| {
            Op::Bounds(DuplicateBounds { per_scope, all, window_ms })
        }),
        8 => body_op().prop_map(Op::Body),
        1 => (500usize..4500).prop_map(Op::Skip),
        6 => (1usize..4).prop_map(Op::Pump),
        2 => Just(Op::Idle),
        3 => Just(Op::Flush),
        1 => any::<bool>().prop_map(Op::Kill),
    ]
}

fn part_at(lsn: Lsn, size: usize) -> Bytes {
    Bytes::from(vec![u8::try_from(lsn.0 % 251).unwrap(); size])
}

struct Run {
    medium: Medium,
    rig: Option<Rig>,
    reference: Reference,
    epoch: u64,
    /// The highest that the store said is durable, and committed.
    promised: u64,
    /// The last upload.
    uploads: u64,
}

impl Run {
    fn new(medium: Medium) -> Self {
        let mut run = Self {
            medium,
            rig: None,
            reference: Reference::default(),
            epoch: 0,
            promised: 0,
            uploads: 0,
        };
        run.start();
        run
    }

    fn start(&mut self) {
        let rig = Rig::open_with(&self.medium, |config| {
            config.checkpoint_bytes = 3000;
            config.retain_bytes = 6000;
            config.slack_bytes = 4000;
        });
        let end = rig.end().0;
        assert!(
            end >= self.promised,
            "{end} after {} was durable",
            self.promised
        );
        self.reference.truncate(end);
        self.epoch += 1;
        rig.serve(self.epoch);
        self.reference.push(vec![None]);
        self.rig = Some(rig);
        self.compare();
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().unwrap()
    }

    /// Nothing of what is queued is done any more.
    fn kill(&mut self, lose: bool) {
        self.note();
        self.rig = None;
        if let (Medium::Memory(disk), true) = (&self.medium, lose) {
            disk.lose_unflushed();
        }
    }

    /// Takes note of what the store promised.
    fn note(&mut self) {
        for event in self.rig().probe.take() {
            match event {
                StoreEvent::Durable(at) => self.promised = self.promised.max(at.lsn.0),
                StoreEvent::Committed(committed) => {
                    assert!(
                        committed.upto.0 <= self.promised,
                        "committed before durable"
                    );
                }
                StoreEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// All that was submitted is done: the store is what the reference is.
    fn compare(&mut self) {
        self.rig().flush();
        self.note();
        let rig = self.rig();
        assert_eq!(rig.end().0, self.reference.log.len() as u64);
        assert_eq!(rig.store.committed(), rig.end());
        for (now, known) in self.reference.seen() {
            assert_eq!(rig.store.seen(&some_ids(), now), known, "at {now}");
        }
        let expected = self.reference.owed();
        let found = rig.store.destinations();
        let ids: Vec<u32> = found.iter().map(|facts| facts.id.0).collect();
        assert!(expected.keys().eq(&ids), "{ids:?}");
        for facts in found {
            expected[&facts.id.0].compare(rig, &facts);
        }
        self.compare_bodies(rig);
    }

    /// Each body in parts is there as long as a message of it is.
    fn compare_bodies(&self, rig: &Rig) {
        let owed = self.reference.owed();
        let messages = owed.values().flat_map(|owing| owing.messages.values());
        for parts in messages.filter_map(|message| message::parts(message)) {
            let lsns: Vec<Lsn> = parts.lsns().collect();
            let found = rig.read_parts(&lsns);
            assert_eq!(found.len(), lsns.len(), "{parts:?}");
            let bytes: usize = found.iter().map(Bytes::len).sum();
            assert_eq!(bytes as u64, parts.bytes());
            for (lsn, part) in lsns.iter().zip(found) {
                assert_eq!(part, part_at(*lsn, part.len()));
            }
        }
    }

    /// The LSN of what is submitted next.
    fn next(&self) -> Lsn {
        Lsn(self.reference.log.len() as u64 + 1)
    }

    fn upload(&mut self, size: usize) -> Lsn {
        let lsn = self.next();
        let (upload, bytes) = (self.uploads, part_at(lsn, size));
        self.submit(vec![Draft::Part { upload, bytes }]);
        lsn
    }

    fn large(&mut self, targets: &[u32], sizes: &[usize], ends: bool) {
        self.uploads += 1;
        let mut parts = Parts::default();
        for size in sizes {
            let lsn = self.upload(*size);
            assert!(parts.push(lsn, *size));
            // So that parts are not all in one row.
            if size % 2 == 0 {
                self.submit(vec![ack(99, &[])]);
            }
        }
        let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
        let message = writer.finish_in_parts(&parts).unwrap();
        self.submit(vec![put(targets, message)]);
        if ends {
            self.submit(vec![Draft::UploadEnded(self.uploads)]);
        }
    }

    fn move_one(&mut self, from: u32, pick: prop::sample::Index, to: u32) {
        let owed = self.reference.owed();
        let Some(owing) = owed.get(&from).filter(|owing| !owing.messages.is_empty()) else {
            return;
        };
        let (lsn, message) = owing
            .messages
            .iter()
            .nth(pick.index(owing.messages.len()))
            .unwrap();
        self.submit(vec![put(&[to], message.clone()), ack(from, &[*lsn])]);
    }

    /// Records that the store appends by itself change nothing of what the reference says.
    fn idle(&mut self) {
        self.compare();
        self.rig().idle();
        self.note();
        let appended = self.rig().end().0 - self.reference.log.len() as u64;
        if appended > 0 {
            self.reference
                .push(vec![None; usize::try_from(appended).unwrap()]);
        }
        self.compare();
    }

    fn submit(&mut self, records: Vec<Draft>) {
        self.rig().store.submit(vec![unit(1, records.clone())]);
        self.reference.push(records.into_iter().map(Some).collect());
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Define(dest) => self.submit(vec![define(dest)]),
            Op::Remove(dest) => self.submit(vec![Draft::Kv {
                space: SPACE_DESTINATION,
                key: Bytes::copy_from_slice(&dest.to_be_bytes()),
                value: Bytes::new(),
            }]),
            Op::Put {
                targets,
                size,
                kind,
            } => {
                let message = message(kind, size);
                let again = put(&targets[..1], message.clone());
                self.submit(vec![put(&targets, message), again]);
            }
            Op::Pick { dest, picks, what } => {
                let owed = self.reference.owed();
                let Some(owing) = owed.get(&dest) else {
                    return;
                };
                let owed: Vec<u64> = owing.messages.keys().copied().collect();
                if owed.is_empty() {
                    return;
                }
                let picks = picks.iter().map(|pick| Lsn(owed[pick.index(owed.len())]));
                let lsns: Vec<Lsn> = picks.collect();
                let dest = DestId(dest);
                self.submit(vec![match what {
                    What::Acknowledged => Draft::Ack { dest, lsns },
                    What::Delivered => Draft::DeliveredEach { dest, lsns },
                    What::Failed(count) => {
                        let all: std::collections::BTreeSet<Lsn> = lsns.into_iter().collect();
                        let counts = all.into_iter().map(|lsn| (lsn, count)).collect();
                        Draft::Failed { dest, counts }
                    }
                }]);
            }
            Op::Delivered(dest, lane) => self.submit(vec![Draft::Delivered {
                dest: DestId(dest),
                lane: Lane(lane),
                ahead: 16,
            }]),
            Op::Other(key, on) => self.submit(vec![Draft::Kv {
                space: 2,
                key: Bytes::from(vec![key]),
                value: Bytes::from(vec![1; usize::from(on)]),
            }]),
            Op::Send(id, at_ms) => {
                let id = an_id(id);
                let message = Bytes::from_static(b"sent");
                self.submit(vec![Draft::Seen { id, at_ms }, put(&[1], message)]);
            }
            Op::Bounds(bounds) => self.submit(vec![Draft::Kv {
                space: SPACE_DUPLICATES,
                key: Bytes::from_static(DUPLICATE_BOUNDS),
                value: Bytes::copy_from_slice(&bounds.encode()),
            }]),
            Op::Body(op) => self.body(op),
            Op::Skip(count) => self.submit(vec![ack(99, &[]); count]),
            Op::Pump(steps) => {
                for _ in 0..steps {
                    self.rig().pump_one();
                }
            }
            Op::Flush => self.compare(),
            Op::Idle => self.idle(),
            Op::Kill(lose) => {
                self.kill(lose);
                self.start();
            }
        }
    }

    fn body(&mut self, op: BodyOp) {
        match op {
            BodyOp::Large {
                targets,
                sizes,
                ends,
            } => self.large(&targets, &sizes, ends),
            BodyOp::Lost(ends) => {
                self.uploads += 1;
                self.upload(50);
                if ends {
                    self.submit(vec![Draft::UploadEnded(self.uploads)]);
                }
            }
            BodyOp::Move(from, pick, to) => self.move_one(from, pick, to),
        }
    }

    fn finish(mut self) {
        self.idle();
        // A copy of it by pieces shows the same.
        let copy = Rig::open(&memory(9));
        full_copy(self.rig(), &copy);
        self.note();
        for (now, known) in self.reference.seen() {
            assert_eq!(copy.store.seen(&some_ids(), now), known, "at {now}");
        }
        let expected = self.reference.owed();
        for facts in copy.store.destinations() {
            expected[&facts.id.0].compare(&copy, &facts);
        }
        self.compare_bodies(&copy);
        assert_eq!(
            copy.store.facts().messages,
            self.rig().store.facts().messages
        );
        self.kill(true);
        let report = match &self.medium {
            Medium::Memory(disk) => check_view(&disk.present().unwrap()).unwrap(),
            Medium::Inline(dir) | Medium::Threads(dir) => check(dir).unwrap(),
        };
        assert_eq!(report.findings, []);
        assert_eq!(report.end.lsn, Lsn(self.reference.log.len() as u64));
        let owed = self.reference.owed();
        assert_eq!(report.destinations, owed.len() as u64);
        let messages: usize = owed.values().map(|owing| owing.messages.len()).sum();
        assert_eq!(report.messages, messages as u64);
    }
}

fn run(medium: Medium, ops: Vec<Op>) {
    let mut run = Run::new(medium);
    for dest in 1..4 {
        run.step(Op::Define(dest));
    }
    for op in ops {
        run.step(op);
    }
    run.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_memory_any_history_with_kills_and_lost_flushes_is_the_references(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        run(memory(1), ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn on_disk_any_history_with_kills_is_the_references(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let dir = tempfile::tempdir().unwrap();
        run(Medium::Inline(dir.path().to_path_buf()), ops);
    }
}
