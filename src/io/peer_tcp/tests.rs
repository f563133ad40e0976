use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::io::tls;
use crate::proto::ids::{Epoch, Lsn, SessionId};
use crate::proto::log::Batch;
use crate::proto::peer::{Body, Frame};
use crate::proto::peer_codec::{FRAME_BYTES_MAX, decode, encode};
use crate::time::{Clock, Moment, SystemClock};

const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn plain() -> TcpNet {
    TcpNet {
        tls: None,
        nagle: false,
        user_timeout: Duration::from_secs(2),
        handshake_timeout: LIMIT,
    }
}

pub(super) fn with_tls(folder: &std::path::Path, name: &str) -> TcpNet {
    let paths = tls::tests::make_files(folder, name);
    TcpNet {
        tls: Some(tls::load(&paths).unwrap()),
        ..plain()
    }
}

/// Both ends of one connection: dialled, accepted.
async fn connected(
    dialler: &dyn Net,
    acceptor: &dyn Net,
    address: &str,
) -> (io::Result<BoxedStream>, io::Result<BoxedStream>) {
    let mut listener = acceptor.listen(address).await.unwrap();
    let address = listener.address();
    tokio::join!(dialler.dial(&address, LIMIT), async {
        listener.accept().await.unwrap().await
    })
}

/// The error of a stream that should not be there.
fn refused(stream: io::Result<BoxedStream>) -> io::Error {
    match stream {
        Ok(_) => panic!("this connection is not allowed"),
        Err(cause) => cause,
    }
}

fn pong(number: u64) -> Frame {
    Frame::Session(SessionId(1), Body::Pong { number })
}

/// A small frame that is not urgent.
fn index(number: u64) -> Frame {
    let committed = Lsn(number);
    Frame::Session(SessionId(1), Body::CommitIndex { committed })
}

fn batch(bytes: usize) -> Frame {
    Frame::Session(
        SessionId(1),
        Body::Batch {
            committed: Lsn(1),
            batch: Batch {
                epoch: Epoch(1),
                first: Lsn(2),
                last: Lsn(3),
                prev_chain: 0,
                chunks: vec![Bytes::from(vec![7; bytes])],
            },
        },
    )
}

/// Reads to the end.
async fn read_all(stream: impl AsyncRead + Unpin, limit: FrameLimit) -> (Vec<Frame>, StreamEnd) {
    let mut frames = Vec::new();
    let before = SystemClock.now();
    let end = read_frames(stream, limit, Arc::new(SystemClock), |frame, at| {
        assert!(at >= before);
        frames.push(frame);
    })
    .await;
    (frames, end)
}

fn raised() -> FrameLimit {
    let limit = FrameLimit::default();
    limit.raise(FRAME_BYTES_MAX);
    limit
}

#[tokio::test]
async fn frames_cross_and_the_end_of_the_senders_is_the_end_of_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryNet::default();
    let nets: [(&dyn Net, &str); 3] = [
        (&plain(), "127.0.0.1:0"),
        (&with_tls(folder.path(), tls::PEER_NAME), "127.0.0.1:0"),
        (&memory, "peer:3000"),
    ];
    for (net, address) in nets {
        let (near, far) = connected(net, net, address).await;
        let (sender, queue) = frame_channel();
        let sent: Vec<Frame> = (0..500)
            .map(index)
            .chain([batch(3_000_000), index(9)])
            .collect();
        for frame in &sent {
            assert!(sender.send(frame.clone()));
        }
        assert!(sender.queued_bytes() > 3_000_000);
        let drained = async {
            while sender.queued_bytes() > 0 {
                tokio::task::yield_now().await;
            }
            drop(sender);
        };
        let ((), end, (read, read_end)) = tokio::join!(
            drained,
            write_frames(queue, near.unwrap()),
            read_all(far.unwrap(), raised())
        );
        assert_eq!(end, StreamEnd::Finished);
        assert_eq!(read_end, StreamEnd::Ended);
        assert!(read == sent, "{} of {} frames came", read.len(), sent.len());
    }
}

#[tokio::test]
async fn the_last_words_arrive_although_the_other_side_still_talks() {
    let folder = tempfile::tempdir().unwrap();
    let nets = [plain(), with_tls(folder.path(), tls::PEER_NAME)];
    for net in &nets {
        let (near, far) = connected(net, net, "127.0.0.1:0").await;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (last, closing) = frame_channel();
        let (talk, talking) = frame_channel();
        for number in 0..100 {
            talk.send(pong(number));
        }
        last.send(batch(500_000));
        last.send(Frame::Refuse("slow".to_owned()));
        drop(last);
        let mut heard = Vec::new();
        let (near, far) = tokio::join!(
            carry_frames(
                near.unwrap(),
                closing,
                raised(),
                Arc::clone(&clock),
                LIMIT,
                |_, _| {}
            ),
            carry_frames(far.unwrap(), talking, raised(), clock, LIMIT, |frame, _| {
                talk.send(pong(1000));
                heard.push(frame);
            })
        );
        assert_eq!((near, far), (StreamEnd::Finished, StreamEnd::Ended));
        assert_eq!(heard.last(), Some(&Frame::Refuse("slow".to_owned())));
    }
}

