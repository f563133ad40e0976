//! What one destination owes: its lanes, the delayed messages by the time at which they are due, and
//! what is known of single messages.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};

use super::api::{DestinationFacts, Lane, LaneFacts, Times};
use super::runs::{Bits, RUN_LSNS, Run, Runs, put_lsns, run_of};

/// What is known of an owed message besides its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// See `Entry::marked`.
    pub marked: bool,
    /// See `Entry::failures`.
    pub failures: u32,
}

/// One lane: kept from the first message or mark on.
#[derive(Clone, Debug)]
pub struct LaneIndex {
    /// Which.
    pub lane: Lane,
    /// Its delivery mark.
    pub mark: Lsn,
    /// What it owes.
    pub runs: Runs,
}

/// Delayed messages, twice. About 60 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Delays {
    by_lsn: BTreeMap<Lsn, u64>,
    in_order: BTreeSet<(u64, Lsn)>,
}

/// What a message that was settled leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The lane it was in.
    pub lane: Lane,
    /// The run that went with it and has a page in the checkpoint.
    pub run_gone: Option<u64>,
    /// Something was known of it.
    pub was_known: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// Kind byte and name.
    pub definition: Bytes,
    /// See `DestinationFacts::tail`.
    pub tail: Lsn,
    /// By number.
    lanes: Vec<LaneIndex>,
    delays: Option<Box<Delays>>,
    known: BTreeMap<Lsn, Known>,
    /// It is among what the next checkpoint writes.
    pub(super) dirty: bool,
}

/// Which lanes, and which runs of them.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// All of them.
    All,
    /// One lane.
    Lane(Lane),
    /// Runs in which something may expire by then.
    Expired(u64),
}

