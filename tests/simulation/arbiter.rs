//! The arbiter in memory: one record, a lock for each generation, answers after a while, and what can be wrong with a
//! file share: it does not answer, answers late, does not say what became of a write, drops a lock;
//! and what people do to it: the lock file deleted or replaced, the record wiped or put back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use twinmq::actors::wiring::AnswerSink;
use twinmq::proto::arbiter::{
    Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat,
};
use twinmq::proto::ids::{Epoch, Nonce};

use crate::clock::{Chance, Trace, open};
use crate::mount::Mount;

/// The longest that a call is on its way, and its answer too, in milliseconds.
const WAY_MS: u64 = 3;
/// A share that does not answer is asked again so often, in milliseconds.
const ASK_MS: u64 = 20;

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

/// What is between one server and the share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// Answers within milliseconds.
    #[default]
    Good,
    /// Each call takes up to so many milliseconds more.
    Slow(u64),
    /// Calls wait until it is there again.
    Hangs,
    /// Calls fail after a while; a write may have been carried out.
    Fails,
    /// A compare-and-set does not say what became of it.
    Mute,
}

/// The folder that both servers see.
pub(crate) struct Share {
    files: Mutex<Files>,
    chance: Chance,
    trace: Trace,
    /// On this kernel's own file system: a lock that is free means that its holder is dead (A3).
    local: bool,
    /// How long the share keeps the lock of a host that it does not hear.
    lease: Duration,
    /// Broken on purpose: everybody gets the lock, and records are written blindly.
    generous: bool,
    /// In shared mode the store's folder is on it, too.
    pub(crate) mount: Mount,
}

#[derive(Default)]
struct Files {
    record: Option<ArbiterRecord>,
    /// All that were there, oldest first.
    past: Vec<ArbiterRecord>,
    /// The lock files by generation.
    locks: BTreeMap<Epoch, LockFacts>,
    files_made: u64,
    /// Who holds which lock file, of which generation: it may not be the one that the path names.
    held: Vec<(Life, Epoch, Nonce)>,
    ways: [Way; 2],
    /// Since when the share does not hear a host.
    unheard: [Option<Instant>; 2],
}

