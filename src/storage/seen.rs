//! The ids of messages that were stored, for those that are sent again. Part of the index: changed as
//! records are applied, and by their times alone, so that the same records leave the same ids.
//!
//! Within a scope ids are kept in the order of the log. The oldest goes when there are more than the
//! bounds allow; and whatever scope it is of, the oldest of all goes when its time is over at the time
//! that a new one brings.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::proto::duplicate::{DuplicateBounds, DuplicateId, Scope};
use crate::proto::ids::Lsn;
use crate::proto::record::{DecodeError, Reader, put_varint};

use super::runs::run_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    lsn: Lsn,
    at_ms: u64,
    key: [u8; 16],
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    bounds: DuplicateBounds,
    scopes: HashMap<Scope, VecDeque<Item>>,
    /// The oldest of each scope.
    fronts: BTreeMap<Lsn, Scope>,
    /// The newest record of each id.
    newest: HashMap<[u8; 16], Lsn>,
    count: u64,
    /// Pages of the checkpoint that show other ids than there are.
    changed: BTreeSet<(Scope, u64)>,
}

impl Seen {
    /// A message with this id was stored.
    pub(super) fn note(&mut self, lsn: Lsn, id: DuplicateId, at_ms: u64) {
        let item = Item {
            lsn,
            at_ms,
            key: id.key,
        };
        self.push(id.scope, item);
        self.changed.insert((id.scope, run_of(lsn)));
        self.trim_scope(id.scope);
        self.trim(at_ms);
    }

    /// Other bounds from now on; what is over them goes.
    pub(super) fn set_bounds(&mut self, bounds: DuplicateBounds) {
        self.bounds = bounds;
        let scopes: Vec<Scope> = self.scopes.keys().copied().collect();
        for scope in scopes {
            self.trim_scope(scope);
        }
        // After all scopes: the order in which they are looked at means nothing then.
        self.trim(0);
    }

    /// Bounds that a checkpoint knew, before its ids.
    pub(super) fn restore_bounds(&mut self, bounds: DuplicateBounds) {
        self.bounds = bounds;
    }

    fn push(&mut self, scope: Scope, item: Item) {
        let items = self.scopes.entry(scope).or_default();
        if items.is_empty() {
            self.fronts.insert(item.lsn, scope);
        }
        items.push_back(item);
        self.newest.insert(item.key, item.lsn);
        self.count += 1;
    }

    fn trim_scope(&mut self, scope: Scope) {
        let over = |seen: &Self| {
            let items = seen.scopes.get(&scope);
            items.is_some_and(|items| items.len() as u64 > seen.bounds.per_scope)
        };
        while over(self) {
            self.pop(scope);
        }
    }

    fn trim(&mut self, now_ms: u64) {
        while let Some((_, &scope)) = self.fronts.first_key_value() {
            let oldest = self.scopes.get(&scope).and_then(VecDeque::front);
            let over = oldest.is_some_and(|item| !self.lasts(item.at_ms, now_ms));
            if !over && self.count <= self.bounds.all {
                break;
            }
            self.pop(scope);
        }
    }

    fn lasts(&self, at_ms: u64, now_ms: u64) -> bool {
        at_ms.saturating_add(self.bounds.window_ms) > now_ms
    }

    /// The oldest of a scope goes.
    fn pop(&mut self, scope: Scope) {
        let Some(items) = self.scopes.get_mut(&scope) else {
            return;
        };
        let Some(item) = items.pop_front() else {
            return;
        };
        self.fronts.remove(&item.lsn);
        match items.front() {
            Some(next) => {
                self.fronts.insert(next.lsn, scope);
                if items.capacity() > 64 && items.capacity() > items.len() * 4 {
                    items.shrink_to(items.len() * 2);
                }
            }
            None => {
                self.scopes.remove(&scope);
            }
        }
        if self.newest.get(&item.key) == Some(&item.lsn) {
            self.newest.remove(&item.key);
        }
        self.count -= 1;
        self.changed.insert((scope, run_of(item.lsn)));
    }

