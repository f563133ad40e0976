//! One client connection: a plain loop that reads, lets the protocol's machine decide, hands what it
//! wants to the destinations, and writes. It never waits on a write: a client that sends ACKs while
//! we send it messages must not stop both.
//!
//! What bounds it: no frame goes on without a permit; no delivery is taken while `output_bytes_max`
//! wait to be written; nothing is read while so many bytes of answers do. Deliveries that the client
//! does not read thus never keep us from reading its ACKs.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Sleep;

use self::gathered::Gathered;
use crate::actors::directory::{Directory, Waiting};
use crate::actors::inbox::{Inbox, Order};
use crate::actors::lease::ServingLease;
use crate::io::client_tcp::{ClientSocket, Fill};
use crate::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, SessionEvent, SessionKey,
};
use crate::machines::stomp_session::{
    SessionEffect, SessionInput, StompSession, StompSessionConfig,
};
use crate::proto::destination::DestinationName;
use crate::proto::stomp::Decoder;
use crate::time::{Clock, Moment};

mod consumers;
mod gathered;
mod large;
mod patience;
mod signs;
mod topics;
mod transactions;

/// A buffer that grew larger than this for a large message is given back.
const BUFFER_KEPT: usize = 256 << 10;

/// Validated values; shared by all sessions.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// For the protocol's machine.
    pub stomp: Arc<StompSessionConfig>,
    /// Bytes that wait to be written before no more deliveries are taken; and, of answers alone,
    /// before nothing more is read.
    pub output_bytes_max: usize,
    /// How long a client may take to read our last words.
    pub linger: Duration,
    /// How long a client may wait for a permit before the connection is given up: its ACKs stand
    /// behind the SEND that waits.
    pub block_timeout: Duration,
    /// How long a connection that nobody needs may be silent; none: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a client may take nothing of what it is sent; none: for ever.
    pub slow_consumer: Option<Duration>,
}

/// What every session of a server shares.
#[derive(Clone)]
pub struct SessionContext {
    /// Destinations and mailboxes.
    pub directory: Rc<Directory>,
    /// Asked before each flush.
    pub lease: Arc<dyn ServingLease>,
    /// For deadlines.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub config: Arc<SessionConfig>,
}

/// Serves a connection to its end.
pub async fn serve(context: SessionContext, socket: ClientSocket) {
    let mut session = Session::new(context, socket);
    while session.turn() {
        if session.brought_work {
            // Let the destinations see what this read brought, and others have their turn.
            tokio::task::yield_now().await;
        } else {
            session.wait().await;
        }
    }
    session.end();
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both ways.
    Open,
    /// The client will send nothing more; what it sent is carried out, and answered if that is
    /// possible before the moment.
    HalfClosed(Moment),
    /// The machine has closed; the last bytes leave until the moment.
    LastWords(Moment),
    /// All is written and the client knows; waits for its end, so that nothing of ours is lost.
    Finished(Moment),
    /// Nothing more to do.
    Over,
}

struct Session {
    context: SessionContext,
    socket: ClientSocket,
    key: SessionKey,
    inbox: Rc<Inbox>,
    machine: StompSession,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    /// What comes after the MESSAGE that is being written.
    behind: BytesMut,
    /// Bytes of answers that were put into the output since it was last empty.
    answer_bytes: usize,
    effects: Vec<SessionEffect>,
    /// Effects before this one have their permits.
    charged: usize,
    /// Bytes that wait for a COMMIT, as they were last counted.
    uncommitted: usize,
    consumers: HashMap<u32, DestinationName>,
    /// Consumers that only look.
    browsers: HashSet<u32>,
    gathered: Gathered,
    phase: Phase,
    /// `input` may hold a whole frame.
    undecoded: bool,
    /// Since when a frame waits for a permit.
    blocked_since: Option<Moment>,
    /// The destination that has no room for it, if it is that.
    blocked_by: Option<Waiting>,
    /// When something was read last.
    last_sign: Moment,
    /// The directory knows who the client is.
    introduced: bool,
    /// Since when the client has taken nothing of what waits to be written.
    unread_since: Option<Moment>,
    /// The last turn read something.
    brought_work: bool,
    timer: Option<(Moment, Pin<Box<Sleep>>)>,
}

