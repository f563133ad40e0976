//! How many published messages, and how many bytes of them, may be on their way to the store: per
//! connection and in all. A permit is taken as a frame goes on and is free when its request is
//! answered. Who gets none stops reading its socket; nothing ever waits on the thread itself.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use crate::machines::delivery::RequestNumber;

/// A bound on messages that are not answered.
#[derive(Clone, Copy, Debug)]
pub struct PermitLimit {
    /// At least 1.
    pub messages: usize,
    /// Bytes of canonical messages. The last one admitted may go over it.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    messages: usize,
    bytes: usize,
}

impl Used {
    fn leaves_room(self, limit: PermitLimit) -> bool {
        self.messages < limit.messages && self.bytes < limit.bytes
    }

    /// At most three quarters are used: worth waking those who wait.
    fn is_eased(self, limit: PermitLimit) -> bool {
        let quarters = |limit: usize| limit - limit / 4;
        self.messages < quarters(limit.messages) && self.bytes < quarters(limit.bytes)
    }
}

/// The permits that all connections share.
#[derive(Debug)]
pub struct PermitPool {
    limit: Cell<PermitLimit>,
    state: RefCell<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    used: Used,
    /// Bytes of open transactions.
    uncommitted: usize,
    waiting: Vec<Waker>,
}

impl PermitPool {
    /// A pool of which nothing is used.
    #[must_use]
    pub fn new(limit: PermitLimit) -> Rc<Self> {
        Rc::new(Self {
            limit: Cell::new(limit),
            state: RefCell::default(),
        })
    }

    /// Another bound from now on; permits that are out stay out.
    pub fn set_limit(&self, limit: PermitLimit) {
        self.limit.set(limit);
    }

