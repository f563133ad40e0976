//! The folder of a shared store, on the share that the lock file is on: one disk that both servers reach,
//! and the lock on its data file. A host that the share does not hear keeps its lock for the lease; what
//! it has written and not flushed goes with the lock.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use twinmq::proto::ids::NodeId;
use twinmq::storage::memory::{MemoryDisk, MemoryLock};

use crate::arbiter::Life;
use crate::clock::{Chance, open};

/// See the module.
pub(crate) struct Mount {
    /// What is in the folder.
    pub(crate) disk: MemoryDisk,
    state: Mutex<State>,
    lease: Duration,
    chance: Chance,
}

#[derive(Default)]
struct State {
    holder: Option<Holder>,
    /// The share does not reach these hosts.
    cut: [bool; 2],
    /// These hosts have no power.
    dark: [bool; 2],
    /// Since when the share does not hear a host.
    unheard: [Option<Instant>; 2],
}

/// Who has the data file.
struct Holder {
    life: Life,
    lock: MemoryLock,
    /// Its process has ended, and the share does not know.
    dead: bool,
}

impl Mount {
    pub(crate) fn new(chance: Chance, lease: Duration) -> Self {
        Self {
            disk: MemoryDisk::new(NodeId([0xcc; 16])),
            state: Mutex::default(),
            lease,
            chance,
        }
    }

    /// Takes the lock on the data file.
    ///
    /// # Errors
    /// Who has it.
    pub(crate) fn take(&self, life: Life) -> Result<MemoryLock, String> {
        let state = &mut *open(&self.state);
        for at in 0..2 {
            let over = state.unheard[at].is_some_and(|since| since.elapsed() >= self.lease);
            if over && state.is_of_host(at) {
                self.evict(state);
            }
        }
        match &state.holder {
            Some(holder) if holder.life != life => Err(format!("process {}", holder.life)),
            Some(holder) => Ok(holder.lock.clone()),
            None => {
                let lock = MemoryLock::new();
                state.holder = Some(Holder {
                    life,
                    lock: lock.clone(),
                    dead: false,
                });
                Ok(lock)
            }
        }
    }

    /// The process lets the data file go, all of it flushed.
    pub(crate) fn leave(&self, life: Life) {
        let state = &mut *open(&self.state);
        state.holder.take_if(|holder| holder.life == life);
    }

    /// The process has ended. Its kernel writes what is left, if the share hears it, and unlocks.
    pub(crate) fn ends(&self, life: Life) {
        let state = &mut *open(&self.state);
        if let Some(holder) = state.holder.as_mut().filter(|it| it.life == life) {
            holder.dead = true;
        }
        state.unlock_the_dead();
    }

    /// What is between a host and the share is gone, or there again.
    pub(crate) fn cut(&self, at: usize, cut: bool) {
        let state = &mut *open(&self.state);
        state.cut[at] = cut;
        state.hear(at);
    }

    /// A host has lost power, or has it again. What it had not flushed may be gone.
    pub(crate) fn dark(&self, at: usize, dark: bool) {
        let state = &mut *open(&self.state);
        state.dark[at] = dark;
        if dark && state.is_of_host(at) {
            if let Some(holder) = &mut state.holder {
                holder.lock.lose();
                holder.dead = true;
            }
            if self.chance.once_in(2) {
                self.disk.lose_unflushed();
            }
        }
        state.hear(at);
    }

    /// The share forgets its locks: perhaps this one, too.
    pub(crate) fn forget(&self) {
        let state = &mut *open(&self.state);
        if state.holder.is_some() && self.chance.once_in(2) {
            self.evict(state);
        }
    }

    /// Nobody has the data file.
    pub(crate) fn is_free(&self) -> bool {
        open(&self.state).holder.is_none()
    }

    /// The lock is taken from its holder; nothing that it has not flushed arrives any more.
    fn evict(&self, state: &mut State) {
        if let Some(holder) = state.holder.take() {
            holder.lock.lose();
            self.disk.lose_unflushed();
        }
    }
}

impl State {
    fn is_of_host(&self, at: usize) -> bool {
        self.holder.as_ref().is_some_and(|it| it.life.at == at)
    }

    fn hear(&mut self, at: usize) {
        if !self.cut[at] && !self.dark[at] {
            self.unheard[at] = None;
        } else if self.unheard[at].is_none() {
            self.unheard[at] = Some(Instant::now());
        }
        self.unlock_the_dead();
    }

    fn unlock_the_dead(&mut self) {
        let unheard = self.unheard;
        self.holder
            .take_if(|holder| holder.dead && unheard[holder.life.at].is_none());
    }
}