impl Share {
    pub(crate) fn new(
        chance: Chance,
        trace: Trace,
        local: bool,
        lease: Duration,
        generous: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            files: Mutex::default(),
            mount: Mount::new(chance.clone(), lease),
            chance,
            trace,
            local,
            lease,
            generous,
        })
    }

    /// Its locks end only with their holders.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// The arbiter as one life of a server sees it. Needs that server's `LocalSet`: its calls end with it.
    pub(crate) fn arbiter(self: &Arc<Self>, life: Life, answers: AnswerSink) -> Arc<dyn Arbiter> {
        let (calls, inbox) = unbounded_channel();
        drop(tokio::task::spawn_local(
            Arc::clone(self).carry(life, inbox, answers),
        ));
        Arc::new(Calls(calls))
    }

    /// The holder's process has ended and its host says so: its locks are free.
    pub(crate) fn free(&self, life: Life) {
        open(&self.files)
            .held
            .retain(|(holder, ..)| *holder != life);
        self.mount.ends(life);
    }

    /// The host of a server has lost power (true), or has it again and says so.
    pub(crate) fn silence(&self, at: usize, silent: bool) {
        let files = &mut *open(&self.files);
        files.unheard[at] = silent.then(Instant::now);
        if !silent {
            files.held.retain(|(holder, ..)| holder.at != at);
        }
        self.mount.dark(at, silent);
    }

    /// Changes what is between a server and the share.
    pub(crate) fn set_way(&self, at: usize, way: Way) {
        let files = &mut *open(&self.files);
        let before = std::mem::replace(&mut files.ways[at], way);
        let gone = |way| matches!(way, Way::Hangs | Way::Fails);
        if !gone(way) {
            files.unheard[at] = None;
        } else if !gone(before) && !self.local {
            files.unheard[at] = Some(Instant::now());
        }
        self.mount.cut(at, gone(way) && !self.local);
    }

    /// What a server does on it is done now, or soon.
    pub(crate) fn reaches(&self, at: usize) -> bool {
        !matches!(open(&self.files).ways[at], Way::Hangs | Way::Fails)
    }

    /// The share forgets who has the lock.
    pub(crate) fn drop_lock(&self) {
        assert!(!self.local, "a kernel does not forget its locks");
        open(&self.files).held.clear();
        self.mount.forget();
    }

    /// Somebody deletes the lock file.
    pub(crate) fn delete_lock_file(&self) {
        let files = &mut *open(&self.files);
        files.locks.remove(&files.generation());
    }

    /// Somebody puts another file in the place of the lock file.
    pub(crate) fn replace_lock_file(&self) {
        let files = &mut *open(&self.files);
        let generation = files.generation();
        if files.locks.contains_key(&generation) {
            let other = self.new_lock_file(&mut files.files_made, None);
            files.locks.insert(generation, other);
        }
    }

    /// Somebody removes the record.
    pub(crate) fn wipe_record(&self) {
        open(&self.files).record = None;
    }

    /// Somebody puts an older record back.
    pub(crate) fn roll_back_record(&self) {
        let files = &mut *open(&self.files);
        if files.past.len() > 1 {
            let back = self.chance.below(files.past.len() as u64 - 1);
            let back = usize::try_from(back).expect("an index");
            files.record = Some(files.past[back].clone());
        }
    }

    /// An operator puts the newest record back that there was, with the lock file's folder.
    pub(crate) fn restore_record(&self) {
        let files = &mut *open(&self.files);
        let newest = files.past.iter().max_by_key(|record| record.seq).cloned();
        files.record = newest.or(files.record.take());
    }

    /// The record and the lock file, as a bystander sees them.
    pub(crate) fn look(&self) -> (Option<ArbiterRecord>, Option<LockFacts>) {
        let files = open(&self.files);
        let lock = files.locks.get(&files.generation());
        (files.record.clone(), lock.cloned())
    }

    fn new_lock_file(&self, made: &mut u64, last: Option<LockHeartbeat>) -> LockFacts {
        *made += 1;
        LockFacts {
            nonce: Nonce(self.chance.bytes()),
            device: 1,
            inode: 1 + *made,
            local: self.local,
            last,
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
            let reached = self.travel(life.at).await;
            let mute = open(&self.files).ways[life.at] == Way::Mute;
            let writes = matches!(call, ArbiterCall::CompareAndSet(_) | ArbiterCall::Create(_));
            let lost = !reached || (mute && writes);
            let answer = if lost && self.chance.once_in(2) {
                ArbiterAnswer::Failed("the share did not get it".to_owned())
            } else {
                let answer = self.answer(life, call.clone());
                // What reaches nobody leaves the lock alone.
                let back = self.travel(life.at).await;
                if (lost || !back) && writes {
                    ArbiterAnswer::Failed("the share's answer was lost".to_owned())
                } else if lost || !back {
                    ArbiterAnswer::Failed("the share does not answer".to_owned())
                } else {
                    answer
                }
            };
            self.trace
                .tell(format_args!("{life} {call:?} -> {answer:?}"));
            answers(id, answer);
        }
    }

    /// The way there or back. False: it failed.
    pub(crate) async fn travel(&self, at: usize) -> bool {
        self.chance.delay(WAY_MS).await;
        loop {
            let way = open(&self.files).ways[at];
            match way {
                Way::Good | Way::Mute => return true,
                Way::Slow(more) => {
                    self.chance.delay(more).await;
                    return true;
                }
                Way::Fails => {
                    self.chance.delay(200).await;
                    return false;
                }
                Way::Hangs => tokio::time::sleep(Duration::from_millis(ASK_MS)).await,
            }
        }
    }

    fn answer(&self, life: Life, call: ArbiterCall) -> ArbiterAnswer {
        let files = &mut *open(&self.files);
        match call {
            ArbiterCall::Read => ArbiterAnswer::Read {
                record: files.record.clone(),
                lock: files.locks.get(&files.generation()).cloned(),
            },
            ArbiterCall::Create(record) => {
                if files.record.is_some() {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                if !files.locks.contains_key(&record.generation) {
                    let made = self.new_lock_file(&mut files.files_made, None);
                    files.locks.insert(record.generation, made);
                }
                files.set(&record);
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::TryLock => self.try_lock(files, life),
            ArbiterCall::Unlock => {
                files.held.retain(|(holder, ..)| *holder != life);
                ArbiterAnswer::Unlocked
            }
            // Through the descriptor that is locked, of whatever generation.
            ArbiterCall::Check(heartbeat) => {
                let own = files.held.iter().find(|(holder, ..)| *holder == life);
                let own = own.map(|(_, generation, nonce)| (*generation, *nonce));
                let file = own.and_then(|(generation, nonce)| {
                    let file = files.locks.get_mut(&generation);
                    file.filter(|file| file.nonce == nonce)
                });
                match file {
                    Some(file) => {
                        file.last = Some(heartbeat);
                        self.prune(files, life);
                        ArbiterAnswer::Held {
                            record: files.record.clone(),
                        }
                    }
                    None => {
                        files.held.retain(|(holder, ..)| *holder != life);
                        ArbiterAnswer::Lost("the lock is not held".to_owned())
                    }
                }
            }
            ArbiterCall::CompareAndSet(next) => {
                let expected = files.record.as_ref().map(|record| record.seq.next());
                if expected != Some(next.seq) && !self.generous {
                    return ArbiterAnswer::Conflict(files.record.clone());
                }
                self.prepare(files, next.generation);
                files.set(&next);
                ArbiterAnswer::Set(next)
            }
        }
    }

    /// The next generation's lock file is there before the record names it, with what the present one
    /// tells of both stores.
    fn prepare(&self, files: &mut Files, next: Epoch) {
        let present = files.generation();
        if next == present {
            return;
        }
        let last = files.locks.get(&present).and_then(|file| file.last.clone());
        if let Some(file) = files.locks.get_mut(&next) {
            let known = file.last.take();
            file.last = match (known, last) {
                (Some(known), Some(last)) => Some(known.merged(last)),
                (known, last) => known.or(last),
            };
            return;
        }
        let made = self.new_lock_file(&mut files.files_made, last);
        files.locks.insert(next, made);
    }

    /// Now and then lock files of older generations go, where nobody holds them.
    fn prune(&self, files: &mut Files, life: Life) {
        let Files { locks, held, .. } = files;
        let own = held.iter().find(|(holder, ..)| *holder == life);
        if let Some((_, own, _)) = own
            && self.chance.once_in(8)
        {
            locks.retain(|generation, file| {
                *generation == Epoch::ZERO
                    || generation >= own
                    || held.iter().any(|(_, _, nonce)| *nonce == file.nonce)
            });
        }
    }

    fn try_lock(&self, files: &mut Files, life: Life) -> ArbiterAnswer {
        let generation = files.generation();
        if !files.locks.contains_key(&generation) {
            if files.record.is_none() {
                return ArbiterAnswer::Failed("there is no lock file".to_owned());
            }
            let made = self.new_lock_file(&mut files.files_made, None);
            files.locks.insert(generation, made);
        }
        for at in 0..2 {
            if files.unheard[at].is_some_and(|since| since.elapsed() >= self.lease) {
                files.held.retain(|(holder, ..)| holder.at != at);
            }
        }
        let Files {
            locks,
            held,
            record,
            ..
        } = files;
        let lock = &locks[&generation];
        held.retain(|(holder, _, nonce)| *holder != life || *nonce == lock.nonce);
        let mut of_others = held.iter().filter(|(holder, ..)| *holder != life);
        if of_others.any(|(_, _, nonce)| *nonce == lock.nonce) && !self.generous {
            return ArbiterAnswer::Refused {
                holder: lock.last.clone(),
            };
        }
        if held.iter().all(|(holder, ..)| *holder != life) {
            held.push((life, generation, lock.nonce));
        }
        ArbiterAnswer::Locked {
            lock: lock.clone(),
            record: record.clone(),
        }
    }
}

impl Files {
    /// Of the lock file that counts.
    fn generation(&self) -> Epoch {
        let record = self.record.as_ref();
        record.map_or(Epoch::ZERO, |record| record.generation)
    }

    fn set(&mut self, record: &ArbiterRecord) {
        self.record = Some(record.clone());
        self.past.push(record.clone());
    }
}

struct Calls(UnboundedSender<(u64, ArbiterCall)>);

impl Arbiter for Calls {
    fn call(&self, id: u64, call: ArbiterCall) {
        // Nobody takes it only once the server is dead.
        drop(self.0.send((id, call)));
    }
}
