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
mod handshake;

use std::time::Duration;

use crate::machines::link::channel::Channel;
use crate::machines::link::handshake::Handshake;
use crate::proto::auth::PairSecret;
use crate::proto::ids::{Epoch, NodeId, SessionId};
use crate::proto::peer::{Body, Frame, Hello, PeerFacts};
use crate::time::Moment;

/// A connection to (or from) the peer, numbered by the shell and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who this server is and how the channel is paced.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// This server.
    pub node: NodeId,
    /// The pair's name.
    pub cluster: String,
    /// Configured as the primary.
    pub primary: bool,
    /// For people.
    pub name: String,
    /// The peer's address, for texts.
    pub peer_address: String,
    /// Lowest and highest protocol version spoken.
    pub versions: (u16, u16),
    /// Values that must be equal on both servers: (key, value).
    pub must_agree: Vec<(String, String)>,
    /// The pair secret; none only where both ends are loopback.
    pub secret: Option<PairSecret>,
    /// `PingInterval`.
    pub ping_interval: Duration,
    /// `SocketCreationTimeout`: bounds a dial, TLS included.
    pub creation_timeout: Duration,
    /// `SocketInitializationTimeout`: bounds hello, proof and welcome.
    pub initialization_timeout: Duration,
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkInput {
    /// Begin to dial; accepted connections count from here on.
    Started,
    /// The dial of this number gave a connection.
    Dialled {
        /// As in [`LinkEffect::Dial`].
        attempt: u64,
        /// The connection.
        conn: ConnId,
        /// Fresh random bytes for its hello.
        nonce: [u8; 16],
    },
    /// The dial of this number gave none.
    DialFailed {
        /// As in [`LinkEffect::Dial`].
        attempt: u64,
        /// In words.
        reason: String,
    },
    /// Somebody dialled this server.
    Accepted {
        /// The connection.
        conn: ConnId,
        /// Fresh random bytes for its hello.
        nonce: [u8; 16],
    },
    /// A frame came in.
    FrameReceived {
        /// Where.
        conn: ConnId,
        /// What.
        frame: Frame,
        /// When its bytes were read.
        at: Moment,
    },
    /// The connection is closed by the other side or broken. Also expected, and passed over, after
    /// [`LinkEffect::Close`].
    Closed {
        /// Which.
        conn: ConnId,
        /// How.
        cause: CloseCause,
    },
    /// From HAManager at each change: this server's facts. Sent to the peer when more than the
    /// position has changed.
    OwnFacts(PeerFacts),
    /// HAManager: tell the peer that this server ends in order.
    Goodbye {
        /// The epoch in which it says so.
        epoch: Epoch,
    },
    /// HAManager or the replication: this session is no good, close it.
    Drop {
        /// The session meant; another one is left alone.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// Time has passed.
    Tick,
}

/// How a connection came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The other side's kernel closed it: end of stream, reset, broken pipe. Its process has ended,
    /// or means it.
    Ended,
    /// It did not answer, or the network cannot reach it: says nothing about its process.
    Unreachable(String),
    /// It sent bytes that are no frames.
    Malformed(String),
}

/// Why a session is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkDownCause {
    /// The channel ended: `PassiveInterval` does not apply (A3).
    Ended,
    /// No answered ping for two ping intervals, or the network said that the peer is out of reach.
    Silent,
    /// A newer channel took its place: `LinkUp` follows.
    Replaced,
    /// The peer broke the protocol, in words.
    Broken(String),
    /// By `Drop`, with its reason.
    Dropped(String),
    /// The peer closed it by its own decision, in words.
    Refused(String),
}

impl LinkDownCause {
    /// The peer's end of the channel was closed without a word, as the kernel does for a process
    /// that has ended: the lock may be tried at once (A3).
    #[must_use]
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Silent
            | Self::Replaced
            | Self::Broken(_)
            | Self::Dropped(_)
            | Self::Refused(_) => false,
        }
    }
}

impl std::fmt::Display for LinkDownCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("the peer's end was closed"),
            Self::Silent => f.write_str("the peer has not answered for two ping intervals"),
            Self::Replaced => f.write_str("a newer connection took its place"),
            Self::Broken(reason) => write!(f, "the peer broke the protocol: {reason}"),
            Self::Dropped(reason) => write!(f, "closed by this server: {reason}"),
            Self::Refused(reason) => write!(f, "closed by the peer: {reason}"),
        }
    }
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum LinkEffect {
    /// Dial the peer; answer with `Dialled` or `DialFailed`.
    Dial {
        /// Never used twice by one machine.
        attempt: u64,
        /// For the whole dial, TLS included.
        timeout: Duration,
    },
    /// Send this.
    Send {
        /// Where.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Close this after what was sent on it before.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The channel is up.
    LinkUp {
        /// Its session.
        session: SessionId,
        /// Its connection: session frames of others go there too.
        conn: ConnId,
        /// What the peer said of itself.
        hello: Box<Hello>,
    },
    /// The channel is down.
    LinkDown {
        /// Its session.
        session: SessionId,
        /// Why.
        cause: LinkDownCause,
        /// When a frame of it last came in.
        last_heard: Moment,
    },
    /// The peer's facts have changed.
    PeerFacts {
        /// In this session.
        session: SessionId,
        /// Now.
        facts: PeerFacts,
    },
    /// The peer ends in order.
    PeerGoodbye {
        /// In this session.
        session: SessionId,
        /// The epoch in which it said so.
        epoch: Epoch,
    },
    /// A ping was answered: a source of the lease.
    Answered {
        /// In this session.
        session: SessionId,
        /// When the ping was sent: the lease counts from here.
        ping_sent_at: Moment,
        /// When its answer was read.
        pong_received_at: Moment,
    },
    /// The peer's ping was answered: its lease may count from before this (A3).
    ReplySent {
        /// When.
        at: Moment,
    },
    /// A frame for the replication.
    Data {
        /// Of this session.
        session: SessionId,
        /// Any body from `SyncRequest` to `InSync`.
        body: Body,
    },
    /// The two servers cannot be a pair as they are configured. The connection is closed. A server
    /// that does not serve stops on this, one that serves alarms (H8).
    Mismatch {
        /// In words, all differences.
        reason: String,
        /// The peer serves.
        peer_serving: bool,
    },
    /// An attempt to link came to nothing, in words: for `status` and the log.
    NotLinked {
        /// In words.
        reason: String,
    },
}

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
                LinkDownCause::Replaced => {}
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
mod pair_tests;
#[cfg(test)]
mod tests;