    /// One more message may go on.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state.borrow().used.leaves_room(self.limit.get())
    }

    /// Wakes the task once there is room again. Call only while there is none.
    pub fn wait(&self, waker: &Waker) {
        let waiting = &mut self.state.borrow_mut().waiting;
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Messages and bytes in use.
    #[must_use]
    pub fn used(&self) -> (usize, usize) {
        let used = self.state.borrow().used;
        (used.messages, used.bytes)
    }

    /// Bytes of transactions that are not committed.
    #[must_use]
    pub fn uncommitted(&self) -> usize {
        self.state.borrow().uncommitted
    }

    /// Instead of `before` bytes, `now` wait for a COMMIT. False: that is more than the limit on
    /// bytes, which is theirs once more: they hold up nobody who waits for a permit.
    fn keep_uncommitted(&self, before: usize, now: usize) -> bool {
        let uncommitted = &mut self.state.borrow_mut().uncommitted;
        *uncommitted = uncommitted.saturating_sub(before).saturating_add(now);
        *uncommitted <= self.limit.get().bytes
    }

    fn take(&self, bytes: usize) {
        let used = &mut self.state.borrow_mut().used;
        used.messages = used.messages.saturating_add(1);
        used.bytes = used.bytes.saturating_add(bytes);
    }

    fn release(&self, messages: usize, bytes: usize) {
        let mut state = self.state.borrow_mut();
        state.used.messages = state.used.messages.saturating_sub(messages);
        state.used.bytes = state.used.bytes.saturating_sub(bytes);
        if !state.waiting.is_empty() && state.used.is_eased(self.limit.get()) {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A request of a session, in the order of their numbers.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Not given, or answered.
    Free,
    /// No answer yet; so many bytes of a message, if it is one.
    Open(Option<usize>),
}

/// The permits of one connection, by request.
#[derive(Debug)]
pub struct Ledger {
    limit: PermitLimit,
    pool: Rc<PermitPool>,
    used: Used,
    uncommitted: usize,
    /// The number of the first slot.
    first: u32,
    slots: VecDeque<Slot>,
    open: usize,
}

impl Ledger {
    /// Of a new connection.
    #[must_use]
    pub fn new(limit: PermitLimit, pool: Rc<PermitPool>) -> Self {
        Self {
            limit,
            pool,
            used: Used::default(),
            uncommitted: 0,
            first: 1,
            slots: VecDeque::new(),
            open: 0,
        }
    }

    /// One more message may go on.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.leaves_room(self.limit) && self.pool.has_room()
    }

    /// Bytes of messages that are not answered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.used.bytes
    }

    /// Every request is answered.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.open == 0
    }

    /// This request is not answered.
    #[must_use]
    pub fn is_open(&self, request: RequestNumber) -> bool {
        let at = request.0.wrapping_sub(self.first);
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        matches!(slot, Some(Slot::Open(_)))
    }

    /// A message goes on.
    pub fn publish(&mut self, request: RequestNumber, bytes: usize) {
        self.pool.take(bytes);
        self.used.messages = self.used.messages.saturating_add(1);
        self.used.bytes = self.used.bytes.saturating_add(bytes);
        self.put(request, Slot::Open(Some(bytes)));
    }

    /// A request that is no message goes on.
    pub fn ask(&mut self, request: RequestNumber) {
        if request.0 != 0 {
            self.put(request, Slot::Open(None));
        }
    }

    /// So many bytes wait for a COMMIT now. False: more than all connections together may have.
    pub fn keep_uncommitted(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.uncommitted, bytes);
        self.pool.keep_uncommitted(before, bytes)
    }

    /// A request is answered.
    pub fn answered(&mut self, requests: &[RequestNumber]) {
        let (mut messages, mut bytes) = (0usize, 0usize);
        for request in requests {
            let at = request.0.wrapping_sub(self.first);
            let slot = usize::try_from(at)
                .ok()
                .and_then(|at| self.slots.get_mut(at));
            if let Some(slot) = slot
                && let Slot::Open(message) = std::mem::replace(slot, Slot::Free)
            {
                self.open = self.open.saturating_sub(1);
                if let Some(size) = message {
                    messages = messages.saturating_add(1);
                    bytes = bytes.saturating_add(size);
                }
            }
        }
        while let Some(Slot::Free) = self.slots.front() {
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.used.messages = self.used.messages.saturating_sub(messages);
        self.used.bytes = self.used.bytes.saturating_sub(bytes);
        self.pool.release(messages, bytes);
    }

    fn put(&mut self, request: RequestNumber, slot: Slot) {
        let at = usize::try_from(request.0.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if self.slots.is_empty() {
            self.first = request.0;
            self.slots.push_back(slot);
        } else {
            assert!(
                (self.slots.len()..self.slots.len() + (1 << 20)).contains(&at),
                "requests are numbered upwards and each is answered"
            );
            self.slots.resize(at, Slot::Free);
            self.slots.push_back(slot);
        }
        self.open = self.open.saturating_add(1);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.pool.release(self.used.messages, self.used.bytes);
        self.keep_uncommitted(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn limit(messages: usize, bytes: usize) -> PermitLimit {
        PermitLimit { messages, bytes }
    }

    fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<RequestNumber> {
        range.map(RequestNumber).collect()
    }

    #[test]
    fn a_connection_is_bounded_by_count_and_by_bytes() {
        let pool = PermitPool::new(limit(100, 10_000));
        let mut ledger = Ledger::new(limit(2, 1000), Rc::clone(&pool));
        ledger.publish(RequestNumber(1), 10);
        assert!(ledger.has_room());
        ledger.publish(RequestNumber(2), 10);
        assert!(!ledger.has_room());
        ledger.answered(&numbers(2..=2));
        assert!(ledger.has_room());
        ledger.publish(RequestNumber(3), 5000);
        ledger.answered(&numbers(1..=1));
        assert!(!ledger.has_room(), "by its bytes");
        assert_eq!(pool.used(), (1, 5000));
        ledger.answered(&numbers(1..=3));
        assert!(ledger.is_clear());
        assert_eq!(pool.used(), (0, 0));
    }

    #[test]
    fn the_pool_is_shared_wakes_when_eased_and_gets_back_what_a_ledger_leaves() {
        let pool = PermitPool::new(limit(4, 1000));
        let mut one = Ledger::new(limit(100, 1000), Rc::clone(&pool));
        let two = Ledger::new(limit(100, 1000), Rc::clone(&pool));
        for request in 1..=4 {
            one.publish(RequestNumber(request), 1);
        }
        assert!(!two.has_room());
        let bell = Arc::new(Bell::default());
        pool.wait(&Arc::clone(&bell).into());
        one.answered(&numbers(1..=1));
        assert_eq!(bell.0.load(Ordering::Relaxed), 0, "not yet eased");
        one.answered(&numbers(2..=2));
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        drop(one);
        assert_eq!(pool.used(), (0, 0));
    }

    #[test]
    fn other_requests_are_remembered_and_numbers_wrap() {
        let pool = PermitPool::new(limit(4, 1000));
        let mut ledger = Ledger::new(limit(4, 1000), pool);
        ledger.ask(RequestNumber(0));
        assert!(ledger.is_clear());
        ledger.ask(RequestNumber(u32::MAX));
        ledger.publish(RequestNumber(1), 7);
        ledger.answered(&[RequestNumber(1), RequestNumber(9)]);
        assert!(!ledger.is_clear());
        ledger.answered(&[RequestNumber(u32::MAX)]);
        assert!(ledger.is_clear());
    }

    #[test]
    fn open_transactions_are_bounded_together_and_hold_up_no_permit() {
        let pool = PermitPool::new(limit(4, 1000));
        let mut one = Ledger::new(limit(4, 1000), Rc::clone(&pool));
        let mut two = Ledger::new(limit(4, 1000), Rc::clone(&pool));
        assert!(one.keep_uncommitted(600));
        assert!(two.keep_uncommitted(400));
        assert!(!two.keep_uncommitted(401));
        assert!(one.has_room() && two.has_room());
        assert!(one.keep_uncommitted(599), "it let go of one");
        drop(one);
        assert_eq!(pool.uncommitted(), 401);
    }
}
