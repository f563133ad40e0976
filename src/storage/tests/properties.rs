//! Random histories against a reference in memory, killed and opened again between any two steps.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::*;
use crate::storage::check::{check, check_view};

use super::rig::*;

#[derive(Clone, Debug)]
enum Op {
    Define(u32),
    Remove(u32),
    Put {
        targets: Vec<u32>,
        size: usize,
    },
    Ack {
        dest: u32,
        picks: Vec<prop::sample::Index>,
    },
    Delivered(u32),
    Other(u8, bool),
    Pump(usize),
    Flush,
    /// And what was not flushed is lost.
    Kill(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let dest = || 1u32..5;
    prop_oneof![
        2 => dest().prop_map(Op::Define),
        1 => dest().prop_map(Op::Remove),
        12 => (prop::collection::vec(dest(), 1..3), 0usize..2000)
            .prop_map(|(targets, size)| Op::Put { targets, size }),
        8 => (dest(), prop::collection::vec(any::<prop::sample::Index>(), 1..6))
            .prop_map(|(dest, picks)| Op::Ack { dest, picks }),
        1 => dest().prop_map(Op::Delivered),
        1 => (0u8..4, any::<bool>()).prop_map(|(key, on)| Op::Other(key, on)),
        6 => (1usize..4).prop_map(Op::Pump),
        3 => Just(Op::Flush),
        1 => any::<bool>().prop_map(Op::Kill),
    ]
}

/// What a destination owes, and its mark.
type Owed = BTreeMap<u32, (BTreeMap<u64, Bytes>, u64)>;

/// The plainest possible store: a list of records and what they amount to.
#[derive(Default)]
struct Reference {
    /// By LSN from 1; none is the beginning of an epoch.
    log: Vec<Option<Draft>>,
    /// Last LSN of each unit.
    unit_ends: Vec<u64>,
}

impl Reference {
    fn push(&mut self, records: Vec<Option<Draft>>) {
        self.log.extend(records);
        self.unit_ends.push(self.log.len() as u64);
    }

    fn truncate(&mut self, end: u64) {
        assert!(
            end == 0 || self.unit_ends.contains(&end),
            "half a unit survived"
        );
        self.log.truncate(usize::try_from(end).unwrap());
        self.unit_ends.retain(|unit| *unit <= end);
    }

    fn owed(&self) -> Owed {
        let mut owed = Owed::new();
        for (lsn, record) in (1u64..).zip(&self.log) {
            match record {
                Some(Draft::Kv { space, key, value }) if *space == SPACE_DESTINATION => {
                    let id = u32::from_be_bytes(key[..].try_into().unwrap());
                    if value.is_empty() {
                        owed.remove(&id);
                    } else {
                        owed.entry(id).or_default();
                    }
                }
                Some(Draft::Put { targets, message }) => {
                    for target in targets {
                        if let Some((messages, _)) = owed.get_mut(&target.0) {
                            messages.insert(lsn, message.clone());
                        }
                    }
                }
                Some(Draft::Ack { dest, lsns }) => {
                    if let Some((messages, _)) = owed.get_mut(&dest.0) {
                        for lsn in lsns {
                            messages.remove(&lsn.0);
                        }
                    }
                }
                Some(Draft::Delivered { dest, ahead, .. }) => {
                    if let Some((_, mark)) = owed.get_mut(&dest.0) {
                        *mark = (*mark).max(lsn + u64::from(*ahead));
                    }
                }
                Some(Draft::Kv { .. } | Draft::DeliveredEach { .. } | Draft::Failed { .. })
                | None => {}
            }
        }
        owed
    }
}

struct Run {
    medium: Medium,
    rig: Option<Rig>,
    reference: Reference,
    epoch: u64,
    /// The highest that the store said is durable, and committed.
    promised: u64,
}

impl Run {
    fn new(medium: Medium) -> Self {
        let mut run = Self {
            medium,
            rig: None,
            reference: Reference::default(),
            epoch: 0,
            promised: 0,
        };
        run.start();
        run
    }

    fn start(&mut self) {
        let rig = Rig::open_with(&self.medium, |config| {
            config.checkpoint_bytes = 3000;
            config.retain_bytes = 6000;
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
        let expected = self.reference.owed();
        let found: Owed = rig
            .store
            .destinations()
            .into_iter()
            .map(|facts| {
                let owed: BTreeMap<u64, Bytes> = rig.owed(facts.id.0).into_iter().collect();
                assert_eq!(facts.depth(), owed.len() as u64);
                (facts.id.0, (owed, facts.mark(Lane::DEFAULT).0))
            })
            .collect();
        assert_eq!(found, expected);
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
            Op::Put { targets, size } => {
                let body = vec![u8::try_from(size % 251).unwrap(); size];
                self.submit(vec![put(&targets, body.clone()), put(&targets[..1], body)]);
            }
            Op::Ack { dest, picks } => {
                let owed = self.reference.owed();
                let Some((messages, _)) = owed.get(&dest) else {
                    return;
                };
                let lsns: Vec<u64> = messages.keys().copied().collect();
                if !lsns.is_empty() {
                    let picked: Vec<u64> = picks
                        .iter()
                        .map(|pick| lsns[pick.index(lsns.len())])
                        .collect();
                    self.submit(vec![ack(dest, &picked)]);
                }
            }
            Op::Delivered(dest) => self.submit(vec![Draft::Delivered {
                dest: DestId(dest),
                lane: Lane::DEFAULT,
                ahead: 16,
            }]),
            Op::Other(key, on) => self.submit(vec![Draft::Kv {
                space: 2,
                key: Bytes::from(vec![key]),
                value: Bytes::from(vec![1; usize::from(on)]),
            }]),
            Op::Pump(steps) => {
                for _ in 0..steps {
                    self.rig().pump_one();
                }
            }
            Op::Flush => self.compare(),
            Op::Kill(lose) => {
                self.kill(lose);
                self.start();
            }
        }
    }

    fn finish(mut self) {
        self.compare();
        self.kill(true);
        let report = match &self.medium {
            Medium::Memory(disk) => check_view(&disk.present().unwrap()).unwrap(),
            Medium::Inline(dir) | Medium::Threads(dir) => check(dir).unwrap(),
        };
        assert_eq!(report.findings, []);
        assert_eq!(report.end.lsn, Lsn(self.reference.log.len() as u64));
        let owed = self.reference.owed();
        assert_eq!(report.destinations, owed.len() as u64);
        let messages: usize = owed.values().map(|(messages, _)| messages.len()).sum();
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
