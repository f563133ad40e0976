//! A destination that is not needed goes to sleep, and another one goes on with what it left.

use super::*;

impl World {
    /// Lets it come to rest, now and then without its consumers, and puts it to sleep if it may.
    pub(super) fn fall_asleep(&mut self) {
        if !self.dice.one_in(4) {
            while !self.finishing.is_empty() {
                self.tell_submitted();
            }
            while !self.prepared.is_empty() {
                self.undo_transaction();
            }
            let all: Vec<ConsumerKey> = self.consumers.keys().copied().collect();
            for consumer in all {
                self.consumers.remove(&consumer);
                self.selectors.remove(&consumer);
                self.exclusive.retain(|other| *other != consumer);
                self.owners.retain(|_, owner| *owner != consumer);
                self.command(DestinationCommand::Detach { consumer });
            }
        }
        for _ in 0..30 + self.dice.below(80) {
            self.commit();
            self.tell();
            self.find_answer();
            self.tell_answer();
            self.tell_dead_letter();
            self.pass(1);
        }
        let told = self.queue.is_empty() && self.told_later.is_empty();
        if told && self.finishing.is_empty() {
            self.step(DestinationInput::Unneeded);
        }
        if let Some(mut activation) = self.left.take() {
            self.compare(&activation);
            self.sleep(&mut activation);
            activation.policy = Some(Arc::clone(&self.policy));
            activation.account = Some(Rc::clone(&self.account));
            let figures = activation.figures();
            let pool = Rc::clone(&self.pool);
            self.machine = DestinationMachine::new(small(), QUEUE, *activation, pool);
            assert_eq!(self.machine.figures(), figures, "a figure is forgotten");
            assert_eq!(self.pool.used(), 0, "memory stays behind a sleep");
            assert!(self.questions.is_empty() && self.answers.is_empty());
            self.own_acks = 0;
            self.slept += 1;
            if self.machine.has_times() {
                self.step(DestinationInput::Deadline);
            }
        }
    }

    /// What is left is what the store would give to another server.
    fn compare(&self, left: &Activation) {
        let facts = self.of_the_store();
        assert_eq!(left.depth(), facts.depth());
        assert_eq!(left.bytes, facts.bytes);
        let marks = |activation: &Activation| {
            let lanes = activation.lanes.iter();
            let lanes = lanes.filter(|facts| facts.lane != Lane::DELAYED && facts.mark > Lsn::ZERO);
            let all: BTreeMap<Lane, Lsn> = lanes.map(|facts| (facts.lane, facts.mark)).collect();
            all
        };
        assert_eq!(marks(left), marks(&facts));
        for lane in facts.lanes.iter().filter(|lane| lane.depth > 0) {
            let known = left.lanes.iter().find(|known| known.lane == lane.lane);
            let tail = known.map(|known| known.tail);
            assert!(lane.lane == Lane::DELAYED || tail >= Some(lane.tail));
        }
        // A time may be too early, never too late.
        let is_early = |left: Option<u64>, owed: Option<u64>| {
            owed.is_none_or(|owed| left.is_some_and(|left| left <= owed))
        };
        assert!(is_early(left.next_due_ms, facts.next_due_ms));
        // What expired while somebody had it is judged when it is handed out again, wherever it was. The
        // clock may have been set back since.
        let expiries = self.owed.values();
        let expiries = expiries.filter_map(|owed| Times::of(&owed.message).expiry_ms);
        let ahead = expiries.filter(|at| *at > self.now.wall_ms + 1000).min();
        assert!(is_early(left.next_expiry_ms, ahead));
    }

    /// What is sent to it meanwhile by others: to a topic, or dead messages.
    fn sleep(&mut self, activation: &mut Activation) {
        if self.is_volatile || self.is_refusing() {
            // Whoever sends to such a one wakes it.
            return;
        }
        for _ in 0..self.dice.below(3) {
            let messages = self.messages();
            let is_stored = |message: &Bytes| crate::proto::message::is_persistent(message);
            let messages = messages.into_iter().map(|(_, message)| message);
            for message in messages.filter(is_stored) {
                let records = vec![Draft::Put {
                    targets: vec![QUEUE],
                    message,
                }];
                let ticket = Ticket::default();
                let unit = Unit { ticket, records };
                self.submitted(std::slice::from_ref(&unit));
                self.queue.push_back(unit);
            }
            self.commit();
            while let Some((change, upto)) = self.told_later.pop_front() {
                self.told = self.told.max(upto);
                let arrived = activation.absorb(&change);
                self.account.arrived(arrived);
                let figures = activation.figures();
                self.account.hold(Load {
                    messages: figures.depth,
                    bytes: figures.bytes,
                });
            }
        }
    }
}
