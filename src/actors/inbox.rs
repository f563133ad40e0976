//! A session's mailbox. Not an actor's: the session is a plain loop on the same thread, which takes
//! from here only what it has room for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use crate::actors::directory::ClientSigns;
use crate::actors::permits::Ledger;
use crate::machines::delivery::{Delivery, SessionEvent};
use crate::proto::message;
use crate::proto::peer::PeerClient;

/// What the server wants of a session besides its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    #[default]
    Run,
    /// Read nothing more, wait for every answer, say why, close.
    Drain(String),
    /// Say why and close.
    Close(String),
}

/// Bytes of memory that a connection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages that are not stored yet, and buffers.
    pub own: usize,
    /// Deliveries that wait; their destinations hold them too.
    pub deliveries: usize,
}

impl Held {
    /// Both.
    #[must_use]
    pub fn all(self) -> usize {
        self.own.saturating_add(self.deliveries)
    }
}

/// Shared by the session (which takes) and the directory (which puts).
#[derive(Debug)]
pub struct Inbox {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// Everything but deliveries: never stuck behind those that the client does not read.
    answers: VecDeque<SessionEvent>,
    deliveries: VecDeque<SessionEvent>,
    /// Parts of the message that is being delivered.
    parts: Option<Vec<Bytes>>,
    waker: Option<Waker>,
    order: Order,
    ledger: Ledger,
    /// Of the messages in `deliveries`.
    waiting_bytes: usize,
    /// Of the session's own buffers.
    buffer_bytes: usize,
    /// Closed for what it holds.
    shed: bool,
    /// The session takes no more; only its permits are still to come back.
    gone: bool,
    /// Who the client is, once it has said so.
    client: Option<PeerClient>,
    signs: ClientSigns,
}

impl Inbox {
    /// Empty, of a session with these permits.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self {
            state: RefCell::new(State {
                answers: VecDeque::new(),
                deliveries: VecDeque::new(),
                parts: None,
                waker: None,
                order: Order::Run,
                ledger,
                waiting_bytes: 0,
                buffer_bytes: 0,
                shed: false,
                gone: false,
                client: None,
                signs: ClientSigns::default(),
            }),
        }
    }

    /// Puts an event in. Answers free their permits at once.
    pub fn put(&self, event: SessionEvent) {
        let mut state = self.state.borrow_mut();
        match &event {
            SessionEvent::Committed { requests } => state.ledger.answered(requests),
            SessionEvent::Refused { request, .. } => state.ledger.answered(&[*request]),
            SessionEvent::Attached { .. }
            | SessionEvent::Delivered { .. }
            | SessionEvent::Closing { .. }
            | SessionEvent::Submitted { .. }
            | SessionEvent::NotAttached { .. }
            | SessionEvent::PartsStored { .. }
            | SessionEvent::PartsRead { .. }
            | SessionEvent::Browsed { .. } => {}
        }
        if !state.gone {
            match (state.answers.back_mut(), event) {
                (
                    Some(SessionEvent::Committed { requests }),
                    SessionEvent::Committed { requests: more },
                ) => requests.extend(more),
                (_, SessionEvent::PartsRead { parts }) => {
                    state.waiting_bytes = state.waiting_bytes.saturating_add(sum(&parts));
                    state.parts = Some(parts);
                }
                (_, event @ (SessionEvent::Delivered { .. } | SessionEvent::Browsed { .. })) => {
                    state.waiting_bytes = state.waiting_bytes.saturating_add(bytes_of(&event));
                    state.deliveries.push_back(event);
                }
                (_, event) => state.answers.push_back(event),
            }
        }
        wake(state);
    }

    /// Takes the next answer.
    pub fn take_answer(&self) -> Option<SessionEvent> {
        self.state.borrow_mut().answers.pop_front()
    }

    /// Takes the parts that were asked for, if they have come.
    pub fn take_parts(&self) -> Option<Vec<Bytes>> {
        let state = &mut *self.state.borrow_mut();
        let parts = state.parts.take()?;
        state.waiting_bytes = state.waiting_bytes.saturating_sub(sum(&parts));
        Some(parts)
    }

    /// Parts of a message have come.
    #[must_use]
    pub fn has_parts(&self) -> bool {
        self.state.borrow().parts.is_some()
    }

    /// Takes the next delivery, about as many of its messages as `bytes` allow; one whose body is in
    /// parts is the last of them.
    pub fn take_delivery(&self, bytes: usize) -> Option<SessionEvent> {
        let state = &mut *self.state.borrow_mut();
        let waiting = &mut state.deliveries;
        let mut event = waiting.pop_front()?;
        if let SessionEvent::Delivered {
            consumer,
            deliveries,
        } = &mut event
        {
            let mut sum = 0usize;
            let fits = deliveries.iter().take_while(|delivery| {
                let before = sum;
                sum = sum.saturating_add(delivery.message.len());
                before < bytes
            });
            let count = fits.count().max(1);
            let large = |delivery: &Delivery| message::is_in_parts(&delivery.message);
            let large = deliveries.iter().take(count).position(large);
            let count = large.map_or(count, |at| at.saturating_add(1));
            if count < deliveries.len() {
                let rest = deliveries.split_off(count);
                waiting.push_front(SessionEvent::Delivered {
                    consumer: *consumer,
                    deliveries: rest,
                });
            }
        }
        state.waiting_bytes = state.waiting_bytes.saturating_sub(bytes_of(&event));
        Some(event)
    }

    /// The session's buffers have so many bytes now.
    pub fn buffers(&self, bytes: usize) {
        self.state.borrow_mut().buffer_bytes = bytes;
    }

    /// The client has said who it is.
    pub fn introduce(&self, client: PeerClient) {
        self.state.borrow_mut().client = Some(client);
    }

    /// How the client behaves.
    pub fn shows(&self, signs: ClientSigns) {
        self.state.borrow_mut().signs = signs;
    }

    /// Who the client is and how it behaves, while it is there.
    #[must_use]
    pub fn client(&self) -> Option<(PeerClient, ClientSigns)> {
        let state = self.state.borrow();
        let client = state.client.clone().filter(|_| !state.gone)?;
        Some((client, state.signs))
    }

    /// Bytes of memory that this connection holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let state = self.state.borrow();
        Held {
            own: state.ledger.bytes().saturating_add(state.buffer_bytes),
            deliveries: state.waiting_bytes,
        }
    }

    /// Orders the session to close for what it holds, and drops the deliveries that wait.
    pub fn shed(&self, reason: String) {
        {
            let state = &mut *self.state.borrow_mut();
            state.shed = true;
            state.deliveries.clear();
            state.parts = None;
            state.waiting_bytes = 0;
        }
        self.order(Order::Close(reason));
    }

    /// It was ordered to close for what it holds, or has ended.
    #[must_use]
    pub fn is_shed(&self) -> bool {
        let state = self.state.borrow();
        state.shed || state.gone
    }

    /// An answer waits.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        !self.state.borrow().answers.is_empty()
    }

    /// A delivery waits.
    #[must_use]
    pub fn has_delivery(&self) -> bool {
        !self.state.borrow().deliveries.is_empty()
    }

    /// Wakes the task at the next event, answer or order.
    pub fn wait(&self, waker: &Waker) {
        let slot = &mut self.state.borrow_mut().waker;
        if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Gives an order; a later `Drain` does not take back a `Close`.
    pub fn order(&self, order: Order) {
        let mut state = self.state.borrow_mut();
        if !matches!(state.order, Order::Close(_)) {
            state.order = order;
        }
        wake(state);
    }

    /// The order that stands.
    #[must_use]
    pub fn ordered(&self) -> Order {
        self.state.borrow().order.clone()
    }

    /// Works with the permits.
    pub fn ledger<R>(&self, work: impl FnOnce(&mut Ledger) -> R) -> R {
        work(&mut self.state.borrow_mut().ledger)
    }

    /// The session has ended. True when nothing more is to come back.
    #[must_use]
    pub fn leave(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.gone = true;
        state.answers.clear();
        state.deliveries.clear();
        state.parts = None;
        state.waiting_bytes = 0;
        state.buffer_bytes = 0;
        state.waker = None;
        state.ledger.is_clear()
    }

    /// The session has ended and its last permit came back.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let state = self.state.borrow();
        state.gone && state.ledger.is_clear()
    }
}

