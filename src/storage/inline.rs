//! A store without threads of its own, for the simulator and for tests: requests are queued and done
//! when it is pumped. Not from within its sink or `wake`: these only say that there is work.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::proto::ids::{DestId, Lsn};

use super::api::{
    Batch, DestinationFacts, DuplicateId, GatePolicy, Job, LogFacts, LogStore, Seek, StoreFacts,
    Unit,
};
use super::backend::Home;
use super::core::{Core, HomeView, Request};
use super::reader::{self, Question};
use super::shared::{Shared, lock};

/// See the module.
pub struct InlineStore<H: Home> {
    shared: Arc<Shared<HomeView<H>>>,
    requests: Mutex<VecDeque<Request>>,
    questions: Mutex<VecDeque<Question>>,
    core: Mutex<Option<Core<H>>>,
    /// Called whenever there is something to pump.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<H: Home> InlineStore<H> {
    pub(crate) fn new(core: Core<H>, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            shared: Arc::clone(&core.shared),
            requests: Mutex::default(),
            questions: Mutex::default(),
            core: Mutex::new(Some(core)),
            wake,
        }
    }

    /// Does one thing that is queued, or the flush that is owed. False when nothing is left.
    pub fn pump_one(&self) -> bool {
        let question = lock(&self.questions).pop_front();
        if let Some(question) = question {
            reader::answer(&self.shared, &question);
            return true;
        }
        match &mut *lock(&self.core) {
            Some(core) => {
                core.push(lock(&self.requests).drain(..));
                core.step()
            }
            None => false,
        }
    }

    /// What a store with threads does when nothing was asked of it for a while. False when it would not
    /// do so again soon.
    pub fn idle(&self) -> bool {
        match &mut *lock(&self.core) {
            Some(core) => {
                core.idle();
                core.wants_idle()
            }
            None => false,
        }
    }

    /// Does all that is queued.
    pub fn pump(&self) {
        while self.pump_one() {}
    }

    fn request(&self, request: Request) {
        lock(&self.requests).push_back(request);
        (self.wake)();
    }

    fn question(&self, question: Question) {
        lock(&self.questions).push_back(question);
        (self.wake)();
    }
}

impl<H: Home> LogStore for InlineStore<H> {
    fn submit(&self, units: Vec<Unit>) {
        self.request(Request::Units(units));
    }

    fn append(&self, batch: Batch) {
        self.request(Request::Append(batch));
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        self.shared.set_gate(policy)
    }

    fn peer_holds(&self, upto: Lsn) {
        self.shared.peer_holds(upto);
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        self.question(Question::Fetch {
            dest,
            tag,
            seek,
            count,
            bytes,
        });
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        self.question(Question::Parts { whose, lsns });
    }

    fn read_log(&self, request: u64, after: Lsn, bytes: usize) {
        self.question(Question::Log {
            request,
            after,
            bytes,
        });
    }

    fn run(&self, request: u64, job: Job) {
        self.request(Request::Job { request, job });
    }

    fn log_facts(&self) -> LogFacts {
        self.shared.state().log_facts()
    }

    fn log_bytes(&self, after: Lsn) -> u64 {
        self.shared.state().log_bytes(after)
    }

    fn committed(&self) -> Lsn {
        self.shared.state().commit
    }

    fn gate(&self) -> GatePolicy {
        self.shared.state().gate
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        self.shared.state().index.facts()
    }

    fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool> {
        self.shared.state().seen(ids, now_ms)
    }

    fn facts(&self) -> StoreFacts {
        self.shared.facts()
    }

    fn close(&self) {
        self.pump();
        *lock(&self.core) = None;
    }
}
