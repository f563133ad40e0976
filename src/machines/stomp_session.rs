//! One STOMP connection: what each frame means, and what leaves when.
//!
//! | phase | what is allowed |
//! |---|---|
//! | Greeting | CONNECT or STOMP, within the connect timeout |
//! | Connected | everything else; deliveries go out |
//! | Leaving | DISCONNECT came: no more frames or deliveries; ends when every request is answered |
//! | Closed | nothing: `Close` was given |
//!
//! A RECEIPT leaves only when what it confirms is true: for SEND, ACK and NACK when the destination
//! says that the request is committed, for SUBSCRIBE when the consumer is attached. An ERROR ends the
//! connection, as the protocol has it. The session knows nothing of sockets, of how destinations work
//! or of other sessions; frames come decoded, bytes leave through `out`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::ends::Problem;
use self::heart_beats::HeartBeats;
use self::requests::{Receipt, Requests};
use self::subscriptions::Subscriptions;
use self::transactions::Transactions;
pub use self::transactions::{Operations, TransactionLimits};
use crate::machines::delivery::{ConsumerTraits, Outcome, RequestNumber, SessionEvent, SessionKey};
use crate::machines::selector::Selector;
use crate::machines::subscriptions::{Identity, SubscriptionSpec};
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::stomp::{
    ClientCommand, ClientFrame, DecodeError, FrameWriter, Limits, ServerCommand, Version,
};
use crate::time::Moment;

mod acks;
mod consume;
mod downloads;
mod ends;
mod greeting;
mod heart_beats;
mod publish;
mod requests;
mod subscriptions;
mod topics;
mod transactions;
mod upkeep;
mod uploads;

/// Validated values; shared by all sessions.
#[derive(Clone, Debug)]
pub struct StompSessionConfig {
    /// For the decoder of the connection.
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
    /// Transactions that are not committed.
    pub transactions: TransactionLimits,
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
    /// A frame was read whose body is large: it comes in pieces.
    Head(ClientFrame),
    /// The next piece of that body.
    Part(Bytes),
    /// That frame is whole.
    BodyEnd,
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
        /// What else it is.
        traits: ConsumerTraits,
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
    /// A transaction is committed.
    Commit {
        /// Answered by `Submitted` and `Committed`, or by `Refused`.
        request: RequestNumber,
        /// All of it, or nothing.
        operations: Operations,
    },
    /// The consumer takes no more and gives everything back but what open transactions acknowledge;
    /// its `Detach` comes when they have ended.
    Retire {
        /// `ConsumerKey::number`.
        consumer: u32,
        /// What it keeps.
        keep: Vec<Lsn>,
    },
    /// A new consumer of a topic.
    Subscribe {
        /// `ConsumerKey::number`.
        consumer: u32,
        /// Credit.
        prefetch: u32,
        /// Of what.
        subscription: Box<SubscriptionSpec>,
    },
    /// A durable subscription is deleted.
    Forget {
        /// Which.
        identity: Box<Identity>,
        /// Answered by `Committed` or `Refused`.
        request: RequestNumber,
    },
    /// A temporary queue of this connection comes into being.
    MakeTemporary {
        /// As others spell it.
        destination: DestinationName,
    },
    /// A consumer that gets copies of what is owed now, then `Browsed`.
    Browse {
        /// Of what.
        destination: DestinationName,
        /// `ConsumerKey::number`.
        consumer: u32,
        /// Credit.
        prefetch: u32,
        /// Which.
        selector: Option<Arc<Selector>>,
    },
    /// Store a part of a body.
    Upload {
        /// Which of the session's bodies.
        upload: u32,
        /// Answered by `PartsStored` and then `Committed`, or by `Refused`.
        request: RequestNumber,
        /// At most `PART_BYTES`.
        bytes: Bytes,
    },
    /// No more comes of a body, and no message will name it that was not published before.
    EndUpload {
        /// Which.
        upload: u32,
        /// Not before this request is answered, if it is not zero.
        after: RequestNumber,
    },
    /// Read parts of a body; answered by `PartsRead`.
    ReadParts {
        /// In order.
        lsns: Vec<Lsn>,
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
    phase: Phase,
    /// 1.0 until CONNECT.
    version: Version,
    client_id: Option<String>,
    login: Option<String>,
    beats: HeartBeats,
    subscriptions: Subscriptions,
    requests: Requests,
    transactions: Transactions,
    /// Destinations of the last sends, so that most SENDs need not make theirs anew.
    destinations: publish::RecentDestinations,
    /// What the wall clock showed last, for delays that SENDs ask for.
    wall_ms: u64,
    temporaries: topics::Temporaries,
    uploads: uploads::Uploads,
    download: Option<Box<downloads::Download>>,
}

#[derive(Debug)]
enum Phase {
    Greeting { until: Moment },
    Connected,
    Leaving { receipt: Option<Receipt> },
    Closed,
}

impl StompSession {
    /// A connection was accepted.
    #[must_use]
    pub fn new(config: Arc<StompSessionConfig>, session: SessionKey, now: Moment) -> Self {
        let timeout = std::time::Duration::from_millis(config.connect_timeout_ms);
        Self {
            config,
            session,
            phase: Phase::Greeting {
                until: now.after(timeout),
            },
            version: Version::V1_0,
            client_id: None,
            login: None,
            beats: HeartBeats::new(now),
            subscriptions: Subscriptions::default(),
            requests: Requests::new(),
            transactions: Transactions::default(),
            destinations: publish::RecentDestinations::default(),
            wall_ms: 0,
            temporaries: topics::Temporaries::default(),
            uploads: uploads::Uploads::default(),
            download: None,
        }
    }

