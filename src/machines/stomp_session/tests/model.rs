//! Any order of frames, answers, deliveries and flushes, against what must always hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::support::*;
use crate::proto::stomp::Decoder;

/// What the world does next. Numbers choose among what is possible.
#[derive(Clone, Debug)]
enum Act {
    Send(u8),
    Subscribe(u8, u8),
    Unsubscribe(u8),
    Acknowledge(bool, usize),
    Disconnect,
    Attach,
    Deliver(usize, usize),
    Answer(usize),
    Refuse(usize),
    Flush,
    Close,
}

impl Act {
    /// The client does it.
    fn is_frame(&self) -> bool {
        matches!(
            self,
            Self::Send(_)
                | Self::Subscribe(..)
                | Self::Unsubscribe(_)
                | Self::Acknowledge(..)
                | Self::Disconnect
        )
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0u8..3).prop_map(Act::Send),
        4 => (0u8..3, 0u8..3).prop_map(|(id, ack)| Act::Subscribe(id, ack)),
        2 => (0u8..3).prop_map(Act::Unsubscribe),
        8 => (any::<bool>(), 0usize..9).prop_map(|(nack, at)| Act::Acknowledge(nack, at)),
        1 => Just(Act::Disconnect),
        6 => Just(Act::Attach),
        8 => (0usize..3, 1usize..4).prop_map(|(to, count)| Act::Deliver(to, count)),
        8 => (0usize..9).prop_map(Act::Answer),
        1 => (0usize..9).prop_map(Act::Refuse),
        6 => Just(Act::Flush),
        1 => Just(Act::Close),
    ]
}

/// The destinations, and a client that knows what it may ask.
#[derive(Default)]
struct World {
    frames: u32,
    lsn: u64,
    /// Client ids of standing subscriptions.
    ids: BTreeSet<u8>,
    attaching: Vec<u32>,
    /// The receipts of their SUBSCRIBE.
    subscribed: BTreeMap<u32, String>,
    attached: BTreeSet<u32>,
    detached: BTreeSet<u32>,
    /// Delivered and not settled, with the consumer.
    unsettled: BTreeMap<u64, u32>,
    /// Ids of MESSAGE frames that wait for an ACK, in the order of sending.
    acks: Vec<String>,
    /// Requests without an answer, and the receipt that the client hopes for.
    open: Vec<(u32, Option<String>)>,
    /// Receipts asked for in frames whose effect has not been seen yet.
    asked: Option<String>,
    /// Receipts that may leave now.
    allowed: BTreeSet<String>,
    /// DISCONNECT was sent.
    left: bool,
    failed: bool,
    closed: bool,
}

impl World {
    fn frame(&mut self, text: &str) -> String {
        self.frames += 1;
        if self.frames.is_multiple_of(3) {
            self.asked = None;
            return format!("{text}\n\0");
        }
        let receipt = format!("r{}", self.frames);
        let frame = format!("{text}receipt:{receipt}\n\n\0");
        self.asked = Some(receipt);
        frame
    }

    /// One act; gives the input for the session, if the act is possible.
    fn input(&mut self, act: &Act) -> Option<Result<String, SessionInput>> {
        if self.left && act.is_frame() {
            return None;
        }
        let event = |event| Some(Err(SessionInput::Event(event)));
        match act {
            Act::Send(to) => Some(Ok(self.frame(&format!("SEND\ndestination:/queue/{to}\n")))),
            Act::Subscribe(id, ack) => {
                if !self.ids.insert(*id) {
                    return None;
                }
                let ack = ["auto", "client", "client-individual"][usize::from(*ack)];
                let head = format!("SUBSCRIBE\nid:{id}\ndestination:/queue/q\nack:{ack}\n");
                Some(Ok(self.frame(&head)))
            }
            Act::Unsubscribe(id) => {
                if !self.ids.remove(id) {
                    return None;
                }
                let frame = self.frame(&format!("UNSUBSCRIBE\nid:{id}\n"));
                self.allowed.extend(self.asked.take());
                Some(Ok(frame))
            }
            Act::Acknowledge(nack, at) => {
                if self.acks.is_empty() {
                    return None;
                }
                let id = self.acks.remove(at % self.acks.len());
                let (consumer, lsn) = id.split_once('-')?;
                let consumer: u32 = consumer.parse().ok()?;
                // The client mode may have settled it, or its consumer may be gone.
                if self.unsettled.get(&lsn.parse().ok()?) != Some(&consumer) {
                    return None;
                }
                let command = if *nack { "NACK" } else { "ACK" };
                Some(Ok(self.frame(&format!("{command}\nid:{id}\n"))))
            }
            Act::Disconnect => {
                self.left = true;
                Some(Ok("DISCONNECT\n\n\0".into()))
            }
            Act::Attach => {
                let consumer = (!self.attaching.is_empty()).then(|| self.attaching.remove(0))?;
                self.allowed.extend(self.subscribed.remove(&consumer));
                event(SessionEvent::Attached { consumer })
            }
            Act::Deliver(to, count) => {
                let consumer = *self.attached.iter().nth(*to)?;
                let first = self.lsn + 1;
                self.lsn += *count as u64;
                event(SessionEvent::Delivered {
                    consumer,
                    deliveries: (first..=self.lsn)
                        .map(|lsn| delivery(lsn, plain()))
                        .collect(),
                })
            }
            Act::Answer(at) | Act::Refuse(at) => {
                if self.open.is_empty() {
                    return None;
                }
                let (request, receipt) = self.open.remove(at % self.open.len());
                self.allowed.extend(receipt);
                let request = RequestNumber(request);
                event(match act {
                    Act::Refuse(_) => SessionEvent::Refused {
                        request,
                        reason: "full".into(),
                    },
                    _ => SessionEvent::Committed {
                        requests: vec![request],
                    },
                })
            }
            Act::Flush => Some(Err(SessionInput::OutputFlushed)),
            Act::Close => event(SessionEvent::Closing {
                reason: "over".into(),
            }),
        }
    }