impl Session {
    fn new(context: SessionContext, socket: ClientSocket) -> Self {
        let (key, inbox) = context.directory.open_session();
        let stomp = Arc::clone(&context.config.stomp);
        let now = context.clock.now();
        let gathered = Gathered::new(Rc::clone(&context.directory));
        let mut machine = StompSession::new(Arc::clone(&stomp), key, now);
        machine.set_temporary_scope(context.directory.temporary_scope(key));
        Self {
            decoder: Decoder::new(stomp.limits),
            machine,
            context,
            socket,
            key,
            inbox,
            input: BytesMut::new(),
            output: BytesMut::new(),
            behind: BytesMut::new(),
            answer_bytes: 0,
            effects: Vec::new(),
            charged: 0,
            uncommitted: 0,
            consumers: HashMap::new(),
            browsers: HashSet::new(),
            gathered,
            phase: Phase::Open,
            undecoded: false,
            blocked_since: None,
            blocked_by: None,
            last_sign: now,
            introduced: false,
            unread_since: None,
            brought_work: false,
            timer: None,
        }
    }

    /// Does whatever can be done now. False: the connection is over.
    fn turn(&mut self) -> bool {
        let now = self.context.clock.now();
        self.brought_work = false;
        self.machine.tell_time(self.context.clock.wall_ms());
        match self.phase {
            Phase::Open | Phase::HalfClosed(_) => {
                self.mind_the_deadline(now);
                self.take_events(now);
                self.obey(now);
                self.decode(now);
                self.read(now);
                self.mind_the_block(now);
            }
            Phase::LastWords(until) if until <= now => self.phase = Phase::Over,
            Phase::LastWords(_) => {}
            Phase::Finished(until) => self.read_away(until <= now),
            Phase::Over => return false,
        }
        self.run_effects();
        self.flush(now);
        self.close_the_other_half(now);
        if self.input.is_empty() && self.input.capacity() > BUFFER_KEPT {
            self.input = BytesMut::new();
        }
        let buffers = self.input.len().saturating_add(self.output.len());
        let buffers = buffers.saturating_add(self.behind.len());
        self.inbox.buffers(buffers);
        self.show_signs();
        self.phase != Phase::Over
    }

    fn mind_the_deadline(&mut self, now: Moment) {
        self.mind_the_silence(now);
        if self.machine.next_deadline().is_some_and(|at| at <= now) {
            if !self.wants_to_read() {
                // It is our doing that nothing was heard of the client.
                self.step(now, SessionInput::HeartBeat);
            }
            self.step(now, SessionInput::Deadline);
        }
    }

    fn step(&mut self, now: Moment, input: SessionInput) {
        if self.machine.is_closed() {
            return;
        }
        let is_part = matches!(input, SessionInput::Event(SessionEvent::PartsRead { .. }));
        let is_delivery = matches!(input, SessionInput::Event(SessionEvent::Delivered { .. }));
        let output = if self.machine.is_within_message() && !is_part {
            &mut self.behind
        } else {
            &mut self.output
        };
        let before = output.len();
        self.machine.step(now, input, output, &mut self.effects);
        if !is_delivery && !is_part {
            let more = output.len().saturating_sub(before);
            self.answer_bytes = self.answer_bytes.saturating_add(more);
        }
        self.charge();
        self.count_uncommitted();
    }

    /// Takes the permits for what the last step published.
    fn charge(&mut self) {
        for effect in self.effects.iter().skip(self.charged) {
            match effect {
                SessionEffect::Publish {
                    request, message, ..
                } => self
                    .inbox
                    .ledger(|ledger| ledger.publish(*request, message.len())),
                SessionEffect::Settle { request, .. } | SessionEffect::Forget { request, .. } => {
                    self.inbox.ledger(|ledger| ledger.ask(*request));
                }
                SessionEffect::Commit {
                    request,
                    operations,
                } => self
                    .inbox
                    .ledger(|ledger| ledger.publish(*request, operations.bytes)),
                SessionEffect::Upload { request, bytes, .. } => self
                    .inbox
                    .ledger(|ledger| ledger.publish(*request, bytes.len())),
                SessionEffect::Attach { .. }
                | SessionEffect::Detach { .. }
                | SessionEffect::EndUpload { .. }
                | SessionEffect::ReadParts { .. }
                | SessionEffect::Retire { .. }
                | SessionEffect::Subscribe { .. }
                | SessionEffect::MakeTemporary { .. }
                | SessionEffect::Browse { .. }
                | SessionEffect::Close => {}
            }
        }
        self.charged = self.effects.len();
    }