impl Destination {
    /// Messages owed.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.runs.len()).sum()
    }

    /// Bytes of the messages owed: exact to within what those of 4,096 LSNs differ in size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.runs.bytes()).sum()
    }

    /// Its lanes, by number.
    #[must_use]
    pub fn lanes(&self) -> &[LaneIndex] {
        &self.lanes
    }

    pub(super) fn lanes_mut(&mut self) -> &mut [LaneIndex] {
        &mut self.lanes
    }

    pub(super) fn lane_mut(&mut self, lane: Lane) -> &mut LaneIndex {
        let at = match self.lanes.binary_search_by_key(&lane, |own| own.lane) {
            Ok(at) => at,
            Err(at) => {
                let fresh = LaneIndex {
                    lane,
                    mark: Lsn::ZERO,
                    runs: Runs::default(),
                };
                self.lanes.insert(at, fresh);
                at
            }
        };
        &mut self.lanes[at]
    }

    /// A message after all that were ever in it.
    pub(super) fn push(&mut self, lsn: Lsn, times: Times, bytes: u64) {
        self.tail = lsn;
        let runs = &mut self.lane_mut(times.lane).runs;
        runs.push(lsn, times.expiry_ms, bytes);
        if let Some(due) = times.due_ms {
            self.delay(lsn, due);
        }
    }

    pub(super) fn delay(&mut self, lsn: Lsn, due_ms: u64) {
        let delays = self.delays.get_or_insert_default();
        delays.by_lsn.insert(lsn, due_ms);
        delays.in_order.insert((due_ms, lsn));
    }

    /// Still owes this message.
    #[must_use]
    pub fn owes(&self, lsn: Lsn) -> bool {
        self.lanes.iter().any(|lane| lane.runs.contains(lsn))
    }

    /// A message is done with; none when it was not owed.
    pub(super) fn settle(&mut self, lsn: Lsn) -> Option<Settled> {
        let mut run_gone = None;
        let lane = self.lanes.iter_mut().find_map(|lane| {
            let removed = lane.runs.remove(lsn, |number| run_gone = Some(number));
            removed.then_some(lane.lane)
        })?;
        if lane == Lane::DELAYED
            && let Some(delays) = &mut self.delays
        {
            if let Some(due) = delays.by_lsn.remove(&lsn) {
                delays.in_order.remove(&(due, lsn));
            }
            if delays.by_lsn.is_empty() {
                self.delays = None;
            }
        }
        Some(Settled {
            lane,
            run_gone,
            was_known: !self.known.is_empty() && self.known.remove(&lsn).is_some(),
        })
    }

    /// What is known of an owed message.
    #[must_use]
    pub fn known(&self, lsn: Lsn) -> Known {
        if self.known.is_empty() {
            return Known::default();
        }
        self.known.get(&lsn).copied().unwrap_or_default()
    }

    pub(super) fn know(&mut self, lsn: Lsn, change: impl FnOnce(&mut Known)) {
        change(self.known.entry(lsn).or_default());
    }

    /// What is known of the messages of one run's LSNs.
    pub(super) fn known_of(&self, run: u64) -> impl Iterator<Item = (Lsn, Known)> + '_ {
        let first = Lsn(run * RUN_LSNS);
        let last = Lsn(first.0 + (RUN_LSNS - 1));
        let known = self.known.range(first..=last);
        known.map(|(lsn, known)| (*lsn, *known))
    }

    /// Messages of which something is known.
    pub(super) fn all_known(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.known.keys().copied()
    }

    /// When the messages of a delayed run are due, in LSN order.
    pub(super) fn dues_of(&self, run: u64) -> impl Iterator<Item = u64> + '_ {
        let first = Lsn(run * RUN_LSNS);
        let last = Lsn(first.0 + (RUN_LSNS - 1));
        let delays = self.delays.iter();
        delays.flat_map(move |delays| delays.by_lsn.range(first..=last).map(|(_, due)| *due))
    }

    /// Delayed messages after (due, LSN), up to `until_ms`, at most `limit`; and when the one after
    /// them is due.
    #[must_use]
    pub fn due(&self, after: (u64, Lsn), until_ms: u64, limit: usize) -> (Vec<Lsn>, Option<u64>) {
        let Some(delays) = &self.delays else {
            return (Vec::new(), None);
        };
        let mut found = Vec::new();
        let start = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        for (due, lsn) in delays.in_order.range(start) {
            if *due > until_ms || found.len() >= limit {
                return (found, Some(*due));
            }
            found.push(*lsn);
        }
        (found, None)
    }

    /// When a delayed message is due.
    #[must_use]
    pub fn due_of(&self, lsn: Lsn) -> Option<u64> {
        self.delays.as_ref()?.by_lsn.get(&lsn).copied()
    }

    /// Puts owed LSNs above `after` to `out`, in order, until it has `limit`; whole runs with the
    /// last one if `whole`. Gives the LSN below which nothing was left out; none at the end.
    pub fn collect(&self, pick: Pick, after: Lsn, limit: usize, out: &mut Vec<Lsn>) -> Option<Lsn> {
        let first = run_of(after.next());
        let mut sources: Vec<_> = self
            .lanes
            .iter()
            .filter(|lane| match pick {
                Pick::Lane(only) => lane.lane == only,
                Pick::All | Pick::Expired(_) => true,
            })
            .map(|lane| {
                lane.runs
                    .runs_from(first)
                    .filter(move |run| match pick {
                        Pick::Expired(now_ms) => run.expiry().is_some_and(|at| at <= now_ms),
                        Pick::All | Pick::Lane(_) => true,
                    })
                    .peekable()
            })
            .collect();
        while let Some(number) = next_run(&mut sources) {
            // What expires is read by whole runs, so that their bounds can be made exact.
            let whole = matches!(pick, Pick::Expired(_));
            if whole && !out.is_empty() {
                return Some(Lsn((number * RUN_LSNS).saturating_sub(1)));
            }
            let mut bits: Bits = [0; 64];
            for source in &mut sources {
                if let Some(run) = source.next_if(|run| run.number == number) {
                    run.add_to(&mut bits);
                }
            }
            let room = if whole { usize::MAX } else { limit };
            if !put_lsns(number, &bits, after, room, out) {
                return Some(out.last().copied().unwrap_or(after));
            }
        }
        None
    }

    /// The first time at which something may expire that is later than `now_ms`, of runs above it.
    pub(super) fn expiry_above(&self, now_ms: u64, after: Lsn) -> Option<u64> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.runs.runs_from(run_of(after.next())))
            .filter_map(Run::expiry)
            .filter(|at| *at > now_ms)
            .min()
    }

    pub(super) fn facts(&self, id: DestId) -> DestinationFacts {
        DestinationFacts {
            id,
            definition: self.definition.clone(),
            lanes: self
                .lanes
                .iter()
                .filter(|lane| !lane.runs.is_empty() || lane.mark > Lsn::ZERO)
                .map(|lane| LaneFacts {
                    lane: lane.lane,
                    depth: lane.runs.len(),
                    tail: lane.runs.last(),
                    mark: lane.mark,
                })
                .collect(),
            tail: self.tail,
            bytes: self.bytes(),
            next_due_ms: self
                .delays
                .as_ref()
                .and_then(|delays| delays.in_order.first().map(|(due, _)| *due)),
            next_expiry_ms: self
                .lanes
                .iter()
                .filter_map(|lane| lane.runs.expiry())
                .min(),
        }
    }

    /// The same is owed and known, whatever is yet to be written and however exact bounds are.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let marks = |of: &Self| {
            let lanes = of.lanes.iter().filter(|lane| lane.mark > Lsn::ZERO);
            lanes.map(|lane| (lane.lane, lane.mark)).collect::<Vec<_>>()
        };
        let owed = |of: &Self| {
            let lanes = of.lanes.iter();
            lanes
                .flat_map(|lane| lane.runs.lsns().map(|lsn| (lane.lane, lsn)))
                .collect::<Vec<_>>()
        };
        self.definition == other.definition
            && self.tail == other.tail
            && self.bytes() == other.bytes()
            && marks(self) == marks(other)
            && owed(self) == owed(other)
            && self.delays == other.delays
            && self.known == other.known
    }

    /// Bytes of memory for what it owes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let lanes: usize = self.lanes.iter().map(|lane| lane.runs.memory()).sum();
        let delayed = self.delays.as_ref().map_or(0, |delays| delays.by_lsn.len());
        lanes + delayed * 64 + self.known.len() * 24
    }
}

/// The lowest number of a run that is next in any source.
fn next_run<'a>(sources: &mut [std::iter::Peekable<impl Iterator<Item = &'a Run>>]) -> Option<u64> {
    let next = sources.iter_mut().filter_map(|source| source.peek());
    next.map(|run| run.number).min()
}
