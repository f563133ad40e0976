use super::super::*;
use crate::machines::delivery::Delivery;
use crate::proto::message::{Envelope, MessageWriter, Properties};
use crate::proto::stomp::{Command, Decoder};

pub(super) const MS: u64 = 1_000_000;

/// A session with its shell: frames go in as text, what comes out is kept apart by step.
pub(super) struct Rig {
    pub(super) session: StompSession,
    pub(super) now: Moment,
    pub(super) out: BytesMut,
    pub(super) effects: Vec<SessionEffect>,
    decoder: Decoder,
}

pub(super) fn config() -> StompSessionConfig {
    StompSessionConfig {
        limits: Limits::default(),
        heart_beat_ms: HeartBeatOffer {
            send: 1000,
            receive: 2000,
        },
        default_prefetch: 100,
        max_prefetch: 500,
        max_subscriptions: 3,
        max_unsettled_requests: 4,
        transactions: TransactionLimits {
            open: 3,
            messages: 5,
            bytes: 1000,
            connection_bytes: 1500,
        },
        server_name: "TwinMQ/0.1".into(),
        connect_timeout_ms: 10_000,
    }
}

impl Rig {
    /// Before CONNECT.
    pub(super) fn fresh() -> Self {
        Self {
            session: StompSession::new(Arc::new(config()), SessionKey(7), Moment(0)),
            now: Moment(0),
            out: BytesMut::new(),
            effects: Vec::new(),
            decoder: Decoder::new(Limits::default()),
        }
    }

    /// Connected with a version and nothing else.
    pub(super) fn connected(version: &str) -> Self {
        let mut rig = Self::fresh();
        rig.say(&format!(
            "CONNECT\naccept-version:{version}\nlogin:ann\n\n\0"
        ));
        assert!(rig.session.version().is_some_and(|v| v.name() == version));
        rig
    }

    /// Subscribed to `/queue/a` as `s` (consumer 1), and attached.
    pub(super) fn subscribed(version: &str, ack: &str) -> Self {
        let mut rig = Self::connected(version);
        rig.say(&format!(
            "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:{ack}\n\n\0"
        ));
        rig.event(SessionEvent::Attached { consumer: 1 });
        rig
    }

    pub(super) fn step(&mut self, input: SessionInput) {
        self.session
            .step(self.now, input, &mut self.out, &mut self.effects);
    }

    /// The frames in `text` are read; gives what was written and done because of them.
    pub(super) fn say(&mut self, text: &str) -> (String, Vec<SessionEffect>) {
        let mut bytes = BytesMut::from(text.as_bytes());
        loop {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(frame)) => self.step(SessionInput::Frame(frame)),
                Ok(None) => break,
                Err(error) => {
                    self.step(SessionInput::Malformed(error));
                    break;
                }
            }
        }
        self.take()
    }

    pub(super) fn event(&mut self, event: SessionEvent) -> (String, Vec<SessionEffect>) {
        self.step(SessionInput::Event(event));
        self.take()
    }

    pub(super) fn flushed(&mut self) -> (String, Vec<SessionEffect>) {
        self.step(SessionInput::OutputFlushed);
        self.take()
    }

    pub(super) fn at(&mut self, ms: u64) -> (String, Vec<SessionEffect>) {
        self.now = Moment(ms * MS);
        self.step(SessionInput::Deadline);
        self.take()
    }

    pub(super) fn committed(&mut self, requests: &[u32]) -> (String, Vec<SessionEffect>) {
        self.event(SessionEvent::Committed {
            requests: requests.iter().map(|n| RequestNumber(*n)).collect(),
        })
    }

    /// These LSNs are delivered with the body `x`.
    pub(super) fn delivered(&mut self, lsns: &[u64]) -> (String, Vec<SessionEffect>) {
        self.event(SessionEvent::Delivered {
            consumer: 1,
            deliveries: lsns.iter().map(|lsn| delivery(*lsn, plain())).collect(),
        })
    }

    pub(super) fn take(&mut self) -> (String, Vec<SessionEffect>) {
        let text = String::from_utf8(self.out.split().to_vec()).unwrap();
        (text.replace('\0', "^@"), std::mem::take(&mut self.effects))
    }
}

pub(super) fn delivery(lsn: u64, message: Bytes) -> Delivery {
    Delivery {
        lsn: Lsn(lsn),
        failures: 0,
        redelivered: false,
        message,
    }
}

pub(super) fn plain() -> Bytes {
    MessageWriter::new(&Envelope::default(), &Properties::default(), 0)
        .finish(b"x")
        .unwrap()
}

pub(super) fn name(spelling: &str) -> DestinationName {
    DestinationName::parse(spelling).unwrap()
}

pub(super) fn settle(consumer: u32, lsns: &[u64], outcome: Outcome, request: u32) -> SessionEffect {
    SessionEffect::Settle {
        consumer,
        lsns: lsns.iter().copied().map(Lsn).collect(),
        outcome,
        request: RequestNumber(request),
    }
}

/// The MESSAGE of a [`plain`] message to `s` on `/queue/a`.
pub(super) fn message(lsn: u64, ack: bool) -> String {
    let ack = if ack {
        format!("ack:1-{lsn}\n")
    } else {
        String::new()
    };
    format!(
        "MESSAGE\nsubscription:s\ndestination:/queue/a\nmessage-id:tm-{lsn}\n{ack}\
         persistent:true\ncontent-length:1\n\nx^@"
    )
}

pub(super) fn receipt(id: &str) -> String {
    format!("RECEIPT\nreceipt-id:{id}\n\n^@")
}

/// The ERROR's short message, when `text` is one ERROR and nothing else.
pub(super) fn error_of(text: &str) -> Option<String> {
    let mut bytes = BytesMut::from(text.replace("^@", "\0").as_bytes());
    let mut decoder = Decoder::<ServerCommand>::new(Limits::default());
    let frame = decoder.decode(&mut bytes).unwrap()?;
    assert!(bytes.is_empty(), "more than one frame: {text}");
    (frame.command.name() == "ERROR").then(|| {
        assert!(!frame.body.is_empty(), "the ERROR explains nothing");
        frame.headers.get("message").unwrap().into_owned()
    })
}

/// `frame` ends the connection with this ERROR and `Close` alone.
pub(super) fn assert_refused(rig: &mut Rig, frame: &str, message: &str) {
    let detached = rig.session.subscriptions();
    let (text, effects) = rig.say(frame);
    assert_eq!(error_of(&text).as_deref(), Some(message), "{frame:?}");
    assert_eq!(effects.len(), detached + 1, "{frame:?}: {effects:?}");
    assert_eq!(effects.last(), Some(&SessionEffect::Close), "{frame:?}");
    assert!(rig.session.is_closed());
}
