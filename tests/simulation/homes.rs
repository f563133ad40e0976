//! Which server each client is connected to: a client has one connection at a time and goes to the
//! other server when that one has ended, or says nothing for too long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use twinmq::time::{Clock, Moment};

use crate::arbiter::Life;
use crate::clock::{VirtualClock, open};

/// A client that waits for an answer goes after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where all clients are.
pub(crate) struct Homes {
    clock: Arc<VirtualClock>,
    at: Mutex<Vec<Option<(Life, Moment)>>>,
}

impl Homes {
    pub(crate) fn new(clients: usize, clock: Arc<VirtualClock>) -> Self {
        Self {
            clock,
            at: Mutex::new(vec![None; clients]),
        }
    }

    /// Connects a client that has no connection, or whose server is silent.
    pub(crate) fn claim(&self, client: usize, life: Life) -> bool {
        let now = self.clock.now();
        let at = &mut open(&self.at)[client];
        let free = at.is_none_or(|(_, heard)| now.since(heard) > PATIENCE);
        if free {
            *at = Some((life, now));
        }
        free
    }

    /// The server has said something. False: the client has gone to the other one.
    pub(crate) fn heard(&self, client: usize, life: Life) -> bool {
        let at = &mut open(&self.at)[client];
        match at {
            Some((home, heard)) if *home == life => {
                *heard = self.clock.now();
                true
            }
            Some(_) | None => false,
        }
    }

    /// The client is still connected to this server. One that has gone gives it nothing more.
    pub(crate) fn has(&self, client: usize, life: Life) -> bool {
        open(&self.at)[client].is_some_and(|(home, _)| home == life)
    }

    /// The connection ends.
    pub(crate) fn leave(&self, client: usize, life: Life) {
        let at = &mut open(&self.at)[client];
        at.take_if(|(home, _)| *home == life);
    }

    /// All connections of a server end.
    pub(crate) fn leave_all(&self, life: Life) {
        for at in &mut *open(&self.at) {
            at.take_if(|(home, _)| *home == life);
        }
    }
}
