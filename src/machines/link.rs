//! LinkMachine: which of the connections between the two servers is the channel, and is it up?
//!
//! Both servers listen and dial (S176), so two connections may appear at once. On each, both say
//! hello and prove that they know the pair secret; then the server that *decides*, the one with the
//! higher (primary, node id), welcomes one of them and refuses the others. The other server follows
//! the latest welcome.
//!
//! | Part       | Stages                                                               |
//! |------------|----------------------------------------------------------------------|
//! | dialling   | stopped; waiting for its time; under way                             |
//! | connection | hello awaited; proof awaited; welcome awaited (the one that follows) |
//! | channel    | none; up, as long as the own pings are answered                      |
//!
//! The bytes of hello and proof never change, so that servers of any two versions can tell each
//! other why they do not fit. What the other frames mean, and what follows from a link that is up or
//! down, this machine does not know.

mod channel;
mod edges;
mod handshake;

use std::time::Duration;

use crate::machines::link::channel::Channel;

pub use crate::machines::link::edges::{
    CloseCause, ConnId, LinkConfig, LinkDownCause, LinkEffect, LinkInput,
};
use crate::machines::link::handshake::Handshake;
pub use crate::machines::link::handshake::{Unequal, unequal};
use crate::proto::ids::SessionId;
use crate::proto::peer::{Body, Frame, PeerFacts};
use crate::time::Moment;

