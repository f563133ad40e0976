//! A look at what a destination owes: copies in the order of delivery, lane by lane, up to the end of
//! the log at the moment when it began. It reads page after page, in each lane what is in memory alone
//! and then what is stored, and asks for the next when most of the last one has been taken, so that it
//! never holds more than a page and takes nothing from anybody.
//!
//! Not seen are messages that were acknowledged or arrived meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::machines::delivery::Delivery;
use crate::machines::selector::Selector;
use crate::proto::ids::Lsn;
use crate::storage::api::{Entry, Lane, Seek};

/// Bounds of a page.
pub const PAGE_MESSAGES: usize = 256;
/// The same in bytes; one message is always possible.
pub const PAGE_BYTES: usize = 1 << 20;

/// What the shell is to do.
#[must_use]
#[derive(Debug)]
pub enum BrowserEffect {
    /// Ask the store: at most [`PAGE_MESSAGES`] and [`PAGE_BYTES`].
    Fetch(Seek),
    /// Ask the destination for what it has in memory alone in this lane and beyond this position: at
    /// most [`PAGE_MESSAGES`].
    Look(Lane, Lsn),
    /// Hand these to the client.
    Deliver(Vec<Delivery>),
    /// That was all: the browser is over.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct BrowserMachine {
    upto: Lsn,
    /// The newest position in memory when it began; none: nothing is looked for there.
    memory_upto: Option<Lsn>,
    selector: Option<Arc<Selector>>,
    prefetch: usize,
    /// Copies that the client has not taken.
    unsettled: usize,
    page: VecDeque<Entry>,
    /// The lane that is read, and how far; none: all were.
    next: Option<(Lane, Lsn)>,
    fetching: bool,
    ended: bool,
}

impl BrowserMachine {
    /// A look at what is owed up to `upto`, and in memory up to `memory_upto`, if anything is there;
    /// `prefetch` (at least 1) copies may be on their way at once.
    #[must_use]
    pub fn new(
        upto: Lsn,
        memory_upto: Option<Lsn>,
        prefetch: u32,
        selector: Option<Arc<Selector>>,
    ) -> Self {
        Self {
            upto,
            memory_upto,
            selector,
            prefetch: usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX),
            unsettled: 0,
            page: VecDeque::new(),
            next: Some((Lane(9), beginning(memory_upto))),
            fetching: false,
            ended: false,
        }
    }

    /// An answer is still to come.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        self.fetching
    }

    /// Begins.
    pub fn begin(&mut self, effects: &mut Vec<BrowserEffect>) {
        self.go_on(effects);
    }

    /// The store's or the destination's answer: everything of the lane up to `scanned` is in `entries`.
    pub fn fetched(&mut self, entries: Vec<Entry>, scanned: Lsn, effects: &mut Vec<BrowserEffect>) {
        let Some((lane, after)) = self.next.filter(|_| self.fetching) else {
            return;
        };
        self.fetching = false;
        let in_memory = after.is_volatile();
        let upto = if in_memory {
            self.memory_upto.unwrap_or(Lsn::ZERO)
        } else {
            self.upto
        };
        let wanted = |entry: &Entry| {
            entry.lsn <= upto
                && self
                    .selector
                    .as_ref()
                    .is_none_or(|selector| selector.matches_bytes(&entry.message))
        };
        self.page.extend(entries.into_iter().filter(wanted));
        // A store that did not get on must not be asked for ever.
        let done = scanned >= upto || scanned <= after;
        self.next = match (done, in_memory) {
            (false, _) => Some((lane, scanned)),
            (true, true) => Some((lane, Lsn::ZERO)),
            (true, false) => following(lane).map(|lane| (lane, beginning(self.memory_upto))),
        };
        self.go_on(effects);
    }

    /// The client has taken so many copies.
    pub fn settled(&mut self, count: usize, effects: &mut Vec<BrowserEffect>) {
        self.unsettled = self.unsettled.saturating_sub(count);
        self.go_on(effects);
    }

    fn go_on(&mut self, effects: &mut Vec<BrowserEffect>) {
        if self.ended {
            return;
        }
        let credit = self.prefetch.saturating_sub(self.unsettled);
        let ready = credit.min(self.page.len());
        if ready > 0 {
            let deliveries = self.page.drain(..ready).map(|entry| Delivery {
                redelivered: entry.marked || entry.failures > 0,
                ..Delivery::from(&entry)
            });
            effects.push(BrowserEffect::Deliver(deliveries.collect()));
            self.unsettled = self.unsettled.saturating_add(ready);
        }
        if !self.page.is_empty() || self.fetching {
            return;
        }
        match self.next {
            Some((lane, after)) => {
                self.fetching = true;
                effects.push(if after.is_volatile() {
                    BrowserEffect::Look(lane, after)
                } else {
                    BrowserEffect::Fetch(Seek::Lane { lane, after })
                });
            }
            None => {
                self.ended = true;
                effects.push(BrowserEffect::End);
            }
        }
    }
}

/// Where a lane begins: in memory, if anything is there.
fn beginning(memory_upto: Option<Lsn>) -> Lsn {
    memory_upto.map_or(Lsn::ZERO, |_| Lsn::volatile(0))
}

