//! The network between the two servers: bytes take their time, in order; each way can be cut by
//! itself, and a host can fall silent. What TCP does about it is done here: what was under way
//! arrives after the healing, or the sender gives up; a host that knows nothing of a connection
//! answers with a reset.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use twinmq::io::peer_tcp::{BoxedStream, Incoming, ListenError, Net, NetFuture, PeerListener};

use crate::clock::{Chance, open};

/// What a connection holds in each direction until it is read.
const WINDOW: usize = 256 * 1024;
/// `TCP_USER_TIMEOUT`, as a server sets it: `passive_lock_acquisition_interval_ms`.
const GIVES_UP: Duration = Duration::from_millis(2500);
/// The longest wait between two attempts to send something again, in milliseconds.
const RESEND_MS: u64 = 1000;

/// The network; clones are the same.
#[derive(Clone)]
pub(crate) struct SimNet {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

struct State {
    chance: Chance,
    /// What server `n` sends.
    ways: [Way; 2],
    /// The host has power.
    up: [bool; 2],
    listeners: [Option<UnboundedSender<SimStream>>; 2],
    conns: Vec<Weak<Mutex<Conn>>>,
}

#[derive(Clone, Copy, Default)]
struct Way {
    cut: bool,
    /// At least, and by how much more at most, in milliseconds.
    delay: (u64, u64),
}

/// End 0 has dialled, end 1 has accepted.
struct Conn {
    ends: [End; 2],
}

struct End {
    host: usize,
    life: Stage,
    /// What it has sent and is under way.
    sent: VecDeque<Segment>,
    last_due: Instant,
    /// It waits for a word that something arrived.
    unproven: bool,
    inbox: VecDeque<Bytes>,
    finished: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    work: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The process closed it or is dead.
    Closed,
    Broken(io::ErrorKind),
    /// Its host lost power: nobody says so to the other side.
    Vanished,
}

struct Segment {
    due: Instant,
    sent: Instant,
    what: What,
}

enum What {
    Data(Bytes),
    Fin,
    Rst,
}

impl SimNet {
    pub(crate) fn new(chance: Chance) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                chance,
                ways: [Way::default(); 2],
                up: [true; 2],
                listeners: [None, None],
                conns: Vec::new(),
            })),
            changes: watch::Sender::new(0),
        }
    }

    /// The network as a host sees it.
    pub(crate) fn of(&self, host: usize) -> HostNet {
        HostNet {
            net: self.clone(),
            host,
        }
    }

    /// What `from` sends takes so many milliseconds, and up to so many more.
    pub(crate) fn set_delay(&self, from: usize, least: u64, more: u64) {
        open(&self.state).ways[from].delay = (least, more);
    }

    /// Nothing that `from` sends arrives.
    pub(crate) fn cut_from(&self, from: usize) {
        open(&self.state).ways[from].cut = true;
        self.changed();
    }

    /// What `from` sends arrives again.
    pub(crate) fn heal_from(&self, from: usize) {
        open(&self.state).ways[from].cut = false;
        self.changed();
    }

    /// Neither way.
    pub(crate) fn cut(&self) {
        (0..2).for_each(|from| self.cut_from(from));
    }

    /// Both ways.
    pub(crate) fn heal(&self) {
        (0..2).for_each(|from| self.heal_from(from));
    }

    /// All connections end with a reset, on both sides.
    pub(crate) fn reset(&self) {
        for conn in self.conns() {
            let conn = &mut *open(&conn);
            (0..2).for_each(|end| conn.break_end(end, io::ErrorKind::ConnectionReset));
        }
    }

    /// The host has lost power: it answers nothing, and its connections are nobody's.
    pub(crate) fn silence(&self, host: usize) {
        for conn in self.conns() {
            for end in &mut open(&conn).ends {
                if end.host == host && end.life == Stage::Open {
                    end.life = Stage::Vanished;
                    end.sent.clear();
                }
            }
        }
        open(&self.state).up[host] = false;
        self.changed();
    }

    /// The host has power and remembers no connection.
    pub(crate) fn wake(&self, host: usize) {
        open(&self.state).up[host] = true;
        self.changed();
    }

    /// Both ways are open.
    pub(crate) fn joins(&self) -> bool {
        (0..2).all(|from| self.passes(from))
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn conns(&self) -> Vec<Arc<Mutex<Conn>>> {
        let mut state = open(&self.state);
        state.conns.retain(|conn| conn.strong_count() > 0);
        state.conns.iter().filter_map(Weak::upgrade).collect()
    }

    fn passes(&self, from: usize) -> bool {
        let state = open(&self.state);
        !state.ways[from].cut && state.up[1 - from]
    }

    fn delay(&self, from: usize) -> Duration {
        let state = open(&self.state);
        let (least, more) = state.ways[from].delay;
        // Some microseconds at least: nothing is there at the moment of its sending.
        Duration::from_micros(least * 1000 + state.chance.below(more * 1000 + 1) + 1)
    }

    fn connect(&self, from: usize) -> io::Result<SimStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = open(&self.state).listeners[1 - from].clone();
        let listener = listener.ok_or_else(refused)?;
        let end = |host| End {
            host,
            life: Stage::Open,
            sent: VecDeque::new(),
            last_due: Instant::now(),
            unproven: false,
            inbox: VecDeque::new(),
            finished: false,
            reader: None,
            writer: None,
            work: Arc::default(),
        };
        let conn = Arc::new(Mutex::new(Conn {
            ends: [end(from), end(1 - from)],
        }));
        let stream = |end| SimStream {
            net: self.clone(),
            conn: Arc::clone(&conn),
            end,
        };
        listener.send(stream(1)).map_err(|_| refused())?;
        open(&self.state).conns.push(Arc::downgrade(&conn));
        for end in 0..2 {
            drop(tokio::spawn(self.clone().carry(Arc::clone(&conn), end)));
        }
        Ok(stream(0))
    }

    /// Brings what an end sends to the other one.
    async fn carry(self, conn: Arc<Mutex<Conn>>, end: usize) {
        let (host, work) = {
            let conn = open(&conn);
            (conn.ends[end].host, Arc::clone(&conn.ends[end].work))
        };
        let mut changes = self.changes.subscribe();
        loop {
            let next = {
                let sender = &mut open(&conn).ends[end];
                match sender.life {
                    Stage::Broken(_) | Stage::Vanished => return,
                    Stage::Closed if sender.sent.is_empty() => return,
                    Stage::Open | Stage::Closed => sender.sent.pop_front(),
                }
            };
            let Some(segment) = next else {
                work.notified().await;
                continue;
            };
            sleep_until(segment.due).await;
            let overdue = segment.sent.max(Instant::now()) + GIVES_UP;
            while !self.passes(host) {
                tokio::select! {
                    biased;
                    () = sleep_until(overdue) => {
                        open(&conn).break_end(end, io::ErrorKind::TimedOut);
                        return;
                    }
                    _ = changes.changed() => {
                        let wait = open(&self.state).chance.below(RESEND_MS);
                        sleep(Duration::from_millis(wait)).await;
                    }
                }
            }
            self.arrive(&conn, end, segment.what, overdue);
        }
    }

    fn arrive(&self, conn: &Arc<Mutex<Conn>>, from: usize, what: What, overdue: Instant) {
        let back = self.passes(open(conn).ends[1 - from].host);
        let ends = &mut *open(conn);
        let to = &mut ends.ends[1 - from];
        match (to.life, what) {
            (Stage::Open, What::Data(bytes)) => {
                to.inbox.push_back(bytes);
                wake(&mut to.reader);
                if !back && !ends.ends[from].unproven {
                    ends.ends[from].unproven = true;
                    let (net, conn) = (self.clone(), Arc::clone(conn));
                    drop(tokio::spawn(net.await_word(conn, from, overdue)));
                }
            }
            (Stage::Open, What::Fin) => {
                to.finished = true;
                wake(&mut to.reader);
            }
            (_, What::Rst) => ends.break_end(1 - from, io::ErrorKind::ConnectionReset),
            (Stage::Closed | Stage::Broken(_) | Stage::Vanished, What::Data(_)) if back => {
                ends.break_end(from, io::ErrorKind::ConnectionReset);
            }
            (Stage::Closed | Stage::Broken(_) | Stage::Vanished, What::Data(_) | What::Fin) => {}
        }
    }

    /// What arrived is not known to have arrived: the sender gives up if that lasts.
    async fn await_word(self, conn: Arc<Mutex<Conn>>, end: usize, overdue: Instant) {
        let back = open(&conn).ends[1 - end].host;
        let mut changes = self.changes.subscribe();
        while !self.passes(back) {
            tokio::select! {
                biased;
                () = sleep_until(overdue) => {
                    open(&conn).break_end(end, io::ErrorKind::TimedOut);
                    return;
                }
                _ = changes.changed() => {}
            }
        }
        open(&conn).ends[end].unproven = false;
    }
}

