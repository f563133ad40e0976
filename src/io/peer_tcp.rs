//! The network of the HA channel: dialling, listening, frames on a stream. No decisions: which
//! connection is the channel, the link machine says.

mod frames;
mod memory;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use crate::io::peer_tcp::frames::{
    FrameLimit, FrameQueue, FrameSender, StreamEnd, carry_frames, frame_channel, read_frames,
    write_frames,
};
pub use crate::io::peer_tcp::memory::MemoryNet;
use crate::io::port_owner;
use crate::io::tls::{PeerTls, handshake_error, peer_name};

/// A socket takes more bytes only while fewer than this wait in it.
const UNSENT_BYTES: u32 = 512 * 1024;
/// TLS handshakes of strangers that run at once; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;

/// A connection to the peer, whatever carries it.
pub trait PeerStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> PeerStream for T {}

/// See [`PeerStream`].
pub type BoxedStream = Box<dyn PeerStream>;

/// A future of [`Net`].
pub type NetFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is left to do on a connection that was accepted (TLS): awaited in a task of its own, so that
/// a slow stranger holds up nobody. Bounded in time.
pub type Incoming = NetFuture<'static, io::Result<BoxedStream>>;

/// The network, as actors see it: TCP in a server, memory in the simulator.
pub trait Net: Send + Sync {
    /// A connection to `address` (`host:port`), TLS included, within `limit`.
    fn dial(&self, address: &str, limit: Duration) -> NetFuture<'static, io::Result<BoxedStream>>;

    /// Takes connections at `address`.
    fn listen(
        &self,
        address: &str,
    ) -> NetFuture<'static, Result<Box<dyn PeerListener>, ListenError>>;
}

/// Where connections come in.
pub trait PeerListener: Send {
    /// The next one.
    fn accept(&mut self) -> NetFuture<'_, io::Result<Incoming>>;

    /// Where it listens, with the port that was given for port 0.
    fn address(&self) -> String;
}

/// Why the HA channel's address cannot be listened on (S171).
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error(
        "the HA channel's address {address} is in use{}: stop that one, or change ha.port in this \
         server's profile and ha.backup_ha_port in the other's to the same port",
        owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default()
    )]
    InUse {
        /// As configured.
        address: String,
        /// Process and program, where the system tells.
        owner: Option<String>,
    },
    /// Any other cause.
    #[error(
        "cannot listen on the HA channel's address {address}: {cause}; check ha.ip_address and \
         ha.port in the profile"
    )]
    Failed {
        /// As configured.
        address: String,
        /// As the system said.
        cause: io::Error,
    },
}

/// TCP, with or without TLS.
#[derive(Clone, Debug)]
pub struct TcpNet {
    /// None: plain, and then only between loopback addresses; others are refused.
    pub tls: Option<PeerTls>,
    /// `NagleAlgo` (S87): false sends each write at once.
    pub nagle: bool,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged before the connection breaks.
    /// Without it a connection takes minutes to notice a dead network, and long to resume.
    pub user_timeout: Duration,
    /// For the TLS handshake of an accepted connection.
    pub handshake_timeout: Duration,
}

impl Net for TcpNet {
    fn dial(&self, address: &str, limit: Duration) -> NetFuture<'static, io::Result<BoxedStream>> {
        let (net, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            timeout(limit, net.connect(&address))
                .await
                .unwrap_or_else(|_| Err(timed_out(&address, limit)))
        })
    }

    fn listen(
        &self,
        address: &str,
    ) -> NetFuture<'static, Result<Box<dyn PeerListener>, ListenError>> {
        let (net, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let listener = TcpListener::bind(&address).await;
            let bound = listener.and_then(|it| it.local_addr().map(|local| (it, local)));
            match bound {
                Ok((listener, local)) => Ok(Box::new(TcpPeerListener {
                    net,
                    listener,
                    local,
                    handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
                }) as Box<dyn PeerListener>),
                Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {
                    let owner = address.parse().ok().and_then(port_owner::listener);
                    Err(ListenError::InUse { address, owner })
                }
                Err(cause) => Err(ListenError::Failed { address, cause }),
            }
        })
    }
}

impl TcpNet {
    async fn connect(&self, address: &str) -> io::Result<BoxedStream> {
        let mut last = None;
        for target in lookup_host(address).await? {
            self.allow(target)?;
            match TcpStream::connect(target).await {
                Ok(stream) => {
                    self.tune(&stream)?;
                    let Some(tls) = &self.tls else {
                        return Ok(Box::new(stream));
                    };
                    let stream = tls.connector.connect(peer_name(), stream).await;
                    return Ok(Box::new(stream.map_err(|cause| handshake_error(&cause))?));
                }
                Err(cause) => last = Some(cause),
            }
        }
        Err(last
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    /// Without TLS nothing leaves this machine.
    fn allow(&self, other: SocketAddr) -> io::Result<()> {
        if self.tls.is_some() || other.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let text = format!(
            "{other} is not on this machine and the HA channel has no TLS: \
             make the pair's certificates with `twinmq pair init`"
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(!self.nagle)?;
        let socket = SockRef::from(stream);
        // Little waits in the kernel, where no heartbeat can overtake it.
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))
    }
}

struct TcpPeerListener {
    net: TcpNet,
    listener: TcpListener,
    local: SocketAddr,
    handshakes: Arc<Semaphore>,
}

impl PeerListener for TcpPeerListener {
    fn accept(&mut self) -> NetFuture<'_, io::Result<Incoming>> {
        Box::pin(async move {
            let permit = Arc::clone(&self.handshakes).acquire_owned().await;
            let permit = permit.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
            let (stream, from) = self.listener.accept().await?;
            let net = self.net.clone();
            let incoming: Incoming = Box::pin(async move {
                // Held until the handshake is over, or this future is dropped.
                let _permit = permit;
                net.allow(from)?;
                net.tune(&stream)?;
                let Some(tls) = net.tls else {
                    return Ok(Box::new(stream) as BoxedStream);
                };
                match timeout(net.handshake_timeout, tls.acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => Ok(Box::new(stream) as BoxedStream),
                    Ok(Err(cause)) => Err(handshake_error(&cause)),
                    Err(_) => Err(timed_out(&from.to_string(), net.handshake_timeout)),
                }
            });
            Ok(incoming)
        })
    }

    fn address(&self) -> String {
        self.local.to_string()
    }
}

fn timed_out(address: &str, limit: Duration) -> io::Error {
    let text = format!("{address}: no connection within {} ms", limit.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;
