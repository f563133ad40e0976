//! What the clients do, by chance.

use super::*;

impl World {
    pub(super) fn act(&mut self) {
        let who = self.dice.below(2);
        let speaks = !self.clients[who].machine.is_full();
        match self.dice.below(40) {
            0..=5 if speaks => self.send(who),
            6..=12 if speaks => self.acknowledge(who),
            13..=14 if speaks => self.subscribe(who),
            15 if speaks => self.unsubscribe(who),
            16..=17 if speaks => self.begin(who),
            18..=19 if speaks => self.commit(who),
            20 if speaks => self.abort(who),
            21 if self.dice.below(12) == 0 => self.die(who),
            22 if self.dice.below(8) == 0 => self.refuse_sends(!self.refuses),
            23..=25 => self.store_commits(),
            26..=27 => self.answer_fetch(),
            28..=32 => self.read_mail(who),
            _ => {
                let queue = self.dice.below(QUEUES);
                self.run_queue(queue);
            }
        }
    }

    // What clients do.

    fn any_open(&mut self, who: usize) -> Option<usize> {
        let open = &self.clients[who].open;
        let at = self.dice.below(open.len() + 1);
        open.keys().nth(at).copied()
    }

    fn send(&mut self, who: usize) {
        self.next += 1;
        let (queue, body) = (self.dice.below(QUEUES), format!("m{}", self.next));
        let mut frame = format!("SEND\ndestination:/queue/{queue}\n");
        if let Some(id) = self.any_open(who) {
            frame += &format!("transaction:{id}\n");
            let (meant, _) = self.clients[who].open.get_mut(&id).unwrap();
            meant.sends.push((queue, body.clone()));
        } else if self.refuses {
            // A plain SEND that is refused ends the connection: that is another test's.
            return;
        } else {
            self.expected[queue].insert(body.clone());
        }
        self.say(who, &format!("{frame}\n{body}\0"));
    }

    fn acknowledge(&mut self, who: usize) {
        let queue = self.dice.below(QUEUES);
        let count = self.clients[who].held[queue].len();
        if count == 0 {
            return;
        }
        let at = self.dice.below(count);
        let transaction = self.any_open(who);
        let is_nack = self.dice.below(4) == 0;
        let client = &mut self.clients[who];
        let first = if client.cumulative { 0 } else { at };
        let taken: Vec<Held> = client.held[queue].drain(first..=at).collect();
        let command = if is_nack { "NACK" } else { "ACK" };
        let mut frame = format!("{command}\nid:{}\n", taken[taken.len() - 1].ack);
        if let Some(id) = transaction {
            frame += &format!("transaction:{id}\n");
            let (meant, kept) = client.open.get_mut(&id).unwrap();
            for held in taken {
                assert!(is_nack || meant.acks.insert(held.body.clone()));
                kept.push((queue, held));
            }
        } else if !is_nack {
            for held in taken {
                assert!(self.expected[queue].remove(&held.body), "{held:?}");
            }
        }
        self.say(who, &format!("{frame}\n\0"));
    }

    fn subscribe(&mut self, who: usize) {
        let queue = self.dice.below(QUEUES);
        let client = &mut self.clients[who];
        if std::mem::replace(&mut client.subscribed[queue], true) {
            return;
        }
        let ack = if client.cumulative {
            "client"
        } else {
            "client-individual"
        };
        let frame = format!("SUBSCRIBE\nid:{queue}\ndestination:/queue/{queue}\nack:{ack}\n\n\0");
        self.say(who, &frame);
    }

    fn unsubscribe(&mut self, who: usize) {
        let queue = self.dice.below(QUEUES);
        let client = &mut self.clients[who];
        if !std::mem::replace(&mut client.subscribed[queue], false) {
            return;
        }
        client.held[queue].clear();
        // An ABORT cannot give these back any more; a COMMIT can still take them.
        for (_, kept) in client.open.values_mut() {
            kept.retain(|(of, _)| *of != queue);
        }
        self.say(who, &format!("UNSUBSCRIBE\nid:{queue}\n\n\0"));
    }

    fn begin(&mut self, who: usize) {
        let id = self.dice.below(2);
        let open = &mut self.clients[who].open;
        if open.contains_key(&id) {
            return;
        }
        open.insert(id, (Meant::default(), Vec::new()));
        self.say(who, &format!("BEGIN\ntransaction:{id}\n\n\0"));
    }

    fn commit(&mut self, who: usize) {
        let Some(id) = self.any_open(who) else {
            return;
        };
        self.next += 1;
        let receipt = self.next.to_string();
        let frame = format!("COMMIT\ntransaction:{id}\nreceipt:{receipt}\n\n\0");
        self.clients[who].receipts.insert(receipt);
        self.committing = Some(id);
        self.say(who, &frame);
        assert_eq!(self.committing, None, "the COMMIT led to nothing");
    }

    fn abort(&mut self, who: usize) {
        let Some(id) = self.any_open(who) else {
            return;
        };
        let client = &mut self.clients[who];
        let (_, kept) = client.open.remove(&id).unwrap();
        for (queue, held) in kept {
            client.held[queue].push(held);
            client.held[queue].sort_by_key(|held| held.order);
        }
        self.counts.aborted += 1;
        self.say(who, &format!("ABORT\ntransaction:{id}\n\n\0"));
    }

    pub(super) fn die(&mut self, who: usize) {
        let mut effects = Vec::new();
        self.clients[who].machine.abandon(&mut effects);
        self.run_session(who, effects);
        self.counts.died += 1;
        self.replace(who);
    }

    pub(super) fn replace(&mut self, who: usize) {
        let key = SessionKey(self.next_session);
        self.next_session += 1;
        self.clients[who] = Client::new(key, who == 0);
    }

    // Sessions.

    pub(super) fn say(&mut self, who: usize, frame: &str) {
        let mut decoder = Decoder::new(Limits::default());
        let mut bytes = BytesMut::from(frame.as_bytes());
        let frame = decoder.decode(&mut bytes).unwrap().expect("a whole frame");
        self.step(who, SessionInput::Frame(frame));
    }
}
