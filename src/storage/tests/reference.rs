//! The plainest possible store: a list of records, what they amount to, and what each question is to
//! be answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::*;

use super::rig::Rig;

/// What a destination owes, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Owing {
    pub(super) messages: BTreeMap<u64, Bytes>,
    marks: BTreeMap<Lane, u64>,
    marked: BTreeSet<u64>,
    failures: BTreeMap<u64, u32>,
    tail: u64,
    /// Messages and bytes by lane and run of LSNs: what goes counts as the average of what is there.
    sizes: BTreeMap<(Lane, u64), (u64, u64)>,
}

impl Owing {
    fn entry(&self, lsn: u64) -> Entry {
        Entry {
            lsn: Lsn(lsn),
            message: self.messages[&lsn].clone(),
            marked: self.marked.contains(&lsn),
            failures: self.failures.get(&lsn).copied().unwrap_or_default(),
        }
    }

    fn times(&self) -> impl Iterator<Item = (u64, Times)> + '_ {
        let messages = self.messages.iter();
        messages.map(|(lsn, message)| (*lsn, Times::of(message)))
    }

    fn lanes(&self) -> Vec<LaneFacts> {
        (0..=Lane::DELAYED.0)
            .map(|lane| {
                let of = self.times().filter(|(_, times)| times.lane.0 == lane);
                let lsns: Vec<u64> = of.map(|(lsn, _)| lsn).collect();
                LaneFacts {
                    lane: Lane(lane),
                    depth: lsns.len() as u64,
                    tail: Lsn(lsns.last().copied().unwrap_or_default()),
                    mark: Lsn(self.marks.get(&Lane(lane)).copied().unwrap_or_default()),
                }
            })
            .filter(|facts| facts.depth > 0 || facts.mark > Lsn::ZERO)
            .collect()
    }

    /// Everything that the store says of it, asked in small pieces, is what it should be.
    pub(super) fn compare(&self, rig: &Rig, facts: &DestinationFacts) {
        assert_eq!(facts.lanes, self.lanes());
        assert_eq!(facts.depth(), self.messages.len() as u64);
        assert_eq!(facts.tail, Lsn(self.tail));
        let bytes = self.sizes.values().map(|(_, bytes)| bytes);
        assert_eq!(facts.bytes, bytes.sum::<u64>());
        let dues = self.times().filter_map(|(_, times)| times.due_ms);
        assert_eq!(facts.next_due_ms, dues.min());
        let expiries = self.times().filter_map(|(_, times)| times.expiry_ms);
        if let Some(first) = expiries.min() {
            // A bound: what was acknowledged may have been the first.
            assert!(facts.next_expiry_ms.is_some_and(|at| at <= first));
        }
        let id = facts.id;
        let all: Vec<Entry> = self.messages.keys().map(|lsn| self.entry(*lsn)).collect();
        let by_lsn = |after| Seek::All { after };
        assert_eq!(sought(rig, id, by_lsn), all);
        for lane in (0..=Lane::DELAYED.0).map(Lane) {
            let own = |entry: &&Entry| entry.lane() == lane;
            let of: Vec<Entry> = all.iter().filter(own).cloned().collect();
            assert_eq!(sought(rig, id, |after| Seek::Lane { lane, after }), of);
            let filter = || Arc::new(Odd) as Arc<dyn MessageFilter>;
            let matching = |after| Seek::Matching {
                lane,
                after,
                filter: filter(),
            };
            let odd = of.into_iter().filter(|entry| Odd.takes(&entry.message));
            assert_eq!(sought(rig, id, matching), odd.collect::<Vec<_>>());
        }
        for now_ms in [0, 15, 40, 1000] {
            self.compare_times(rig, id, now_ms, &all);
        }
    }

    fn compare_times(&self, rig: &Rig, id: DestId, now_ms: u64, all: &[Entry]) {
        let expiry = |entry: &Entry| Times::of(&entry.message).expiry_ms;
        let expired = all
            .iter()
            .filter(|entry| expiry(entry).is_some_and(|at| at <= now_ms));
        let found = sought(rig, id, |after| Seek::Expired { now_ms, after });
        assert_eq!(found, expired.cloned().collect::<Vec<_>>());
        let seek = Seek::Expired {
            now_ms,
            after: Lsn::ZERO,
        };
        let whole = rig.ask(id, seek, 1000, 1 << 20);
        let later = all.iter().filter_map(expiry).filter(|at| *at > now_ms);
        // Perhaps too early, never too late, and nothing that was had already.
        let next_ms = whole.next_ms;
        assert!(
            later
                .min()
                .is_none_or(|at| next_ms.is_some_and(|next| next <= at))
        );
        assert!(next_ms.is_none_or(|next| next > now_ms));

        let due = |entry: &Entry| Times::of(&entry.message).due_ms;
        let mut delayed: Vec<Entry> = all
            .iter()
            .filter(|entry| due(entry).is_some())
            .cloned()
            .collect();
        delayed.sort_by_key(|entry| (due(entry), entry.lsn));
        let end = delayed.partition_point(|entry| due(entry) <= Some(now_ms));
        let next = delayed.get(end).and_then(due);
        delayed.truncate(end);
        let (mut after, mut found) = ((0, Lsn::ZERO), Vec::new());
        loop {
            let seek = Seek::Due {
                after,
                until_ms: now_ms,
            };
            let answer = rig.ask(id, seek, 3, 2000);
            found.extend(answer.entries);
            if answer.next_ms.is_none_or(|at| at > now_ms) {
                assert_eq!(answer.next_ms, next);
                break;
            }
            let last = found.last().expect("what is due is told");
            after = (due(last).unwrap(), last.lsn);
        }
        assert_eq!(found, delayed);
    }
}

