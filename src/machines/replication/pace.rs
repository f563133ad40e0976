//! How fast may a resync go? A token bucket that is emptied by what was sent: what comes next waits
//! until the limit has paid for it. Batches of a peer in step never pass through here.

use std::time::Duration;

use crate::time::Moment;

/// Time that was not used may be made up for, so much of it: timers are late, and disks hesitate.
const CREDIT: Duration = Duration::from_millis(250);

/// When a resync may go on. One for each session.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// All that was sent is paid for then; none before the first byte.
    paid: Option<Moment>,
    /// Something waits for it.
    waits: bool,
}

impl Pace {
    /// Bytes of a resync were sent, under a limit in bytes for each second (0: none). No debt is
    /// longer than `pause_max`, however large the bytes.
    pub(super) fn sent(&mut self, now: Moment, bytes: u64, limit: u64, pause_max: Duration) {
        if limit == 0 {
            return;
        }
        let credit = u64::try_from(CREDIT.as_nanos()).unwrap_or(u64::MAX);
        let from = match self.paid {
            Some(paid) => paid.0.max(now.0.saturating_sub(credit)),
            None => now.0,
        };
        let price = u128::from(bytes) * 1_000_000_000 / u128::from(limit);
        let paid = from.saturating_add(u64::try_from(price).unwrap_or(u64::MAX));
        self.paid = Some(Moment(paid.min(now.after(pause_max).0)));
    }

    /// Whether more may be sent; if not, `deadline` says when to ask again.
    pub(super) fn allows(&mut self, now: Moment) -> bool {
        self.waits = self.paid.is_some_and(|paid| paid > now);
        !self.waits
    }

    /// When what waits may go on.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.paid.filter(|_| self.waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut pace = Pace::default();
        pace.sent(Moment(5), u64::MAX, 0, LONG);
        assert!(pace.allows(Moment(5)));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn what_was_sent_is_paid_for_before_more_goes_out() {
        let mut pace = Pace::default();
        assert!(pace.allows(Moment(SECOND)));
        pace.sent(Moment(SECOND), 100, 200, LONG);
        assert_eq!(pace.deadline(), None, "nothing asked");
        assert!(!pace.allows(Moment(SECOND)));
        let paid = Moment(SECOND + SECOND / 2);
        assert_eq!(pace.deadline(), Some(paid));
        assert!(pace.allows(paid));
        assert_eq!(pace.deadline(), None);
    }

    /// However late the timers are, as long as they are not later than the credit.
    #[test]
    fn the_limit_is_what_goes_out_in_the_long_run() {
        let (mut pace, mut now, mut bytes) = (Pace::default(), Moment(0), 0);
        while now < Moment(100 * SECOND) {
            pace.sent(now, 1000, 10_000, LONG);
            bytes += 1000;
            if !pace.allows(now) {
                let late = Duration::from_millis(bytes / 1000 % 90);
                now = pace.deadline().unwrap().after(late);
            }
        }
        assert!((999_000..=1_004_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn an_idle_hour_buys_no_more_than_the_credit() {
        let mut pace = Pace::default();
        pace.sent(Moment(0), 1, 1000, LONG);
        let now = Moment(3600 * SECOND);
        pace.sent(now, 250, 1000, LONG);
        assert!(pace.allows(now));
        pace.sent(now, 250, 1000, LONG);
        assert!(!pace.allows(now));
        assert_eq!(pace.deadline(), Some(now.after(CREDIT)));
    }

    #[test]
    fn no_pause_is_longer_than_its_bound() {
        let mut pace = Pace::default();
        pace.sent(Moment(0), u64::MAX, 1, Duration::from_secs(2));
        assert!(!pace.allows(Moment(0)));
        assert_eq!(pace.deadline(), Some(Moment(2 * SECOND)));
    }
}