    /// So much more may be delivered before the client reads some of it.
    fn delivery_room(&self) -> usize {
        let max = self.context.config.output_bytes_max;
        max.saturating_sub(self.output.len())
    }

    fn has_answer_room(&self) -> bool {
        self.answer_bytes < self.context.config.output_bytes_max
    }

    fn take_events(&mut self, now: Moment) {
        while self.has_answer_room()
            && let Some(event) = self.inbox.take_answer()
        {
            self.step(now, SessionInput::Event(event));
        }
        self.take_parts(now);
        while !self.machine.is_within_message()
            && self.delivery_room() > 0
            && let Some(event) = self.inbox.take_delivery(self.delivery_room())
        {
            self.step(now, SessionInput::Event(event));
        }
    }

    /// The reason to close now, if there is one.
    fn order_to_close(&self) -> Option<String> {
        match self.inbox.ordered() {
            Order::Run => None,
            Order::Drain(reason) => {
                let clear = self.inbox.ledger(|ledger| ledger.is_clear());
                (clear && !self.inbox.has_answer()).then_some(reason)
            }
            Order::Close(reason) => Some(reason),
        }
    }

    fn obey(&mut self, now: Moment) {
        if let Some(reason) = self.order_to_close() {
            self.step(now, SessionInput::Event(SessionEvent::Closing { reason }));
        }
    }

    /// Nothing but a missing permit or a slow reader holds up the next frame.
    fn may_go_on(&self) -> bool {
        !self.machine.is_closed() && self.inbox.ordered() == Order::Run && self.has_answer_room()
    }

    fn wants_to_read(&self) -> bool {
        match self.phase {
            Phase::Open => !self.undecoded && self.may_go_on() && self.may_take_next(),
            Phase::Finished(_) => true,
            Phase::HalfClosed(_) | Phase::LastWords(_) | Phase::Over => false,
        }
    }

    /// One read, however much more there may be: others share the thread.
    fn read(&mut self, now: Moment) {
        if self.wants_to_read() {
            match self.socket.fill(&mut self.input) {
                Fill::Some => {
                    self.brought_work = true;
                    self.last_sign = now;
                    self.undecoded = true;
                    self.step(now, SessionInput::HeartBeat);
                    self.decode(now);
                }
                Fill::Nothing => {}
                Fill::End => {
                    self.phase = Phase::HalfClosed(now.after(self.context.config.linger));
                }
                Fill::Lost => self.phase = Phase::HalfClosed(now),
            }
        }
    }

    /// Nobody sends any more: over once everything is carried out and told.
    fn close_the_other_half(&mut self, now: Moment) {
        if let Phase::HalfClosed(until) = self.phase
            && !self.undecoded
        {
            let written = self.output.is_empty() && !self.machine.is_within_message();
            let told = written && self.inbox.ledger(|ledger| ledger.is_clear());
            if told || until <= now {
                self.phase = Phase::Over;
            }
        }
    }