/// Takes about every other message.
#[derive(Debug)]
struct Odd;

impl MessageFilter for Odd {
    fn takes(&self, message: &[u8]) -> bool {
        message.len() % 2 == 1
    }
}

/// All that a question finds, asked in small pieces, so that their seams are tested too.
fn sought(rig: &Rig, id: DestId, seek: impl Fn(Lsn) -> Seek) -> Vec<Entry> {
    let (mut after, mut all) = (Lsn::ZERO, Vec::new());
    loop {
        let found = rig.ask(id, seek(after), 7, 3000);
        assert!(
            found
                .entries
                .last()
                .is_none_or(|last| last.lsn <= found.scanned)
        );
        assert!(found.scanned >= after);
        all.extend(found.entries);
        if found.scanned >= rig.end() {
            return all;
        }
        assert!(found.scanned > after, "a question that gets nowhere");
        after = found.scanned;
    }
}

const SCOPES: [Scope; 3] = [Scope(1), Scope(2), Scope(1 << 63)];

/// The id of a number, which is of one of three destinations.
pub(super) fn an_id(number: usize) -> DuplicateId {
    DuplicateId::new(SCOPES[number % 3], &number.to_string())
}

/// All that are used.
pub(super) fn some_ids() -> Vec<DuplicateId> {
    (0..IDS).map(an_id).collect()
}

/// How many these are.
pub(super) const IDS: usize = 40;

/// See the module.
#[derive(Default)]
pub(super) struct Reference {
    /// By LSN from 1; none is the beginning of an epoch.
    pub(super) log: Vec<Option<Draft>>,
    /// Last LSN of each unit.
    unit_ends: Vec<u64>,
}

impl Reference {
    pub(super) fn push(&mut self, records: Vec<Option<Draft>>) {
        self.log.extend(records);
        self.unit_ends.push(self.log.len() as u64);
    }

    pub(super) fn truncate(&mut self, end: u64) {
        assert!(
            end == 0 || self.unit_ends.contains(&end),
            "half a unit survived"
        );
        self.log.truncate(usize::try_from(end).unwrap());
        self.unit_ends.retain(|unit| *unit <= end);
    }

