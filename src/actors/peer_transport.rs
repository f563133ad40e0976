//! The connections of the HA channel: dials, accepts, reads and writes frames, and tells
//! ConnectionManager what happened. Lives on ConnectionManager's thread; knows no session.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::actors::connection_manager::{LinkCommand, PeerTransport, TransportEvent};
use crate::actors::post::{Port, post};
use crate::actors::replicator::PeerSender;
use crate::io::peer_tcp::{
    BoxedStream, FrameLimit, FrameSender, Net, PeerListener, StreamEnd, carry_frames, frame_channel,
};
use crate::machines::link::{CloseCause, ConnId};
use crate::proto::peer::Frame;
use crate::proto::peer_codec::FRAME_BYTES_MAX;
use crate::time::{Clock, Moment};

/// Between two lines about strangers at the HA port.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How long a closed connection waits for the other side's last words.
const LINGER: Duration = Duration::from_secs(1);

/// A connection's way out; empty once it is closed, however many hands hold it.
type Outlet = Arc<Mutex<Option<FrameSender>>>;

/// Gives the random bytes of each hello: the system's in a server, seeded ones in the simulator.
pub type Nonces = Box<dyn FnMut() -> [u8; 16] + Send>;

/// Connections by number.
pub struct StreamTransport {
    net: Arc<dyn Net>,
    peer: String,
    nonces: Nonces,
    shared: Rc<Shared>,
}

struct Shared {
    to: Port<LinkCommand>,
    clock: Arc<dyn Clock>,
    open: RefCell<HashMap<ConnId, Open>>,
    last: RefCell<u64>,
    /// When a stranger at the HA port was told of last.
    told: Cell<Option<Moment>>,
}

struct Open {
    outlet: Outlet,
    limit: FrameLimit,
}

impl StreamTransport {
    /// Dials `peer` (`host:port`) through `net`; events go to `to`. Needs a `LocalSet`.
    #[must_use]
    pub fn new(
        net: Arc<dyn Net>,
        peer: String,
        nonces: Nonces,
        to: Port<LinkCommand>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Shared {
            to,
            clock,
            open: RefCell::default(),
            last: RefCell::default(),
            told: Cell::new(None),
        };
        Self {
            net,
            peer,
            nonces,
            shared: Rc::new(shared),
        }
    }

    /// Takes connections from `listener` for as long as the thread lives, once `start` has come. A
    /// peer that dials before that waits in the listener's backlog.
    pub fn accept_from(
        &self,
        mut listener: Box<dyn PeerListener>,
        start: tokio::sync::oneshot::Receiver<()>,
    ) {
        let shared = Rc::clone(&self.shared);
        tokio::task::spawn_local(async move {
            if start.await.is_err() {
                return; // The server was never wired.
            }
            loop {
                match listener.accept().await {
                    Ok(incoming) => {
                        let shared = Rc::clone(&shared);
                        tokio::task::spawn_local(async move {
                            match incoming.await {
                                Ok(stream) => {
                                    let conn = shared.open(stream);
                                    shared.tell(TransportEvent::Accepted { conn });
                                }
                                Err(error) => {
                                    shared.tell_refused(&error);
                                }
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(target: "twinmq::net", %error, "the HA port: accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
    }
}

impl PeerTransport for StreamTransport {
    fn dial(&mut self, attempt: u64, timeout: Duration) {
        let dial = self.net.dial(&self.peer, timeout);
        let shared = Rc::clone(&self.shared);
        tokio::task::spawn_local(async move {
            match dial.await {
                Ok(stream) => {
                    let conn = shared.open(stream);
                    shared.tell(TransportEvent::Dialled { attempt, conn });
                }
                Err(error) => {
                    let reason = error.to_string();
                    shared.tell(TransportEvent::DialFailed { attempt, reason });
                }
            }
        });
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        if let Some(open) = self.shared.open.borrow().get(&conn) {
            send_on(&open.outlet, frame);
        }
    }

    fn sender(&mut self, conn: ConnId) -> PeerSender {
        let open = self.shared.open.borrow();
        let outlet = open.get(&conn).map(|open| {
            // The peer has proved itself: frames of any size that the protocol knows may come.
            open.limit.raise(FRAME_BYTES_MAX);
            Arc::clone(&open.outlet)
        });
        Arc::new(move |frame| {
            if let Some(outlet) = &outlet {
                send_on(outlet, frame);
            }
        })
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(open) = self.shared.open.borrow_mut().remove(&conn) {
            // The writer ends after what is queued; nobody listens any more.
            open.outlet
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
    }

    fn nonce(&mut self) -> [u8; 16] {
        (self.nonces)()
    }
}

impl Shared {
    /// A peer with the wrong certificates dials several times a second: one line a minute will do.
    fn tell_refused(&self, error: &std::io::Error) {
        let now = self.clock.now();
        if self
            .told
            .get()
            .is_none_or(|told| now.since(told) >= TELL_AGAIN)
        {
            self.told.set(Some(now));
            tracing::warn!(target: "twinmq::net", %error,
                "a connection to the HA port was not accepted");
        } else {
            tracing::debug!(target: "twinmq::net", %error,
                "a connection to the HA port was not accepted");
        }
    }

    fn tell(&self, event: TransportEvent) {
        post(&self.to, LinkCommand::Transport(event));
    }

    fn open(self: &Rc<Self>, stream: BoxedStream) -> ConnId {
        let conn = {
            let mut last = self.last.borrow_mut();
            *last = last.saturating_add(1);
            ConnId(*last)
        };
        let (sender, queue) = frame_channel();
        let limit = FrameLimit::default();
        let outlet = Arc::new(Mutex::new(Some(sender)));
        self.open.borrow_mut().insert(
            conn,
            Open {
                outlet,
                limit: limit.clone(),
            },
        );
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let clock = Arc::clone(&shared.clock);
            let end = carry_frames(stream, queue, limit, clock, LINGER, |frame, at| {
                shared.tell(TransportEvent::Frame { conn, frame, at });
            })
            .await;
            shared.closed(conn, end);
        });
        conn
    }

    fn closed(&self, conn: ConnId, end: StreamEnd) {
        let cause = match end {
            StreamEnd::Ended => CloseCause::Ended,
            StreamEnd::Unreachable(reason) => CloseCause::Unreachable(reason),
            StreamEnd::Malformed(reason) => CloseCause::Malformed(reason),
            // Closed from here: whoever did it knows.
            StreamEnd::Finished => return,
        };
        self.tell(TransportEvent::Closed { conn, cause });
    }
}

fn send_on(outlet: &Outlet, frame: Frame) {
    let outlet = outlet.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = outlet.as_ref()
        && !sender.send(frame)
    {
        // The connection has ended; its `Closed` is on the way.
        tracing::trace!(target: "twinmq::net", "a frame for a connection that has ended");
    }
}
