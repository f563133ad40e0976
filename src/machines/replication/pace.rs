//! How fast may a resync go? As fast as both servers can, but for two things. The operator's limit is
//! a token bucket that is emptied by what was sent: what comes next waits until the limit has paid for
//! it. And while clients send it yields to them: it moves one small piece at a time, and rests after
//! each, so that the disks are theirs for most of the time. Batches of a peer in step never pass
//! through here.

use std::time::Duration;

use crate::time::Moment;

/// Time that was not used may be made up for, so much of it: timers are late, and disks hesitate.
const CREDIT: Duration = Duration::from_millis(250);

/// Clients send: something was cut within this time.
const LINGER: Duration = Duration::from_secs(2);
/// How much longer than the follower took for a piece a resync that yields rests after it.
const REST: u32 = 3;
/// Yielding never costs more than what goes beyond this, in bytes for each second and besides what
/// clients add meanwhile: 40 MiB/s, and what late timers take from it.
const LEAST: u64 = 42 * 1024 * 1024;
/// As [`CREDIT`], for `LEAST`. Short, since making up for lost time is what clients would feel.
const LEAST_CREDIT: Duration = Duration::from_millis(20);
/// Bytes of a piece of the log for a resync that yields, about: batches are not divided.
const SMALL_PIECE: usize = 256 * 1024;

/// When a resync may go on. One for each session.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// All that was sent is paid for then by the limit; none before the first byte.
    paid: Option<Moment>,
    /// The same for what is the least while it yields.
    least: Option<Moment>,
    /// When clients wrote last.
    clients: Option<Moment>,
    /// What is on its way to the follower's disk left then.
    under_way: Option<Moment>,
    /// When the rest after the last piece ends.
    rested: Option<Moment>,
    /// Little is missing: ending the resync helps clients more than pauses.
    near: bool,
    yields: bool,
    /// Something waits until then.
    waits: Option<Moment>,
}

impl Pace {
    /// Bytes of a resync were sent, under a limit in bytes for each second (0: none). No debt is
    /// longer than `pause_max`, however large the bytes.
    pub(super) fn sent(&mut self, now: Moment, bytes: u64, limit: u64, pause_max: Duration) {
        let longest = now.after(pause_max);
        if self.yields {
            self.under_way.get_or_insert(now);
            self.least = Some(paid(self.least, now, bytes, LEAST, LEAST_CREDIT).min(longest));
        } else {
            // At full speed nothing is owed to anybody.
            (self.under_way, self.rested, self.least) = (None, None, None);
        }
        if limit > 0 {
            self.paid = Some(paid(self.paid, now, bytes, limit, CREDIT).min(longest));
        }
    }

    /// All that was sent is on the follower's disk.
    pub(super) fn landed(&mut self, now: Moment) {
        if let Some(since) = self.under_way.take() {
            self.rested = Some(now.after(now.since(since).saturating_mul(REST)));
        }
    }

    /// Clients wrote so much, which comes on top of what is missing: it is not to hold the end off.
    pub(super) fn clients_wrote(&mut self, now: Moment, bytes: u64) {
        self.clients = Some(now);
        self.least = self
            .least
            .map(|least| Moment(least.0.saturating_sub(price(bytes, LEAST))));
    }

    /// Whether the log's end is less than a piece away.
    pub(super) fn end_is_near(&mut self, near: bool) {
        self.near = near;
    }

    /// Whether more may be sent; if not, `deadline` says when to ask again.
    pub(super) fn allows(&mut self, now: Moment) -> bool {
        self.yields = !self.near && self.clients.is_some_and(|wrote| now.since(wrote) <= LINGER);
        let turn = if self.yields { self.turn() } else { None };
        self.waits = self.paid.max(turn).filter(|until| *until > now);
        self.waits.is_none()
    }

    /// As much of the log as is to be read at once, where `most` is what may be.
    pub(super) fn piece(&self, most: usize) -> usize {
        if self.yields {
            most.min(SMALL_PIECE)
        } else {
            most
        }
    }

    /// What waited is asked about again.
    pub(super) fn woken(&mut self) {
        self.waits = None;
    }

    /// When what waits may go on.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.waits
    }

    /// When one that yields may go on: after its rest, and at the latest when the least has to go out.
    fn turn(&self) -> Option<Moment> {
        match (self.under_way, self.rested, self.least) {
            (None, Some(rested), Some(least)) => Some(rested.min(least)),
            (None, _, _) => None,
            (Some(_), _, least) => least,
        }
    }
}