/// Wakes the session after the state is let go.
fn wake(mut state: std::cell::RefMut<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn sum(parts: &[Bytes]) -> usize {
    let sizes = parts.iter().map(Bytes::len);
    sizes.fold(0, usize::saturating_add)
}

/// Of the messages of a delivery.
fn bytes_of(event: &SessionEvent) -> usize {
    let SessionEvent::Delivered { deliveries, .. } = event else {
        return 0;
    };
    let sizes = deliveries.iter().map(|delivery| delivery.message.len());
    sizes.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::permits::{PermitLimit, PermitPool};
    use crate::machines::delivery::RequestNumber;
    use crate::proto::ids::Lsn;

    fn inbox() -> Inbox {
        let limit = PermitLimit {
            messages: 10,
            bytes: 1000,
        };
        Inbox::new(Ledger::new(limit, PermitPool::new(limit)))
    }

    fn committed(numbers: &[u32]) -> SessionEvent {
        SessionEvent::Committed {
            requests: numbers.iter().copied().map(RequestNumber).collect(),
        }
    }

    #[test]
    fn a_large_delivery_is_taken_in_pieces_and_answers_are_joined() {
        let inbox = inbox();
        let deliveries = (1..=5)
            .map(|lsn| Delivery {
                lsn: Lsn(lsn),
                redelivered: false,
                failures: 0,
                message: Bytes::from(vec![0; 100]),
            })
            .collect();
        let consumer = 3;
        inbox.put(SessionEvent::Delivered {
            consumer,
            deliveries,
        });
        inbox.put(committed(&[1]));
        inbox.put(committed(&[2, 3]));
        let mut sizes = Vec::new();
        while let Some(event) = inbox.take_delivery(150) {
            let SessionEvent::Delivered { deliveries, .. } = event else {
                panic!("unexpected {event:?}");
            };
            sizes.push(deliveries.len());
        }
        let Some(SessionEvent::Committed { requests }) = inbox.take_answer() else {
            panic!("the answers are not stuck behind the delivery");
        };
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(requests.len(), 3);
    }

    #[test]
    fn permits_of_a_session_that_left_come_back_with_the_answers() {
        let inbox = inbox();
        inbox.ledger(|ledger| ledger.publish(RequestNumber(1), 5));
        assert!(!inbox.leave());
        assert!(!inbox.is_done());
        inbox.put(committed(&[1]));
        assert!(inbox.is_done() && !inbox.has_answer());
    }

    #[test]
    fn a_close_is_final() {
        let inbox = inbox();
        inbox.order(Order::Close("now".to_owned()));
        inbox.order(Order::Drain("slowly".to_owned()));
        assert_eq!(inbox.ordered(), Order::Close("now".to_owned()));
    }
}
