//! Two stores as a replicated pair, by the rules of the Replicator: random traffic, crashes of either
//! that lose what was not flushed, take-over, and the return of the other by the log or a snapshot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use proptest::prelude::*;

use crate::proto::ids::Lsn;
use crate::proto::message::{self, Envelope, MessageWriter, Parts, Properties};
use crate::storage::api::*;
use crate::storage::check::check_view;

use super::resync::full_resync;
use super::rig::*;
use super::{assert_same, catch_up};

#[derive(Clone, Debug)]
enum Op {
    Put(usize),
    /// A message whose body comes in parts of these sizes, one after the other.
    Large(Vec<usize>),
    /// One of the messages is put again and acknowledged, in one unit.
    Move(prop::sample::Index),
    /// Of one of the messages for which none is under way.
    Ack(prop::sample::Index),
    PumpActive,
    /// Chunks of which little is owed are emptied.
    Idle,
    /// One batch and the commit index reach the passive.
    Deliver,
    PumpPassive,
    /// The passive's answer reaches the active.
    Answer,
    /// And what was not flushed is lost.
    KillActive(bool),
    KillPassive(bool),
    Return {
        full: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..3000).prop_map(Op::Put),
        4 => prop::collection::vec(1usize..900, 1..5).prop_map(Op::Large),
        2 => any::<prop::sample::Index>().prop_map(Op::Move),
        9 => any::<prop::sample::Index>().prop_map(Op::Ack),
        2 => Just(Op::Idle),
        9 => Just(Op::PumpActive),
        9 => Just(Op::Deliver),
        9 => Just(Op::PumpPassive),
        9 => Just(Op::Answer),
        1 => any::<bool>().prop_map(Op::KillActive),
        1 => any::<bool>().prop_map(Op::KillPassive),
        3 => any::<bool>().prop_map(|full| Op::Return { full }),
    ]
}

/// Tickets of acknowledgements are those of the messages and this.
const ACK: u64 = 1 << 32;
/// And those of moves, and this.
const MOVE: u64 = 1 << 33;

/// An upload whose parts are on their way to the store.
struct Upload {
    sizes: Vec<usize>,
    sent: usize,
    stored: Parts,
}

fn part(id: u64, place: usize, size: usize) -> Bytes {
    Bytes::from(vec![
        u8::try_from((id * 7 + place as u64) % 251).unwrap();
        size
    ])
}

/// What a message is known by in these tests.
fn id_of(body: &[u8]) -> u64 {
    match message::group(body) {
        Some(id) if message::is_in_parts(body) => id.parse().unwrap(),
        _ => u64::from_be_bytes(body[..8].try_into().unwrap()),
    }
}

struct Pair {
    media: [Medium; 2],
    rigs: [Option<Rig>; 2],
    active: usize,
    epoch: u64,
    wire: VecDeque<Batch>,
    next: u64,
    confirmed: BTreeSet<u64>,
    /// Asked to be acknowledged: may be owed or not until it is confirmed.
    asked: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    /// Asked to be moved: they are not touched until that is confirmed.
    moving: BTreeSet<u64>,
    uploads: BTreeMap<u64, Upload>,
    /// The sizes of the parts of each large message.
    bodies: BTreeMap<u64, Vec<usize>>,
}

fn open(medium: &Medium) -> Rig {
    Rig::open_with(medium, |config| {
        config.checkpoint_bytes = 4000;
        config.retain_bytes = 8000;
        config.slack_bytes = 4000;
    })
}

/// The last LSN that two logs share, by their epoch tables.
fn common_point(one: &LogFacts, other: &LogFacts) -> Lsn {
    let end_of = |facts: &LogFacts, place: usize| {
        let next = facts.epochs.get(place + 1);
        next.map_or(facts.durable.lsn, |next| next.start.prev())
    };
    let shared = one
        .epochs
        .iter()
        .enumerate()
        .rev()
        .find_map(|(place, epoch)| {
            let same = other.epochs.iter().position(|known| known == epoch)?;
            Some(end_of(one, place).min(end_of(other, same)))
        });
    shared.unwrap_or_default()
}

impl Pair {
    fn new() -> Self {
        let media = [memory(1), memory(2)];
        let mut pair = Self {
            rigs: [Some(open(&media[0])), None],
            media,
            active: 0,
            epoch: 0,
            wire: VecDeque::new(),
            next: 0,
            confirmed: BTreeSet::new(),
            asked: BTreeSet::new(),
            gone: BTreeSet::new(),
            moving: BTreeSet::new(),
            uploads: BTreeMap::new(),
            bodies: BTreeMap::new(),
        };
        pair.serve();
        let records = vec![define(1), define(2)];
        pair.active().store.submit(vec![unit(0, records)]);
        pair.bring_back(false);
        pair
    }

