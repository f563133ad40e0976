//! Browsers on the data thread: each reads the store by itself, past the destination that it looks at,
//! and asks the destination for what is in memory alone.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Directory;
use super::volatile::MemoryLook;
use crate::machines::browser::{BrowserEffect, BrowserMachine, PAGE_BYTES, PAGE_MESSAGES};
use crate::machines::delivery::{ConsumerKey, SessionEvent};
use crate::machines::selector::Selector;
use crate::proto::destination::DestinationName;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::Entry;

/// Tags of questions that browsers ask: this bit and a number.
const BROWSER_TAG: u32 = 1 << 31;

/// The answer is a browser's.
pub(super) fn is_browsers(tag: u32) -> bool {
    tag & BROWSER_TAG != 0
}

#[derive(Debug)]
struct Browser {
    consumer: ConsumerKey,
    dest: DestId,
    machine: BrowserMachine,
}

/// One term's browsers.
#[derive(Debug, Default)]
pub(super) struct Browsers {
    by_tag: HashMap<u32, Browser>,
}

impl Browsers {
    fn tag_of(&self, consumer: ConsumerKey) -> Option<u32> {
        let mut all = self.by_tag.iter();
        all.find_map(|(tag, browser)| (browser.consumer == consumer).then_some(*tag))
    }
}

impl Directory {
    /// A consumer looks at what a destination owes. One that is not there owes nothing.
    pub fn browse(
        self: &Rc<Self>,
        consumer: ConsumerKey,
        name: &DestinationName,
        prefetch: u32,
        selector: Option<Arc<Selector>>,
    ) {
        let number = consumer.number;
        let mut effects = Vec::new();
        let tag = self.next_browser.get();
        let dest = {
            let term = self.term.borrow();
            let term = term.as_ref();
            term.and_then(|term| term.by_name.get(name).copied())
        };
        let memory_upto = dest.and_then(|dest| self.newest_volatile(dest));
        let found = {
            let mut term = self.term.borrow_mut();
            let found = term
                .as_mut()
                .and_then(|term| Some((dest?, &mut term.browsers)));
            if let Some((dest, browsers)) = found {
                let upto = self.upto.get();
                let mut machine = BrowserMachine::new(upto, memory_upto, prefetch, selector);
                machine.begin(&mut effects);
                let browser = Browser {
                    consumer,
                    dest,
                    machine,
                };
                browsers.by_tag.insert(BROWSER_TAG | tag, browser);
                // A number comes back after 2^31 browsers: none lives so long.
                self.next_browser.set(tag.wrapping_add(1) & !BROWSER_TAG);
                true
            } else {
                false
            }
        };
        let attached = SessionEvent::Attached { consumer: number };
        self.tell(consumer.session, attached);
        if found {
            self.run_browser(BROWSER_TAG | tag, effects);
        } else {
            let event = SessionEvent::Browsed { consumer: number };
            self.tell(consumer.session, event);
        }
    }

    /// The client has taken copies.
    pub fn browser_settled(self: &Rc<Self>, consumer: ConsumerKey, count: usize) {
        let mut effects = Vec::new();
        let tag = {
            let mut term = self.term.borrow_mut();
            let Some(browsers) = term.as_mut().map(|term| &mut term.browsers) else {
                return;
            };
            let Some(tag) = browsers.tag_of(consumer) else {
                return;
            };
            if let Some(browser) = browsers.by_tag.get_mut(&tag) {
                browser.machine.settled(count, &mut effects);
            }
            tag
        };
        self.run_browser(tag, effects);
    }

    /// The consumer is gone. An answer that is still to come finds nobody.
    pub fn end_browser(&self, consumer: ConsumerKey) {
        if let Some(term) = self.term.borrow_mut().as_mut()
            && let Some(tag) = term.browsers.tag_of(consumer)
        {
            term.browsers.by_tag.remove(&tag);
        }
    }

    /// The store's or the destination's answer to a browser.
    pub(super) fn browser_answered(self: &Rc<Self>, tag: u32, entries: Vec<Entry>, scanned: Lsn) {
        let mut effects = Vec::new();
        if let Some(term) = self.term.borrow_mut().as_mut()
            && let Some(browser) = term.browsers.by_tag.get_mut(&tag)
        {
            browser.machine.fetched(entries, scanned, &mut effects);
        }
        self.run_browser(tag, effects);
    }

    fn run_browser(self: &Rc<Self>, tag: u32, effects: Vec<BrowserEffect>) {
        let (consumer, dest) = {
            let term = self.term.borrow();
            let browsers = term.as_ref().map(|term| &term.browsers.by_tag);
            let Some(browser) = browsers.and_then(|all| all.get(&tag)) else {
                return;
            };
            (browser.consumer, browser.dest)
        };
        for effect in effects {
            let event = match effect {
                BrowserEffect::Fetch(seek) => {
                    self.store.fetch(dest, tag, seek, PAGE_MESSAGES, PAGE_BYTES);
                    continue;
                }
                BrowserEffect::Look(lane, after) => {
                    let command = MemoryLook {
                        tag,
                        lane: Some(lane),
                        after,
                        count: PAGE_MESSAGES,
                    };
                    self.look_at_memory(dest, command);
                    continue;
                }
                BrowserEffect::Deliver(deliveries) => SessionEvent::Delivered {
                    consumer: consumer.number,
                    deliveries,
                },
                BrowserEffect::End => SessionEvent::Browsed {
                    consumer: consumer.number,
                },
            };
            self.tell(consumer.session, event);
        }
    }
}
