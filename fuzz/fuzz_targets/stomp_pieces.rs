//! Bytes from a client as a session reads them, large bodies piece by piece: however they come, the same
//! frames and bodies must come of them, and the session must take whatever comes out. What it publishes
//! comes back to its own consumers, large messages in parts, and what it writes must be frames.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use twinmq::machines::delivery::{Delivery, RequestNumber, SessionEvent, SessionKey};
use twinmq::machines::stomp_session::{
    HeartBeatOffer, SessionEffect, SessionInput, StompSession, StompSessionConfig,
    TransactionLimits,
};
use twinmq::proto::ids::Lsn;
use twinmq::proto::stomp::{
    ClientCommand, ClientFrame, DecodeError, Decoder, Limits, Piece, PieceSizes, ServerCommand,
};
use twinmq::time::Moment;

const LIMITS: Limits = Limits {
    frame_bytes: 2048,
    headers: 16,
    header_bytes: 512,
    body_bytes: 1024,
};
const SIZES: PieceSizes = PieceSizes {
    whole: 16,
    piece: 10,
};

fn pieces(bytes: &[u8], step: usize) -> (Vec<Piece<ClientCommand>>, Option<DecodeError>) {
    let mut decoder = Decoder::new(LIMITS);
    let (mut buffer, mut pieces) = (BytesMut::new(), Vec::new());
    for more in bytes.chunks(step) {
        buffer.extend_from_slice(more);
        loop {
            match decoder.decode_piece(&mut buffer, SIZES) {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => break,
                Err(error) => return (pieces, Some(error)),
            }
        }
    }
    (pieces, None)
}

/// Frames that are whole, each with all of its body.
fn frames(pieces: &[Piece<ClientCommand>]) -> Vec<ClientFrame> {
    let (mut frames, mut open): (Vec<ClientFrame>, Option<(ClientFrame, Vec<u8>)>) =
        (Vec::new(), None);
    for piece in pieces {
        match piece {
            Piece::Whole(frame) => frames.push(frame.clone()),
            Piece::Head(frame) => open = Some((frame.clone(), Vec::new())),
            Piece::Part(bytes) => {
                assert!((1..=SIZES.piece).contains(&bytes.len()));
                let (_, body) = open.as_mut().expect("a head comes before its parts");
                body.extend_from_slice(bytes);
            }
            Piece::End => {
                let (frame, body) = open.take().expect("a head comes before its end");
                assert!(body.len() > SIZES.whole && body.len() <= LIMITS.body_bytes);
                frames.push(ClientFrame {
                    body: body.into(),
                    ..frame
                });
            }
        }
    }
    frames
}

fn config() -> Arc<StompSessionConfig> {
    Arc::new(StompSessionConfig {
        limits: LIMITS,
        heart_beat_ms: HeartBeatOffer {
            send: 1000,
            receive: 1000,
        },
        default_prefetch: 10,
        max_prefetch: 100,
        max_subscriptions: 4,
        max_unsettled_requests: 100,
        transactions: TransactionLimits {
            open: 3,
            messages: 5,
            bytes: 1000,
            connection_bytes: 1500,
        },
        server_name: "TwinMQ".into(),
        connect_timeout_ms: 1000,
    })
}

/// A session, and a server that does at once what it asks for.
struct Loopback {
    session: StompSession,
    out: BytesMut,
    /// What waits until a large MESSAGE is whole.
    behind: BytesMut,
    last: u64,
    parts: BTreeMap<Lsn, Bytes>,
    consumers: Vec<u32>,
    events: VecDeque<SessionEvent>,
}

impl Loopback {
    fn step(&mut self, input: SessionInput) {
        self.run(input);
        while let Some(event) = self.events.pop_front() {
            self.run(SessionInput::Event(event));
        }
    }

    fn run(&mut self, input: SessionInput) {
        let mut effects = Vec::new();
        let is_part = matches!(input, SessionInput::Event(SessionEvent::PartsRead { .. }));
        let waits = self.session.is_within_message() && !is_part;
        let out = if waits {
            &mut self.behind
        } else {
            &mut self.out
        };
        self.session.step(Moment(0), input, out, &mut effects);
        if !self.session.is_within_message() {
            self.out.unsplit(self.behind.split());
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn next(&mut self) -> Lsn {
        self.last += 1;
        Lsn(self.last)
    }

    fn committed(&mut self, request: RequestNumber) {
        if request != RequestNumber::default() {
            let requests = vec![request];
            self.events.push_back(SessionEvent::Committed { requests });
        }
    }

    fn carry_out(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Publish {
                request, message, ..
            } => {
                let lsn = self.next();
                if let Some(consumer) = self.consumers.last().copied() {
                    let deliveries = vec![Delivery {
                        lsn,
                        redelivered: false,
                        failures: 0,
                        message,
                    }];
                    self.events.push_back(SessionEvent::Delivered {
                        consumer,
                        deliveries,
                    });
                }
                self.committed(request);
            }
            SessionEffect::Attach { consumer, .. } | SessionEffect::Subscribe { consumer, .. } => {
                self.consumers.push(consumer);
                self.events.push_back(SessionEvent::Attached { consumer });
            }
            SessionEffect::Browse { consumer, .. } => {
                self.events.push_back(SessionEvent::Attached { consumer });
                self.events.push_back(SessionEvent::Browsed { consumer });
            }
            SessionEffect::Detach { consumer } | SessionEffect::Retire { consumer, .. } => {
                self.consumers.retain(|known| *known != consumer);
            }
            SessionEffect::Commit { request, .. } => {
                self.events.push_back(SessionEvent::Submitted { request });
                self.committed(request);
            }
            SessionEffect::Settle { request, .. } | SessionEffect::Forget { request, .. } => {
                self.committed(request);
            }
            SessionEffect::Upload {
                upload,
                request,
                bytes,
            } => {
                let lsn = self.next();
                self.parts.insert(lsn, bytes);
                let lsns = vec![lsn];
                self.events
                    .push_back(SessionEvent::PartsStored { upload, lsns });
                self.committed(request);
            }
            SessionEffect::ReadParts { lsns } => {
                let parts = lsns.iter().filter_map(|lsn| self.parts.get(lsn).cloned());
                let parts = parts.collect();
                self.events.push_back(SessionEvent::PartsRead { parts });
            }
            SessionEffect::MakeTemporary { .. }
            | SessionEffect::EndUpload { .. }
            | SessionEffect::Close => {}
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (read, error) = pieces(bytes, bytes.len().max(1));
    for step in [1, 7] {
        let (again, same_error) = pieces(bytes, step);
        assert_eq!(frames(&again), frames(&read));
        assert_eq!(same_error, error);
    }

    let mut server = Loopback {
        session: StompSession::new(config(), SessionKey(1), Moment(0)),
        out: BytesMut::new(),
        behind: BytesMut::new(),
        last: 0,
        parts: BTreeMap::new(),
        consumers: Vec::new(),
        events: VecDeque::new(),
    };
    for piece in read {
        server.step(match piece {
            Piece::Whole(frame) => SessionInput::Frame(frame),
            Piece::Head(frame) => SessionInput::Head(frame),
            Piece::Part(bytes) => SessionInput::Part(bytes),
            Piece::End => SessionInput::BodyEnd,
        });
    }
    if let Some(error) = error {
        server.step(SessionInput::Malformed(error));
    }
    let mut decoder = Decoder::<ServerCommand>::new(Limits::default());
    while let Some(frame) = decoder
        .decode(&mut server.out)
        .expect("the session writes frames")
    {
        std::hint::black_box(frame);
    }
});
