//! A store with its own two threads: `store-writer` owns the write side, `store-reader` answers
//! questions beside it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::proto::ids::{DestId, Lsn};

use super::api::{
    Batch, DestinationFacts, DuplicateId, GatePolicy, Job, LogFacts, LogStore, Seek, StoreFacts,
    Unit,
};
use super::backend::Home;
use super::core::{Core, HomeView, Request};
use super::error::StoreError;
use super::reader::{self, Question};
use super::shared::{Shared, lock};

/// How often an idle writer looks at the room on its disk.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// The same while there is room to be given back: each time a portion of it.
const IDLE_PAUSE: Duration = Duration::from_millis(20);

/// See the module.
pub struct ThreadedStore<H: Home> {
    shared: Arc<Shared<HomeView<H>>>,
    requests: Arc<Inbox<Request>>,
    questions: Arc<Inbox<Question>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A queue that a thread waits at.
struct Inbox<T> {
    inner: Mutex<Waiting<T>>,
    arrived: Condvar,
}

struct Waiting<T> {
    queue: VecDeque<T>,
    closed: bool,
    /// The thread sleeps: only then is it to be woken, which costs a system call.
    asleep: bool,
}

enum Waited {
    Arrived,
    InVain,
    Closed,
}

impl<T> Inbox<T> {
    fn new() -> Self {
        Self {
            inner: Mutex::new(Waiting {
                queue: VecDeque::new(),
                closed: false,
                asleep: false,
            }),
            arrived: Condvar::new(),
        }
    }

    fn put(&self, item: T) {
        let mut inner = lock(&self.inner);
        inner.queue.push_back(item);
        if inner.asleep {
            inner.asleep = false;
            drop(inner);
            self.arrived.notify_one();
        }
    }

    fn close(&self) {
        lock(&self.inner).closed = true;
        self.arrived.notify_one();
    }

    /// All that is there, without waiting.
    fn take(&self) -> VecDeque<T> {
        std::mem::take(&mut lock(&self.inner).queue)
    }

    /// Waits until something is there, it is closed, or the time is over.
    fn wait(&self, timeout: Duration) -> Waited {
        let mut inner = lock(&self.inner);
        if inner.queue.is_empty() && !inner.closed {
            inner.asleep = true;
            inner = self
                .arrived
                .wait_timeout_while(inner, timeout, |inner| {
                    inner.queue.is_empty() && !inner.closed
                })
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
            inner.asleep = false;
        }
        if !inner.queue.is_empty() {
            Waited::Arrived
        } else if inner.closed {
            Waited::Closed
        } else {
            Waited::InVain
        }
    }
}

impl<H: Home> ThreadedStore<H> {
    pub(crate) fn start(mut core: Core<H>) -> Result<Self, StoreError> {
        let shared = Arc::clone(&core.shared);
        let requests = Arc::new(Inbox::new());
        let questions = Arc::new(Inbox::new());
        let store = Self {
            shared: Arc::clone(&shared),
            requests: Arc::clone(&requests),
            questions: Arc::clone(&questions),
            threads: Mutex::default(),
        };
        store.spawn("store-writer", move || {
            loop {
                core.push(requests.take());
                if core.step() {
                    continue;
                }
                let pause = if core.wants_idle() {
                    IDLE_PAUSE
                } else {
                    MEASURE_EVERY
                };
                match requests.wait(pause) {
                    Waited::Arrived => {}
                    Waited::InVain => core.idle(),
                    Waited::Closed => break,
                }
            }
        })?;
        store.spawn("store-reader", move || {
            loop {
                match questions.wait(Duration::from_secs(3600)) {
                    Waited::Arrived => {
                        for question in questions.take() {
                            reader::answer(&shared, &question);
                        }
                    }
                    Waited::InVain => {}
                    Waited::Closed => break,
                }
            }
        })?;
        Ok(store)
    }

    fn spawn(
        &self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|cause| StoreError::Thread { name, cause })?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl<H: Home> LogStore for ThreadedStore<H> {
    fn submit(&self, units: Vec<Unit>) {
        self.requests.put(Request::Units(units));
    }

    fn append(&self, batch: Batch) {
        self.requests.put(Request::Append(batch));
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        self.shared.set_gate(policy)
    }

    fn peer_holds(&self, upto: Lsn) {
        self.shared.peer_holds(upto);
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        self.questions.put(Question::Fetch {
            dest,
            tag,
            seek,
            count,
            bytes,
        });
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        self.questions.put(Question::Parts { whose, lsns });
    }

    fn read_log(&self, request: u64, after: Lsn, bytes: usize) {
        self.questions.put(Question::Log {
            request,
            after,
            bytes,
        });
    }

    fn run(&self, request: u64, job: Job) {
        self.requests.put(Request::Job { request, job });
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
        self.requests.close();
        self.questions.close();
        let here = std::thread::current().id();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A sink that drops the last handle on a thread of the store cannot wait for itself.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!(target: "twinmq::store", "a thread of the store panicked");
            }
        }
    }
}

impl<H: Home> Drop for ThreadedStore<H> {
    fn drop(&mut self) {
        self.close();
    }
}