/// Priorities from the highest, then what is delayed.
fn following(lane: Lane) -> Option<Lane> {
    match lane {
        Lane::DELAYED => None,
        Lane(0) => Some(Lane::DELAYED),
        Lane(priority) => Some(Lane(priority - 1)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entries(lsns: &[u64]) -> Vec<Entry> {
        let entry = |lsn: &u64| Entry::new(Lsn(*lsn), Bytes::from_static(b"m"));
        lsns.iter().map(entry).collect()
    }

    /// What a step did: `?LANE>AFTER`, the LSNs that were delivered, `end`.
    fn show(effects: Vec<BrowserEffect>) -> String {
        let all = effects.into_iter().map(|effect| match effect {
            BrowserEffect::Fetch(Seek::Lane { lane, after }) => {
                format!("?{}>{}", lane.0, after.0)
            }
            BrowserEffect::Fetch(other) => panic!("{other:?}"),
            BrowserEffect::Look(lane, after) => {
                format!("!{}>{}", lane.0, after.0 & !Lsn::volatile(0).0)
            }
            BrowserEffect::Deliver(deliveries) => {
                let lsns = deliveries.iter().map(|delivery| delivery.lsn.to_string());
                lsns.collect::<Vec<_>>().join(",")
            }
            BrowserEffect::End => "end".to_owned(),
        });
        all.collect::<Vec<_>>().join(" ")
    }

    fn answer(browser: &mut BrowserMachine, lsns: &[u64], scanned: u64) -> String {
        let mut effects = Vec::new();
        browser.fetched(entries(lsns), Lsn(scanned), &mut effects);
        show(effects)
    }

    fn take(browser: &mut BrowserMachine, count: usize) -> String {
        let mut effects = Vec::new();
        browser.settled(count, &mut effects);
        show(effects)
    }

    fn begun(upto: u64, prefetch: u32) -> BrowserMachine {
        let mut browser = BrowserMachine::new(Lsn(upto), None, prefetch, None);
        let mut effects = Vec::new();
        browser.begin(&mut effects);
        assert_eq!(show(effects), "?9>0");
        browser
    }

    #[test]
    fn lanes_are_read_from_the_highest_and_the_end_comes_once() {
        let mut browser = begun(100, 1000);
        assert_eq!(answer(&mut browser, &[7, 8], 100), "7,8 ?8>0");
        for lane in (1..=8).rev() {
            let next = format!("?{}>0", lane - 1);
            assert_eq!(answer(&mut browser, &[], 100), next);
        }
        assert_eq!(answer(&mut browser, &[3], 100), "3 ?10>0");
        assert_eq!(answer(&mut browser, &[5], 100), "5 end");
        assert_eq!(take(&mut browser, 4), "");
    }

    #[test]
    fn a_lane_is_read_page_by_page_and_only_up_to_where_the_log_ended() {
        let mut browser = begun(100, 1000);
        assert_eq!(answer(&mut browser, &[1, 2], 2), "1,2 ?9>2");
        assert_eq!(answer(&mut browser, &[90, 101], 101), "90 ?8>0");
        // What does not get on is not asked for ever.
        assert_eq!(answer(&mut browser, &[], 0), "?7>0");
    }

    #[test]
    fn each_lane_is_read_in_memory_first_and_only_up_to_what_was_there() {
        let at = |number: u64| Lsn::volatile(number).0;
        let mut browser = BrowserMachine::new(Lsn(100), Some(Lsn::volatile(20)), 1000, None);
        let mut effects = Vec::new();
        browser.begin(&mut effects);
        assert_eq!(show(effects), "!9>0");
        let shown = |lsns: &[u64], next: &str| {
            let lsns: Vec<String> = lsns.iter().map(|lsn| Lsn(*lsn).to_string()).collect();
            format!("{} {next}", lsns.join(","))
        };
        let page = [at(3), at(7)];
        let said = answer(&mut browser, &page, at(7));
        assert_eq!(said, shown(&page, "!9>7"));
        let said = answer(&mut browser, &[at(20), at(21)], at(21));
        assert_eq!(said, shown(&[at(20)], "?9>0"));
        assert_eq!(answer(&mut browser, &[5], 100), "5 !8>0");
        assert_eq!(answer(&mut browser, &[], u64::MAX), "?8>0");
    }

    #[test]
    fn no_page_is_asked_for_while_one_waits_for_the_client() {
        let mut browser = begun(100, 2);
        assert_eq!(answer(&mut browser, &[1, 2, 3], 3), "1,2");
        assert!(!browser.is_fetching());
        assert_eq!(take(&mut browser, 1), "3 ?9>3");
        assert_eq!(answer(&mut browser, &[4, 5], 5), "");
        assert_eq!(take(&mut browser, 2), "4,5 ?9>5");
    }

    #[test]
    fn a_selector_judges_the_copies() {
        let selector = Selector::parse("FALSE", crate::machines::selector::Dialect::Strict);
        let mut browser = BrowserMachine::new(Lsn(10), None, 5, selector.ok());
        let mut effects = Vec::new();
        browser.begin(&mut effects);
        effects.clear();
        browser.fetched(entries(&[1]), Lsn(10), &mut effects);
        assert_eq!(show(effects), "?8>0");
    }
}