    /// What the session did is what it may do.
    fn check(&mut self, out: &mut BytesMut, effects: Vec<SessionEffect>) {
        assert!(!self.closed || (out.is_empty() && effects.is_empty()));
        let mut decoder = Decoder::<ServerCommand>::new(Limits::default());
        // The version of the connection, as its CONNECTED settled it.
        let mut greeting = BytesMut::from(&b"CONNECTED\nversion:1.2\n\n\0"[..]);
        assert!(decoder.decode(&mut greeting).unwrap().is_some());
        while let Some(frame) = decoder.decode(out).unwrap() {
            let header = |name| frame.headers.get(name).map(String::from);
            match frame.command {
                ServerCommand::Receipt => {
                    let id = header("receipt-id").unwrap();
                    assert!(self.allowed.remove(&id), "{id} was not true yet");
                }
                ServerCommand::Message => {
                    self.acks.extend(header("ack"));
                    let id = header("message-id").unwrap();
                    let lsn = id.strip_prefix("tm-").unwrap().parse().unwrap();
                    let consumer = header("ack")
                        .and_then(|ack| ack.split_once('-')?.0.parse().ok())
                        .unwrap_or(0);
                    assert_eq!(self.unsettled.insert(lsn, consumer), None);
                }
                // It may take the place of receipts.
                ServerCommand::Error => self.failed = true,
                ServerCommand::Connected => panic!("a second CONNECTED"),
            }
        }
        assert!(out.is_empty(), "half a frame");
        for effect in effects {
            assert!(!self.closed, "{effect:?} after Close");
            self.run(effect);
        }
    }

    fn run(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Publish { request, .. } => {
                self.open.push((request.0, self.asked.take()));
            }
            SessionEffect::Attach { consumer, .. } => {
                assert!(self.attached.insert(consumer));
                assert!(!self.detached.contains(&consumer));
                self.attaching.push(consumer);
                self.asked = None;
            }
            SessionEffect::Detach { consumer } => {
                assert!(self.attached.remove(&consumer), "detached twice");
                self.detached.insert(consumer);
                self.unsettled.retain(|_, of| *of != consumer);
            }
            SessionEffect::Settle {
                consumer,
                lsns,
                request,
                ..
            } => {
                assert!(self.attached.contains(&consumer));
                assert!(!lsns.is_empty());
                for lsn in lsns {
                    let of = self.unsettled.remove(&lsn.0);
                    assert!(of == Some(consumer) || of == Some(0), "{lsn} was not open");
                }
                if request.0 != 0 {
                    self.open.push((request.0, self.asked.take()));
                }
            }
            SessionEffect::Commit { .. }
            | SessionEffect::Retire { .. }
            | SessionEffect::Subscribe { .. }
            | SessionEffect::Forget { .. }
            | SessionEffect::MakeTemporary { .. }
            | SessionEffect::Upload { .. }
            | SessionEffect::EndUpload { .. }
            | SessionEffect::ReadParts { .. }
            | SessionEffect::Browse { .. } => {
                panic!("this client has no transactions")
            }
            SessionEffect::Close => {
                assert!(self.attached.is_empty(), "a consumer was left behind");
                self.closed = true;
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_receipts_are_true_and_nothing_is_left_behind(
        acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut rig = Rig::connected("1.2");
        let mut world = World::default();
        for act in &acts {
            if rig.session.is_full() && !matches!(act, Act::Answer(_)) {
                continue;
            }
            match world.input(act) {
                None => continue,
                Some(Ok(text)) => {
                    // SUBSCRIBE's receipt is known by its consumer, which only the effect names.
                    let receipt = world.asked.clone();
                    let (out, effects) = rig.say(&text);
                    if let [SessionEffect::Attach { consumer, .. }] = effects[..] {
                        world.subscribed.extend(receipt.map(|receipt| (consumer, receipt)));
                    }
                    world.check(&mut BytesMut::from(out.replace("^@", "\0").as_bytes()), effects);
                }
                Some(Err(input)) => {
                    rig.step(input);
                    let effects = std::mem::take(&mut rig.effects);
                    world.check(&mut rig.out, effects);
                }
            }
        }
        // Let everything be answered: a client that leaves then is let go.
        let (out, effects) = rig.say("DISCONNECT\n\n\0");
        world.check(&mut BytesMut::from(out.replace("^@", "\0").as_bytes()), effects);
        let end = std::iter::repeat_n(Act::Attach, 60)
            .chain(std::iter::repeat_n(Act::Answer(0), 60))
            .chain([Act::Flush]);
        for act in end {
            if let Some(Err(input)) = world.input(&act) {
                rig.step(input);
                let effects = std::mem::take(&mut rig.effects);
                world.check(&mut rig.out, effects);
            }
        }
        prop_assert!(rig.session.is_closed());
        prop_assert!(world.closed);
        prop_assert!(world.failed || world.allowed.is_empty(), "never sent: {:?}", world.allowed);
    }
}
