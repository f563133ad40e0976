//! The arbiter in memory: one record, one lock, answers after a while. On this kernel's own file
//! system, so that a lock which is free means that its holder is dead (A3).

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinmq::actors::wiring::AnswerSink;
use twinmq::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts};
use twinmq::proto::ids::Nonce;

use crate::clock::{Chance, Trace, open};

/// The longest that a call is on its way, and its answer too, in milliseconds.
const WAY_MS: u64 = 3;

/// One start of a server: what dies when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Which of the two servers.
    pub(crate) at: usize,
    /// Counts the starts of both.
    pub(crate) number: u64,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, number } = self;
        write!(f, "{at}/{number}")
    }
}

/// The folder that both servers see.
pub(crate) struct Share {
    files: Mutex<Files>,
    chance: Chance,
    trace: Trace,
}

#[derive(Default)]
struct Files {
    record: Option<ArbiterRecord>,
    lock: Option<LockFacts>,
    holder: Option<Life>,
}

impl Share {
    pub(crate) fn new(chance: Chance, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            files: Mutex::default(),
            chance,
            trace,
        })
    }

    /// The arbiter as one life of a server sees it. Needs that server's `LocalSet`: its calls end with it.
    pub(crate) fn arbiter(self: &Arc<Self>, life: Life, answers: AnswerSink) -> Arc<dyn Arbiter> {
        let (calls, inbox) = unbounded_channel();
        drop(tokio::task::spawn_local(
            Arc::clone(self).carry(life, inbox, answers),
        ));
        Arc::new(Calls(calls))
    }

    /// The holder's process has ended: its lock is free.
    pub(crate) fn free(&self, life: Life) {
        let mut files = open(&self.files);
        if files.holder == Some(life) {
            files.holder = None;
        }
    }

    /// One call after the other, as on the thread of a real server.
    async fn carry(
        self: Arc<Self>,
        life: Life,
        mut inbox: UnboundedReceiver<(u64, ArbiterCall)>,
        answers: AnswerSink,
    ) {
        while let Some((id, call)) = inbox.recv().await {
            self.chance.delay(WAY_MS).await;
            let answer = self.answer(life, call.clone());
            self.trace
                .tell(format_args!("{life} {call:?} -> {answer:?}"));
            self.chance.delay(WAY_MS).await;
            answers(id, answer);
        }
    }

    fn answer(&self, life: Life, call: ArbiterCall) -> ArbiterAnswer {
        let files = &mut *open(&self.files);
        match call {
            ArbiterCall::Read => ArbiterAnswer::Read {
                record: files.record.clone(),
                lock: files.lock.clone(),
            },
            ArbiterCall::Create(record) => {
                if files.record.is_some() {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                files.lock.get_or_insert_with(|| LockFacts {
                    nonce: Nonce(self.chance.bytes()),
                    device: 1,
                    inode: 2,
                    local: true,
                    last: None,
                });
                files.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::TryLock => match (&files.lock, files.holder) {
                (None, _) => ArbiterAnswer::Failed("there is no lock file".to_owned()),
                (Some(lock), Some(holder)) if holder != life => ArbiterAnswer::Refused {
                    holder: lock.last.clone(),
                },
                (Some(lock), _) => {
                    files.holder = Some(life);
                    ArbiterAnswer::Locked {
                        lock: lock.clone(),
                        record: files.record.clone(),
                    }
                }
            },
            ArbiterCall::Unlock => {
                if files.holder == Some(life) {
                    files.holder = None;
                }
                ArbiterAnswer::Unlocked
            }
            ArbiterCall::Check(heartbeat) => match &mut files.lock {
                Some(lock) if files.holder == Some(life) => {
                    lock.last = Some(heartbeat);
                    ArbiterAnswer::Held {
                        record: files.record.clone(),
                    }
                }
                Some(_) | None => ArbiterAnswer::Lost("the lock is not held".to_owned()),
            },
            ArbiterCall::CompareAndSet(next) => {
                let expected = files.record.as_ref().map(|record| record.seq.next());
                if expected != Some(next.seq) {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                files.record = Some(next.clone());
                ArbiterAnswer::Set(next)
            }
        }
    }
}

struct Calls(UnboundedSender<(u64, ArbiterCall)>);

impl Arbiter for Calls {
    fn call(&self, id: u64, call: ArbiterCall) {
        // Nobody takes it only once the server is dead.
        drop(self.0.send((id, call)));
    }
}
