//! Frames on a stream: one reading loop, one writing loop.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::proto::peer::{Body, Frame};
use crate::proto::peer_codec::{HANDSHAKE_FRAME_BYTES_MAX, decode, encode};
use crate::time::{Clock, Moment};

/// Read at once, at most, unless a frame is larger.
const READ_BYTES: usize = 64 * 1024;
/// Frames are put together into one write up to about this size.
const WRITE_BYTES: usize = 256 * 1024;
/// Frames taken from the queue at once.
const WRITE_FRAMES: usize = 256;
/// A buffer that grew for a large frame is given back when it is over this.
const KEPT_BYTES: usize = 1024 * 1024;
/// What a frame without a body counts for in [`FrameSender::queued_bytes`].
const SMALL_FRAME_BYTES: usize = 256;

/// How large a frame may be that is read: little until the shell says that the other side has proved
/// who it is. Clones share the value.
#[derive(Clone, Debug)]
pub struct FrameLimit(Arc<AtomicUsize>);

impl Default for FrameLimit {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(HANDSHAKE_FRAME_BYTES_MAX)))
    }
}

impl FrameLimit {
    /// From `LinkUp` on. The hard limit of the codec holds as well.
    pub fn raise(&self, bytes_max: usize) {
        self.0.store(bytes_max, Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a stream came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// Closed or reset by the other side's kernel.
    Ended,
    /// The network does not answer.
    Unreachable(String),
    /// What came is no frame, or what was to go is none.
    Malformed(String),
    /// This side closed it: all senders are gone and everything is written.
    Finished,
}

impl StreamEnd {
    fn of(cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => Self::Ended,
            io::ErrorKind::InvalidData => Self::Malformed(cause.to_string()),
            _ => Self::Unreachable(cause.to_string()),
        }
    }
}

/// Both loops on one stream, until it has ended. After the last sender is dropped, what the other
/// side still sends is read (and handed on) until it closes as well, at most for `linger`: a close
/// with unread bytes would be a reset, and would take the last frames sent with it.
pub async fn carry_frames(
    stream: impl AsyncRead + AsyncWrite,
    queue: FrameQueue,
    limit: FrameLimit,
    clock: Arc<dyn Clock>,
    linger: Duration,
    on_frame: impl FnMut(Frame, Moment),
) -> StreamEnd {
    let (read, write) = tokio::io::split(stream);
    let mut reading = pin!(read_frames(read, limit, clock, on_frame));
    let writing = pin!(write_frames(queue, write));
    tokio::select! {
        // In this order, so that the same events give the same end.
        biased;
        end = &mut reading => end,
        end = writing => match (timeout(linger, reading).await, end) {
            // The other side may have said why it closed.
            (Ok(read), StreamEnd::Ended) => read,
            (_, end) => end,
        },
    }
}

/// Reads frames until the stream ends, and hands on each with the time at which its bytes were read.
pub async fn read_frames(
    mut stream: impl AsyncRead + Unpin,
    limit: FrameLimit,
    clock: Arc<dyn Clock>,
    mut on_frame: impl FnMut(Frame, Moment),
) -> StreamEnd {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match stream.read_buf(&mut buffer).await {
            // Also in the middle of a frame: the other side was killed while it wrote.
            Ok(0) => return StreamEnd::Ended,
            Ok(_) => {}
            Err(cause) => return StreamEnd::of(&cause),
        }
        let at = clock.now();
        loop {
            match decode(&mut buffer, limit.get()) {
                Ok(Some(frame)) => on_frame(frame, at),
                Ok(None) => break,
                Err(cause) => return StreamEnd::Malformed(cause.to_string()),
            }
        }
    }
}

/// Where frames for a stream are put. Dropping all clones closes the stream after what was put.
/// Frames keep their order, but heartbeats and changes of state overtake the replication's: behind a
/// resync's pieces they would be late enough for a live peer to count as silent.
#[derive(Clone, Debug)]
pub struct FrameSender {
    /// Frames that may overtake bulk, in their own order.
    urgent: UnboundedSender<Frame>,
    frames: UnboundedSender<Frame>,
    queued: Arc<AtomicUsize>,
}

/// The other end of [`FrameSender`], for [`write_frames`].
#[derive(Debug)]
pub struct FrameQueue {
    urgent: UnboundedReceiver<Frame>,
    frames: UnboundedReceiver<Frame>,
    queued: Arc<AtomicUsize>,
}

