//! An operator's look at messages: what is stored first, then what is in memory alone, page by page.

use std::rc::Rc;

use super::super::volatile::MemoryLook;
use super::{AdministrationError, BrowseQuery, MessagePage, OPERATOR_TAG, Reply, Running};
use crate::actors::directory::Directory;
use crate::machines::sweep::PAGE_BYTES;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{Entry, Seek};

/// A look at a page of messages.
pub(super) struct Look {
    pub(super) dest: DestId,
    /// What is stored is looked at up to here, and in memory up to there.
    upto: Lsn,
    memory_upto: Option<Lsn>,
    count: usize,
    found: Vec<Entry>,
    reply: Reply<MessagePage>,
}

impl Directory {
    pub(super) fn look(self: &Rc<Self>, query: &BrowseQuery, reply: Reply<MessagePage>) {
        let Some((dest, _)) = self.find(&query.name) else {
            reply(Err(AdministrationError::Unknown(query.name.clone())));
            return;
        };
        if self.is_busy() {
            reply(Err(AdministrationError::Busy));
            return;
        }
        let count = query.limit.clamp(1, 256);
        let look = Look {
            dest,
            upto: self.upto.get(),
            memory_upto: self.newest_volatile(dest),
            count,
            found: Vec::new(),
            reply,
        };
        if let Some(number) = self.begin(|_| Running::Browse(Box::new(look))) {
            self.read_page(number, dest, query.after, count);
        }
    }

    /// Asks the store for a page of what is owed, or the destination for what only its memory has.
    pub(super) fn read_page(self: &Rc<Self>, number: u32, dest: DestId, after: Lsn, count: usize) {
        let tag = OPERATOR_TAG | number;
        if after.is_volatile() {
            let lane = None;
            let look = MemoryLook {
                tag,
                lane,
                after,
                count,
            };
            self.look_at_memory(dest, look);
        } else {
            let seek = Seek::All { after };
            self.store.fetch(dest, tag, seek, count, PAGE_BYTES);
        }
    }

    /// Answers with a page, or goes on in memory where the store has no more.
    pub(super) fn show(
        self: &Rc<Self>,
        number: u32,
        mut look: Box<Look>,
        entries: Vec<Entry>,
        scanned: Lsn,
    ) {
        let last = entries.last().map_or(Lsn::ZERO, |entry| entry.lsn);
        let mut after = scanned.max(last);
        let in_memory = after.is_volatile();
        let mut more = !entries.is_empty() && (in_memory || after < look.upto);
        look.found.extend(entries);
        if let Some(memory_upto) = look.memory_upto {
            if in_memory {
                more &= after < memory_upto;
            } else if !more {
                after = Lsn::volatile(0);
                more = true;
                let left = look.count.saturating_sub(look.found.len());
                if left > 0 {
                    let dest = look.dest;
                    if let Some(term) = self.term.borrow_mut().as_mut() {
                        term.works.0.insert(number, Running::Browse(look));
                    }
                    self.read_page(number, dest, after, left);
                    return;
                }
            }
        }
        let entries = look.found;
        (look.reply)(Ok(MessagePage {
            entries,
            after,
            more,
        }));
    }
}
