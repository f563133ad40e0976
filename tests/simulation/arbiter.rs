//! The arbiter in memory: one record, one lock for each generation, answers after a while. On this kernel's own file
//! system, so that a lock which is free means that its holder is dead (A3).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinmq::actors::wiring::AnswerSink;
use twinmq::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts};
use twinmq::proto::ids::{Epoch, Nonce};

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
    locks: BTreeMap<Epoch, (LockFacts, Option<Life>)>,
}

impl Files {
    /// The lock file that counts.
    fn lock(&mut self) -> Option<&mut (LockFacts, Option<Life>)> {
        let generation = self.record.as_ref().map(|record| record.generation);
        self.locks.get_mut(&generation.unwrap_or_default())
    }

    fn let_go(&mut self, life: Life) {
        for (_, holder) in self.locks.values_mut() {
            holder.take_if(|holder| *holder == life);
        }
    }

    fn add(&mut self, generation: Epoch, nonce: Nonce) {
        let last = self.lock().and_then(|(lock, _)| lock.last.clone());
        let lock = LockFacts {
            nonce,
            device: 1,
            inode: 2 + generation.0,
            local: true,
            last,
        };
        self.locks.entry(generation).or_insert((lock, None));
    }
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
        open(&self.files).let_go(life);
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
                lock: files.lock().map(|(lock, _)| lock.clone()),
            },
            ArbiterCall::Create(record) => {
                if files.record.is_some() {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                files.add(record.generation, Nonce(self.chance.bytes()));
                files.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::TryLock => match files.lock() {
                None => ArbiterAnswer::Failed("there is no lock file".to_owned()),
                Some((lock, Some(holder))) if *holder != life => ArbiterAnswer::Refused {
                    holder: lock.last.clone(),
                },
                Some((lock, _)) => {
                    let lock = lock.clone();
                    files.let_go(life);
                    if let Some((_, holder)) = files.lock() {
                        *holder = Some(life);
                    }
                    ArbiterAnswer::Locked {
                        lock,
                        record: files.record.clone(),
                    }
                }
            },
            ArbiterCall::Unlock => {
                files.let_go(life);
                ArbiterAnswer::Unlocked
            }
            // Through the descriptor that is locked, of whatever generation.
            ArbiterCall::Check(heartbeat) => {
                let mut locks = files.locks.values_mut();
                match locks.find(|(_, holder)| *holder == Some(life)) {
                    Some((lock, _)) => {
                        lock.last = Some(heartbeat);
                        ArbiterAnswer::Held {
                            record: files.record.clone(),
                        }
                    }
                    None => ArbiterAnswer::Lost("the lock is not held".to_owned()),
                }
            }
            ArbiterCall::CompareAndSet(next) => {
                let expected = files.record.as_ref().map(|record| record.seq.next());
                if expected != Some(next.seq) {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                files.add(next.generation, Nonce(self.chance.bytes()));
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