/// Connections whose handshake has not ended: more are closed, the oldest accepted one first.
const HANDSHAKES_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct LinkMachine {
    config: LinkConfig,
    facts: PeerFacts,
    dialling: Dialling,
    /// The last dial's number.
    last_attempt: u64,
    /// In the order in which they were opened; never the channel's.
    handshakes: Vec<Handshake>,
    channel: Option<Channel>,
    /// When `step` was last called: a server that was itself held up does not blame the peer.
    last_step: Moment,
    /// What `NotLinked` said last, so that it is said once.
    said: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialling {
    Stopped,
    Waiting {
        next_at: Moment,
    },
    UnderWay {
        attempt: u64,
        deadline: Moment,
        next_at: Moment,
    },
}

impl LinkMachine {
    /// A machine that waits for `Started`.
    #[must_use]
    pub fn new(config: LinkConfig, facts: PeerFacts, now: Moment) -> Self {
        Self {
            config,
            facts,
            dialling: Dialling::Stopped,
            last_attempt: 0,
            handshakes: Vec::new(),
            channel: None,
            last_step: now,
            said: String::new(),
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, now: Moment, input: LinkInput, effects: &mut Vec<LinkEffect>) {
        self.notice_own_pause(now);
        match input {
            LinkInput::Started => {
                if self.dialling == Dialling::Stopped {
                    self.dialling = Dialling::Waiting { next_at: now };
                }
            }
            LinkInput::Dialled {
                attempt,
                conn,
                nonce,
            } => {
                self.dialled(now, attempt, conn, nonce, effects);
            }
            LinkInput::DialFailed { attempt, reason } => {
                if let Dialling::UnderWay {
                    attempt: present,
                    next_at,
                    ..
                } = self.dialling
                    && present == attempt
                {
                    self.dialling = Dialling::Waiting { next_at };
                    self.not_linked(reason, effects);
                }
            }
            LinkInput::Accepted { conn, nonce } => {
                if self.dialling == Dialling::Stopped {
                    effects.push(LinkEffect::Close { conn });
                } else {
                    self.make_room(effects);
                    self.open(now, conn, nonce, false, effects);
                }
            }
            LinkInput::FrameReceived { conn, frame, at } => {
                self.frame_received(now, conn, frame, at, effects);
            }
            LinkInput::Closed { conn, cause } => self.closed(now, conn, cause, effects),
            LinkInput::OwnFacts(facts) => {
                self.facts = facts;
                if let Some(channel) = &mut self.channel {
                    channel.send_facts_if_new(&self.facts, effects);
                }
            }
            LinkInput::Goodbye { epoch } => {
                if let Some(channel) = &self.channel {
                    channel.send(Body::Goodbye { epoch }, effects);
                }
            }
            LinkInput::Drop { session, reason } => {
                if self.session() == Some(session) {
                    let cause = LinkDownCause::Dropped(reason);
                    self.end_channel(now, cause, effects);
                }
            }
            LinkInput::Tick => {}
        }
        self.maintain(now, effects);
        self.assert_invariants();
    }

    /// When `Tick` is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let dial = match self.dialling {
            Dialling::Stopped => None,
            Dialling::Waiting { next_at } => self.may_dial().then_some(next_at),
            Dialling::UnderWay { deadline, .. } => Some(deadline),
        };
        let handshakes = self.handshakes.iter().map(|handshake| handshake.deadline);
        let channel = self.channel.as_ref().map(Channel::next_deadline);
        handshakes.chain(dial).chain(channel).min()
    }

    /// Where the peer is dialled, for texts.
    #[must_use]
    pub fn peer_address(&self) -> &str {
        &self.config.peer_address
    }

    /// The session of the channel that is up.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.channel.as_ref().map(|channel| channel.session)
    }

    fn dialled(
        &mut self,
        now: Moment,
        attempt: u64,
        conn: ConnId,
        nonce: [u8; 16],
        effects: &mut Vec<LinkEffect>,
    ) {
        match self.dialling {
            Dialling::UnderWay {
                attempt: present,
                next_at,
                ..
            } if present == attempt => {
                self.dialling = Dialling::Waiting { next_at };
                if self.channel.is_some() {
                    // The peer's own dial was faster.
                    effects.push(LinkEffect::Close { conn });
                } else {
                    self.open(now, conn, nonce, true, effects);
                }
            }
            // A dial that was given up, and came through after all.
            Dialling::Stopped | Dialling::Waiting { .. } | Dialling::UnderWay { .. } => {
                effects.push(LinkEffect::Close { conn });
            }
        }
    }

    fn frame_received(
        &mut self,
        now: Moment,
        conn: ConnId,
        frame: Frame,
        at: Moment,
        effects: &mut Vec<LinkEffect>,
    ) {
        if let Some(channel) = &mut self.channel
            && channel.conn == conn
        {
            if let Err(cause) = channel.frame_received(now, frame, at, effects) {
                self.end_channel(now, cause, effects);
            }
        } else if let Some(index) = self.handshakes.iter().position(|it| it.conn == conn) {
            let handshake = self.handshakes.remove(index);
            self.handshake_frame(now, handshake, frame, effects);
        } else {
            // A frame that was on its way when this server closed the connection.
        }
    }

    fn closed(
        &mut self,
        now: Moment,
        conn: ConnId,
        cause: CloseCause,
        effects: &mut Vec<LinkEffect>,
    ) {
        if self
            .channel
            .as_ref()
            .is_some_and(|channel| channel.conn == conn)
        {
            let cause = match cause {
                CloseCause::Ended => LinkDownCause::Ended,
                CloseCause::Unreachable(_) => LinkDownCause::Silent,
                CloseCause::Malformed(reason) => LinkDownCause::Broken(reason),
            };
            self.channel_down(now, cause, effects);
        } else if let Some(index) = self.handshakes.iter().position(|it| it.conn == conn) {
            self.handshakes.remove(index);
            self.not_linked(
                match cause {
                    CloseCause::Ended => {
                        "the connection was closed by the other side before it was the channel"
                            .to_owned()
                    }
                    CloseCause::Unreachable(reason) | CloseCause::Malformed(reason) => reason,
                },
                effects,
            );
        } else {
            // Closed by this server before.
        }
    }

    /// Closes the channel by this server's decision, and tells the peer why: a mere end would look
    /// like this server's death.
    fn end_channel(&mut self, now: Moment, cause: LinkDownCause, effects: &mut Vec<LinkEffect>) {
        if let Some(channel) = &self.channel {
            let conn = channel.conn;
            match &cause {
                LinkDownCause::Ended | LinkDownCause::Refused(_) => {}
                LinkDownCause::Silent => effects.push(LinkEffect::Send {
                    conn,
                    frame: Frame::Refuse("no ping was answered".to_owned()),
                }),
                LinkDownCause::Replaced => effects.push(LinkEffect::Send {
                    conn,
                    frame: Frame::Refuse("a newer connection takes its place".to_owned()),
                }),
                LinkDownCause::Broken(reason) | LinkDownCause::Dropped(reason) => {
                    effects.push(LinkEffect::Send {
                        conn,
                        frame: Frame::Refuse(reason.clone()),
                    });
                }
            }
            effects.push(LinkEffect::Close { conn });
            self.channel_down(now, cause, effects);
        }
    }

    fn channel_down(&mut self, now: Moment, cause: LinkDownCause, effects: &mut Vec<LinkEffect>) {
        if let Some(channel) = self.channel.take() {
            effects.push(LinkEffect::LinkDown {
                session: channel.session,
                cause,
                last_heard: channel.last_heard,
            });
            if let Dialling::Waiting { next_at } = &mut self.dialling {
                *next_at = now;
            }
        }
    }

    /// If nobody called this machine when it asked to be, its own process was held up, and what the
    /// peer answered meanwhile is still to be read: one more ping interval before it counts as
    /// silent. The lease is not touched by this: it counts from pings that were answered.
    fn notice_own_pause(&mut self, now: Moment) {
        let pause = now.since(self.last_step);
        self.last_step = now;
        if pause > self.config.ping_interval
            && let Some(channel) = &mut self.channel
        {
            channel.grant(now.after(self.config.ping_interval));
        }
    }

    fn maintain(&mut self, now: Moment, effects: &mut Vec<LinkEffect>) {
        if let Some(channel) = &mut self.channel {
            if channel.is_silent(now) {
                self.end_channel(now, LinkDownCause::Silent, effects);
            } else {
                channel.ping_if_due(now, &self.facts, effects);
            }
        }
        self.expire_handshakes(now, effects);
        if let Dialling::UnderWay {
            deadline, next_at, ..
        } = self.dialling
            && deadline <= now
        {
            self.dialling = Dialling::Waiting { next_at };
            let millis = self.config.creation_timeout.as_millis();
            let reason = format!("no connection within {millis} ms");
            self.not_linked(reason, effects);
        }
        if let Dialling::Waiting { next_at } = self.dialling
            && next_at <= now
            && self.may_dial()
        {
            self.last_attempt = self.last_attempt.saturating_add(1);
            let timeout = self.config.creation_timeout;
            self.dialling = Dialling::UnderWay {
                attempt: self.last_attempt,
                // The shell keeps the timeout; this covers a name look-up that hangs.
                deadline: now.after(timeout).after(self.config.ping_interval),
                next_at: now.after(self.half_ping()),
            };
            effects.push(LinkEffect::Dial {
                attempt: self.last_attempt,
                timeout,
            });
        }
    }

    fn may_dial(&self) -> bool {
        self.channel.is_none() && !self.handshakes.iter().any(|handshake| handshake.dialled)
    }

    fn half_ping(&self) -> Duration {
        (self.config.ping_interval / 2).max(Duration::from_millis(1))
    }

    /// Says it once, and not while a channel is up: then it is a second connection's end.
    fn not_linked(&mut self, reason: String, effects: &mut Vec<LinkEffect>) {
        if self.channel.is_none() && self.said != reason {
            let address = &self.config.peer_address;
            effects.push(LinkEffect::NotLinked {
                reason: format!("not linked to {address}: {reason}"),
            });
            self.said = reason;
        }
    }

    fn assert_invariants(&self) {
        assert!(
            self.handshakes.len() <= HANDSHAKES_MAX.saturating_add(1),
            "handshakes are bounded"
        );
        if let Some(channel) = &self.channel {
            assert!(
                self.handshakes.iter().all(|it| it.conn != channel.conn),
                "the channel's connection is in no handshake"
            );
        }
    }
}

#[cfg(test)]
mod last_word_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
pub(crate) mod tests;
