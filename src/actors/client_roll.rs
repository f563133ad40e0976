//! The roll of clients (`machines::roll`), shared by those who know a part of it: the data thread knows
//! who comes and goes, the channel to the peer carries it, the admin API shows it. No actor: each only
//! looks in for a moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::actors::connection_manager::PeerTransport;
use crate::actors::replicator::PeerSender;
use crate::machines::link::ConnId;
use crate::machines::roll::RollMachine;
use crate::proto::ids::SessionId;
use crate::proto::peer::{Body, ClientNews, FEATURE_CLIENTS, Frame};

/// Frames of news behind one ping at most: the rest follows the next ones.
const NEWS_PER_PING: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct ClientRoll {
    machine: Mutex<RollMachine>,
    /// The channel whose peer understands what is told of clients.
    listener: Mutex<Option<SessionId>>,
}

impl ClientRoll {
    /// Before the first term.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The machine, for a moment.
    pub fn machine(&self) -> MutexGuard<'_, RollMachine> {
        open(&self.machine)
    }

    /// The channel to the peer is up; `features` are the peer's.
    pub fn linked(&self, session: SessionId, features: u64) {
        let understands = features & FEATURE_CLIENTS != 0;
        *open(&self.listener) = understands.then_some(session);
    }

    fn news(&self, session: SessionId) -> Option<ClientNews> {
        let listens = *open(&self.listener) == Some(session);
        listens.then(|| self.machine().news(session)).flatten()
    }
}

/// A roll is only ever changed entry by entry, and nothing rests on it: one that a panic left half
/// written still tells more than none.
fn open<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A transport on which what is new about clients follows each ping of the channel.
pub struct RollTransport {
    inner: Box<dyn PeerTransport>,
    roll: Arc<ClientRoll>,
}

impl RollTransport {
    /// Tells what `roll` knows.
    #[must_use]
    pub fn new(inner: Box<dyn PeerTransport>, roll: Arc<ClientRoll>) -> Self {
        Self { inner, roll }
    }
}

impl PeerTransport for RollTransport {
    fn dial(&mut self, attempt: u64, timeout: Duration) {
        self.inner.dial(attempt, timeout);
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        let pinged = match &frame {
            Frame::Session(session, Body::Ping { .. }) => Some(*session),
            _ => None,
        };
        self.inner.send(conn, frame);
        let Some(session) = pinged else {
            return;
        };
        for _ in 0..NEWS_PER_PING {
            let Some(news) = self.roll.news(session) else {
                break;
            };
            let body = Body::Clients(news);
            self.inner.send(conn, Frame::Session(session, body));
        }
    }

    fn sender(&mut self, conn: ConnId) -> PeerSender {
        self.inner.sender(conn)
    }

    fn close(&mut self, conn: ConnId) {
        self.inner.close(conn);
    }

    fn nonce(&mut self) -> [u8; 16] {
        self.inner.nonce()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::proto::peer::PeerClient;

    /// Keeps what was sent.
    #[derive(Clone, Default)]
    struct Sent(Rc<RefCell<Vec<Frame>>>);

    impl PeerTransport for Sent {
        fn dial(&mut self, _: u64, _: Duration) {}

        fn send(&mut self, _: ConnId, frame: Frame) {
            self.0.borrow_mut().push(frame);
        }

        fn sender(&mut self, _: ConnId) -> PeerSender {
            Arc::new(|_| {})
        }

        fn close(&mut self, _: ConnId) {}

        fn nonce(&mut self) -> [u8; 16] {
            [0; 16]
        }
    }

    fn client(number: u32) -> PeerClient {
        PeerClient {
            number,
            client_id: None,
            login: None,
            address: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn news_follow_a_ping_to_a_peer_that_understands_them() {
        let roll = ClientRoll::new();
        roll.machine().begin(1);
        roll.machine().joined(client(1));
        let sent = Sent::default();
        let mut transport = RollTransport::new(Box::new(sent.clone()), Arc::clone(&roll));
        let session = SessionId(7);
        let mut ping = |number| {
            let facts =
                crate::machines::link::tests::facts(crate::proto::peer::ServerState::Active);
            let frame = Frame::Session(session, Body::Ping { number, facts });
            transport.send(ConnId(1), frame);
            let sent = sent.0.take();
            let news = sent.into_iter().skip(1).map(|frame| match frame {
                Frame::Session(SessionId(7), Body::Clients(news)) => news.came.len(),
                other => panic!("{other:?}"),
            });
            news.collect::<Vec<_>>()
        };
        roll.linked(session, 0);
        assert_eq!(ping(1), [0; 0], "an older release would hang up");
        roll.linked(session, FEATURE_CLIENTS);
        assert_eq!(ping(2), [1]);
        assert_eq!(ping(3), [0; 0]);
        for number in 2..=2_300 {
            roll.machine().joined(client(number));
        }
        assert_eq!(ping(4), [500; 4]);
        assert_eq!(ping(5), [299]);
        roll.linked(SessionId(8), FEATURE_CLIENTS);
        roll.machine().left(1);
        assert_eq!(ping(6), [0; 0], "the channel is another one");
    }
}