    /// What the wall clock shows, in milliseconds since 1970: delays that SENDs ask for count from here.
    pub fn tell_time(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
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
        if self.is_closed() {
            return;
        }
        let before = out.len();
        let is_part = matches!(&input, SessionInput::Event(SessionEvent::PartsRead { .. }));
        match input {
            SessionInput::Frame(frame) => {
                self.beats.has_read(now);
                if let Err(problem) = self.on_frame(&frame, out, effects) {
                    let receipt = frame.headers.raw_value(b"receipt");
                    self.fail(&problem, receipt, out, effects);
                }
            }
            SessionInput::Head(frame) => {
                self.beats.has_read(now);
                if let Err(problem) = self.on_head(&frame, effects) {
                    let receipt = frame.headers.raw_value(b"receipt");
                    self.fail(&problem, receipt, out, effects);
                }
            }
            SessionInput::Part(bytes) => {
                self.beats.has_read(now);
                self.on_part(bytes, effects);
            }
            SessionInput::BodyEnd => {
                let ended = self.on_body_end(out, effects);
                self.fail_upload(ended, out, effects);
            }
            SessionInput::Malformed(error) => match self.phase {
                Phase::Greeting { .. } | Phase::Connected => {
                    self.on_malformed(&error, out, effects);
                }
                // As for frames after DISCONNECT: what is still owed comes first.
                Phase::Leaving { .. } | Phase::Closed => {}
            },
            SessionInput::HeartBeat => self.beats.has_read(now),
            SessionInput::Event(event) => self.on_event(event, out, effects),
            SessionInput::OutputFlushed => self.on_flushed(effects),
            SessionInput::Deadline => {}
        }
        if !is_part {
            self.leave_when_quiet(out, effects);
        }
        self.maintain(now, before, out, effects);
    }

    /// Ends the connection with an ERROR for a reason from outside, e.g. that a SEND waited too long.
    /// `message` is short, `detail` says what was wrong and what to do; `receipt` is that of the frame
    /// that cannot be carried out, as it was spelled, if it is one that was not given to the machine. If
    /// it is a large SEND whose body is being read, the machine knows its receipt.
    pub fn end(
        &mut self,
        message: &'static str,
        detail: &str,
        receipt: Option<&[u8]>,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        if !self.is_closed() {
            let of_upload = self.receipt_of_upload();
            let receipt = receipt.or_else(|| of_upload.as_ref().map(Receipt::raw));
            self.fail(&Problem::new(message, detail), receipt, out, effects);
        }
    }

    /// The socket is gone: the consumers are detached, nothing more leaves. Not needed after `Close`.
    pub fn abandon(&mut self, effects: &mut Vec<SessionEffect>) {
        self.detach_all(effects);
        self.phase = Phase::Closed;
    }

