//! A look at what a destination owes: copies in the order of delivery, lane by lane, up to the end of
//! the log at the moment when it began. It reads the store's pages one after the other and asks for the
//! next when most of the last one has been taken, so that it never holds more than a page and takes
//! nothing from anybody.
//!
//! Not seen are messages that were acknowledged or arrived meanwhile, and those that are kept in memory
//! alone.

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
    /// Hand these to the client.
    Deliver(Vec<Delivery>),
    /// That was all: the browser is over.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct BrowserMachine {
    upto: Lsn,
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
    /// A look at what is owed up to `upto`; `prefetch` (at least 1) copies may be on their way at once.
    #[must_use]
    pub fn new(upto: Lsn, prefetch: u32, selector: Option<Arc<Selector>>) -> Self {
        Self {
            upto,
            selector,
            prefetch: usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX),
            unsettled: 0,
            page: VecDeque::new(),
            next: Some((Lane(9), Lsn::ZERO)),
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

    /// The store's answer: everything of the lane up to `scanned` is in `entries`.
    pub fn fetched(&mut self, entries: Vec<Entry>, scanned: Lsn, effects: &mut Vec<BrowserEffect>) {
        let Some((lane, after)) = self.next.filter(|_| self.fetching) else {
            return;
        };
        self.fetching = false;
        let wanted = |entry: &Entry| {
            entry.lsn <= self.upto
                && self
                    .selector
                    .as_ref()
                    .is_none_or(|selector| selector.matches_bytes(&entry.message))
        };
        self.page.extend(entries.into_iter().filter(wanted));
        // A store that did not get on must not be asked for ever.
        let done = scanned >= self.upto || scanned <= after;
        self.next = if done {
            following(lane).map(|lane| (lane, Lsn::ZERO))
        } else {
            Some((lane, scanned))
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
                effects.push(BrowserEffect::Fetch(Seek::Lane { lane, after }));
            }
            None => {
                self.ended = true;
                effects.push(BrowserEffect::End);
            }
        }
    }
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
        let mut browser = BrowserMachine::new(Lsn(upto), prefetch, None);
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
        let mut browser = BrowserMachine::new(Lsn(10), 5, selector.ok());
        let mut effects = Vec::new();
        browser.begin(&mut effects);
        effects.clear();
        browser.fetched(entries(&[1]), Lsn(10), &mut effects);
        assert_eq!(show(effects), "?8>0");
    }
}
