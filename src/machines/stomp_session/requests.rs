//! Requests that wait for their answer, and the receipts that their answers release.

use std::collections::VecDeque;

use crate::machines::delivery::RequestNumber;

/// A client's `receipt` as it was spelled in its frame. Copied out of it, so that no read buffer is
/// held while a commit is waited for; short ones without an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt(Text);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Short(u8, [u8; 22]),
    Long(Box<[u8]>),
}

impl Receipt {
    pub(super) fn new(raw: &[u8]) -> Self {
        let mut text = [0; 22];
        if let (Some(place), Ok(length)) = (text.get_mut(..raw.len()), u8::try_from(raw.len())) {
            place.copy_from_slice(raw);
            Self(Text::Short(length, text))
        } else {
            Self(Text::Long(raw.into()))
        }
    }

    pub(super) fn raw(&self) -> &[u8] {
        match &self.0 {
            Text::Short(length, text) => &text[..usize::from(*length)],
            Text::Long(text) => text,
        }
    }
}

#[derive(Debug)]
enum Slot {
    Answered,
    Waiting(Option<Receipt>),
}

/// The window from the oldest unanswered request to the newest one.
#[derive(Debug)]
pub(super) struct Requests {
    /// The number of the first slot. Numbers go round and leave out zero.
    first: u32,
    slots: VecDeque<Slot>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
        }
    }

    /// Slots in the window: answered ones behind an unanswered one count too, which bounds the
    /// window whatever the order of the answers.
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    /// A number for a request.
    pub(super) fn open(&mut self, receipt: Option<Receipt>) -> RequestNumber {
        let mut number = self.number(self.slots.len());
        if number == 0 {
            // Zero means that no answer is wanted, so its slot is never waited for.
            self.slots.push_back(Slot::Answered);
            self.drop_answered();
            number = self.number(self.slots.len());
        }
        self.slots.push_back(Slot::Waiting(receipt));
        RequestNumber(number)
    }

    /// It is answered: `None` when it did not wait (any more).
    pub(super) fn answer(&mut self, request: RequestNumber) -> Option<Option<Receipt>> {
        let slot = self.slot(request)?;
        match std::mem::replace(slot, Slot::Answered) {
            Slot::Waiting(receipt) => {
                self.drop_answered();
                Some(receipt)
            }
            Slot::Answered => None,
        }
    }

    /// It waits, and nobody wants a receipt of it.
    pub(super) fn is_silent(&mut self, request: RequestNumber) -> bool {
        matches!(self.slot(request), Some(Slot::Waiting(None)))
    }

    fn number(&self, index: usize) -> u32 {
        self.first
            .wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn slot(&mut self, request: RequestNumber) -> Option<&mut Slot> {
        let index = request.0.wrapping_sub(self.first);
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn drop_answered(&mut self) {
        while let Some(Slot::Answered) = self.slots.front() {
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_may_come_in_any_order_and_only_once() {
        let mut requests = Requests::new();
        let numbers: Vec<_> = (0..4)
            .map(|index| requests.open(Some(Receipt::new(&[b'a' + index]))))
            .collect();
        assert_eq!(numbers[0], RequestNumber(1));
        assert_eq!(requests.answer(numbers[2]), Some(Some(Receipt::new(b"c"))));
        assert_eq!(requests.answer(numbers[2]), None);
        assert_eq!(requests.span(), 4);
        assert!(requests.answer(numbers[0]).is_some());
        assert!(requests.answer(numbers[1]).is_some());
        assert_eq!(requests.span(), 1);
        assert_eq!(requests.answer(RequestNumber(9)), None);
        assert_eq!(requests.answer(RequestNumber(0)), None);
        assert!(requests.answer(numbers[3]).is_some());
        assert_eq!(requests.span(), 0);
    }

    #[test]
    fn numbers_go_round_without_zero() {
        for behind in [true, false] {
            let mut requests = Requests::new();
            requests.first = u32::MAX;
            let last = requests.open(None);
            assert_eq!(last, RequestNumber(u32::MAX));
            if !behind {
                assert!(requests.answer(last).is_some());
            }
            let next = requests.open(Some(Receipt::new(b"r")));
            assert_eq!(next, RequestNumber(1));
            assert_eq!(requests.answer(next), Some(Some(Receipt::new(b"r"))));
            assert_eq!(requests.answer(last).is_some(), behind);
            assert_eq!(requests.span(), 0);
        }
    }

    #[test]
    fn receipts_of_any_length_are_kept() {
        for length in [0, 1, 22, 23, 300] {
            let text = vec![b'x'; length];
            assert_eq!(Receipt::new(&text).raw(), text);
        }
    }
}
