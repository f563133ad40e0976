//! A network in memory, for the simulator and tests: it can be cut and healed.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use crate::io::peer_tcp::{BoxedStream, Incoming, ListenError, Net, NetFuture, PeerListener};

/// What a connection holds in each direction until it is read.
const PIPE_BYTES: usize = 1024 * 1024;

/// One network; clones are the same. While it is cut, what is sent stays under way and dials time
/// out; after the healing it arrives, as with TCP. Whoever drops its stream meanwhile is not missed
/// by the other side before that.
#[derive(Clone, Debug, Default)]
pub struct MemoryNet {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    listeners: HashMap<String, UnboundedSender<MemoryStream>>,
    cut: bool,
    /// Raised by `reset`: connections of an earlier age are dead.
    age: u64,
    /// Readers that wait for the healing.
    waiting: Vec<Waker>,
}

impl MemoryNet {
    /// Nothing arrives from now on.
    pub fn cut(&self) {
        self.locked().cut = true;
    }

    /// What was under way arrives.
    pub fn heal(&self) {
        let mut state = self.locked();
        state.cut = false;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// All connections end with a reset, on both sides.
    pub fn reset(&self) {
        let mut state = self.locked();
        state.age = state.age.saturating_add(1);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, address: &str) -> io::Result<BoxedStream> {
        let state = self.locked();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = state.listeners.get(address).ok_or_else(refused)?;
        let (near, far) = duplex(PIPE_BYTES);
        let stream = |pipe| MemoryStream {
            pipe,
            net: self.clone(),
            age: state.age,
        };
        listener.send(stream(far)).map_err(|_| refused())?;
        Ok(Box::new(stream(near)))
    }
}

impl Net for MemoryNet {
    fn dial(&self, address: &str, limit: Duration) -> NetFuture<'static, io::Result<BoxedStream>> {
        let (net, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            if net.locked().cut {
                sleep(limit).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            net.connect(&address)
        })
    }

    fn listen(
        &self,
        address: &str,
    ) -> NetFuture<'static, Result<Box<dyn PeerListener>, ListenError>> {
        let (net, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let (sender, incoming) = unbounded_channel();
            let mut state = net.locked();
            if state
                .listeners
                .get(&address)
                .is_some_and(|it| !it.is_closed())
            {
                return Err(ListenError::InUse {
                    address,
                    owner: None,
                });
            }
            state.listeners.insert(address.clone(), sender);
            Ok(Box::new(MemoryListener { address, incoming }) as Box<dyn PeerListener>)
        })
    }
}

struct MemoryListener {
    address: String,
    incoming: UnboundedReceiver<MemoryStream>,
}

impl PeerListener for MemoryListener {
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

struct MemoryStream {
    pipe: DuplexStream,
    net: MemoryNet,
    age: u64,
}

impl MemoryStream {
    /// Pending while the network is cut; an error once it was reset.
    fn poll_net(&self, context: &Context<'_>, reads: bool) -> Poll<io::Result<()>> {
        let mut state = self.net.locked();
        if state.age != self.age {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if reads {
            // Also while the network is whole: a cut or a reset must reach a reader that sleeps.
            state
                .waiting
                .retain(|waker| !waker.will_wake(context.waker()));
            state.waiting.push(context.waker().clone());
            if state.cut {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.poll_net(context, true) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.pipe).poll_read(context, to),
            other => other,
        }
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(cause)) = self.poll_net(context, false) {
            return Poll::Ready(Err(cause));
        }
        match Pin::new(&mut self.pipe).poll_write(context, from) {
            // The other side is gone, but the news of it does not arrive either.
            Poll::Ready(Err(_)) if self.net.locked().cut => {
                self.net.locked().waiting.push(context.waker().clone());
                Poll::Pending
            }
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}
