//! What is due whatever came: timeouts, heart-beats, the end of a session that is leaving, and what has
//! reached the socket.

use bytes::BytesMut;

use super::ends::Problem;
use super::subscriptions::AckMode;
use super::{Phase, SessionEffect, StompSession, accepted, write_receipt};
use crate::time::Moment;

impl StompSession {
    pub(super) fn on_flushed(&mut self, effects: &mut Vec<SessionEffect>) {
        for subscription in self.subscriptions.iter_mut() {
            if subscription.ack == AckMode::Auto && !subscription.unsettled.is_empty() {
                let sent = subscription.unsettled.drain(..);
                let lsns = sent.map(|sent| sent.lsn).collect();
                effects.push(accepted(subscription.number, lsns));
            }
        }
        for (consumer, lsns) in self.subscriptions.leaving.drain(..) {
            effects.push(accepted(consumer, lsns));
            effects.push(SessionEffect::Detach { consumer });
        }
    }

    /// The last word to a client that leaves, once it has all else. Not in the step that ends a MESSAGE: what
    /// waits behind that is written after the step, so the end comes when that has reached the socket.
    pub(super) fn leave_when_quiet(
        &mut self,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        let Phase::Leaving { receipt } = &mut self.phase else {
            return;
        };
        let is_quiet = self.subscriptions.is_quiet() && self.download.is_none();
        if self.requests.span() == 0 && is_quiet {
            if let Some(receipt) = receipt.take() {
                write_receipt(out, self.version, receipt.raw());
            }
            self.close(effects);
        }
    }

    /// What is due whatever the input was.
    pub(super) fn maintain(
        &mut self,
        now: Moment,
        before: usize,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        if self.is_full() {
            // The shell does not read now, so silence is not the client's.
            self.beats.has_read(now);
        }
        match &self.phase {
            Phase::Greeting { until } => {
                if now >= *until {
                    let problem = Problem::new(
                        "connect timeout",
                        format!(
                            "no CONNECT came within {} ms",
                            self.config.connect_timeout_ms
                        ),
                    );
                    self.fail(&problem, None, out, effects);
                }
            }
            Phase::Connected => {
                if self.beats.read_deadline().is_some_and(|due| now >= due) {
                    let problem = Problem::new(
                        "no heart-beat",
                        format!(
                            "nothing came for {} ms, twice the interval agreed on",
                            self.beats.patience_ms()
                        ),
                    );
                    self.fail(&problem, None, out, effects);
                }
            }
            Phase::Leaving { .. } | Phase::Closed => {}
        }
        if out.len() > before {
            self.beats.has_written(now);
        } else if !self.is_closed() && self.beats.write_deadline().is_some_and(|due| now >= due) {
            out.extend_from_slice(b"\n");
            self.beats.has_written(now);
        }
    }
}