    /// Which of some ids are known at some times.
    pub(super) fn seen(&self) -> Vec<(u64, Vec<bool>)> {
        let mut bounds = DuplicateBounds::default();
        let mut kept: Vec<(DuplicateId, u64)> = Vec::new();
        for record in self.log.iter().flatten() {
            let now = match record {
                Draft::Kv { space, value, .. } if *space == SPACE_DUPLICATES => {
                    bounds = DuplicateBounds::decode(value).unwrap();
                    0
                }
                Draft::Seen { id, at_ms } => {
                    kept.push((*id, *at_ms));
                    *at_ms
                }
                _ => continue,
            };
            for scope in SCOPES {
                let of = |(id, _): &(DuplicateId, u64)| id.scope == scope;
                let mut over = (kept.iter().filter(|one| of(one)).count() as u64)
                    .saturating_sub(bounds.per_scope);
                kept.retain(|one| {
                    let goes = of(one) && over > 0;
                    over -= u64::from(goes);
                    !goes
                });
            }
            while kept.first().is_some_and(|(_, at)| {
                at + bounds.window_ms <= now || kept.len() as u64 > bounds.all
            }) {
                kept.remove(0);
            }
        }
        let known = |id: &DuplicateId, now| {
            let newest = kept.iter().rev().find(|(own, _)| own == id);
            newest.is_some_and(|(_, at)| at + bounds.window_ms > now)
        };
        let ids = some_ids();
        let at = |now| (now, ids.iter().map(|id| known(id, now)).collect());
        [0, 100, 400].map(at).to_vec()
    }

    pub(super) fn owed(&self) -> BTreeMap<u32, Owing> {
        let mut owed = BTreeMap::new();
        for (lsn, record) in (1u64..).zip(&self.log) {
            if let Some(record) = record {
                apply(&mut owed, lsn, record);
            }
        }
        owed
    }
}

fn apply(owed: &mut BTreeMap<u32, Owing>, lsn: u64, record: &Draft) {
    match record {
        Draft::Kv { space, key, value } if *space == SPACE_DESTINATION => {
            let id = u32::from_be_bytes(key[..].try_into().unwrap());
            if value.is_empty() {
                owed.remove(&id);
            } else {
                owed.entry(id).or_default();
            }
        }
        Draft::Put { targets, message } => {
            for target in targets {
                if let Some(owing) = owed.get_mut(&target.0) {
                    if owing.messages.insert(lsn, message.clone()).is_none() {
                        let size = owing.sizes.entry((Lane::of(message), lsn >> 12));
                        let (count, bytes) = size.or_default();
                        *count += 1;
                        *bytes += crate::proto::message::whole_bytes(message);
                    }
                    owing.tail = lsn;
                }
            }
        }
        Draft::Ack { dest, lsns } => {
            if let Some(owing) = owed.get_mut(&dest.0) {
                for lsn in lsns {
                    if let Some(gone) = owing.messages.remove(&lsn.0) {
                        let size = owing.sizes.entry((Lane::of(&gone), lsn.0 >> 12));
                        let (count, bytes) = size.or_default();
                        *bytes -= *bytes / *count;
                        *count -= 1;
                    }
                    owing.marked.remove(&lsn.0);
                    owing.failures.remove(&lsn.0);
                }
            }
        }
        Draft::Delivered { dest, lane, ahead } => {
            if let Some(owing) = owed.get_mut(&dest.0) {
                let mark = owing.marks.entry(*lane).or_default();
                *mark = (*mark).max(lsn + u64::from(*ahead));
            }
        }
        Draft::DeliveredEach { dest, lsns } => {
            if let Some(owing) = owed.get_mut(&dest.0) {
                let owed = lsns
                    .iter()
                    .filter(|lsn| owing.messages.contains_key(&lsn.0));
                owing.marked.extend(owed.map(|lsn| lsn.0));
            }
        }
        Draft::Failed { dest, counts } => {
            if let Some(owing) = owed.get_mut(&dest.0) {
                for (lsn, count) in counts {
                    if owing.messages.contains_key(&lsn.0) {
                        owing.failures.insert(lsn.0, *count);
                    }
                }
            }
        }
        // A message in parts is put only while its body is held.
        Draft::Kv { .. } | Draft::Seen { .. } | Draft::Part { .. } | Draft::UploadEnded(_) => {}
    }
}
