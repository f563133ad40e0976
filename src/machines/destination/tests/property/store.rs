//! The store's side of a random run: what is committed when, and what it answers.

use super::*;

impl World {
    /// Commits a part of what is queued; other destinations' records lie between.
    pub(super) fn commit(&mut self) {
        let count = usize::try_from(self.dice.below(6)).unwrap();
        let count = count.min(self.queue.len());
        let mut change = Change::default();
        for unit in self.queue.drain(..count).collect::<Vec<_>>() {
            self.upto = Lsn(self.upto.0 + self.dice.below(4));
            let mut to_dead = None;
            if let Some((session, request)) = request_of(unit.ticket) {
                self.in_the_log.insert(TransactionKey { session, request });
            }
            for record in unit.records {
                self.upto = self.upto.next();
                let lsn = self.upto;
                match record.clone() {
                    Draft::Put { targets, message } if targets == [DEAD] => {
                        to_dead = Some(number_of(&message));
                        assert!(self.ended.insert(number_of(&message)), "dead twice");
                        self.dead += 1;
                    }
                    Draft::Put { message, .. } => {
                        change.entries.push(Entry::new(lsn, message.clone()));
                        let (marked, failures) = (false, 0);
                        self.owed.insert(
                            lsn,
                            Owed {
                                message,
                                marked,
                                failures,
                            },
                        );
                    }
                    Draft::Ack { lsns, .. } => {
                        for lsn in lsns {
                            let gone = self.owed.remove(&lsn);
                            let gone = gone.unwrap_or_else(|| panic!("acked twice: {lsn}"));
                            self.ends(lsn, &gone.message, to_dead);
                            change.settled += 1;
                        }
                    }
                    Draft::Delivered { lane, ahead, .. } => {
                        let mark = Lsn(lsn.0 + u64::from(ahead));
                        self.marks.insert(lane, mark);
                        change.marks.push((lane, mark));
                    }
                    Draft::DeliveredEach { lsns, .. } => {
                        for lsn in lsns {
                            if let Some(owed) = self.owed.get_mut(&lsn) {
                                owed.marked = true;
                                change.marked.push(lsn);
                            }
                        }
                    }
                    Draft::Failed { counts, .. } => {
                        for (lsn, count) in counts {
                            if let Some(owed) = self.owed.get_mut(&lsn) {
                                assert!(count > owed.failures, "a count does not rise");
                                owed.failures = count;
                                change.failed.push((lsn, count));
                            }
                        }
                    }
                    Draft::Kv { .. } | Draft::Seen { .. } => {}
                    Draft::Part { .. } | Draft::UploadEnded(_) => panic!("{record:?}"),
                }
            }
        }
        if change != Change::default() {
            let owed = self.owed.values().map(|owed| owed.message.len() as u64);
            change.bytes = Some(owed.sum());
            self.told_later.push_back((change, self.upto));
        }
    }

    /// A message is acknowledged: it was accepted, has expired, or went to the dead ones.
    pub(super) fn ends(&mut self, lsn: Lsn, message: &[u8], to_dead: Option<u64>) {
        let number = number_of(message);
        if to_dead == Some(number) {
            return;
        }
        let expiry = Times::of(message).expiry_ms;
        // The clock may have been set back since.
        let is_over = expiry.is_some_and(|at| at <= self.now.wall_ms + 1000);
        let drops = self.policy.on_full == OnFull::DropOldest && self.account.bounds().is_some();
        let gives_up = self.policy.dead_letter.is_none() && self.policy.redelivery_limit.is_some();
        assert!(
            self.accepted.contains(&lsn) || is_over || gives_up || drops,
            "{lsn} is gone, and nobody took it"
        );
        self.expired += u64::from(!self.accepted.contains(&lsn));
        assert!(self.ended.insert(number), "{lsn} ends twice");
    }

    pub(super) fn tell(&mut self) {
        // A transaction's end was posted before its unit could be committed.
        let is_in_the_log = |world: &Self| {
            let mut finishing = world.finishing.iter();
            finishing.any(|(transaction, _)| world.in_the_log.contains(&transaction.key))
        };
        while is_in_the_log(self) {
            self.tell_submitted();
        }
        if let Some((change, upto)) = self.told_later.pop_front() {
            self.told = self.told.max(upto);
            self.step(DestinationInput::Committed { change, upto });
        }
    }

