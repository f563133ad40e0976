//! The ledger: what a client was promised against what arrived. Pure: the load generators write into
//! it, and the verdict is arithmetic.
//!
//! The rules (interface.md, "The guarantee"):
//!
//! * each attempt to send has its own number, and is never sent again under it;
//! * a confirmed attempt arrives: if it does not, it is *lost*;
//! * an attempt without a receipt is unknown, and arrives once or not at all;
//! * whatever arrives a second time is flagged redelivered: an unflagged second arrival is a
//!   *duplicate*, and so is an attempt that arrives under two message-ids, flagged or not, because the
//!   server then stored it twice.
//!
//! Several consumers are not ordered among each other: one may read the last bytes of a dead server
//! after another has had the same message from its heir. So between consumers at most one arrival may
//! be unflagged, whichever is seen first; within one consumer only its first may be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;

use serde::Serialize;

/// One arrival of a message, as a consumer saw it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Which consumer; its own arrivals are in order, also across its reconnections.
    pub consumer: u32,
    /// The broker's `message-id`.
    pub message_id: &'a str,
    /// Whether it carried `redelivered:true`.
    pub redelivered: bool,
}

/// Promised and arrived for the attempts of one producer, which are numbered from 0 without gaps.
#[derive(Debug, Default)]
pub struct Ledger {
    attempts: Vec<Attempt>,
    foreign: u64,
    awaited: u64,
}

/// 24 bytes for each attempt: ten million of them still fit a small machine.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    message_id: u64,
    /// One bit for each of the first 64 consumers that had it; later ones are judged as if each
    /// arrival were by another consumer.
    seen_by: u64,
    confirmed: bool,
    arrivals: u16,
    duplicates: u16,
    unflagged: bool,
}

/// What a ledger adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerReport {
    /// Messages that were sent, with or without an answer.
    pub attempted: u64,
    /// Those whose receipt came.
    pub confirmed: u64,
    /// Those without a receipt: they may have arrived or not.
    pub unknown: u64,
    /// Confirmed messages that arrived exactly once.
    pub delivered_once: u64,
    /// Arrivals beyond the first that were rightly flagged redelivered.
    pub redelivered: u64,
    /// Arrivals beyond the first that were not flagged, or that came from a second stored copy.
    pub duplicated: u64,
    /// Confirmed messages that never arrived.
    pub lost: u64,
    /// Unknown messages that arrived after all.
    pub unknown_delivered: u64,
    /// Arrivals of messages that were never sent.
    pub foreign: u64,
}

impl LedgerReport {
    /// Whether the guarantee held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.foreign == 0
    }
}

impl AddAssign<&Self> for LedgerReport {
    fn add_assign(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.confirmed += other.confirmed;
        self.unknown += other.unknown;
        self.delivered_once += other.delivered_once;
        self.redelivered += other.redelivered;
        self.duplicated += other.duplicated;
        self.lost += other.lost;
        self.unknown_delivered += other.unknown_delivered;
        self.foreign += other.foreign;
    }
}

impl Ledger {
    /// A ledger without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the next attempt and returns its number. Called before its first byte leaves.
    pub fn attempt(&mut self) -> u64 {
        self.attempts.push(Attempt::default());
        self.attempts.len() as u64 - 1
    }

    /// Enters a receipt. False if it answers nothing that was sent, or answers it again.
    pub fn confirm(&mut self, number: u64) -> bool {
        match self.entry(number) {
            Some(attempt) if !attempt.confirmed => {
                attempt.confirmed = true;
                if attempt.arrivals == 0 {
                    self.awaited += 1;
                }
                true
            }
            Some(_) | None => false,
        }
    }

    /// Enters an arrival. True if it is this attempt's first.
    pub fn arrive(&mut self, number: u64, arrival: Arrival<'_>) -> bool {
        let message_id = fingerprint(arrival.message_id);
        let Some(attempt) = self.entry(number) else {
            self.foreign += 1;
            return false;
        };
        let bit = 1_u64.checked_shl(arrival.consumer).unwrap_or(0);
        let first = attempt.arrivals == 0;
        if !first {
            let stored_twice = attempt.message_id != message_id;
            let unflagged_again =
                !arrival.redelivered && (attempt.unflagged || attempt.seen_by & bit != 0);
            if stored_twice || unflagged_again {
                attempt.duplicates = attempt.duplicates.saturating_add(1);
            }
        }
        attempt.message_id = message_id;
        attempt.seen_by |= bit;
        attempt.unflagged |= !arrival.redelivered;
        attempt.arrivals = attempt.arrivals.saturating_add(1);
        if first && attempt.confirmed {
            self.awaited -= 1;
        }
        first
    }

    /// How many confirmed messages have not arrived yet.
    #[must_use]
    pub fn awaited(&self) -> u64 {
        self.awaited
    }

    /// The confirmed messages that have not arrived, for a failure report: the first `limit`.
    #[must_use]
    pub fn missing(&self, limit: usize) -> Vec<u64> {
        (0_u64..)
            .zip(&self.attempts)
            .filter(|(_, attempt)| attempt.confirmed && attempt.arrivals == 0)
            .map(|(number, _)| number)
            .take(limit)
            .collect()
    }

