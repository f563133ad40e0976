//! The sessions of a simulated server, each with its client: what a session and a well-behaved client
//! do on either end of a connection, without the bytes between them.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use twinmq::actors::directory::Directory;
use twinmq::actors::inbox::{Inbox, Order};
use twinmq::actors::lease::ServingLease;
use twinmq::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, Outcome, RequestNumber, SessionEvent,
    SessionKey,
};
use twinmq::proto::destination::{DestinationKind, DestinationName};
use twinmq::proto::ids::{Epoch, Lsn};

use crate::clients::Setting;
use crate::ledger::{PRODUCERS, QUEUES, number_of};

/// Between two steps of a producer, at most, in milliseconds.
const PRODUCER_MS: u64 = 150;
/// The same of a consumer.
const CONSUMER_MS: u64 = 100;
/// Unsettled deliveries of a consumer.
const PREFETCH: u32 = 10;
/// Of a consumer who leaves some for later: more than it leaves.
const PREFETCH_STREWN: u32 = 5000;
/// It leaves every n-th copy.
const LEFT_EACH: u64 = 12;
/// Messages that a producer sends at once then, at most.
const AT_ONCE: u64 = 6;

/// A session of the data thread.
pub(crate) struct Session {
    setting: Setting,
    directory: Rc<Directory>,
    epoch: Epoch,
    key: SessionKey,
    inbox: Rc<Inbox>,
    last_request: u32,
    /// What was asked and is not answered: the copies that it is about.
    asked: BTreeMap<RequestNumber, u64>,
}

impl Session {
    pub(crate) fn open(setting: Setting, directory: Rc<Directory>, epoch: Epoch) -> Self {
        let (key, inbox) = directory.open_session();
        Self {
            setting,
            directory,
            epoch,
            key,
            inbox,
            last_request: 0,
            asked: BTreeMap::new(),
        }
    }

