//! The store: what reaches it is compared with what was meant.

use super::*;

impl World {
    pub(super) fn refuse_sends(&mut self, refuses: bool) {
        // Plain SENDs that are under way must not be refused: see `send`.
        if refuses && !self.mailboxes.iter().all(VecDeque::is_empty) {
            return;
        }
        self.refuses = refuses;
        for mailbox in &mut self.mailboxes {
            mailbox.push_back(DestinationInput::SendsRefused(refuses));
        }
    }

    // The store.

    pub(super) fn answer_fetch(&mut self) {
        let queue = self.dice.below(QUEUES);
        let Some((tag, after, count)) = self.fetches[queue].take() else {
            return;
        };
        let owed = self.owed[queue].range(after.next()..).take(count);
        let entries: Vec<Entry> = owed
            .map(|(lsn, message)| Entry::new(*lsn, message.clone()))
            .collect();
        let scanned = if entries.len() == count {
            entries.last().map_or(after, |entry| entry.lsn)
        } else {
            self.end
        };
        let fetched = Fetched {
            dest: destination(queue),
            tag,
            entries,
            scanned,
            next_ms: None,
        };
        self.mailboxes[queue].push_back(DestinationInput::Fetched(fetched));
    }

    pub(super) fn store_commits(&mut self) {
        let mut changes = vec![Change::default(); QUEUES];
        let mut answers = Vec::new();
        for _ in 0..self.dice.below(4) {
            let Some(unit) = self.units.pop_front() else {
                break;
            };
            let mut done = Meant::default();
            for record in unit.records {
                self.end = self.end.next();
                let lsn = self.end;
                match record.clone() {
                    Draft::Put { targets, message } => {
                        let queue = queue_of(targets[0]);
                        assert!(self.defined[queue], "a PUT before its definition");
                        done.sends.push((queue, body_of(&message)));
                        self.owed[queue].insert(lsn, message.clone());
                        changes[queue].entries.push(Entry::new(lsn, message));
                    }
                    Draft::Ack { dest, lsns } => {
                        for lsn in lsns {
                            let message = self.owed[queue_of(dest)].remove(&lsn);
                            let message = message.expect("what is acknowledged is owed");
                            done.acks.insert(body_of(&message));
                            changes[queue_of(dest)].settled += 1;
                        }
                    }
                    Draft::Delivered { dest, lane, ahead } => {
                        let mark = Lsn(lsn.0 + u64::from(ahead));
                        changes[queue_of(dest)].marks.push((lane, mark));
                    }
                    Draft::Kv { key, .. } => self.defined[usize::from(key[3]) - 1] = true,
                    // Nothing that this model knows changes by them.
                    Draft::DeliveredEach { .. } | Draft::Failed { .. } | Draft::Seen { .. } => {}
                    Draft::Part { .. } | Draft::UploadEnded(_) => panic!("{record:?}"),
                }
            }
            if let Some((session, request)) = request_of(unit.ticket) {
                self.check_unit(TransactionKey { session, request }, done);
                answers.push((session, request));
            }
        }
        for (queue, change) in changes.into_iter().enumerate() {
            if change != Change::default() {
                let upto = self.end;
                self.mailboxes[queue].push_back(DestinationInput::Committed { change, upto });
            }
        }
        for (session, request) in answers {
            let requests = vec![request];
            self.tell(session, SessionEvent::Committed { requests });
        }
    }

    /// The unit of a transaction does all that was meant, and nothing else.
    fn check_unit(&mut self, transaction: TransactionKey, done: Meant) {
        let Some(meant) = self.commits.get(&transaction) else {
            return;
        };
        assert!(self.stored.insert(transaction), "stored twice");
        assert!(!self.refused.contains(&transaction), "refused and stored");
        assert_eq!((&done.sends, &done.acks), (&meant.sends, &meant.acks));
        for (queue, body) in done.sends {
            assert!(self.expected[queue].insert(body));
        }
        for body in done.acks {
            let queues = self.expected.iter_mut();
            let removed = queues.filter_map(|queue| queue.take(&body)).count();
            assert_eq!(removed, 1, "{body}");
        }
        self.counts.committed += 1;
    }
}
