//! One STOMP connection: what each frame means, and what leaves when.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::machines::delivery::{Outcome, RequestNumber, SessionEvent, SessionKey};
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::stomp::{ClientFrame, DecodeError, Limits, Version};
use crate::time::Moment;

/// Validated values; shared by all sessions.
#[derive(Clone, Debug)]
pub struct StompSessionConfig {
    /// The decoder's limits, named in errors.
    pub limits: Limits,
    /// What we offer in `heart-beat`: how often we can send, how often we want to receive. Zero: never.
    pub heart_beat_ms: HeartBeatOffer,
    /// Deliveries that may be unsettled at once when SUBSCRIBE does not say; at least 1.
    pub default_prefetch: u32,
    /// What SUBSCRIBE may ask for; more is cut to this.
    pub max_prefetch: u32,
    /// Subscriptions of one connection.
    pub max_subscriptions: usize,
    /// Requests of one connection without an answer: the shell stops reading while
    /// [`StompSession::is_full`].
    pub max_unsettled_requests: usize,
    /// `server` header, `TwinMQ/x.y`.
    pub server_name: String,
    /// How long a connection may stay without CONNECT.
    pub connect_timeout_ms: u64,
}

/// The two numbers of a `heart-beat` header, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartBeatOffer {
    /// How often this side can send; 0: not at all.
    pub send: u32,
    /// How often this side would like to receive; 0: no wish.
    pub receive: u32,
}

/// What happens to a session.
#[derive(Debug)]
pub enum SessionInput {
    /// A frame was read.
    Frame(ClientFrame),
    /// What was read is no frame.
    Malformed(DecodeError),
    /// Bytes of any kind were read.
    HeartBeat,
    /// From a destination or the server.
    Event(SessionEvent),
    /// All that was put into the output has reached the socket.
    OutputFlushed,
    /// Time has passed.
    Deadline,
}

/// What the shell does, in order.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum SessionEffect {
    /// Store a message.
    Publish {
        /// Where.
        destination: DestinationName,
        /// Answered by `Committed` or `Refused`.
        request: RequestNumber,
        /// The canonical message.
        message: Bytes,
    },
    /// A new consumer.
    Attach {
        /// Of what.
        destination: DestinationName,
        /// `ConsumerKey::number`.
        consumer: u32,
        /// Credit.
        prefetch: u32,
    },
    /// The end of a consumer.
    Detach {
        /// `ConsumerKey::number`.
        consumer: u32,
    },
    /// Deliveries are settled.
    Settle {
        /// `ConsumerKey::number`.
        consumer: u32,
        /// Which.
        lsns: Vec<Lsn>,
        /// How.
        outcome: Outcome,
        /// Answered by `Committed`; zero: no answer is wanted.
        request: RequestNumber,
    },
    /// Write out what is in the output, then close the socket. Always the last effect of a session;
    /// every consumer has been detached before it.
    Close,
}

/// See the module.
#[derive(Debug)]
pub struct StompSession {
    config: Arc<StompSessionConfig>,
    session: SessionKey,
    started: Moment,
}

impl StompSession {
    /// A connection was accepted.
    #[must_use]
    pub fn new(config: Arc<StompSessionConfig>, session: SessionKey, now: Moment) -> Self {
        Self {
            config,
            session,
            started: now,
        }
    }

    /// Takes one input; bytes for the client are appended to `out`, the rest to `effects`. The shell
    /// may take many steps before it runs the effects and writes `out`: acknowledgements of a run of
    /// frames are then gathered into one `Settle`.
    pub fn step(
        &mut self,
        now: Moment,
        input: SessionInput,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        let _ = (now, input, out, effects, self.session);
    }

    /// The socket is gone: the consumers are detached, nothing more leaves. Not needed after `Close`.
    pub fn abandon(&mut self, effects: &mut Vec<SessionEffect>) {
        effects.clear();
    }

    /// When to come back with [`SessionInput::Deadline`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        Some(self.started)
    }

    /// No frame may be given now: too many requests wait for their answer.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.config.max_unsettled_requests == 0
    }

    /// Requests that wait for their answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        0
    }

    /// `client-id` of CONNECT.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        None
    }

    /// `login` of CONNECT.
    #[must_use]
    pub fn login(&self) -> Option<&str> {
        None
    }

    /// Subscriptions that stand.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        0
    }

    /// Settled by CONNECT.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        None
    }

    /// `Close` was given.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        false
    }
}
