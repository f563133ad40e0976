//! What is known here and not yet, or not any more, in the store's index: acknowledgements on their
//! way, and messages that were taken out of their lane's order. An answer of the store may be older
//! than both; by them it is told what of it is to be passed over.

use std::collections::{HashMap, HashSet, VecDeque};

use super::account::Load;
use crate::machines::delivery::ConsumerKey;
use crate::proto::ids::Lsn;
use crate::storage::api::Lane;

/// What the store was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// More of a lane.
    Lane(Lane),
    /// What of the delayed lane is due.
    Due,
    /// What is expired.
    Expired,
    /// What of a lane a consumer's selector takes.
    Matching(ConsumerKey),
    /// What has been owed for longest.
    Oldest,
    /// An operator's, which is asked and answered elsewhere.
    Operator,
}

/// Acknowledgements that were submitted together.
#[derive(Debug)]
struct Submitted {
    lsns: Vec<Lsn>,
    /// Its place in the log's order: so many of the destination's own came before it; `true`: it is
    /// the destination's own, `false`: a transaction's.
    place: (u64, bool),
    /// How many of them the index still owes.
    left: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// In this machine's hands, or beyond what it has read of a lane, and not to be taken from an
    /// answer: with a consumer out of order, aside, or acknowledged not long ago.
    taken: HashSet<Lsn>,
    /// In the order of submission, which is that of their effect.
    submitted: VecDeque<Submitted>,
    /// Were taken, and are neither in the store nor here any more.
    freed: Vec<Lsn>,
    /// Bytes of those that went because there were too many, until their acknowledgement is settled.
    leaving: HashMap<Lsn, u64>,
    leaving_load: Load,
    /// Own ack records that were submitted, ever.
    own: u64,
    /// Settled; answers that were asked for before the number may still bring them.
    settled: VecDeque<(u64, Vec<Lsn>)>,
    /// Questions without an answer, by number.
    open: VecDeque<(u64, Question)>,
    next: u64,
}

impl Claims {
    /// This one is not to be taken from an answer from now on.
    pub(super) fn take(&mut self, lsn: Lsn) {
        self.taken.insert(lsn);
    }

    pub(super) fn is_taken(&self, lsn: Lsn) -> bool {
        !self.taken.is_empty() && self.taken.contains(&lsn)
    }

    /// An ack record with these was submitted.
    pub(super) fn submitted(&mut self, lsns: Vec<Lsn>) {
        let left = lsns.len();
        let place = (self.own, true);
        self.own = self.own.saturating_add(1);
        self.submitted.push_back(Submitted { lsns, place, left });
    }

    /// A transaction with these was submitted when so many ack records of the destination's own had
    /// been. Transactions are to be told in the order of their submission.
    pub(super) fn submitted_between(&mut self, own_before: u64, lsns: Vec<Lsn>) {
        let left = lsns.len();
        let place = (own_before, false);
        let at = self.submitted.partition_point(|group| group.place <= place);
        self.submitted.insert(at, Submitted { lsns, place, left });
    }

    /// The index has settled so many more.
    pub(super) fn settled(&mut self, count: u32) {
        let mut count = usize::try_from(count).unwrap_or(usize::MAX);
        while let Some(first) = self.submitted.front_mut() {
            let part = first.left.min(count);
            first.left -= part;
            count -= part;
            if first.left > 0 {
                break;
            }
            if let Some(Submitted { lsns, .. }) = self.submitted.pop_front() {
                self.has_left(&lsns);
                self.settled.push_back((self.next, lsns));
            }
        }
        self.forget();
    }

    /// This one goes because there are too many: it counts no more.
    pub(super) fn leave(&mut self, lsn: Lsn, bytes: u64) {
        if self.leaving.insert(lsn, bytes).is_none() {
            let load = Load { messages: 1, bytes };
            self.leaving_load = self.leaving_load.plus(load);
        }
    }

    /// What counts no more and is owed all the same.
    pub(super) fn leaving(&self) -> Load {
        self.leaving_load
    }

    fn has_left(&mut self, lsns: &[Lsn]) {
        if self.leaving.is_empty() {
            return;
        }
        for lsn in lsns {
            if let Some(bytes) = self.leaving.remove(lsn) {
                let load = Load { messages: 1, bytes };
                self.leaving_load = self.leaving_load.minus(load);
            }
        }
    }

    /// Whether an ack of this one is on its way, or may be unknown to an answer.
    pub(super) fn acknowledged(&self) -> HashSet<Lsn> {
        let submitted = self.submitted.iter().flat_map(|group| &group.lsns);
        let settled = self.settled.iter().flat_map(|(_, lsns)| lsns);
        submitted.chain(settled).copied().collect()
    }

