//! What HAManager notes in the event history, and how it explains itself: the words are the machine's,
//! the times are the clockwork's.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::actors::ha_manager::HaManager;
use crate::io::history::History;
use crate::machines::ha::{Announcement, Explanation, Source};
use crate::machines::lock::LockReport;
use crate::proto::history::{Event, EventKind};
use crate::proto::peer::ServerState;
use crate::time::Moment;

/// Where events are noted. Never waits.
pub trait Chronicle: Send + Sync {
    /// Notes an event, with the present time.
    fn tell(&self, event: Event);
}

impl Chronicle for History {
    fn tell(&self, event: Event) {
        Self::tell(self, event);
    }
}

/// Keeps nothing: for servers whose `node/` cannot be written, and for simulated ones.
#[derive(Clone, Copy, Debug)]
pub struct NoChronicle;

impl Chronicle for NoChronicle {
    fn tell(&self, _: Event) {}
}

/// How old a fact is, or when a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It was seen so long ago.
    Ago(Duration),
    /// It is due in so long.
    In(Duration),
}

/// An explanation with the ages of what it rests on; a source without an age is as of now, or was never
/// heard of.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The machine's words.
    pub explanation: Explanation,
    /// By source.
    pub ages: BTreeMap<Source, Age>,
}

/// Somebody wants to know why the server is in its state.
pub struct ExplainAsked(pub Box<dyn FnOnce(Explained) + Send>);

impl fmt::Debug for ExplainAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExplainAsked")
    }
}

impl HaManager {
    pub(super) fn explained(&self, now: Moment) -> Explained {
        let mut ages = self.timing.ages(now);
        let link = self.board.link();
        let heard = link.last_heard;
        ages.extend(heard.map(|at| (Source::Peer, Age::Ago(now.since(at)))));
        Explained {
            explanation: self.machine.explain(),
            ages,
        }
    }

    pub(super) fn note(&self, kind: EventKind, text: impl Into<String>) {
        let event = Event::new(kind, self.machine.epoch(), text);
        self.ports().history.tell(event);
    }

    pub(super) fn note_state(&self, said: &Announcement) {
        let text = said.cause.clone().unwrap_or_else(|| "started".to_owned());
        let event = Event::new(EventKind::State, said.epoch, text);
        let event = event.between(said.previous, said.state);
        self.ports().history.tell(event);
    }

    pub(super) fn note_peer(&self, old: ServerState, new: ServerState) {
        let text = format!("the other server is {new}");
        let event = Event::new(EventKind::Peer, self.machine.epoch(), text).between(old, new);
        self.ports().history.tell(event);
    }

    pub(super) fn note_lock(&self, report: &LockReport) {
        let text = |holder: String| format!("the lock is held by {holder}");
        match report {
            LockReport::Acquired { lock, .. } => {
                let place = if lock.local {
                    "on a file system of this machine"
                } else {
                    "on a share"
                };
                self.note(
                    EventKind::LockObtained,
                    format!("the lock was obtained, {place}"),
                );
            }
            LockReport::Refused { holder: None } => {
                self.note(EventKind::LockRefused, text("another process".to_owned()));
            }
            LockReport::Refused { holder: Some(beat) } => {
                let holder = format!("server {} in epoch {}", beat.owner, beat.epoch);
                self.note(EventKind::LockRefused, text(holder));
            }
            LockReport::Lost { reason } => self.note(EventKind::LockLost, reason.clone()),
            LockReport::Unreachable { reason } => self.note(EventKind::LockSilent, reason.clone()),
            LockReport::Confirmed { .. } | LockReport::Released | LockReport::Answered { .. } => {}
        }
    }
}
