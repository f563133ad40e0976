//! The path of a 1 KiB message through codec, canonical message and session, without any I/O.

use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use twinmq::machines::delivery::{Delivery, RequestNumber, SessionEvent, SessionKey};
use twinmq::machines::stomp_session::{
    HeartBeatOffer, SessionEffect, SessionInput, StompSession, StompSessionConfig,
};
use twinmq::proto::ids::Lsn;
use twinmq::proto::message::{Envelope, Message, MessageWriter, Properties};
use twinmq::proto::stomp::{Decoder, Limits};
use twinmq::time::Moment;

const BODY: [u8; 1024] = [b'x'; 1024];
/// Frames in one read.
const RUN: usize = 64;

fn send(number: usize) -> Vec<u8> {
    let head = format!(
        "SEND\ndestination:/queue/bench-1\npersistent:true\ncontent-length:1024\nreceipt:{number}\n\n"
    );
    [head.as_bytes(), &BODY, b"\0"].concat()
}

fn config() -> Arc<StompSessionConfig> {
    Arc::new(StompSessionConfig {
        limits: Limits::default(),
        heart_beat_ms: HeartBeatOffer::default(),
        default_prefetch: 1000,
        max_prefetch: 10_000,
        max_subscriptions: 100,
        max_unsettled_requests: 10_000,
        transactions: twinmq::machines::stomp_session::TransactionLimits {
            open: 3,
            messages: 5,
            bytes: 1000,
            connection_bytes: 1500,
        },
        server_name: "TwinMQ".into(),
        connect_timeout_ms: 10_000,
    })
}

/// A connected session, subscribed to one queue, with the decoder of its connection.
fn connected() -> (StompSession, Decoder, BytesMut, Vec<SessionEffect>) {
    let mut session = StompSession::new(config(), SessionKey(1), Moment(0));
    let mut decoder = Decoder::new(Limits::default());
    let (mut out, mut effects) = (BytesMut::new(), Vec::new());
    let mut input = BytesMut::from(
        &b"CONNECT\naccept-version:1.2\n\n\0\
           SUBSCRIBE\nid:0\ndestination:/queue/bench-1\nack:client-individual\n\n\0"[..],
    );
    while let Some(frame) = decoder.decode(&mut input).expect("valid frames") {
        let input = SessionInput::Frame(frame);
        session.step(Moment(0), input, &mut out, &mut effects);
    }
    effects.clear();
    out.clear();
    (session, decoder, out, effects)
}

fn message_bytes() -> bytes::Bytes {
    let properties = Properties {
        to: Some("/queue/bench-1"),
        ..Properties::default()
    };
    MessageWriter::new(&Envelope::default(), &properties, BODY.len())
        .finish(&BODY)
        .expect("a small message")
}

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode 1 KiB", |b| b.iter(|| black_box(message_bytes())));
    let bytes = message_bytes();
    group.bench_function("read 1 KiB", |b| {
        b.iter(|| {
            let message = Message::read(black_box(&bytes)).expect("just written");
            black_box((
                message.properties(),
                message.headers().count(),
                message.body(),
            ));
        });
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(RUN as u64));
    let input: Vec<u8> = (0..RUN).flat_map(send).collect();
    group.bench_function("decode 64 SEND of 1 KiB", |b| {
        b.iter_batched_ref(
            || {
                (
                    Decoder::<_>::new(Limits::default()),
                    BytesMut::from(&input[..]),
                )
            },
            |(decoder, buffer): &mut (Decoder, BytesMut)| {
                while let Some(frame) = decoder.decode(buffer).expect("valid frames") {
                    black_box(frame);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn sessions(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(RUN as u64));
    let input: Vec<u8> = (0..RUN).flat_map(send).collect();
    let (mut session, mut decoder, mut out, mut effects) = connected();
    group.bench_function("64 SEND of 1 KiB to Publish, and their RECEIPTs", |b| {
        b.iter_batched_ref(
            || BytesMut::from(&input[..]),
            |buffer| {
                while let Some(frame) = decoder.decode(buffer).expect("valid frames") {
                    let input = SessionInput::Frame(frame);
                    session.step(Moment(0), input, &mut out, &mut effects);
                }
                let requests = effects.drain(..).filter_map(|effect| match effect {
                    SessionEffect::Publish { request, .. } => Some(request),
                    _ => None,
                });
                let requests: Vec<RequestNumber> = requests.collect();
                assert_eq!(requests.len(), RUN);
                let input = SessionInput::Event(SessionEvent::Committed { requests });
                session.step(Moment(0), input, &mut out, &mut effects);
                assert!(out.len() > RUN * 20);
                out.clear();
            },
            BatchSize::LargeInput,
        );
    });

    let (mut session, mut decoder, mut out, mut effects) = connected();
    let message = message_bytes();
    let mut lsn = 0;
    group.bench_function("64 deliveries of 1 KiB to MESSAGE, and their ACKs", |b| {
        b.iter_batched_ref(
            || {
                let first = lsn + 1;
                lsn += RUN as u64;
                let acks: String = (first..=lsn)
                    .map(|lsn| format!("ACK\nid:1-{lsn}\n\n\0"))
                    .collect();
                let deliveries = (first..=lsn).map(|lsn| Delivery {
                    lsn: Lsn(lsn),
                    redelivered: false,
                    failures: 0,
                    message: message.clone(),
                });
                let event = SessionEvent::Delivered {
                    consumer: 1,
                    deliveries: deliveries.collect(),
                };
                (Some(event), BytesMut::from(acks.as_bytes()))
            },
            |(event, acks)| {
                let input = SessionInput::Event(event.take().expect("each batch runs once"));
                session.step(Moment(0), input, &mut out, &mut effects);
                assert!(out.len() > RUN * 1024);
                out.clear();
                while let Some(frame) = decoder.decode(acks).expect("valid frames") {
                    let input = SessionInput::Frame(frame);
                    session.step(Moment(0), input, &mut out, &mut effects);
                }
                let [SessionEffect::Settle { request, .. }] = effects[..] else {
                    panic!("the acknowledgements were not gathered: {effects:?}");
                };
                effects.clear();
                let requests = vec![request];
                let input = SessionInput::Event(SessionEvent::Committed { requests });
                session.step(Moment(0), input, &mut out, &mut effects);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, messages, frames, sessions);
criterion_main!(benches);
