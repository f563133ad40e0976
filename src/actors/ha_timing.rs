//! HAManager's clockwork: how long each of its machine's named timers runs, and the lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::actors::ha_chronicle::Age;
use crate::actors::lease::Lease;
use crate::machines::ha::{HaTimer, Source};
use crate::machines::lock::LockReport;
use crate::time::Moment;

/// The intervals that it is wound with, validated by the configuration.
#[derive(Clone, Copy, Debug)]
pub struct HaIntervals {
    /// PingInterval.
    pub ping: Duration,
    /// ActiveLockReAcquisitionInterval.
    pub active: Duration,
    /// By how much two clocks may drift apart within a lease, and a reading may be late.
    pub drift: Duration,
    /// PassiveLockAcquisitionInterval; at least twice `active`.
    pub passive: Duration,
    /// MaxWaitTimeout.
    pub max_wait: Duration,
    /// replication_ack_timeout_ms; the first back-off of a peer that was too slow.
    pub ack_timeout: Duration,
    /// How long an orderly stop waits for confirms; a hand-over waits at most [`HANDOVER_DRAIN`].
    pub drain: Duration,
}

impl HaIntervals {
    /// LeaseTTL (ha-protocol, "The state machines").
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.active.saturating_mul(2)
    }

    /// When the lease of whoever served before must be over (A3). That lease ends LeaseTTL after the
    /// newest of what extends it, each counted by its holder from when it was *sent*:
    ///
    /// * A check of its lock that found the record as it was. The record had been changed, or its lock
    ///   freed, before this server obtained the lock; a check that was sent after that finds the record
    ///   moved on, or the lock lost, and proves nothing. So the newest was sent before `lock_obtained`,
    ///   also one that was on its way just before the compare-and-set.
    /// * A ping of its own that this server answered. It was sent before the answer was, so before
    ///   `reply_sent`. A ping over a later channel proves nothing to it: this server does not follow
    ///   there (`HaMachine::pings_extend_lease`).
    ///
    /// Both scales are `CLOCK_BOOTTIME`, which goes on while a machine sleeps and which nobody sets;
    /// what is left is how far two of them drift apart within one lease.
    fn fence_end(&self, lock_obtained: Moment, reply_sent: Moment) -> Moment {
        let wait = self.lease_ttl().saturating_add(self.drift);
        lock_obtained.max(reply_sent).after(wait)
    }
}

/// The longest that a hand-over waits for confirms. What is not confirmed by then never was, and the
/// client sends it again.
pub const HANDOVER_DRAIN: Duration = Duration::from_millis(1000);
/// The longest that a peer which was too slow is kept out.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Timers and lease of one server.
pub struct HaTiming {
    intervals: HaIntervals,
    timers: BTreeMap<HaTimer, Moment>,
    lease: Arc<Lease>,
    /// The lease counts from here; none: there is none.
    proven_at: Option<Moment>,
    /// Clients are served, so that the end of the lease is an event.
    serving: bool,
    /// No peer, no arbiter: the lease never ends.
    single: bool,
    lock_obtained: Moment,
    /// When the last ping of the peer was answered: its lease may count from before that.
    reply_sent: Moment,
    peer_heard: Moment,
    barred: u32,
    next_beat: Moment,
    /// When the record, and the lock, were heard of last: for people.
    record_seen: Option<Moment>,
    lock_seen: Option<Moment>,
}

impl HaTiming {
    /// Nothing armed, no lease.
    #[must_use]
    pub fn new(intervals: HaIntervals, lease: Arc<Lease>, single: bool, now: Moment) -> Self {
        Self {
            intervals,
            timers: BTreeMap::new(),
            lease,
            proven_at: None,
            serving: false,
            single,
            lock_obtained: now,
            reply_sent: Moment::default(),
            peer_heard: now,
            barred: 0,
            next_beat: now,
            record_seen: None,
            lock_seen: None,
        }
    }

