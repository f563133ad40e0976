//! The channel that is up: its heartbeat and what its frames are.

use std::time::Duration;

use crate::machines::link::{ConnId, LinkDownCause, LinkEffect};
use crate::proto::ids::{Position, SessionId};
use crate::proto::peer::{Body, Frame, PeerFacts};
use crate::time::Moment;

/// Pings that wait for their answer: older ones are forgotten, their answers count for nothing. More
/// than `ha.ping_misses` may say, so that none is forgotten before the channel is silent.
const UNANSWERED_MAX: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) session: SessionId,
    pub(super) conn: ConnId,
    /// When a frame last came in.
    pub(super) last_heard: Moment,
    ping_interval: Duration,
    /// So long after the last answer the channel is silent.
    patience: Duration,
    /// When the answer to an own ping was last read; at first, when the proofs had shown the same.
    last_answer: Moment,
    /// Not silent before this, whatever `last_answer` says.
    granted: Moment,
    next_ping_at: Moment,
    last_ping: u64,
    /// Number and time of sending, oldest first.
    unanswered: Vec<(u64, Moment)>,
    roles_sent: u64,
    roles_heard: u64,
    /// What the peer knows of this server.
    facts_sent: PeerFacts,
    /// What this server knows of the peer.
    facts_heard: PeerFacts,
}

impl Channel {
    /// Both sides have shown each other that they hear each other.
    pub(super) fn new(
        now: Moment,
        (session, conn): (SessionId, ConnId),
        (ping_interval, ping_misses): (Duration, u32),
        own: PeerFacts,
        peer: PeerFacts,
    ) -> Self {
        Self {
            session,
            conn,
            last_heard: now,
            ping_interval,
            patience: ping_interval.saturating_mul(ping_misses),
            last_answer: now,
            granted: now,
            next_ping_at: now,
            last_ping: 0,
            unanswered: Vec::new(),
            roles_sent: 0,
            roles_heard: 0,
            facts_sent: own,
            facts_heard: peer,
        }
    }

    pub(super) fn next_deadline(&self) -> Moment {
        self.next_ping_at.min(self.silent_at())
    }

    pub(super) fn is_silent(&self, now: Moment) -> bool {
        self.silent_at() <= now
    }

    /// A ping is unanswered for a whole interval: a new connection of the peer's is to be preferred.
    pub(super) fn is_doubtful(&self, now: Moment) -> bool {
        self.unanswered
            .first()
            .is_some_and(|(_, sent)| sent.after(self.ping_interval) <= now)
    }

    pub(super) fn grant(&mut self, until: Moment) {
        self.granted = self.granted.max(until);
    }

    pub(super) fn ping_if_due(
        &mut self,
        now: Moment,
        facts: &PeerFacts,
        effects: &mut Vec<LinkEffect>,
    ) {
        if now < self.next_ping_at {
            return;
        }
        self.last_ping = self.last_ping.saturating_add(1);
        if self.unanswered.len() >= UNANSWERED_MAX {
            self.unanswered.remove(0);
        }
        self.unanswered.push((self.last_ping, now));
        self.next_ping_at = now.after(self.ping_interval.max(Duration::from_millis(1)));
        self.send(
            Body::Ping {
                number: self.last_ping,
                facts: facts.clone(),
            },
            effects,
        );
    }

    /// The position alone goes with the next ping.
    pub(super) fn send_facts_if_new(&mut self, facts: &PeerFacts, effects: &mut Vec<LinkEffect>) {
        if without_position(facts) == without_position(&self.facts_sent) {
            return;
        }
        self.facts_sent = facts.clone();
        self.roles_sent = self.roles_sent.saturating_add(1);
        self.send(
            Body::RoleChanged {
                number: self.roles_sent,
                facts: facts.clone(),
            },
            effects,
        );
    }

    pub(super) fn send(&self, body: Body, effects: &mut Vec<LinkEffect>) {
        effects.push(LinkEffect::Send {
            conn: self.conn,
            frame: Frame::Session(self.session, body),
        });
    }

    /// Err: the channel is to be closed.
    pub(super) fn frame_received(
        &mut self,
        now: Moment,
        frame: Frame,
        at: Moment,
        effects: &mut Vec<LinkEffect>,
    ) -> Result<(), LinkDownCause> {
        match frame {
            Frame::Session(session, body) if session == self.session => {
                self.last_heard = self.last_heard.max(at);
                self.body_received(now, body, at, effects)
            }
            // Of another session: dropped (R3).
            Frame::Session(..) => Ok(()),
            Frame::Refuse(reason) => Err(LinkDownCause::Refused(printable(&reason))),
            Frame::Hello(_) | Frame::Proof(_) | Frame::Welcome(_) | Frame::LastWord { .. } => Err(
                LinkDownCause::Broken("a second handshake on the same connection".to_owned()),
            ),
        }
    }

    fn body_received(
        &mut self,
        now: Moment,
        body: Body,
        at: Moment,
        effects: &mut Vec<LinkEffect>,
    ) -> Result<(), LinkDownCause> {
        match body {
            Body::Ping { number, facts } => {
                self.send(Body::Pong { number }, effects);
                effects.push(LinkEffect::ReplySent { at: now });
                self.facts_received(facts, effects);
            }
            Body::Pong { number } => self.pong_received(number, at, effects),
            Body::RoleChanged { number, facts } => {
                let expected = self.roles_heard.saturating_add(1);
                if number != expected {
                    return Err(LinkDownCause::Broken(format!(
                        "change of state {number} came where {expected} was due"
                    )));
                }
                self.roles_heard = number;
                self.facts_received(facts, effects);
            }
            Body::Goodbye { epoch } => effects.push(LinkEffect::PeerGoodbye {
                session: self.session,
                epoch,
            }),
            Body::Clients(news) => effects.push(LinkEffect::PeerClients { news }),
            body @ (Body::SyncRequest { .. }
            | Body::SyncPlan(_)
            | Body::SyncReady { .. }
            | Body::SnapshotPiece(_)
            | Body::SnapshotEnd { .. }
            | Body::SnapshotAck { .. }
            | Body::Batch { .. }
            | Body::CommitIndex { .. }
            | Body::SyncEnd { .. }
            | Body::SyncDone { .. }
            | Body::Durable { .. }
            | Body::InSync { .. }) => effects.push(LinkEffect::Data {
                session: self.session,
                body,
            }),
        }
        Ok(())
    }

    fn pong_received(&mut self, number: u64, at: Moment, effects: &mut Vec<LinkEffect>) {
        let Some(index) = self.unanswered.iter().position(|(sent, _)| *sent == number) else {
            // Answered already, or forgotten for its age.
            return;
        };
        let (_, ping_sent_at) = self.unanswered[index];
        self.unanswered.drain(..=index);
        self.last_answer = self.last_answer.max(at);
        effects.push(LinkEffect::Answered {
            session: self.session,
            ping_sent_at,
            pong_received_at: at,
        });
    }

    fn facts_received(&mut self, facts: PeerFacts, effects: &mut Vec<LinkEffect>) {
        if facts != self.facts_heard {
            self.facts_heard = facts.clone();
            effects.push(LinkEffect::PeerFacts {
                session: self.session,
                facts,
            });
        }
    }

    fn silent_at(&self) -> Moment {
        self.last_answer.after(self.patience).max(self.granted)
    }
}

/// A text of the other side's, fit for a log: no control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

fn without_position(facts: &PeerFacts) -> PeerFacts {
    PeerFacts {
        position: Position::default(),
        ..facts.clone()
    }
}