    /// Adds everything up.
    #[must_use]
    pub fn report(&self) -> LedgerReport {
        let mut report = LedgerReport {
            attempted: self.attempts.len() as u64,
            foreign: self.foreign,
            ..LedgerReport::default()
        };
        for attempt in &self.attempts {
            let again = u64::from(attempt.arrivals.saturating_sub(1));
            let duplicates = u64::from(attempt.duplicates);
            report.confirmed += u64::from(attempt.confirmed);
            report.unknown += u64::from(!attempt.confirmed);
            report.delivered_once += u64::from(attempt.confirmed && attempt.arrivals == 1);
            report.lost += u64::from(attempt.confirmed && attempt.arrivals == 0);
            report.unknown_delivered += u64::from(!attempt.confirmed && attempt.arrivals > 0);
            report.duplicated += duplicates;
            report.redelivered += again.saturating_sub(duplicates);
        }
        report
    }

    fn entry(&mut self, number: u64) -> Option<&mut Attempt> {
        self.attempts.get_mut(usize::try_from(number).ok()?)
    }
}

fn fingerprint(message_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    message_id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(consumer: u32, message_id: &str, redelivered: bool) -> Arrival<'_> {
        Arrival {
            consumer,
            message_id,
            redelivered,
        }
    }

    /// A ledger with one attempt, confirmed if asked, and the arrivals given.
    fn one(confirmed: bool, arrivals: &[Arrival<'_>]) -> LedgerReport {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.attempt(), 0);
        if confirmed {
            assert!(ledger.confirm(0));
        }
        for arrival in arrivals {
            ledger.arrive(0, *arrival);
        }
        ledger.report()
    }

    #[test]
    fn a_confirmed_message_that_arrives_once_is_delivered() {
        let report = one(true, &[seen(0, "m", false)]);
        assert!(report.holds());
        assert_eq!((report.confirmed, report.delivered_once), (1, 1));
    }

    #[test]
    fn a_confirmed_message_that_never_arrives_is_lost() {
        let report = one(true, &[]);
        assert_eq!(report.lost, 1);
        assert!(!report.holds());
    }

    #[test]
    fn an_unknown_message_may_arrive_or_not() {
        assert!(one(false, &[]).holds());
        let report = one(false, &[seen(0, "m", false)]);
        assert!(report.holds());
        assert_eq!((report.unknown, report.unknown_delivered), (1, 1));
    }

    #[test]
    fn a_flagged_second_arrival_is_a_redelivery_and_an_unflagged_one_a_duplicate() {
        let flagged = one(true, &[seen(0, "m", false), seen(0, "m", true)]);
        assert_eq!((flagged.redelivered, flagged.duplicated), (1, 0));
        assert!(flagged.holds());
        let unflagged = one(true, &[seen(0, "m", false), seen(0, "m", false)]);
        assert_eq!((unflagged.redelivered, unflagged.duplicated), (0, 1));
        assert!(!unflagged.holds());
    }

    #[test]
    fn unknown_messages_may_not_arrive_twice_unflagged_either() {
        assert_eq!(
            one(false, &[seen(0, "m", false), seen(1, "m", false)]).duplicated,
            1
        );
    }

    #[test]
    fn one_attempt_under_two_message_ids_was_stored_twice_whatever_the_flag_says() {
        assert_eq!(
            one(true, &[seen(0, "m", false), seen(0, "n", true)]).duplicated,
            1
        );
    }

    #[test]
    fn between_consumers_the_unflagged_arrival_may_be_seen_last() {
        assert!(one(true, &[seen(1, "m", true), seen(0, "m", false)]).holds());
        assert!(!one(true, &[seen(0, "m", true), seen(0, "m", false)]).holds());
        assert!(!one(true, &[seen(0, "m", false), seen(1, "m", false)]).holds());
    }

    #[test]
    fn consumers_beyond_the_sixty_fourth_are_not_mistaken_for_earlier_ones() {
        assert!(one(true, &[seen(64, "m", true), seen(0, "m", false)]).holds());
        assert!(!one(true, &[seen(70, "m", false), seen(71, "m", false)]).holds());
    }

    #[test]
    fn arrivals_and_receipts_for_nothing_that_was_sent_are_noticed() {
        let mut ledger = Ledger::new();
        assert!(!ledger.confirm(0));
        assert!(!ledger.arrive(7, seen(0, "m", false)));
        assert_eq!(ledger.report().foreign, 1);
        assert!(!ledger.report().holds());
        ledger.attempt();
        assert!(ledger.confirm(0));
        assert!(!ledger.confirm(0));
    }

    #[test]
    fn what_is_awaited_falls_in_either_order_of_receipt_and_arrival() {
        let mut ledger = Ledger::new();
        for _ in 0..3 {
            ledger.attempt();
        }
        ledger.arrive(0, seen(0, "a", false));
        ledger.confirm(0);
        assert_eq!(ledger.awaited(), 0);
        ledger.confirm(1);
        ledger.confirm(2);
        assert_eq!((ledger.awaited(), ledger.missing(1)), (2, vec![1]));
        ledger.arrive(1, seen(0, "b", false));
        ledger.arrive(2, seen(0, "c", false));
        assert_eq!((ledger.awaited(), ledger.missing(9)), (0, vec![]));
    }

    #[test]
    fn reports_of_several_producers_add_up() {
        let mut sum = one(true, &[]);
        sum += &one(true, &[seen(0, "m", false), seen(0, "m", true)]);
        assert_eq!(
            (sum.attempted, sum.confirmed, sum.lost, sum.redelivered),
            (2, 2, 1, 1)
        );
    }
}
