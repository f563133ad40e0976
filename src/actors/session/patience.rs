//! What a session waits for, and how long: room for a SEND, a sign of the client, its reading.

use std::task::Context;

use super::{Phase, Session};
use crate::actors::directory::Waiting;
use crate::actors::overload::Limit;
use crate::io::client_tcp::Fill;
use crate::machines::delivery::SessionEvent;
use crate::machines::stomp_session::{SessionEffect, SessionInput};
use crate::proto::destination::DestinationName;
use crate::proto::stomp::peek;
use crate::time::Moment;

impl Session {
    /// Reads what the client still sends and forgets it: closing with unread bytes would take our
    /// last words away from it.
    pub(super) fn read_away(&mut self, overdue: bool) {
        self.input.clear();
        match self.socket.fill(&mut self.input) {
            Fill::Some => self.brought_work = true,
            Fill::Nothing => {}
            Fill::End | Fill::Lost => self.phase = Phase::Over,
        }
        if overdue {
            self.phase = Phase::Over;
        }
    }

    /// The next frame may be taken. A SEND waits for its permit and for the server's brake; others make
    /// the room that it waits for.
    pub(super) fn may_take_next(&self) -> bool {
        !self.machine.is_full() && (!self.next_is_send() || self.may_send())
    }

    fn may_send(&self) -> bool {
        self.inbox.ledger(|ledger| ledger.has_room())
            && !self.context.directory.overload().holds_back()
            && self
                .full_destination()
                .is_none_or(|name| !self.context.directory.holds_back(&name))
    }

    /// Where the next frame, a SEND, is to go, if some destination is full.
    fn full_destination(&self) -> Option<DestinationName> {
        // One whose body is being read has been let in.
        if self.decoder.is_within_body() || !self.context.directory.holds_any_back() {
            return None;
        }
        let spelling = peek::send_destination(&self.input)?;
        DestinationName::parse_bytes(&spelling).ok()
    }

    /// What was read last is to be counted at its destination before more is read.
    pub(super) fn is_to_be_counted(&self) -> bool {
        self.effects.last().is_some_and(|effect| {
            matches!(effect, SessionEffect::Publish { destination, .. }
                if self.context.directory.may_hold_back(destination))
        })
    }

    /// Of what has come so far: frames stay in the input until they are whole, but for the bodies of
    /// large SENDs.
    fn next_is_send(&self) -> bool {
        if self.decoder.is_within_body() {
            return true;
        }
        let ends = |byte: &&u8| matches!(byte, b'\n' | b'\r');
        let ends = self.input.iter().take_while(ends).count();
        self.input[ends..].starts_with(b"SEND")
    }

    /// A SEND whose beginning is here has to wait since the last turn: its time begins now, also if the
    /// rest of it is never read.
    pub(super) fn is_newly_blocked(&self) -> bool {
        self.blocked_since.is_none() && self.next_is_send() && !self.may_send()
    }

    /// Gives up a connection whose next frame has waited for too long.
    pub(super) fn mind_the_block(&mut self, now: Moment) {
        let send_waits = self.next_is_send() && !self.may_send();
        if !send_waits && (!self.undecoded || self.may_take_next()) {
            self.blocked_since = None;
            self.blocked_by = None;
            return;
        }
        let since = *self.blocked_since.get_or_insert(now);
        self.blocked_by = self
            .full_destination()
            .and_then(|name| self.context.directory.held_back_by(&name));
        if now.since(since) >= self.context.config.block_timeout {
            let overload = self.context.directory.overload();
            overload.count(Limit::BlockTimeout);
            let why = overload.why_held_back();
            let why = why.or_else(|| self.blocked_by.as_ref().map(Waiting::why));
            let why = why.unwrap_or_else(|| "too much waits to be stored".to_owned());
            let detail = format!("the server could not take a SEND in time: {why}");
            let is_begun = self.decoder.is_within_body();
            let receipt = if is_begun {
                None
            } else {
                peek::send_receipt(&self.input)
            };
            self.machine.end(
                "the SEND waited too long",
                &detail,
                receipt,
                &mut self.output,
                &mut self.effects,
            );
        }
    }

    /// When the connection has been of no use for too long.
    pub(super) fn idle_deadline(&self) -> Option<Moment> {
        let timeout = self.context.config.idle_timeout?;
        let useless = self.phase == Phase::Open
            && self.machine.version().is_some()
            && !self.machine.expects_heart_beats()
            && self.machine.subscriptions() == 0
            && self.machine.unanswered() == 0
            && !self.undecoded
            && self.output.is_empty();
        useless.then(|| self.last_sign.after(timeout))
    }

    /// Closes a connection that nobody needs.
    pub(super) fn mind_the_silence(&mut self, now: Moment) {
        if self.idle_deadline().is_some_and(|at| at <= now) && !self.machine.is_closed() {
            let silent_s = now.since(self.last_sign).as_secs();
            tracing::info!(
                target: "twinmq::net", session = self.key.0, from = ?self.socket.peer(), silent_s,
                "an idle connection is closed (limits.idle_timeout_s)"
            );
            self.context.directory.overload().count(Limit::Idle);
            let reason = format!(
                "nothing came for {silent_s} s, and `limits.idle_timeout_s` allows no more without \
                 heart-beats and subscriptions: ask for heart-beats, or connect again"
            );
            self.step(now, SessionInput::Event(SessionEvent::Closing { reason }));
        }
    }

    /// When the client has read nothing for too long.
    pub(super) fn unread_deadline(&self) -> Option<Moment> {
        let timeout = self.context.config.slow_consumer?;
        self.unread_since.map(|since| since.after(timeout))
    }

    /// Looks whether the client took something of `before` bytes; gives up one that takes nothing.
    pub(super) fn mind_the_reader(&mut self, now: Moment, before: usize) {
        let left = self.output.len();
        if left == 0 {
            self.unread_since = None;
            return;
        }
        if left < before {
            self.unread_since = Some(now);
            return;
        }
        let since = *self.unread_since.get_or_insert(now);
        let serving = matches!(self.phase, Phase::Open | Phase::HalfClosed(_));
        if serving && self.unread_deadline().is_some_and(|at| at <= now) {
            tracing::warn!(
                target: "twinmq::net", session = self.key.0, from = ?self.socket.peer(), waiting = left,
                "a client that read nothing for {} s is closed (limits.slow_consumer_s); what it did not \
                 acknowledge goes to others", now.since(since).as_secs()
            );
            self.context.directory.overload().count(Limit::SlowConsumer);
            self.phase = Phase::Over;
        }
    }

    /// Wakes the task when a SEND that waits may go on.
    pub(super) fn wait_for_room(&self, cx: &mut Context<'_>) {
        if !self.next_is_send() {
            return;
        }
        let directory = &self.context.directory;
        if !directory.pool().has_room() {
            directory.pool().wait(cx.waker());
        }
        if directory.overload().holds_back() {
            directory.overload().wait(cx.waker());
        }
        if directory.holds_any_back() {
            directory.wait_for_destinations(cx.waker());
        }
    }
}
