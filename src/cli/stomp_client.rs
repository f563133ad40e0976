//! A small blocking STOMP 1.2 client for the commands that send and receive: `send`, `receive`,
//! `bench` and `demo`. One thread per connection, no task runtime.
//!
//! A [`Connection`] is one TCP connection and dies with it. [`Hosts`] finds the next server of the
//! list that serves: a server that is not active refuses the connection at once, so going round the
//! list is the whole of failover. What was not answered before a connection died is unknown; what to
//! do about it is the caller's decision.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use crate::time::{Clock, Moment, SystemClock};

/// Command and headers of one frame may not be longer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The body of one frame may not be longer, in bytes: no server takes more.
const BODY_BYTES_MAX: usize = crate::config::Limits::BODY_BYTES_MAX;
/// One read takes at most this, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Pause between two rounds of the host list.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// Why the server could not be reached or understood.
#[derive(Debug, thiserror::Error)]
pub enum StompError {
    /// No host of the list accepted within the time given.
    #[error(
        "no server of {hosts} accepted a connection within {seconds} s: {last}; check that a server is serving with `twinmq status`"
    )]
    Unreachable {
        /// The list that was tried.
        hosts: String,
        /// How long, in seconds.
        seconds: u64,
        /// What the last attempt met.
        last: String,
    },
    /// An entry of the host list is not an address.
    #[error("host list entry `{entry}` is not HOST:PORT")]
    BadHost {
        /// The entry.
        entry: String,
    },
    /// The server ended the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server said ERROR; it closes the connection after that.
    #[error("the server refused: {message}")]
    Refused {
        /// Its `message` header and body.
        message: String,
    },
    /// What came is not STOMP.
    #[error("the answer is not STOMP: {what}; is this TwinMQ's client port?")]
    Malformed {
        /// What was wrong.
        what: &'static str,
    },
    /// An answer did not come in time.
    #[error("no answer within {seconds} s to {what}")]
    Silent {
        /// What was asked.
        what: &'static str,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// The socket failed.
    #[error("connection to the server failed: {0}")]
    Socket(#[from] io::Error),
}

/// The `message` of the ERROR with which a server ends its service.
const FAREWELL: &str = "the server closes the connection";

impl StompError {
    /// Whether another server, or the same one later, may do what was asked: the connection died.
    #[must_use]
    pub fn is_connection_loss(&self) -> bool {
        match self {
            Self::Closed | Self::Socket(_) | Self::Silent { .. } => true,
            Self::Unreachable { .. }
            | Self::BadHost { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// What a connection is opened with.
#[derive(Clone, Debug)]
pub struct StompOptions {
    /// Login and passcode, for a server that asks for them.
    pub credentials: Option<(String, String)>,
    /// How long one TCP connect and its CONNECT may take.
    pub connect_timeout: Duration,
    /// How long a write may be stuck before the connection counts as dead.
    pub write_timeout: Duration,
}

impl Default for StompOptions {
    fn default() -> Self {
        Self {
            credentials: None,
            connect_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// One frame from the server, sharing the read buffer's memory.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Command line and headers, up to the empty line.
    head: Bytes,
    /// The body.
    pub body: Bytes,
}

impl Frame {
    /// The command, such as `MESSAGE`.
    #[must_use]
    pub fn command(&self) -> &[u8] {
        lines(&self.head).next().unwrap_or_default()
    }

    /// The first header of that name, unescaped; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = raw_header(&self.head, name)?;
        Some(match memchr::memchr(b'\\', value) {
            None => String::from_utf8_lossy(value),
            Some(_) => Cow::Owned(unescape(&String::from_utf8_lossy(value))),
        })
    }

    /// A header that holds a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// All headers in order, unescaped.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, String)> {
        lines(&self.head)
            .skip(1)
            .filter_map(|line| {
                let line = String::from_utf8_lossy(line);
                let (name, value) = line.split_once(':')?;
                Some((unescape(name), unescape(value)))
            })
            .collect()
    }
}

/// A list of servers, tried in order, beginning with the one that served last.
#[derive(Clone, Debug)]
pub struct Hosts {
    entries: Vec<String>,
    current: usize,
    options: StompOptions,
}

impl Hosts {
    /// Reads `host:port[,host:port...]`.
    ///
    /// # Errors
    /// If an entry is not `host:port`.
    pub fn parse(list: &str, options: StompOptions) -> Result<Self, StompError> {
        let entries: Vec<String> = list.split(',').map(|e| e.trim().to_owned()).collect();
        for entry in &entries {
            let valid = entry
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !valid {
                return Err(StompError::BadHost {
                    entry: entry.clone(),
                });
            }
        }
        Ok(Self {
            entries,
            current: 0,
            options,
        })
    }

    /// Connects to the first server that serves; goes round the list until `patience` is over or
    /// `give_up` says so, which is asked before each round.
    ///
    /// # Errors
    /// [`StompError::Unreachable`] when time is over, [`StompError::Refused`] as soon as a server
    /// answers the CONNECT with ERROR, since it would again.
    pub fn connect(
        &mut self,
        patience: Duration,
        give_up: &dyn Fn() -> bool,
    ) -> Result<Connection, StompError> {
        let clock = SystemClock;
        let until = clock.now().after(patience);
        let mut last = String::from("not tried");
        loop {
            for step in 0..self.entries.len() {
                let index = (self.current + step) % self.entries.len();
                let entry = &self.entries[index];
                match Connection::open(entry, &self.options) {
                    Ok(connection) => {
                        self.current = index;
                        return Ok(connection);
                    }
                    Err(refused @ StompError::Refused { .. }) => return Err(refused),
                    Err(error) => last = format!("{entry}: {error}"),
                }
            }
            if clock.now() >= until || give_up() {
                return Err(StompError::Unreachable {
                    hosts: self.entries.join(", "),
                    seconds: patience.as_secs(),
                    last,
                });
            }
            std::thread::sleep(ROUND_PAUSE);
        }
    }
}

/// One STOMP connection. Frames to send are collected by [`Connection::queue`] and leave with
/// [`Connection::flush`].
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: Vec<u8>,
    scratch: Vec<u8>,
    receipts: u64,
}

impl Connection {
    /// Connects and exchanges CONNECT and CONNECTED.
    ///
    /// # Errors
    /// Whatever kept the server from saying CONNECTED.
    pub fn open(address: &str, options: &StompOptions) -> Result<Self, StompError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut stream = None;
        for candidate in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&candidate, options.connect_timeout) {
                Ok(connected) => {
                    stream = Some(connected);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let stream = stream.ok_or(last)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(options.write_timeout))?;
        let mut connection = Self {
            stream,
            inbox: BytesMut::new(),
            outbox: Vec::new(),
            scratch: vec![0; READ_BYTES],
            receipts: 0,
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let mut headers = vec![
            ("accept-version", "1.2"),
            ("host", host),
            ("heart-beat", "0,0"),
        ];
        if let Some((login, passcode)) = &options.credentials {
            headers.push(("login", login));
            headers.push(("passcode", passcode));
        }
        // CONNECT is the one frame whose headers are not escaped.
        connection.outbox.extend_from_slice(b"CONNECT\n");
        for (name, value) in headers {
            connection
                .outbox
                .extend_from_slice(format!("{name}:{value}\n").as_bytes());
        }
        connection.outbox.extend_from_slice(b"\n\0");
        connection.flush()?;
        let answer = connection.next(options.connect_timeout)?;
        match answer {
            Some(frame) if frame.command() == b"CONNECTED" => Ok(connection),
            Some(_) => Err(StompError::Malformed {
                what: "the first frame is not CONNECTED",
            }),
            None => Err(StompError::Silent {
                what: "CONNECT",
                seconds: options.connect_timeout.as_secs(),
            }),
        }
    }

    /// Appends a frame to what the next flush sends; adds `content-length` if there is a body.
    pub fn queue(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.outbox.extend_from_slice(command.as_bytes());
        self.outbox.push(b'\n');
        for (name, value) in headers {
            escape(name, &mut self.outbox);
            self.outbox.push(b':');
            escape(value, &mut self.outbox);
            self.outbox.push(b'\n');
        }
        if !body.is_empty() {
            self.outbox
                .extend_from_slice(format!("content-length:{}\n", body.len()).as_bytes());
        }
        self.outbox.push(b'\n');
        self.outbox.extend_from_slice(body);
        self.outbox.push(0);
    }

    /// How many bytes wait for the next flush.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// If the connection died, or the server took nothing for the write timeout.
    pub fn flush(&mut self) -> Result<(), StompError> {
        if !self.outbox.is_empty() {
            self.stream.write_all(&self.outbox)?;
            self.outbox.clear();
        }
        Ok(())
    }

    /// Queues a SUBSCRIBE and waits until the server has taken it.
    ///
    /// # Errors
    /// If the server refuses, dies, or does not answer within `patience`.
    pub fn subscribe(
        &mut self,
        id: &str,
        destination: &str,
        ack: &str,
        prefetch: u32,
        patience: Duration,
    ) -> Result<Vec<Frame>, StompError> {
        let prefetch = prefetch.to_string();
        self.request(
            "SUBSCRIBE",
            &[
                ("id", id),
                ("destination", destination),
                ("ack", ack),
                ("prefetch-count", &prefetch),
            ],
            &[],
            patience,
        )
    }

    /// Queues a frame with a receipt, flushes, and waits for that receipt. Other frames that come
    /// before it (messages of an earlier subscription, say) are returned in order.
    ///
    /// # Errors
    /// If the server refuses, dies, or does not answer within `patience`.
    pub fn request(
        &mut self,
        command: &'static str,
        headers: &[(&str, &str)],
        body: &[u8],
        patience: Duration,
    ) -> Result<Vec<Frame>, StompError> {
        self.receipts += 1;
        let receipt = format!("request-{}", self.receipts);
        let mut all = headers.to_vec();
        all.push(("receipt", &receipt));
        self.queue(command, &all, body);
        self.flush()?;
        let clock = SystemClock;
        let until = clock.now().after(patience);
        let mut others = Vec::new();
        loop {
            match self.next(until.since(clock.now()))? {
                Some(frame)
                    if frame.command() == b"RECEIPT"
                        && frame.header("receipt-id").as_deref() == Some(receipt.as_str()) =>
                {
                    return Ok(others);
                }
                Some(frame) => others.push(frame),
                None => {
                    return Err(StompError::Silent {
                        what: command,
                        seconds: patience.as_secs(),
                    });
                }
            }
        }
    }

    /// The next frame, waiting at most `patience` for it, and as long for more of a large one; `None`
    /// when that is over.
    ///
    /// # Errors
    /// [`StompError::Refused`] for an ERROR frame; otherwise whatever ended the connection.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Frame>, StompError> {
        let clock = SystemClock;
        let mut until = clock.now().after(patience);
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.inbox.len() > READ_BYTES {
                until = clock.now().after(patience);
            }
            if !self.fill(until, clock.now())? {
                return Ok(None);
            }
        }
    }

    /// The next frame that is already here, without reading.
    ///
    /// # Errors
    /// As [`Connection::next`].
    pub fn buffered(&mut self) -> Result<Option<Frame>, StompError> {
        match take_frame(&mut self.inbox)? {
            Some(frame) if frame.command() == b"ERROR" => Err(error_of(&frame)),
            other => Ok(other),
        }
    }

    /// Says DISCONNECT, waits for its receipt and closes, so that what was sent before is settled.
    ///
    /// # Errors
    /// If the server did not answer: acknowledgements just sent may then be lost.
    pub fn close(mut self, patience: Duration) -> Result<(), StompError> {
        self.request("DISCONNECT", &[], &[], patience)?;
        match self.stream.shutdown(Shutdown::Both) {
            // The server may close first: that is the same.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error.into()),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Reads once; false when `until` came first.
    fn fill(&mut self, until: Moment, now: Moment) -> Result<bool, StompError> {
        // A zero read timeout means "for ever" to the system: a late call still gets a short look.
        let patience = until.since(now).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(patience))?;
        match self.stream.read(&mut self.scratch) {
            Ok(0) => Err(StompError::Closed),
            Ok(read) => {
                self.inbox.extend_from_slice(&self.scratch[..read]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error.into()),
            },
        }
    }
}

/// Takes one whole frame from the front of `inbox`, if it is there.
fn take_frame(inbox: &mut BytesMut) -> Result<Option<Frame>, StompError> {
    let heart_beats = inbox
        .iter()
        .take_while(|byte| matches!(byte, b'\n' | b'\r'))
        .count();
    inbox.advance(heart_beats);
    let Some(head) = head_length(inbox)? else {
        return Ok(None);
    };
    let body = match raw_header(&inbox[..head], "content-length") {
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .filter(|length| *length <= BODY_BYTES_MAX)
            .ok_or(StompError::Malformed {
                what: "content-length is not a number within the limit",
            })?,
        None => match memchr::memchr(0, &inbox[head..]) {
            Some(length) => length,
            None if inbox.len() - head > BODY_BYTES_MAX => {
                return Err(StompError::Malformed {
                    what: "a body without end",
                });
            }
            None => return Ok(None),
        },
    };
    let Some(end) = inbox.get(head + body) else {
        return Ok(None);
    };
    if *end != 0 {
        return Err(StompError::Malformed {
            what: "no NUL after the body",
        });
    }
    let mut whole = inbox.split_to(head + body + 1).freeze();
    let head = whole.split_to(head);
    whole.truncate(body);
    Ok(Some(Frame { head, body: whole }))
}

/// Length of command line and headers with the empty line that ends them.
fn head_length(inbox: &[u8]) -> Result<Option<usize>, StompError> {
    let mut start = 0;
    while let Some(line) = memchr::memchr(b'\n', &inbox[start..]) {
        let end = start + line;
        if end == start || inbox[start..end] == *b"\r" {
            return Ok(Some(end + 1));
        }
        start = end + 1;
    }
    if inbox.len() > HEAD_BYTES_MAX {
        return Err(StompError::Malformed {
            what: "headers without end",
        });
    }
    Ok(None)
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn raw_header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    lines(head)
        .skip(1)
        .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))
}

/// A server that ends its service says so before it closes: the other one takes over, or this one comes
/// back, so that it is a lost connection and no refusal.
fn error_of(frame: &Frame) -> StompError {
    if frame.header("message").unwrap_or_default().trim() == FAREWELL {
        return StompError::Closed;
    }
    StompError::Refused {
        message: error_text(frame),
    }
}

fn error_text(frame: &Frame) -> String {
    let message = frame.header("message").unwrap_or_default();
    let body = String::from_utf8_lossy(&frame.body);
    match (message.trim(), body.trim()) {
        ("", body) => body.to_owned(),
        (message, "") => message.to_owned(),
        (message, body) => format!("{message}: {body}"),
    }
}

fn escape(text: &str, into: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'\\' => into.extend_from_slice(b"\\\\"),
            b'\n' => into.extend_from_slice(b"\\n"),
            b'\r' => into.extend_from_slice(b"\\r"),
            b':' => into.extend_from_slice(b"\\c"),
            other => into.push(other),
        }
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('c') => plain.push(':'),
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

#[cfg(test)]
mod tests;