    /// Starts a timer, anew if it runs.
    pub fn arm(&mut self, timer: HaTimer, now: Moment) {
        let intervals = &self.intervals;
        let due = match timer {
            HaTimer::PeerWait => self.peer_heard.after(intervals.passive),
            HaTimer::Patience | HaTimer::MaxWait => now.after(intervals.max_wait),
            HaTimer::Retry => now.after(intervals.active),
            HaTimer::FenceWait => intervals.fence_end(self.lock_obtained, self.reply_sent),
            HaTimer::ReEntry => {
                let factor = 1u32 << self.barred.min(10);
                self.barred = self.barred.saturating_add(1);
                now.after(
                    intervals
                        .ack_timeout
                        .saturating_mul(factor)
                        .min(BACK_OFF_MAX),
                )
            }
            HaTimer::Drain => now.after(intervals.drain),
        };
        self.timers.insert(timer, due);
    }

    /// How long clients are drained before a hand-over, or before the process ends.
    #[must_use]
    pub fn drain_for(&self, hands_over: bool) -> Duration {
        if hands_over {
            self.intervals.drain.min(HANDOVER_DRAIN)
        } else {
            self.intervals.drain
        }
    }

    /// Starts the drain's timer.
    pub fn arm_drain(&mut self, hands_over: bool, now: Moment) {
        let due = now.after(self.drain_for(hands_over));
        self.timers.insert(HaTimer::Drain, due);
    }

    /// Stops a timer.
    pub fn disarm(&mut self, timer: HaTimer) {
        self.timers.remove(&timer);
    }

    /// The next timer that is due, taken off.
    pub fn take_due(&mut self, now: Moment) -> Option<HaTimer> {
        let due = self
            .timers
            .iter()
            .find(|(_, due)| **due <= now)
            .map(|(timer, _)| *timer)?;
        self.timers.remove(&due);
        Some(due)
    }

    /// It is time to tell the others where this server is; at every half ping interval.
    pub fn take_beat(&mut self, now: Moment) -> bool {
        let due = self.next_beat <= now;
        if due {
            self.next_beat = now.after(self.intervals.ping / 2);
        }
        due
    }

    /// The lease is over while clients are served. Asked at every step: a late timer delays nothing.
    #[must_use]
    pub fn lease_is_over(&self, now: Moment) -> bool {
        self.serving && self.lease_end().is_none_or(|end| end <= now)
    }