    /// The store answers from what is committed; the answer is told later.
    pub(super) fn find_answer(&mut self) {
        let Some((tag, seek, count, bytes)) = self.questions.pop_front() else {
            return;
        };
        let entry = |lsn: &Lsn, owed: &Owed| Entry {
            lsn: *lsn,
            message: owed.message.clone(),
            marked: owed.marked,
            failures: owed.failures,
        };
        let all = self.owed.iter();
        let mut found: Vec<(Entry, Times)> = all
            .map(|(lsn, owed)| (entry(lsn, owed), Times::of(&owed.message)))
            .collect();
        let mut next_ms = None;
        let mut scanned = self.upto;
        let in_order = matches!(
            seek,
            Seek::Lane { .. } | Seek::Matching { .. } | Seek::All { .. }
        );
        let after = match seek {
            Seek::Lane { lane, after } => {
                found.retain(|(entry, times)| times.lane == lane && entry.lsn > after);
                after
            }
            Seek::Matching {
                lane,
                after,
                filter,
            } => {
                found.retain(|(entry, times)| times.lane == lane && entry.lsn > after);
                // A bounded amount of log is read.
                let read = usize::try_from(1 + self.dice.below(20)).unwrap();
                if let Some((last, _)) = found.get(read) {
                    scanned = last.lsn.prev();
                    found.truncate(read);
                }
                found.retain(|(entry, _)| self.show(&filter, entry));
                after
            }
            Seek::Due { after, until_ms } => {
                found.retain(|(entry, times)| {
                    times.due_ms.is_some_and(|due| (due, entry.lsn) > after)
                });
                found.sort_by_key(|(entry, times)| (times.due_ms, entry.lsn));
                let later = found
                    .iter()
                    .filter_map(|(_, times)| times.due_ms.filter(|due| *due > until_ms));
                next_ms = later.min();
                found.retain(|(_, times)| times.due_ms.is_some_and(|due| due <= until_ms));
                Lsn::ZERO
            }
            Seek::Expired { now_ms, after } => {
                found.retain(|(entry, times)| times.expiry_ms.is_some() && entry.lsn > after);
                let expiry = |times: &Times| times.expiry_ms.unwrap();
                let later = found.iter().map(|(_, times)| expiry(times));
                next_ms = later.filter(|at| *at > now_ms).min();
                found.retain(|(_, times)| expiry(times) <= now_ms);
                after
            }
            Seek::All { after } => {
                found.retain(|(entry, _)| entry.lsn > after);
                after
            }
        };
        let all = found.len();
        let entries = as_much(found, count, bytes);
        if entries.len() < all {
            scanned = entries.last().map_or(after, |entry| entry.lsn);
            if !in_order {
                next_ms = Some(0);
            }
        }
        let dest = QUEUE;
        self.answers.push_back(Fetched {
            dest,
            tag,
            entries,
            scanned,
            next_ms,
        });
    }

    pub(super) fn tell_answer(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            self.step(DestinationInput::Fetched(answer));
        }
    }

    pub(super) fn tell_dead_letter(&mut self) {
        if std::mem::take(&mut self.asked_for_dead) {
            let queue = (!self.dice.one_in(3)).then(|| DeadLetterQueue {
                id: DEAD,
                definition: Bytes::from_static(b"qDMQ"),
            });
            self.step(DestinationInput::DeadLetterFound(queue));
        }
    }
}

/// Of what was found, as many and as many bytes as were asked for, and one that goes beyond them.
fn as_much(found: Vec<(Entry, Times)>, count: usize, bytes: usize) -> Vec<Entry> {
    let mut taken = 0;
    let mut entries: Vec<Entry> = Vec::new();
    for (entry, _) in found {
        if entries.len() == count || taken > bytes {
            break;
        }
        taken += entry.message.len();
        entries.push(entry);
    }
    entries
}