/// A queue without a bound of its own: whoever sends much looks at [`FrameSender::queued_bytes`].
#[must_use]
pub fn frame_channel() -> (FrameSender, FrameQueue) {
    let (urgent, urgent_receiver) = unbounded_channel();
    let (sender, receiver) = unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    (
        FrameSender {
            urgent,
            frames: sender,
            queued: Arc::clone(&queued),
        },
        FrameQueue {
            urgent: urgent_receiver,
            frames: receiver,
            queued,
        },
    )
}

impl FrameSender {
    /// Puts a frame; false: the stream has ended, and its end is or will be reported by the loops.
    pub fn send(&self, frame: Frame) -> bool {
        let bytes = weight(&frame);
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        let queue = if is_urgent(&frame) {
            &self.urgent
        } else {
            &self.frames
        };
        let sent = queue.send(frame).is_ok();
        if !sent {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Bytes of bodies that are not yet handed to the system.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// Writes frames, many at once where many wait, until all senders are gone or the stream ends.
pub async fn write_frames(mut queue: FrameQueue, mut stream: impl AsyncWrite + Unpin) -> StreamEnd {
    let mut frames = Vec::new();
    let mut buffer = BytesMut::new();
    loop {
        if !queue.next(&mut frames).await {
            return match stream.shutdown().await {
                Ok(()) => StreamEnd::Finished,
                Err(cause) => StreamEnd::of(&cause),
            };
        }
        let mut bytes = 0_usize;
        let mut rest = frames.drain(..).peekable();
        while let Some(frame) = rest.next() {
            let mut put = encode(&frame, &mut buffer);
            bytes = bytes.saturating_add(weight(&frame));
            if put.is_ok() && buffer.len() < WRITE_BYTES && rest.peek().is_some() {
                continue;
            }
            while put.is_ok()
                && let Ok(frame) = queue.urgent.try_recv()
            {
                put = encode(&frame, &mut buffer);
                bytes = bytes.saturating_add(weight(&frame));
            }
            if let Err(cause) = put {
                return StreamEnd::Malformed(cause.to_string());
            }
            if let Err(cause) = write_all(&mut stream, &buffer).await {
                return StreamEnd::of(&cause);
            }
            queue.queued.fetch_sub(bytes, Ordering::Relaxed);
            bytes = 0;
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES {
                buffer = BytesMut::new();
            }
        }
    }
}

impl FrameQueue {
    /// Waits for frames and takes those that are there, urgent ones first; false: all senders are
    /// gone and nothing is left.
    async fn next(&mut self, to: &mut Vec<Frame>) -> bool {
        let more = tokio::select! {
            biased;
            Some(frame) = self.urgent.recv() => {
                to.push(frame);
                &mut self.urgent
            }
            Some(frame) = self.frames.recv() => {
                to.push(frame);
                &mut self.frames
            }
            else => return false,
        };
        while to.len() < WRITE_FRAMES
            && let Ok(frame) = more.try_recv()
        {
            to.push(frame);
        }
        true
    }
}

/// The handshake, the heartbeat and the changes of state, among which the order stays: a ping must
/// not come before the welcome, nor its facts before a change that they follow. A goodbye stays behind
/// the data that it ends.
fn is_urgent(frame: &Frame) -> bool {
    match frame {
        Frame::Hello(_) | Frame::Proof(_) | Frame::Welcome(_) => true,
        Frame::Session(_, body) => matches!(
            body,
            Body::Ping { .. } | Body::Pong { .. } | Body::RoleChanged { .. }
        ),
        Frame::Refuse(_) | Frame::LastWord { .. } => false,
    }
}

async fn write_all(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn weight(frame: &Frame) -> usize {
    let body = match frame {
        Frame::Session(_, Body::Batch { batch, .. }) => batch.bytes(),
        Frame::Session(_, Body::SnapshotPiece(piece)) => piece.len(),
        Frame::Hello(_)
        | Frame::Proof(_)
        | Frame::Welcome(_)
        | Frame::Refuse(_)
        | Frame::LastWord { .. }
        | Frame::Session(..) => 0,
    };
    body.saturating_add(SMALL_FRAME_BYTES)
}