#[tokio::test]
async fn heartbeats_overtake_bulk_and_the_rest_keeps_its_order() {
    let net = MemoryNet::default();
    let (near, far) = connected(&net, &net, "peer:1").await;
    let (sender, queue) = frame_channel();
    let piece = |number| {
        Frame::Session(
            SessionId(number),
            Body::SnapshotPiece(vec![0; 300_000].into()),
        )
    };
    for number in 0..40 {
        sender.send(piece(number));
    }
    let ((), end, (read, _)) = tokio::join!(
        async {
            // The pipe is full and the writer stands in the middle.
            while sender.queued_bytes() > 38 * 300_000 {
                tokio::task::yield_now().await;
            }
            sender.send(pong(1));
            sender.send(piece(40));
            drop(sender);
        },
        write_frames(queue, near.unwrap()),
        read_all(far.unwrap(), raised())
    );
    assert_eq!(end, StreamEnd::Finished);
    let overtook = read.iter().position(|frame| *frame == pong(1)).unwrap();
    assert!(overtook < 20, "{overtook}");
    let rest: Vec<_> = read.into_iter().filter(|frame| *frame != pong(1)).collect();
    assert!(rest == (0..=40).map(piece).collect::<Vec<_>>());
}

#[tokio::test]
async fn before_the_proof_frames_are_small() {
    for (limit, big) in [(FrameLimit::default(), 20_000), (raised(), FRAME_BYTES_MAX)] {
        let mut bytes = BytesMut::new();
        encode(&pong(1), &mut bytes).unwrap();
        bytes.extend_from_slice(&u32::try_from(big + 1).unwrap().to_be_bytes());
        let (read, end) = read_all(&bytes[..], limit).await;
        assert_eq!(read, [pong(1)]);
        let StreamEnd::Malformed(reason) = end else {
            panic!("{end:?}");
        };
        assert!(
            reason.starts_with(&format!("a frame of {} bytes came", big + 1)),
            "{reason}"
        );
    }
    let mut bytes = BytesMut::new();
    encode(&batch(20_000), &mut bytes).unwrap();
    let (read, end) = read_all(&bytes[..], raised()).await;
    assert_eq!((read.len(), end), (1, StreamEnd::Ended));
}

/// Counts writes.
struct Counting {
    writes: Arc<AtomicUsize>,
    bytes: Arc<Mutex<BytesMut>>,
}

impl AsyncWrite for Counting {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes.lock().unwrap().extend_from_slice(from);
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn frames_that_wait_go_out_in_one_write_and_large_ones_end_the_stream() {
    let (writes, bytes) = (Arc::default(), Arc::default());
    let stream = || Counting {
        writes: Arc::clone(&writes),
        bytes: Arc::clone(&bytes),
    };
    let (sender, queue) = frame_channel();
    for number in 0..200 {
        sender.send(pong(number));
    }
    drop(sender);
    assert_eq!(write_frames(queue, stream()).await, StreamEnd::Finished);
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    let mut written = std::mem::take(&mut *bytes.lock().unwrap());
    for number in 0..200 {
        assert_eq!(decode(&mut written, 4096), Ok(Some(pong(number))));
    }
    let (sender, queue) = frame_channel();
    sender.send(batch(FRAME_BYTES_MAX));
    let end = write_frames(queue, stream()).await;
    assert!(matches!(end, StreamEnd::Malformed(_)), "{end:?}");
    assert!(!sender.send(pong(1)), "nobody writes any more");
}

#[tokio::test]
async fn a_reset_is_an_end() {
    let (near, far) = connected(&plain(), &plain(), "127.0.0.1:0").await;
    let mut near = near.unwrap();
    // What is unread at the close makes the kernel reset the connection.
    far.unwrap().write_all(b"unread").await.unwrap();
    near.write_all(b"x").await.unwrap();
    drop(near);
    let memory = MemoryNet::default();
    let (near, far) = connected(&memory, &memory, "peer:1").await;
    let reading = read_all(far.unwrap(), raised());
    let (end, ()) = tokio::join!(reading, async { memory.reset() });
    assert_eq!(end.1, StreamEnd::Ended);
    let (sender, queue) = frame_channel();
    sender.send(pong(1));
    assert_eq!(write_frames(queue, near.unwrap()).await, StreamEnd::Ended);
}

#[tokio::test]
async fn tls_takes_only_certificates_of_the_pair() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let pair = with_tls(folders[0].path(), tls::PEER_NAME);
    let stranger = with_tls(folders[1].path(), tls::PEER_NAME);
    let (dialled, accepted) = connected(&stranger, &pair, "127.0.0.1:0").await;
    for end in [refused(dialled), refused(accepted)] {
        let message = end.to_string();
        assert!(
            message.contains("certificates of one `pair init`"),
            "{message}"
        );
    }
    // No certificate, no TLS at all: what is said is no handshake.
    let (dialled, accepted) = tokio::join!(
        async {
            let mut listener = pair.listen("127.0.0.1:0").await.unwrap();
            let dial = plain().dial(&listener.address(), LIMIT);
            let (dialled, incoming) = tokio::join!(dial, listener.accept());
            let mut stream = dialled.unwrap();
            stream
                .write_all(b"hello, this is no TLS at all")
                .await
                .unwrap();
            (stream, incoming.unwrap().await)
        },
        async {}
    )
    .0;
    drop(dialled);
    refused(accepted);
    let other_name = with_tls(folders[2].path(), "elsewhere");
    let (dialled, _) = connected(&other_name, &other_name, "127.0.0.1:0").await;
    refused(dialled);
}