    /// Waits until the client comes. False: the server closes first.
    async fn admit(&self, client: usize) -> bool {
        loop {
            if self.inbox.ordered() != Order::Run {
                return false;
            }
            if self.setting.homes.claim(client, self.setting.life) {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client's pace.
    async fn rest(&self, most_ms: u64) {
        let pace = 1 + self.setting.chance.below(most_ms);
        sleep(Duration::from_millis(pace)).await;
    }

    fn request(&mut self, copy: u64) -> RequestNumber {
        self.last_request += 1;
        let request = RequestNumber(self.last_request);
        self.asked.insert(request, copy);
        request
    }

    fn command(&self, queue: usize, command: DestinationCommand) -> bool {
        match self.directory.resolve(&name(queue)) {
            Ok(port) => {
                self.directory.command(&port, vec![command]);
                true
            }
            Err(_) => false,
        }
    }

    fn publish(&mut self, queue: usize, copies: Vec<(u64, Bytes)>) -> bool {
        let mut messages = Vec::new();
        for (copy, message) in copies {
            let request = self.request(copy);
            let bytes = message.len();
            self.inbox.ledger(|ledger| ledger.publish(request, bytes));
            messages.push((request, message));
        }
        let session = self.key;
        self.command(queue, DestinationCommand::Publish { session, messages })
    }

    /// Copies whose requests were answered; none when the session is to end.
    fn answers(&mut self) -> Option<Vec<u64>> {
        let mut answered = Vec::new();
        while let Some(event) = self.inbox.take_answer() {
            match event {
                SessionEvent::Committed { requests } => {
                    let copies = requests.iter().filter_map(|it| self.asked.remove(it));
                    answered.extend(copies);
                }
                SessionEvent::Refused { .. } | SessionEvent::Closing { .. } => return None,
                SessionEvent::Attached { .. }
                | SessionEvent::Delivered { .. }
                | SessionEvent::NotAttached { .. }
                | SessionEvent::PartsStored { .. }
                | SessionEvent::PartsRead { .. }
                | SessionEvent::Browsed { .. }
                | SessionEvent::Submitted { .. } => {}
            }
        }
        Some(answered)
    }

    /// As at each flush of a real session.
    fn may_speak(&self, what: &str, copies: &[u64]) -> bool {
        let Setting {
            life, trace, lease, ..
        } = &self.setting;
        let speaks = lease.may_speak();
        if !speaks {
            trace.mark("answers kept back without a lease");
        }
        let but = if speaks { "" } else { " in vain" };
        trace.tell(format_args!("{life} {what}{but} {copies:?}"));
        speaks
    }

    /// The server wants the session to end, and nothing more is to be answered.
    fn is_over(&self) -> bool {
        match self.inbox.ordered() {
            Order::Run => false,
            Order::Drain(_) => {
                self.inbox.ledger(|ledger| ledger.is_clear()) && !self.inbox.has_answer()
            }
            Order::Close(_) => true,
        }
    }

    fn close(self, client: usize) {
        self.setting.homes.leave(client, self.setting.life);
        self.directory.close_session(self.key);
    }
}

/// A producer's session.
pub(crate) async fn produce(mut session: Session, producer: usize) {
    if session.admit(producer).await {
        turns_of_producer(&mut session, producer).await;
    }
    session.close(producer);
}

async fn turns_of_producer(session: &mut Session, producer: usize) {
    let queue = producer % QUEUES;
    for (copy, message) in session.setting.ledger.again(producer) {
        if !session.publish(queue, vec![(copy, message)]) {
            return;
        }
    }
    loop {
        let Some(copies) = session.answers() else {
            return;
        };
        if !copies.is_empty() {
            if !session.may_speak("confirms", &copies) {
                return;
            }
            let Setting {
                ledger,
                life,
                homes,
                ..
            } = &session.setting;
            for copy in copies {
                ledger.confirm(copy, *life, session.epoch);
            }
            if !homes.heard(producer, *life) {
                return;
            }
        }
        if session.is_over() {
            return;
        }
        let idle = session.asked.is_empty();
        let Setting {
            ledger,
            life,
            homes,
            chance,
            flow,
            ..
        } = &session.setting;
        if idle && !homes.heard(producer, *life) || !homes.has(producer, *life) {
            return;
        }
        if session.inbox.ordered() == Order::Run && flow.load(Ordering::Relaxed) {
            let at_once = if session.setting.strewn {
                1 + chance.below(AT_ONCE)
            } else {
                1
            };
            let copies = (0..at_once).map_while(|_| {
                let padding = usize::try_from(chance.below(300)).expect("below 300");
                ledger.send(producer, padding)
            });
            let copies: Vec<_> = copies.collect();
            if !copies.is_empty() && !session.publish(queue, copies) {
                return;
            }
        }
        session.rest(PRODUCER_MS).await;
    }
}

/// A consumer's session.
pub(crate) async fn consume(mut session: Session, queue: usize) {
    let client = PRODUCERS + queue;
    if session.admit(client).await {
        let consumer = ConsumerKey {
            session: session.key,
            number: 1,
        };
        let attach = DestinationCommand::Attach {
            consumer,
            prefetch: if session.setting.strewn {
                PREFETCH_STREWN
            } else {
                PREFETCH
            },
            traits: ConsumerTraits::default(),
        };
        if session.command(queue, attach) {
            turns_of_consumer(&mut session, queue, consumer).await;
            session.command(queue, DestinationCommand::Detach { consumer });
        }
    }
    session.close(client);
}

async fn turns_of_consumer(session: &mut Session, queue: usize, consumer: ConsumerKey) {
    let client = PRODUCERS + queue;
    let (mut unsettled, mut left) = (VecDeque::new(), VecDeque::new());
    loop {
        let Some(acked) = session.answers() else {
            return;
        };
        if !acked.is_empty() {
            if !session.may_speak("confirms acks of", &acked) {
                return;
            }
            let Setting { ledger, life, .. } = &session.setting;
            for copy in acked {
                ledger.ack_confirmed(copy, *life, session.epoch);
            }
        }
        if !deliver(session, &mut unsettled) || session.is_over() {
            return;
        }
        if session.setting.strewn {
            leave_some(session, &mut unsettled, &mut left);
        }
        let chance = &session.setting.chance;
        let waits_too_long = !session.asked.is_empty() && !chance.once_in(4);
        if !waits_too_long && !session.setting.homes.heard(client, session.setting.life) {
            return;
        }
        // Slow now and then, so that deliveries wait unsettled.
        let some = if chance.once_in(8) {
            0
        } else {
            1 + chance.below(if session.setting.strewn { 40 } else { 8 })
        };
        for _ in 0..some {
            if session.inbox.ordered() == Order::Run
                && let Some((lsn, copy)) = unsettled.pop_front()
            {
                settle(session, queue, consumer, lsn, copy);
            }
        }
        session.rest(CONSUMER_MS).await;
    }
}

/// Some are left for when nothing more is sent.
fn leave_some(
    session: &Session,
    unsettled: &mut VecDeque<(Lsn, u64)>,
    left: &mut VecDeque<(Lsn, u64)>,
) {
    if session.setting.flow.load(Ordering::Relaxed) {
        let is_left = |(_, copy): &(Lsn, u64)| copy.is_multiple_of(LEFT_EACH);
        left.extend(unsettled.iter().copied().filter(is_left));
        unsettled.retain(|delivery| !is_left(delivery));
    } else {
        unsettled.append(left);
    }
}

/// Hands what was delivered to the client. False: it may not be.
fn deliver(session: &Session, unsettled: &mut VecDeque<(Lsn, u64)>) -> bool {
    while let Some(event) = session.inbox.take_delivery(usize::MAX) {
        let SessionEvent::Delivered { deliveries, .. } = event else {
            continue;
        };
        let copies: Vec<u64> = deliveries.iter().map(|it| number_of(&it.message)).collect();
        if !session.may_speak("delivers", &copies) {
            return false;
        }
        for delivery in deliveries {
            let Setting { ledger, .. } = &session.setting;
            ledger.arrived(&delivery.message, delivery.redelivered);
            unsettled.push_back((delivery.lsn, number_of(&delivery.message)));
        }
    }
    true
}

fn settle(session: &mut Session, queue: usize, consumer: ConsumerKey, lsn: Lsn, copy: u64) {
    let (outcome, request) = if session.setting.chance.once_in(40) {
        (Outcome::Released, RequestNumber::default())
    } else {
        session.setting.ledger.ack(copy);
        let request = session.request(copy);
        session.inbox.ledger(|ledger| ledger.ask(request));
        (Outcome::Accepted, request)
    };
    let lsns = vec![lsn];
    session.command(
        queue,
        DestinationCommand::Settle {
            consumer,
            lsns,
            outcome,
            request,
        },
    );
}

fn name(queue: usize) -> DestinationName {
    DestinationName::new(DestinationKind::Queue, ["orders", "trades"][queue])
        .expect("a name without anything odd")
}