    /// The tag of a new question.
    pub(super) fn ask(&mut self, question: Question) -> u32 {
        self.open.push_back((self.next, question));
        let tag = tag(self.next);
        self.next = self.next.saturating_add(1);
        tag
    }

    /// The question that is answered; what it may not have known is still passed over until
    /// [`Claims::forget`].
    pub(super) fn answered(&mut self, tag_of_it: u32) -> Option<Question> {
        let is = |(number, _): &(u64, Question)| tag(*number) == tag_of_it;
        let at = self.open.iter().position(is)?;
        self.open.remove(at).map(|(_, question)| question)
    }

    /// Nothing is on its way to the store or from there.
    pub(super) fn is_at_rest(&self) -> bool {
        self.submitted.is_empty() && self.open.is_empty()
    }

    pub(super) fn is_open(&self, question: Question) -> bool {
        self.open.iter().any(|(_, open)| *open == question)
    }

    /// Questions whose answers will come here.
    pub(super) fn open(&self) -> usize {
        let own = |(_, question): &&(u64, Question)| *question != Question::Operator;
        self.open.iter().filter(own).count()
    }

    /// An operator asks the store, or (`false`) has no use for answers any more.
    pub(super) fn operator_asks(&mut self, asks: bool) {
        self.open
            .retain(|(_, question)| *question != Question::Operator);
        if asks {
            self.ask(Question::Operator);
        }
        self.forget();
    }

    /// Forgets what no answer can bring any more.
    pub(super) fn forget(&mut self) {
        let oldest = self.open.front().map_or(u64::MAX, |(number, _)| *number);
        while let Some((before, _)) = self.settled.front()
            && *before <= oldest
            && let Some((_, lsns)) = self.settled.pop_front()
        {
            if !self.taken.is_empty() {
                let freed = lsns.into_iter().filter(|lsn| self.taken.remove(lsn));
                self.freed.extend(freed);
            }
        }
    }

    /// Those of them that were taken and forgotten since this was asked.
    pub(super) fn take_freed(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.freed)
    }

    /// A volatile message is gone: no answer ever brings it.
    pub(super) fn drop_volatile(&mut self, lsn: Lsn) {
        self.taken.remove(&lsn);
    }

    /// One that is owed is the store's alone again, as if it had never been taken.
    pub(super) fn release(&mut self, lsn: Lsn) {
        self.taken.remove(&lsn);
    }
}

/// Bits of a tag that are a destination's: the upper two say that others ask.
const TAG_BITS: u32 = 30;

/// A number that fits a question's tag; unambiguous among the few that are open.
fn tag(number: u64) -> u32 {
    u32::try_from(number % (1 << TAG_BITS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_its_place_among_acks_that_were_submitted_before_it_was_told() {
        let mut claims = Claims::default();
        for lsn in 1..=6 {
            claims.take(Lsn(lsn));
        }
        claims.submitted(vec![Lsn(1)]);
        claims.submitted(vec![Lsn(4)]);
        // In the log: 1, a transaction with 2, one with 3, then 4.
        claims.submitted_between(1, vec![Lsn(2)]);
        claims.submitted_between(1, vec![Lsn(3)]);
        claims.submitted_between(2, vec![Lsn(5)]);
        claims.submitted(vec![Lsn(6)]);
        for settled in 1..=6 {
            claims.settled(1);
            let taken: Vec<u64> = (1..=6).filter(|lsn| claims.is_taken(Lsn(*lsn))).collect();
            assert_eq!(taken, (settled + 1..=6).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn tags_leave_the_upper_two_bits_to_others() {
        for number in [0, (1 << 30) - 1, 1 << 30, (1 << 31) + 7, u64::MAX] {
            assert_eq!(tag(number) >> TAG_BITS, 0, "{number}");
        }
    }

    #[test]
    fn what_was_settled_is_passed_over_until_older_questions_are_answered() {
        let mut claims = Claims::default();
        claims.take(Lsn(5));
        let old = claims.ask(Question::Expired);
        claims.submitted(vec![Lsn(4), Lsn(5)]);
        claims.submitted(vec![Lsn(6)]);
        claims.settled(1);
        assert!(claims.is_taken(Lsn(5)));
        claims.settled(2);
        assert!(claims.is_taken(Lsn(5)), "the question is older than that");
        assert_eq!(claims.acknowledged().len(), 3);
        let young = claims.ask(Question::Due);
        assert_eq!(claims.answered(old), Some(Question::Expired));
        assert!(claims.is_taken(Lsn(5)), "while its answer is read");
        claims.forget();
        assert!(!claims.is_taken(Lsn(5)) && claims.acknowledged().is_empty());
        assert_eq!(claims.answered(old), None);
        assert!(claims.is_open(Question::Due));
        assert_eq!(claims.answered(young), Some(Question::Due));
    }
}