#[tokio::test]
async fn nothing_plain_leaves_this_machine() {
    // TEST-NET-1: no packet is sent, since the check is before the connect.
    let cause = refused(plain().dial("192.0.2.1:2000", LIMIT).await);
    assert_eq!(cause.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(
        cause.to_string(),
        "192.0.2.1:2000 is not on this machine and the HA channel has no TLS: make the pair's \
         certificates with `twinmq pair init`"
    );
    assert!(
        plain()
            .allow("[::ffff:127.0.0.1]:1".parse().unwrap())
            .is_ok()
    );
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_owner() {
    let first = plain().listen("127.0.0.1:0").await.unwrap();
    let address = first.address();
    let Err(cause) = plain().listen(&address).await else {
        panic!("it is in use");
    };
    let message = cause.to_string();
    assert!(
        message.contains(&format!("address {address} is in use by ")),
        "{message}"
    );
    let owner = format!("(pid {})", std::process::id());
    assert!(message.contains(&owner), "{message}");
    assert!(message.contains("ha.backup_ha_port"), "{message}");
    let Err(cause) = plain().listen("192.0.2.1:2000").await else {
        panic!("no interface has this address");
    };
    let message = cause.to_string();
    assert!(message.starts_with("cannot listen on the HA channel's address 192.0.2.1:2000: "));
}

#[tokio::test(start_paused = true)]
async fn a_cut_network_holds_everything_back_until_it_heals() {
    let net = MemoryNet::default();
    assert_eq!(
        refused(net.dial("peer:1", LIMIT).await).kind(),
        io::ErrorKind::ConnectionRefused
    );
    let (near, far) = connected(&net, &net, "peer:1").await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    net.cut();
    near.write_all(b"abc").await.unwrap();
    drop(near);
    let mut read = [0; 3];
    let waited = timeout(LIMIT, far.read_exact(&mut read)).await;
    assert!(waited.is_err(), "nothing comes through");
    assert_eq!(
        refused(net.dial("peer:1", LIMIT).await).kind(),
        io::ErrorKind::TimedOut
    );
    let (waited, ()) = tokio::join!(timeout(LIMIT, far.read_exact(&mut read)), async {
        net.heal();
    });
    assert_eq!(waited.unwrap().unwrap(), 3);
    assert_eq!(&read, b"abc");
    assert_eq!(far.read(&mut read).await.unwrap(), 0);
}

#[tokio::test]
async fn a_memory_address_has_one_listener_until_it_is_dropped() {
    let net = MemoryNet::default();
    let first = net.listen("peer:1").await.unwrap();
    assert!(matches!(
        net.listen("peer:1").await,
        Err(ListenError::InUse { .. })
    ));
    drop(first);
    net.listen("peer:1").await.unwrap();
}

#[test]
fn frames_have_a_time_from_the_clock() {
    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> Moment {
            Moment(42)
        }
        fn wall_ms(&self) -> u64 {
            0
        }
    }
    let mut bytes = BytesMut::new();
    encode(&pong(1), &mut bytes).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut times = Vec::new();
    let limit = FrameLimit::default();
    runtime.block_on(read_frames(&bytes[..], limit, Arc::new(Fixed), |_, at| {
        times.push(at)
    }));
    assert_eq!(times, [Moment(42)]);
}
