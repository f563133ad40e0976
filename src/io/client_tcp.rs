//! The client port and a client's socket: binding before listening, and reading while a write is
//! blocked.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::io::port_owner;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;
/// A read asks for at least so much, and for up to `READ_MAX` while the client fills it.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 64 << 10;

/// Silence after which the client's host is asked for a sign, how often, and how many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;

/// Why the client port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it.
    #[error(
        "cannot take the client port {address}: it is in use by {owner}; stop that one, or change \
         `client.listen` in this server's profile and the address that its clients use"
    )]
    InUse {
        /// Which.
        address: SocketAddr,
        /// By whom, where the system tells.
        owner: String,
    },
    /// Anything else the system says.
    #[error("cannot take the client port {address}: {cause}; check `client.listen` in the profile")]
    System {
        /// Which.
        address: SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
}

impl PortError {
    fn new(address: SocketAddr, cause: io::Error) -> Self {
        if cause.kind() == io::ErrorKind::AddrInUse {
            let owner = port_owner::listener(address).unwrap_or_else(|| {
                "another program (perhaps another server of the same profile)".to_owned()
            });
            return Self::InUse { address, owner };
        }
        Self::System { address, cause }
    }
}

/// An address that is ours and on which nobody listens yet: connections are refused.
#[derive(Debug)]
pub struct BoundPort {
    socket: Socket,
    address: SocketAddr,
}

impl BoundPort {
    /// Takes an address. Port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken, is not one of this machine's, or needs a privilege.
    pub fn bind(address: SocketAddr) -> Result<Self, PortError> {
        // Alone first: with SO_REUSEADDR on both, two servers could bind and neither would notice
        // before it listens. With it only when connections of an earlier life hold the port.
        let socket = bind(address, false)
            .or_else(|_| bind(address, true))
            .map_err(|cause| PortError::new(address, cause))?;
        let address = socket
            .local_addr()
            .ok()
            .and_then(|local| local.as_socket())
            .unwrap_or(address);
        Ok(Self { socket, address })
    }

    /// The address, with the port that was given for 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// When another socket that was bound at the same moment listens first.
    pub fn listen(self) -> Result<TcpListener, PortError> {
        let listen = || {
            // Inherited by the connections: what is left of them must not hold up the next bind.
            self.socket.set_reuse_address(true)?;
            self.socket.listen(BACKLOG)?;
            TcpListener::from_std(self.socket.into())
        };
        listen().map_err(|cause| PortError::new(self.address, cause))
    }
}

fn bind(address: SocketAddr, reuse: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Bytes.
    Some,
    /// Nothing now.
    Nothing,
    /// The client sends nothing more; it may still read.
    End,
    /// The connection is lost.
    Lost,
}

/// A client's connection.
#[derive(Debug)]
pub struct ClientSocket {
    stream: TcpStream,
    read_size: usize,
}

impl ClientSocket {
    /// Takes an accepted connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        if let Err(error) = tune(&stream) {
            tracing::debug!(target: "twinmq::net", %error, "a connection without its options");
        }
        Self {
            stream,
            read_size: READ_MIN,
        }
    }

    /// Who is at the other end, while the system knows.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Reads once what is there, without waiting.
    pub fn fill(&mut self, input: &mut BytesMut) -> Fill {
        input.reserve(self.read_size);
        match self.stream.try_read_buf(&mut *input) {
            Ok(0) => Fill::End,
            Ok(count) => {
                let size = if count >= self.read_size {
                    self.read_size.saturating_mul(4)
                } else {
                    count.saturating_mul(2)
                };
                self.read_size = size.clamp(READ_MIN, READ_MAX);
                Fill::Some
            }
            Err(error) if is_temporary(&error) => Fill::Nothing,
            Err(_) => Fill::Lost,
        }
    }

    /// Writes what the socket takes, without waiting.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self, output: &mut BytesMut) -> io::Result<()> {
        while !output.is_empty() {
            match self.stream.try_write(output) {
                Ok(count) => output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ready when there is something to read (if wanted), or room to write (if wanted).
    pub fn poll(&self, cx: &mut Context<'_>, read: bool, write: bool) -> Poll<()> {
        let readable = read && self.stream.poll_read_ready(cx).is_ready();
        let writable = write && self.stream.poll_write_ready(cx).is_ready();
        if readable || writable {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Says that nothing more will be written.
    pub fn finish(&self) {
        if let Err(error) = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write)
        {
            tracing::trace!(target: "twinmq::net", %error, "the client was faster");
        }
    }
}

/// Small frames leave at once; a client whose host is gone is noticed even without heart-beats, so
/// that what it holds goes to another.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let alive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    // No TCP_USER_TIMEOUT: it also ends connections of clients that are alive and do not read.
    socket.set_tcp_keepalive(&alive)
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn address() -> SocketAddr {
        "127.9.1.1:0".parse().unwrap()
    }

    #[tokio::test]
    async fn a_bound_port_refuses_connections_until_it_listens() {
        let port = BoundPort::bind(address()).unwrap();
        let at = port.address();
        let refused = TcpStream::connect(at).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = port.listen().unwrap();
        let (client, served) = tokio::join!(TcpStream::connect(at), listener.accept());
        assert!(client.is_ok() && served.is_ok());
    }

    #[tokio::test]
    async fn a_second_server_is_told_at_once_though_the_first_does_not_listen() {
        let port = BoundPort::bind(address()).unwrap();
        let at = port.address();
        let error = BoundPort::bind(at).unwrap_err();
        assert!(matches!(error, PortError::InUse { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&at.to_string()) && text.contains("`client.listen`"));
        let _listener = port.listen().unwrap();
        let text = BoundPort::bind(at).unwrap_err().to_string();
        assert!(
            text.contains(&format!("pid {}", std::process::id())),
            "{text}"
        );
    }

    #[tokio::test]
    async fn the_port_can_be_taken_again_while_old_connections_linger() {
        let port = BoundPort::bind(address()).unwrap();
        let at = port.address();
        let listener = port.listen().unwrap();
        let mut client = std::net::TcpStream::connect(at).unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let (open, _) = {
            let _second = std::net::TcpStream::connect(at).unwrap();
            listener.accept().await.unwrap()
        };
        drop(listener);
        // Closed by the server first, as a kill does: TIME_WAIT is on its side.
        drop(served);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        drop(client);
        let again = BoundPort::bind(at).expect("only left-overs hold it");
        assert!(again.listen().is_ok());
        drop(open);
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let error = BoundPort::bind("192.0.2.1:1856".parse().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("192.0.2.1:1856"), "{text}");
    }
}
