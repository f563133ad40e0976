//! What others were told of this server's state: a change is told once.

use crate::proto::peer::ServerState;

use super::{Announcement, HaEffect, Peer};

/// What was told last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Herald {
    /// The state shown before the present one.
    pub(super) previous: ServerState,
    /// The last announcement; another one follows when it differs.
    pub(super) said: Option<Announcement>,
    /// What the peer was shown as last (`DEAD` while there is no link).
    peer: ServerState,
}

impl Herald {
    /// Of a server that has just started.
    pub(super) fn new() -> Self {
        Self {
            previous: ServerState::Dead,
            said: None,
            peer: ServerState::Dead,
        }
    }

    /// What is to be announced, where what is so `now` was not. The state before is put in here; it is no
    /// news by itself, nor is the cause, which is for the caller to add.
    pub(super) fn news(&mut self, now: Announcement) -> Option<Announcement> {
        let announcement = Announcement {
            previous: match &self.said {
                Some(last) if last.state == now.state => last.previous,
                Some(last) => last.state,
                None => ServerState::Dead,
            },
            cause: None,
            ..now
        };
        if self.said.as_ref() == Some(&announcement) {
            return None;
        }
        self.previous = announcement.previous;
        self.said = Some(announcement.clone());
        Some(announcement)
    }

    /// Tells what the peer is now, as seen from here.
    pub(super) fn show_peer(&mut self, peer: Option<&Peer>, effects: &mut Vec<HaEffect>) {
        let new = peer.map_or(ServerState::Dead, |peer| peer.facts.state);
        if new != self.peer {
            let old = std::mem::replace(&mut self.peer, new);
            effects.push(HaEffect::PeerChanged { old, new });
        }
    }
}