    fn active(&self) -> &Rig {
        self.rigs[self.active].as_ref().unwrap()
    }

    fn passive(&self) -> Option<&Rig> {
        self.rigs[1 - self.active].as_ref()
    }

    /// Alone, in a new epoch, with all that was ever confirmed.
    fn serve(&mut self) {
        self.epoch += 1;
        self.active().serve(self.epoch);
        self.note();
        self.wire.clear();
        self.moving.clear();
        self.uploads.clear();
        if self.epoch > 1 {
            self.assert_whole(self.active());
            let owed = self.owed().into_iter().map(|(_, id)| id);
            let owed: BTreeSet<u64> = owed.collect();
            let lost: Vec<_> = self.confirmed.difference(&self.asked).collect();
            let lost: Vec<_> = lost.into_iter().filter(|id| !owed.contains(id)).collect();
            assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
            let back: Vec<_> = self.gone.intersection(&owed).collect();
            assert!(back.is_empty(), "acknowledged and back: {back:?}");
        }
    }

    fn owed(&self) -> Vec<(u64, u64)> {
        let owed = self.active().owed(1);
        owed.iter().map(|(lsn, body)| (*lsn, id_of(body))).collect()
    }

    /// Each part of each message that is owed is there.
    fn assert_whole(&self, rig: &Rig) {
        for (lsn, head) in rig.owed(1) {
            let Some(parts) = message::parts(&head) else {
                continue;
            };
            let id = id_of(&head);
            let sizes = self.bodies[&id].iter().enumerate();
            let expected: Vec<Bytes> = sizes.map(|(at, size)| part(id, at, *size)).collect();
            let lsns: Vec<Lsn> = parts.lsns().collect();
            assert_eq!(rig.read_parts(&lsns), expected, "{lsn}: {parts:?}");
        }
    }

