//! The share: one record, the lock file of its generation, and who still holds an older one.

use super::{PRIMARY, Pair, SECONDARY, node};
use crate::machines::ha::*;
use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, LockFacts, LockHeartbeat};
use crate::proto::ids::{Epoch, Nonce};

impl Pair {
    /// LockKeeper's periodic check, with its heartbeat.
    pub(in crate::machines::ha::tests) fn check_lock(&mut self, at: usize) {
        let current = self.lock_holder == Some(at);
        if !current && !self.older_holders.contains(&at) {
            return;
        }
        let record = self.record.clone().expect("a holder has a record");
        if current {
            let positions = self
                .servers
                .iter()
                .filter(|server| record.isr.contains(&server.own.store))
                .map(|server| (server.own.store, server.own.position))
                .collect();
            let beat = LockHeartbeat {
                owner: node(at),
                epoch: record.epoch,
                seq: record.seq,
                counter: 0,
                positions,
            };
            self.lock_file.as_mut().expect("a holder has a file").last = Some(beat);
        }
        self.give(
            at,
            HaInput::LockConfirmed {
                record: Some(record),
            },
        );
    }

    /// Whoever wants the lock of the record's generation gets it, or hears who has it.
    pub(super) fn offer_lock(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            let server = &self.servers[at];
            if !server.wants_lock || server.paused || self.lock_holder == Some(at) {
                continue;
            }
            match (&self.lock_file, self.lock_holder) {
                (Some(lock), None) => {
                    self.lock_holder = Some(at);
                    self.older_holders.remove(&at);
                    self.servers[at].wants_lock = false;
                    let held = HeldLock {
                        lock: lock.clone(),
                        record: self.record.clone(),
                    };
                    self.queue.push_back((at, HaInput::LockAcquired(held)));
                }
                (Some(lock), Some(_)) => {
                    let holder = lock.last.clone();
                    self.queue.push_back((at, HaInput::LockRefused { holder }));
                }
                (None, _) => {
                    let reason = "no such file".to_owned();
                    self.queue
                        .push_back((at, HaInput::LockUnreachable { reason }));
                }
            }
        }
    }

    pub(super) fn arbiter(&mut self, call: ArbiterCall) -> ArbiterAnswer {
        if self.arbiter_fails {
            return ArbiterAnswer::Failed("the share does not answer".into());
        }
        match call {
            ArbiterCall::Read => ArbiterAnswer::Read {
                record: self.record.clone(),
                lock: self.lock_file.clone(),
            },
            ArbiterCall::Create(record) => {
                if self.record.is_some() {
                    return ArbiterAnswer::Conflict(self.record.clone());
                }
                self.lock_file = Some(self.new_lock_file(record.generation, None));
                self.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::CompareAndSet(next) => {
                let Some(now) = self.record.clone().filter(|now| now.seq.next() == next.seq) else {
                    return ArbiterAnswer::Conflict(self.record.clone());
                };
                if now.generation != next.generation {
                    let last = self.lock_file.take().and_then(|file| file.last);
                    self.lock_file = Some(self.new_lock_file(next.generation, last));
                    self.older_holders.extend(self.lock_holder.take());
                }
                self.record = Some(next.clone());
                ArbiterAnswer::Set(next)
            }
            ArbiterCall::TryLock | ArbiterCall::Unlock | ArbiterCall::Check(_) => {
                unreachable!("LockKeeper's")
            }
        }
    }

    fn new_lock_file(&self, generation: Epoch, last: Option<LockHeartbeat>) -> LockFacts {
        LockFacts {
            nonce: Nonce([7; 16]),
            device: 1,
            inode: 2 + generation.0,
            local: self.local,
            last,
        }
    }
}