    /// When to come back with [`SessionInput::Deadline`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Greeting { until } => Some(until),
            Phase::Connected => {
                let read = self.beats.read_deadline().filter(|_| !self.is_full());
                let write = self.beats.write_deadline();
                read.into_iter().chain(write).min()
            }
            Phase::Leaving { .. } => self.beats.write_deadline(),
            Phase::Closed => None,
        }
    }

    /// No frame may be given now: too many requests wait for their answer, or a COMMIT has no place
    /// in the log yet, and what the client sends next must come after it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.requests.span() >= self.config.max_unsettled_requests
            || self.transactions.committing.is_some()
            || self.uploads.is_full()
    }

    /// Bytes that wait for a COMMIT.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.transactions.bytes()
    }

    /// Requests that wait for their answer, and those answered while an older one waits.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.requests.span()
    }

    /// `client-id` of CONNECT.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// `login` of CONNECT.
    #[must_use]
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The client has promised to send heart-beats.
    #[must_use]
    pub fn expects_heart_beats(&self) -> bool {
        self.beats.read_deadline().is_some()
    }

    /// The client asked for heart-beats, and gets them.
    #[must_use]
    pub fn sends_heart_beats(&self) -> bool {
        self.beats.write_deadline().is_some()
    }

    /// Transactions that were begun and are not committed.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.open()
    }

    /// Subscriptions that stand.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Settled by CONNECT.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self.phase {
            Phase::Greeting { .. } => None,
            Phase::Connected | Phase::Leaving { .. } | Phase::Closed => Some(self.version),
        }
    }

    /// `Close` was given, or the session abandoned.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn on_frame(
        &mut self,
        frame: &ClientFrame,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        use ClientCommand::{
            Abort, Ack, Begin, Commit, Connect, Disconnect, Nack, Send, Stomp, Subscribe,
            Unsubscribe,
        };
        match (&self.phase, frame.command) {
            (Phase::Greeting { .. }, Connect | Stomp) => self.connect(frame, out),
            (
                Phase::Greeting { .. },
                Send | Ack | Nack | Subscribe | Unsubscribe | Disconnect | Begin | Commit | Abort,
            ) => Err(Problem::new(
                "not connected",
                "the first frame of a connection must be CONNECT or STOMP",
            )),
            (Phase::Connected, Send) => self.send(frame, out, effects),
            (Phase::Connected, Ack) => self.acknowledge(frame, Outcome::Accepted, out, effects),
            (Phase::Connected, Nack) => self.acknowledge(frame, Outcome::Released, out, effects),
            (Phase::Connected, Subscribe) => self.subscribe(frame, effects),
            (Phase::Connected, Unsubscribe) => self.unsubscribe(frame, out, effects),
            (Phase::Connected, Disconnect) => {
                let receipt = frame.headers.raw_value(b"receipt").map(Receipt::new);
                self.transactions.clear(effects);
                self.phase = Phase::Leaving { receipt };
                Ok(())
            }
            (Phase::Connected, Begin) => self.begin(frame, out),
            (Phase::Connected, Commit) => self.commit(frame, effects),
            (Phase::Connected, Abort) => self.abort(frame, out, effects),
            (Phase::Connected, Connect | Stomp) => Err(Problem::new(
                "already connected",
                "CONNECT and STOMP are allowed once, as the first frame of a connection",
            )),
            // The protocol forbids frames after DISCONNECT; a client that sends some hears no more.
            (Phase::Leaving { .. } | Phase::Closed, _) => Ok(()),
        }
    }

    fn on_event(
        &mut self,
        event: SessionEvent,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        match event {
            SessionEvent::Attached { consumer } => self.attached(consumer, out),
            SessionEvent::Delivered {
                consumer,
                deliveries,
            } => {
                if let Err(problem) = self.deliver(consumer, &deliveries, out, effects) {
                    self.fail(&problem, None, out, effects);
                }
            }
            SessionEvent::Committed { requests } => {
                for request in requests {
                    self.uploads.answered(request, effects);
                    if let Some(Some(receipt)) = self.requests.answer(request) {
                        write_receipt(out, self.version, receipt.raw());
                    }
                }
            }
            SessionEvent::Refused { request, reason } => {
                let Some(receipt) = self.requests.answer(request) else {
                    return;
                };
                self.transactions.committing = None;
                self.uploads.answered(request, effects);
                let receipt = receipt.or_else(|| self.receipt_of_upload());
                let problem = Problem::new("the request was refused", reason);
                self.fail(&problem, receipt.as_ref().map(Receipt::raw), out, effects);
            }
            SessionEvent::Closing { reason } => {
                let problem = Problem::new("the server closes the connection", reason);
                self.fail(&problem, None, out, effects);
            }
            SessionEvent::NotAttached { consumer, reason } => {
                self.not_attached(consumer, reason, out, effects);
            }
            SessionEvent::Browsed { consumer } => self.browsed(consumer, out),
            SessionEvent::PartsStored { upload, lsns } => {
                let stored = self.on_parts_stored(upload, &lsns, out, effects);
                self.fail_upload(stored, out, effects);
            }
            SessionEvent::PartsRead { parts } => self.on_parts_read(&parts, out, effects),
            SessionEvent::Submitted { request } => {
                if self.transactions.committing == Some(request) {
                    self.transactions.committing = None;
                }
            }
        }
    }

    fn close(&mut self, effects: &mut Vec<SessionEffect>) {
        self.detach_all(effects);
        effects.push(SessionEffect::Close);
        self.phase = Phase::Closed;
    }

    fn detach_all(&mut self, effects: &mut Vec<SessionEffect>) {
        self.transactions.clear(effects);
        self.uploads.clear(effects);
        let consumers = self.subscriptions.clear();
        effects.extend(consumers.map(|consumer| SessionEffect::Detach { consumer }));
    }
}

/// Deliveries that reached the socket.
fn accepted(consumer: u32, lsns: Vec<Lsn>) -> SessionEffect {
    SessionEffect::Settle {
        consumer,
        lsns,
        outcome: Outcome::Accepted,
        request: RequestNumber::default(),
    }
}

fn write_receipt(out: &mut BytesMut, version: Version, raw: &[u8]) {
    let mut frame = FrameWriter::new(out, version, ServerCommand::Receipt);
    frame.raw_header("receipt-id", raw);
    frame.finish();
}

#[cfg(test)]
mod tests;