    /// The next part of an upload, or its message.
    fn go_on(&mut self, id: u64) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        if let Some(size) = upload.sizes.get(upload.sent) {
            let bytes = part(id, upload.sent, *size);
            upload.sent += 1;
            let records = vec![Draft::Part { upload: id, bytes }];
            self.active().store.submit(vec![unit(0, records)]);
        } else if upload.stored.len() == upload.sizes.len() as u64 {
            let group = id.to_string();
            let envelope = Envelope {
                group: Some(&group),
                ..Envelope::default()
            };
            let writer = MessageWriter::new(&envelope, &Properties::default(), 0);
            let head = writer.finish_in_parts(&upload.stored).unwrap();
            self.uploads.remove(&id);
            let records = vec![put(&[1], head), Draft::UploadEnded(id)];
            self.active().store.submit(vec![unit(id, records)]);
        }
    }

    fn note(&mut self) {
        for event in self.active().probe.take() {
            match event {
                StoreEvent::Cut(batch) => self.wire.push_back(batch),
                StoreEvent::Committed(committed) => {
                    for (id, lsn) in committed.parts {
                        if let Some(upload) = self.uploads.get_mut(&id) {
                            let place = usize::try_from(upload.stored.len()).unwrap();
                            assert!(upload.stored.push(lsn, upload.sizes[place]));
                            self.go_on(id);
                        }
                    }
                    for Ticket(ticket) in committed.tickets {
                        if ticket < ACK {
                            self.confirmed.insert(ticket);
                        } else if ticket >= MOVE {
                            self.moving.remove(&(ticket - MOVE));
                        } else {
                            self.gone.insert(ticket - ACK);
                        }
                    }
                }
                StoreEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    }

    fn kill(&mut self, which: usize, lose: bool) {
        self.note();
        self.rigs[which] = None;
        if let (Medium::Memory(disk), true) = (&self.media[which], lose) {
            disk.lose_unflushed();
        }
    }

    fn bring_back(&mut self, full: bool) {
        let other = 1 - self.active;
        self.rigs[other] = Some(open(&self.media[other]));
        self.active().flush();
        self.note();
        // What goes on with uploads is in the log, too, and its floor stays where it is.
        self.active().flush();
        let (active, passive) = (self.active(), self.passive().unwrap());
        passive.job(Job::BeginSync).unwrap();
        let common = common_point(&active.store.log_facts(), &passive.store.log_facts());
        let by_log = !full
            && common >= active.store.log_facts().floor
            && passive.job(Job::Truncate(common)).is_ok();
        if by_log {
            passive.store.set_gate(GatePolicy::Following);
            catch_up(active, passive);
            passive.job(Job::EndSync).unwrap();
        } else {
            full_resync(active, passive);
        }
        assert_same(active, passive);
        self.assert_whole(active);
        self.assert_whole(passive);
        active.store.set_gate(GatePolicy::WithPeer);
        active.store.peer_holds(passive.end());
        self.note();
        self.wire.clear();
    }

    fn send_large(&mut self, sizes: Vec<usize>) {
        self.next += 1;
        let id = self.next;
        self.bodies.insert(id, sizes.clone());
        let upload = Upload {
            sizes,
            sent: 0,
            stored: Parts::default(),
        };
        self.uploads.insert(id, upload);
        self.go_on(id);
    }

    fn move_one(&mut self, pick: prop::sample::Index) {
        let moving = self.moving.clone();
        let mut owed = self.active().owed(1);
        self.note();
        owed.retain(|(_, head)| {
            let id = id_of(head);
            !self.asked.contains(&id) && !moving.contains(&id)
        });
        if !owed.is_empty() {
            let (lsn, head) = &owed[pick.index(owed.len())];
            let id = id_of(head);
            self.moving.insert(id);
            let records = vec![put(&[1], head.clone()), ack(1, &[*lsn])];
            self.active().store.submit(vec![unit(MOVE + id, records)]);
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Put(size) => {
                self.next += 1;
                let mut body = self.next.to_be_bytes().to_vec();
                body.resize(8 + size, 0);
                let records = vec![put(&[1], body)];
                self.active().store.submit(vec![unit(self.next, records)]);
            }
            Op::Ack(pick) => {
                // Of a move that is confirmed meanwhile, the old place may have been read.
                let moving = self.moving.clone();
                let mut owed = self.owed();
                self.note();
                owed.retain(|(_, id)| !self.asked.contains(id) && !moving.contains(id));
                if !owed.is_empty() {
                    let (lsn, id) = &owed[pick.index(owed.len())];
                    self.asked.insert(*id);
                    let records = vec![ack(1, &[*lsn])];
                    self.active().store.submit(vec![unit(ACK + id, records)]);
                }
            }
            Op::Large(sizes) => self.send_large(sizes),
            Op::Move(pick) => self.move_one(pick),
            Op::PumpActive => {
                self.active().pump_one();
            }
            Op::Idle => self.active().idle(),
            Op::Deliver => {
                self.note();
                let batch = self.wire.pop_front();
                if let (Some(passive), Some(batch)) = (self.passive(), batch) {
                    passive.store.append(batch);
                    passive.store.peer_holds(self.active().store.committed());
                }
            }
            Op::PumpPassive => {
                self.passive().map(Rig::pump_one);
            }
            Op::Answer => {
                if let Some(passive) = self.passive() {
                    self.active().store.peer_holds(passive.end());
                }
            }
            Op::KillActive(lose) => {
                self.kill(self.active, lose);
                if self.passive().is_some() {
                    self.active = 1 - self.active;
                    self.active().pump();
                } else {
                    self.rigs[self.active] = Some(open(&self.media[self.active]));
                }
                self.serve();
            }
            Op::KillPassive(lose) => {
                self.kill(1 - self.active, lose);
                self.active().store.set_gate(GatePolicy::Alone);
            }
            Op::Return { full } => {
                if self.passive().is_none() {
                    self.bring_back(full);
                }
            }
        }
        self.note();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_pair_loses_nothing_that_it_confirmed(ops in prop::collection::vec(op(), 1..300)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.step(op);
        }
        // At the end either of them alone has it all.
        if pair.passive().is_none() {
            pair.bring_back(false);
        }
        pair.step(Op::KillActive(true));
        pair.bring_back(false);
        for medium in &pair.media {
            let Medium::Memory(disk) = medium else { unreachable!("both are in memory") };
            prop_assert_eq!(check_view(&disk.present().unwrap()).unwrap().findings, []);
        }
    }
}

#[test]
fn a_unit_without_records_is_answered_when_all_before_it_is_committed_on_both() {
    let rig = Rig::open(&memory(1));
    rig.serve(1);
    rig.store.set_gate(GatePolicy::WithPeer);
    rig.store.peer_holds(rig.end());
    let message = bytes::Bytes::from_static(b"first");
    rig.store
        .submit(vec![unit(1, vec![define(1), put(&[1], message)])]);
    rig.pump();
    rig.store.submit(vec![unit(2, Vec::new())]);
    rig.flush();
    let told = |rig: &Rig| -> Vec<u64> {
        let events = rig.probe.take().into_iter();
        let committed = events.filter_map(|event| match event {
            StoreEvent::Committed(committed) => Some(committed.tickets),
            _ => None,
        });
        committed.flatten().map(|ticket| ticket.0).collect()
    };
    assert_eq!(told(&rig), Vec::<u64>::new(), "the peer has nothing of it");
    rig.store.peer_holds(rig.end());
    assert_eq!(told(&rig), [1, 2]);
    // Nothing is before it that waits.
    rig.store.submit(vec![unit(3, Vec::new())]);
    rig.flush();
    assert_eq!(told(&rig), [3]);
}