    /// Whether a message with this id was stored, in the window that ends now.
    #[must_use]
    pub fn knows(&self, id: &DuplicateId, now_ms: u64) -> bool {
        let Some(lsn) = self.newest.get(&id.key) else {
            return false;
        };
        let items = self.scopes.get(&id.scope);
        items.is_some_and(|items| {
            let found = items.binary_search_by_key(lsn, |item| item.lsn);
            found.is_ok_and(|at| self.lasts(items[at].at_ms, now_ms))
        })
    }

    /// Ids in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether two know the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.bounds == other.bounds && self.scopes == other.scopes
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let items: usize = self.scopes.values().map(VecDeque::capacity).sum();
        let per_key = size_of::<([u8; 16], Lsn)>() + 1;
        items * size_of::<Item>()
            + self.newest.capacity() * per_key * 8 / 7
            + self.scopes.capacity() * size_of::<(Scope, VecDeque<Item>)>()
    }

    /// Pages of the checkpoint that have to be written again since this was asked last.
    pub(super) fn take_changed(&mut self) -> BTreeSet<(Scope, u64)> {
        std::mem::take(&mut self.changed)
    }

    /// The ids of a scope in a run of LSNs; nothing when there are none.
    #[must_use]
    pub(super) fn page(&self, scope: Scope, run: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let Some(items) = self.scopes.get(&scope) else {
            return body;
        };
        let start = items.partition_point(|item| run_of(item.lsn) < run);
        let mut before = Lsn::ZERO;
        for item in items.range(start..) {
            if run_of(item.lsn) != run {
                break;
            }
            put_varint(&mut body, item.lsn.0 - before.0);
            put_varint(&mut body, item.at_ms);
            body.extend_from_slice(&item.key);
            before = item.lsn;
        }
        body
    }

    /// Takes in a page of a checkpoint that shows the log up to `upto`, after those before it. False
    /// when it is out of order.
    pub(super) fn restore(
        &mut self,
        scope: Scope,
        run: u64,
        body: &[u8],
        upto: Lsn,
    ) -> Result<bool, DecodeError> {
        let mut from = Reader { bytes: body, at: 0 };
        let last = self.scopes.get(&scope).and_then(VecDeque::back);
        let (mut after, mut before) = (last.map_or(Lsn::ZERO, |item| item.lsn), Lsn::ZERO);
        while from.at < body.len() {
            let lsn = from.lsn_after(before)?;
            let at_ms = from.varint()?;
            let mut key = [0; 16];
            key.copy_from_slice(from.take(16)?);
            if lsn <= after || lsn > upto || run_of(lsn) != run {
                return Ok(false);
            }
            self.push(scope, Item { lsn, at_ms, key });
            (after, before) = (lsn, lsn);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scope: u64, name: &str) -> DuplicateId {
        DuplicateId::new(Scope(scope), name)
    }

    fn bounded(per_scope: u64, all: u64, window_ms: u64) -> Seen {
        let mut seen = Seen::default();
        seen.set_bounds(DuplicateBounds {
            per_scope,
            all,
            window_ms,
        });
        seen
    }

    #[test]
    fn the_oldest_of_a_destination_goes_first() {
        let mut seen = bounded(2, 100, 1000);
        for (lsn, name) in [(1, "a"), (2, "b"), (3, "c")] {
            seen.note(Lsn(lsn), id(1, name), 5);
        }
        seen.note(Lsn(4), id(2, "a"), 5);
        let known = |name| seen.knows(&id(1, name), 5);
        assert_eq!([known("a"), known("b"), known("c")], [false, true, true]);
        assert!(
            seen.knows(&id(2, "a"), 5),
            "another destination has its own"
        );
        assert_eq!(seen.count(), 3);
    }

    #[test]
    fn beyond_the_bound_of_all_the_oldest_of_any_destination_goes() {
        let mut seen = bounded(10, 3, 1000);
        for (lsn, scope) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
            seen.note(Lsn(lsn), id(scope, &lsn.to_string()), 5);
        }
        assert!(!seen.knows(&id(1, "1"), 5));
        assert!(seen.knows(&id(2, "2"), 5) && seen.knows(&id(1, "3"), 5));
        assert_eq!(seen.count(), 3);
    }

    #[test]
    fn an_id_is_forgotten_when_its_time_is_over_and_may_come_again() {
        let mut seen = bounded(10, 10, 100);
        seen.note(Lsn(1), id(1, "a"), 1000);
        assert!(seen.knows(&id(1, "a"), 1099));
        assert!(
            !seen.knows(&id(1, "a"), 1100),
            "whether or not it is still kept"
        );
        assert!(seen.knows(&id(1, "a"), 0), "a clock that went back");
        // Of another destination, and yet it takes the first away.
        seen.note(Lsn(2), id(2, "b"), 1100);
        assert_eq!(seen.count(), 1);
        seen.note(Lsn(3), id(1, "a"), 1150);
        assert!(seen.knows(&id(1, "a"), 1200));
    }

    #[test]
    fn an_id_that_came_again_outlives_its_first_record() {
        let mut seen = bounded(2, 10, 100);
        seen.note(Lsn(1), id(1, "a"), 50);
        seen.note(Lsn(2), id(1, "a"), 60);
        seen.note(Lsn(3), id(1, "b"), 60);
        assert!(seen.knows(&id(1, "a"), 60) && seen.knows(&id(1, "b"), 60));
        seen.note(Lsn(4), id(1, "c"), 60);
        assert!(!seen.knows(&id(1, "a"), 60));
    }

    #[test]
    fn smaller_bounds_hold_at_once_and_none_forgets_all() {
        let mut seen = bounded(10, 10, 100);
        for lsn in 1..=6 {
            seen.note(Lsn(lsn), id(lsn % 2, &lsn.to_string()), 5);
        }
        let mut smaller = seen.clone();
        smaller.set_bounds(DuplicateBounds {
            per_scope: 2,
            all: 3,
            window_ms: 100,
        });
        assert_eq!(smaller.count(), 3);
        assert!(!smaller.knows(&id(1, "3"), 5) && smaller.knows(&id(0, "4"), 5));
        seen.set_bounds(DuplicateBounds {
            per_scope: 0,
            all: 10,
            window_ms: 100,
        });
        assert_eq!(
            (seen.count(), seen.fronts.len(), seen.newest.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn pages_read_back_and_those_out_of_order_are_refused() {
        let mut seen = bounded(10, 10, 100);
        seen.note(Lsn(1), id(1, "a"), 5);
        seen.note(Lsn(9), id(1, "b"), 6);
        seen.note(Lsn(5000), id(1, "c"), 7);
        let (first, second) = (seen.page(Scope(1), 0), seen.page(Scope(1), 1));
        assert_eq!(seen.page(Scope(2), 0), Vec::<u8>::new());
        let empty = || bounded(10, 10, 100);
        let mut back = empty();
        assert_eq!(back.restore(Scope(1), 0, &first, Lsn(5000)), Ok(true));
        assert_eq!(back.restore(Scope(1), 1, &second, Lsn(5000)), Ok(true));
        assert!(back.same_as(&seen) && back.fronts == seen.fronts);
        assert_eq!(back.newest, seen.newest);
        assert_eq!(back.restore(Scope(1), 0, &first, Lsn(5000)), Ok(false));
        assert_eq!(empty().restore(Scope(1), 1, &first, Lsn(5000)), Ok(false));
        assert_eq!(empty().restore(Scope(1), 1, &second, Lsn(4999)), Ok(false));
        assert!(empty().restore(Scope(1), 0, &first[..9], Lsn(9)).is_err());
    }
}