/// When so many bytes more are paid for, at a speed in bytes for each second.
fn paid(before: Option<Moment>, now: Moment, bytes: u64, speed: u64, credit: Duration) -> Moment {
    let credit = u64::try_from(credit.as_nanos()).unwrap_or(u64::MAX);
    let from = match before {
        Some(before) => before.0.max(now.0.saturating_sub(credit)),
        None => now.0,
    };
    Moment(from.saturating_add(price(bytes, speed)))
}

/// Nanoseconds that bytes take at a speed in bytes for each second.
fn price(bytes: u64, speed: u64) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(speed.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
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

    const MIB: u64 = 1024 * 1024;
    const MS: u64 = 1_000_000;

    /// What goes out in ten seconds in pieces of 256 KiB, in MiB for each second, to a disk that takes
    /// so long for each, while clients write so many bytes in each millisecond; timers are late.
    fn yielding(disk: Duration, clients: u64, limit: u64) -> u64 {
        let (mut pace, mut sent, mut landings) = (Pace::default(), 0, Vec::new());
        let (piece, mut next, mut late) = (256 * 1024, 0, 0);
        for tick in 0..100_000 {
            let now = Moment(tick * MS / 10);
            if tick % 10 == 0 {
                pace.clients_wrote(now, clients);
            }
            landings.retain(|landed| *landed > now);
            if landings.is_empty() {
                pace.landed(now);
            }
            late = (late + 7) % 12;
            next = if tick >= next && !pace.allows(now) {
                tick + late
            } else {
                next
            };
            // A window of 8 MiB.
            while tick >= next && landings.len() < 32 && pace.allows(now) {
                pace.sent(now, piece, limit, LONG);
                let from = landings.last().copied().unwrap_or(now);
                landings.push(from.after(disk));
                sent += piece;
            }
        }
        sent / MIB / 10
    }

    #[test]
    fn yielding_never_goes_below_forty_mib_in_a_second_besides_what_clients_add() {
        for us in [100, 500, 1000, 2000, 4000] {
            let disk = Duration::from_micros(us);
            let able = 1_000_000 / us / 4;
            for clients in [0, 1, 20, 60] {
                // In MiB for each second, about.
                let speed = yielding(disk, clients * 1000, 0);
                let wanted = (40 + clients * 95 / 100).min(able * 95 / 100);
                assert!(speed >= wanted, "{us} us, {clients}: {speed}, not {wanted}");
                let most = (able / 3).max(50 + clients);
                assert!(
                    speed <= most,
                    "{us} us, {clients}: {speed}, more than {most}"
                );
            }
        }
    }

    #[test]
    fn a_limit_below_the_least_holds_while_yielding_too() {
        let speed = yielding(Duration::from_micros(500), 1000, 10 * MIB);
        assert!((9..=12).contains(&speed), "{speed}");
    }

    #[test]
    fn it_yields_while_clients_write_and_not_near_the_end() {
        let mut pace = Pace::default();
        let piece = |pace: &Pace| pace.piece(4 * SMALL_PIECE);
        assert!(pace.allows(Moment(0)));
        assert_eq!(piece(&pace), 4 * SMALL_PIECE, "nobody sends");
        pace.clients_wrote(Moment(0), 100);
        assert!(pace.allows(Moment(0)));
        assert_eq!(piece(&pace), SMALL_PIECE);
        assert_eq!(pace.piece(5), 5);
        pace.sent(Moment(0), MIB, 0, LONG);
        assert!(!pace.allows(Moment(MS)), "it is under way");
        pace.landed(Moment(2 * MS));
        assert!(!pace.allows(Moment(2 * MS)), "it rests");
        assert_eq!(pace.deadline(), Some(Moment(8 * MS)));
        pace.end_is_near(true);
        assert!(pace.allows(Moment(2 * MS)));
        assert_eq!(piece(&pace), 4 * SMALL_PIECE);
        pace.end_is_near(false);
        assert!(!pace.allows(Moment(2 * MS)));
        assert!(pace.allows(Moment(8 * MS)));
        pace.sent(Moment(8 * MS), MIB, 0, LONG);
        let quiet = Moment(0).after(LINGER).0 + 1;
        assert!(pace.allows(Moment(quiet)));
        assert_eq!(piece(&pace), 4 * SMALL_PIECE, "nobody sends any more");
    }
}