impl Conn {
    fn break_end(&mut self, end: usize, cause: io::ErrorKind) {
        let end = &mut self.ends[end];
        if end.life == Stage::Open {
            end.life = Stage::Broken(cause);
            end.inbox.clear();
        }
        end.sent.clear();
        wake(&mut end.reader);
        wake(&mut end.writer);
        end.work.notify_one();
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// See [`SimNet::of`].
pub(crate) struct HostNet {
    net: SimNet,
    host: usize,
}

impl Net for HostNet {
    fn dial(&self, _: &str, limit: Duration) -> NetFuture<'static, io::Result<BoxedStream>> {
        let (net, from) = (self.net.clone(), self.host);
        Box::pin(async move {
            let there = net.delay(from);
            sleep(there).await;
            if !net.passes(from) || !net.passes(1 - from) {
                sleep(limit.saturating_sub(there)).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let back = net.delay(1 - from);
            sleep(back).await;
            let stream = net.connect(from)?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }

    fn listen(
        &self,
        address: &str,
    ) -> NetFuture<'static, Result<Box<dyn PeerListener>, ListenError>> {
        let (net, host, address) = (self.net.clone(), self.host, address.to_owned());
        Box::pin(async move {
            let (sender, incoming) = unbounded_channel();
            let present = &mut open(&net.state).listeners[host];
            if present.as_ref().is_some_and(|it| !it.is_closed()) {
                return Err(ListenError::InUse {
                    address,
                    owner: None,
                });
            }
            *present = Some(sender);
            Ok(Box::new(SimListener { address, incoming }) as Box<dyn PeerListener>)
        })
    }
}

struct SimListener {
    address: String,
    incoming: UnboundedReceiver<SimStream>,
}

impl PeerListener for SimListener {
    fn accept(&mut self) -> NetFuture<'_, io::Result<Incoming>> {
        Box::pin(async move {
            let stream = self.incoming.recv().await;
            let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            let incoming: Incoming = Box::pin(async move { Ok(Box::new(stream) as BoxedStream) });
            Ok(incoming)
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

struct SimStream {
    net: SimNet,
    conn: Arc<Mutex<Conn>>,
    end: usize,
}

impl SimStream {
    fn send(&self, what: What) {
        let conn = &mut *open(&self.conn);
        let end = &mut conn.ends[self.end];
        let now = Instant::now();
        let due = end.last_due.max(now + self.net.delay(end.host));
        end.last_due = due;
        end.sent.push_back(Segment {
            due,
            sent: now,
            what,
        });
        end.work.notify_one();
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let conn = &mut *open(&self.conn);
        let own = &mut conn.ends[self.end];
        if let Stage::Broken(cause) = own.life {
            return Poll::Ready(Err(cause.into()));
        }
        let Some(bytes) = own.inbox.front_mut() else {
            if own.finished {
                return Poll::Ready(Ok(()));
            }
            own.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        let count = bytes.len().min(to.remaining());
        to.put_slice(&bytes.split_to(count));
        if !bytes.has_remaining() {
            own.inbox.pop_front();
        }
        wake(&mut conn.ends[1 - self.end].writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        {
            let conn = &mut *open(&self.conn);
            let size = |what: &What| match what {
                What::Data(bytes) => bytes.len(),
                What::Fin | What::Rst => 0,
            };
            let under_way = conn.ends[self.end].sent.iter();
            let under_way: usize = under_way.map(|segment| size(&segment.what)).sum();
            let unread: usize = conn.ends[1 - self.end].inbox.iter().map(Bytes::len).sum();
            let own = &mut conn.ends[self.end];
            if let Stage::Broken(cause) = own.life {
                return Poll::Ready(Err(cause.into()));
            }
            if under_way + unread >= WINDOW {
                own.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.send(What::Data(Bytes::copy_from_slice(from)));
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send(What::Fin);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    /// What was sent still arrives; what was not read is answered with a reset.
    fn drop(&mut self) {
        let unread = {
            let own = &mut open(&self.conn).ends[self.end];
            if own.life != Stage::Open {
                own.work.notify_one();
                return;
            }
            own.life = Stage::Closed;
            !own.inbox.is_empty()
        };
        self.send(if unread { What::Rst } else { What::Fin });
    }
}