    fn run_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.charged = 0;
        for effect in effects.drain(..) {
            self.run(effect);
        }
        if self.effects.is_empty() {
            self.effects = effects;
        }
        self.post_gathered();
    }

    fn run(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Publish {
                destination,
                request,
                message,
            } => self.publish(&destination, request, message),
            SessionEffect::Attach {
                destination,
                consumer,
                prefetch,
                traits,
            } => self.attach(destination, consumer, prefetch, traits),
            SessionEffect::Detach { consumer } => self.detach(consumer),
            SessionEffect::Settle {
                consumer,
                lsns,
                outcome,
                request,
            } => self.settle(consumer, lsns, outcome, request),
            SessionEffect::Commit {
                request,
                operations,
            } => self.commit(request, operations),
            SessionEffect::Retire { consumer, keep } => self.retire(consumer, keep),
            SessionEffect::Subscribe {
                consumer,
                prefetch,
                subscription,
            } => self.subscribe(consumer, prefetch, *subscription),
            SessionEffect::Forget { identity, request } => self.forget(&identity, request),
            SessionEffect::MakeTemporary { destination } => self.make_temporary(&destination),
            SessionEffect::Browse {
                destination,
                consumer,
                prefetch,
                selector,
            } => self.browse(&destination, consumer, prefetch, selector),
            SessionEffect::Upload {
                upload,
                request,
                bytes,
            } => {
                let directory = &self.context.directory;
                directory.upload(self.key, upload, request, bytes);
            }
            SessionEffect::EndUpload { upload, after } => {
                // What names it goes first.
                self.post_gathered();
                self.context.directory.end_upload(self.key, upload, after);
            }
            SessionEffect::ReadParts { lsns } => self.context.directory.read_parts(self.key, lsns),
            SessionEffect::Close => {
                if self.machine.is_within_message() {
                    // What it waits for never comes: the connection ends within the MESSAGE.
                    self.behind.clear();
                }
                let until = self.context.clock.now().after(self.context.config.linger);
                self.phase = Phase::LastWords(until);
            }
        }
    }

    fn consumer(&self, number: u32) -> ConsumerKey {
        ConsumerKey {
            session: self.key,
            number,
        }
    }

    fn attach(
        &mut self,
        name: DestinationName,
        number: u32,
        prefetch: u32,
        traits: ConsumerTraits,
    ) {
        let consumer = self.consumer(number);
        let attach = DestinationCommand::Attach {
            consumer,
            prefetch,
            traits,
        };
        match self.gathered.push(&name, attach) {
            Ok(()) => {
                self.consumers.insert(number, name);
            }
            Err(error) => {
                let reason = error.to_string();
                self.inbox.put(SessionEvent::Closing { reason });
            }
        }
    }

    fn flush(&mut self, now: Moment) {
        if !self.output.is_empty() {
            if !self.context.lease.may_speak() {
                // Another server may serve by now: what this one believes is worth nothing.
                tracing::debug!(target: "twinmq::net", session = self.key.0, "closed: the lease is over");
                self.output.clear();
                self.phase = Phase::Over;
                return;
            }
            let before = self.output.len();
            if self.socket.flush(&mut self.output).is_err() {
                self.phase = Phase::Over;
                return;
            }
            self.mind_the_reader(now, before);
            if self.output.is_empty() && !self.machine.is_within_message() {
                self.answer_bytes = 0;
                if self.output.capacity() > BUFFER_KEPT {
                    self.output = BytesMut::new();
                }
                self.step(now, SessionInput::OutputFlushed);
                self.run_effects();
            }
        }
        if let Phase::LastWords(until) = self.phase
            && self.output.is_empty()
        {
            self.socket.finish();
            self.phase = Phase::Finished(until);
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Open | Phase::HalfClosed(_) => {
                let timeout = self.context.config.block_timeout;
                let blocked = self.blocked_since.map(|since| since.after(timeout));
                // What is undecoded waits for permits, however long.
                let half = match self.phase {
                    Phase::HalfClosed(until) if !self.undecoded => Some(until),
                    _ => None,
                };
                let all = [
                    self.machine.next_deadline(),
                    blocked,
                    half,
                    self.idle_deadline(),
                    self.unread_deadline(),
                ];
                all.into_iter().flatten().min()
            }
            Phase::LastWords(until) | Phase::Finished(until) => Some(until),
            Phase::Over => None,
        }
    }

    async fn wait(&mut self) {
        self.arm();
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn arm(&mut self) {
        let deadline = self.next_deadline();
        if self.timer.as_ref().map(|(at, _)| *at) == deadline {
            return;
        }
        let now = self.context.clock.now();
        match (&mut self.timer, deadline) {
            (_, None) => self.timer = None,
            (_, Some(deadline)) => {
                let sleep = tokio::time::sleep(deadline.since(now));
                self.timer = Some((deadline, Box::pin(sleep)));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let serving = matches!(self.phase, Phase::Open | Phase::HalfClosed(_));
        let mut ready = false;
        if serving {
            self.inbox.wait(cx.waker());
            ready |= self.has_answer_room() && self.inbox.has_answer();
            ready |= self.has_delivery();
            ready |= self.order_to_close().is_some();
            ready |= self.undecoded && self.may_go_on() && self.may_take_next();
            ready |= self.is_newly_blocked();
            self.wait_for_room(cx);
        }
        let (read, write) = (self.wants_to_read(), !self.output.is_empty());
        ready |= self.socket.poll(cx, read, write).is_ready();
        if let Some((_, sleep)) = &mut self.timer
            && sleep.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            ready = true;
        }
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Gives back what the session holds.
    fn end(mut self) {
        if !self.machine.is_closed() {
            self.machine.abandon(&mut self.effects);
        }
        self.run_effects();
        self.context.directory.close_session(self.key);
    }
}

impl Drop for Session {
    /// For a session whose task is dropped with its runtime; otherwise this was done.
    fn drop(&mut self) {
        self.context.directory.close_session(self.key);
    }
}