    /// When something is due next.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        let lease = self.lease_end().filter(|_| self.serving && !self.single);
        self.timers
            .values()
            .copied()
            .chain(lease)
            .chain([self.next_beat])
            .min()
    }

    /// An attempt at the lock, a check of it, or a ping, that was sent at this moment succeeded: it
    /// found the lock, the record and the peer as this server needs them to serve.
    pub fn proven(&mut self, sent_at: Moment) {
        self.proven_at = self.proven_at.max(Some(sent_at));
        self.publish();
    }

    /// The lock is this server's since before this moment.
    pub fn lock_obtained(&mut self, now: Moment) {
        self.lock_obtained = now;
    }

    /// A ping of the peer's was answered.
    pub fn reply_sent(&mut self, at: Moment) {
        self.reply_sent = self.reply_sent.max(at);
    }

    /// The peer was heard last at this moment.
    pub fn peer_heard(&mut self, at: Moment) {
        self.peer_heard = self.peer_heard.max(at);
    }

    /// LockKeeper reported: what it tells of is as old as the report.
    pub fn lock_told(&mut self, report: &LockReport, now: Moment) {
        let (record, lock) = match report {
            LockReport::Acquired { .. } | LockReport::Confirmed { .. } => (true, true),
            LockReport::Refused { .. } | LockReport::Lost { .. } => (false, true),
            LockReport::Answered { .. } => (true, false),
            LockReport::Unreachable { .. } | LockReport::Released => (false, false),
        };
        if record {
            self.record_seen = Some(now);
        }
        if lock {
            self.lock_seen = Some(now);
        }
    }

    /// How old things are, and when what runs is due.
    #[must_use]
    pub fn ages(&self, now: Moment) -> BTreeMap<Source, Age> {
        let ago = |at: Moment| Age::Ago(now.since(at));
        let record = self.record_seen.map(ago);
        let due =
            |(timer, due): (&HaTimer, &Moment)| (Source::Timer(*timer), Age::In(due.since(now)));
        [
            (Source::Record, record),
            (Source::LockFile, record),
            (Source::Lock, self.lock_seen.map(ago)),
        ]
        .into_iter()
        .filter_map(|(source, age)| age.map(|age| (source, age)))
        .chain(self.timers.iter().map(due))
        .collect()
    }

    /// The peer is in step: the next time that it is too slow counts as the first.
    pub fn in_sync(&mut self) {
        self.barred = 0;
    }

    /// Clients are served from now on, or no longer. Gives the moment at which the right to speak
    /// ended, if it did just now: the lease may have been over before anybody noticed.
    pub fn serve(&mut self, serving: bool, now: Moment) -> Option<Moment> {
        let ended = (self.serving && !serving)
            .then(|| self.lease_end().map_or(now, |lease| lease.min(now)));
        self.serving = serving;
        if serving {
            self.publish();
        } else {
            self.lease.revoke();
        }
        ended
    }

    fn lease_end(&self) -> Option<Moment> {
        if self.single {
            return Some(Moment(u64::MAX));
        }
        self.proven_at
            .map(|at| at.after(self.intervals.lease_ttl()))
    }

    fn publish(&self) {
        if let Some(end) = self.lease_end().filter(|_| self.serving) {
            self.lease.set(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::lease::ServingLease;
    use crate::time::{Clock, SystemClock};

    fn intervals() -> HaIntervals {
        let ms = Duration::from_millis;
        HaIntervals {
            ping: ms(500),
            active: ms(1000),
            drift: ms(250),
            passive: ms(2500),
            max_wait: ms(30_000),
            ack_timeout: ms(5000),
            drain: ms(5000),
        }
    }

    fn timing(now: Moment) -> (HaTiming, Arc<Lease>) {
        let lease = Arc::new(Lease::new(Arc::new(SystemClock)));
        (
            HaTiming::new(intervals(), Arc::clone(&lease), false, now),
            lease,
        )
    }

    #[test]
    fn the_fence_wait_counts_from_the_later_of_lock_and_last_reply() {
        let at = |ms: u64| Moment(ms * 1_000_000);
        let (mut timing, _) = timing(at(0));
        timing.lock_obtained(at(1000));
        timing.reply_sent(at(1500));
        timing.arm(HaTimer::FenceWait, at(1600));
        assert_eq!(timing.take_due(at(1500 + 2249)), None);
        assert_eq!(timing.take_due(at(1500 + 2250)), Some(HaTimer::FenceWait));
    }

    #[test]
    fn the_lease_counts_from_when_its_proof_was_sent_and_only_while_serving() {
        let now = SystemClock.now();
        let (mut timing, lease) = timing(now);
        timing.proven(now);
        assert!(!lease.may_speak());
        assert_eq!(timing.serve(true, now), None);
        assert!(lease.may_speak());
        assert!(!timing.lease_is_over(now.after(Duration::from_millis(1999))));
        assert!(timing.lease_is_over(now.after(Duration::from_millis(2000))));
        let late = now.after(Duration::from_secs(5));
        let over = now.after(Duration::from_secs(2));
        assert_eq!(
            timing.serve(false, late),
            Some(over),
            "the lease was over before"
        );
        assert_eq!(timing.serve(false, late), None, "it had ended already");
        assert!(!lease.may_speak());
    }

    #[test]
    fn a_peer_that_is_too_slow_again_stays_out_longer() {
        let at = |s: u64| Moment(s * 1_000_000_000);
        let (mut timing, _) = timing(at(0));
        for seconds in [5, 10, 20] {
            timing.arm(HaTimer::ReEntry, at(0));
            assert_eq!(timing.take_due(at(seconds - 1)), None);
            assert_eq!(timing.take_due(at(seconds)), Some(HaTimer::ReEntry));
        }
        timing.in_sync();
        timing.arm(HaTimer::ReEntry, at(0));
        assert_eq!(timing.take_due(at(5)), Some(HaTimer::ReEntry));
    }
}
