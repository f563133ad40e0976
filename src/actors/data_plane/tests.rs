//! The whole data thread over real sockets, with a store in memory.

use std::cell::Cell;
use std::sync::OnceLock;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::actors::lease::Lease;
use crate::actors::permits::PermitLimit;
use crate::actors::testkit::FakeStore;
use crate::machines::stomp_session::{HeartBeatOffer, StompSessionConfig};
use crate::proto::stomp::Limits;
use crate::storage::api::{StoreEvent, StoreSink};
use crate::time::SystemClock;

mod bounds;
mod duplicates;
mod large;
mod limits;
mod transactions;

/// Far beyond anything that is waited for: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Sink(OnceLock<DataHandle>);

impl StoreSink for Sink {
    fn event(&self, event: StoreEvent) {
        let handle = self.0.get().expect("it is set before the store is used");
        match event {
            StoreEvent::Committed(committed) => handle.committed(committed),
            StoreEvent::Fetched(fetched) => handle.fetched(fetched),
            StoreEvent::PartsRead { whose, parts } => handle.parts_read(whose, parts),
            other => panic!("the fake store tells nothing like {other:?}"),
        }
    }
}

fn config() -> DataPlaneConfig {
    DataPlaneConfig {
        listen: vec!["127.9.2.1:0".parse().unwrap()],
        admission: AdmissionBounds {
            connections: 4,
            per_address: None,
            per_second: None,
        },
        directory: DirectoryConfig {
            connection_permits: PermitLimit {
                messages: 10,
                bytes: 1 << 20,
            },
            ..DirectoryConfig::default()
        },
        policies: Arc::default(),
        session: SessionConfig {
            stomp: Arc::new(StompSessionConfig {
                limits: Limits::default(),
                heart_beat_ms: HeartBeatOffer::default(),
                default_prefetch: 100,
                max_prefetch: 1000,
                max_subscriptions: 10,
                max_unsettled_requests: 1000,
                transactions: crate::machines::stomp_session::TransactionLimits {
                    open: 3,
                    messages: 100,
                    bytes: 1 << 20,
                    connection_bytes: 1 << 20,
                },
                server_name: "TwinMQ/test".to_owned(),
                connect_timeout_ms: 60_000,
            }),
            output_bytes_max: 64 << 10,
            linger: Duration::from_secs(5),
            block_timeout: Duration::from_secs(60),
            idle_timeout: None,
            slow_consumer: None,
        },
    }
}

struct Server {
    handle: DataHandle,
    store: Arc<FakeStore>,
    lease: Arc<Lease>,
    address: SocketAddr,
}

impl Server {
    async fn start(config: DataPlaneConfig) -> Self {
        let server = Self::bound(config);
        server.serve().await;
        server
    }

    fn bound(config: DataPlaneConfig) -> Self {
        let sink = Arc::new(Sink::default());
        let store = FakeStore::new(Arc::clone(&sink) as Arc<dyn StoreSink>);
        let (handle, plane) = DataPlane::bind(config).unwrap();
        assert!(sink.0.set(handle.clone()).is_ok());
        let address = plane.addresses()[0];
        let lease = Arc::new(Lease::new(Arc::new(SystemClock)));
        lease.set_for_ever();
        let (shared, spoken) = (Arc::clone(&store) as SharedStore, Arc::clone(&lease));
        tokio::task::spawn_local(plane.run(shared, spoken, Arc::new(SystemClock)));
        Self {
            handle,
            store,
            lease,
            address,
        }
    }

    async fn serve(&self) {
        reply(|done| self.handle.serve(Epoch(1), done))
            .await
            .unwrap();
    }

    async fn stop_serving(&self) {
        reply(|done| self.handle.stop_serving("role changed".to_owned(), done)).await;
    }

    async fn describe(&self) -> DataPlaneDescription {
        reply(|done| self.handle.describe(done)).await
    }

    async fn until(&self, what: &str, condition: impl Fn(&DataPlaneDescription) -> bool) {
        let wait = async {
            while !condition(&self.describe().await) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        assert!(outcome.is_ok(), "{what}: {:?}", self.describe().await);
    }

    async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        client.send("CONNECT\naccept-version:1.2\nhost:x\n\n").await;
        let connected = client.frame().await;
        assert!(connected.starts_with("CONNECTED\n"), "{connected}");
        client
    }
}

async fn reply<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    ask(Box::new(move |answer| assert!(sender.send(answer).is_ok())));
    tokio::time::timeout(PATIENCE, receiver)
        .await
        .unwrap()
        .unwrap()
}

struct Client {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            buffer: BytesMut::new(),
        }
    }

    async fn send(&mut self, frame: &str) {
        self.stream
            .write_all(format!("{frame}\0").as_bytes())
            .await
            .unwrap();
    }

    async fn publish(&mut self, queue: &str, body: &str, receipt: &str) {
        self.send(&format!(
            "SEND\ndestination:/queue/{queue}\nreceipt:{receipt}\n\n{body}"
        ))
        .await;
    }

    async fn subscribe(&mut self, queue: &str, ack: &str) {
        self.send(&format!(
            "SUBSCRIBE\nid:1\ndestination:/queue/{queue}\nack:{ack}\nreceipt:sub\n\n"
        ))
        .await;
        self.expect("RECEIPT", &["receipt-id:sub"]).await;
    }

    async fn next(&mut self) -> Option<String> {
        let read = async {
            loop {
                if let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
                    let frame = self.buffer.split_to(end);
                    self.buffer.advance(1);
                    let text = String::from_utf8(frame.to_vec()).unwrap();
                    return Some(text.trim_start().to_owned());
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("a frame or the end in time")
    }

    async fn frame(&mut self) -> String {
        self.next().await.expect("a frame, not the end")
    }

    async fn expect(&mut self, command: &str, parts: &[&str]) -> String {
        let frame = self.frame().await;
        assert!(frame.starts_with(command), "wanted {command}: {frame:.500}");
        for part in parts {
            assert!(frame.contains(part), "wanted {part:.500}: {frame:.500}");
        }
        frame
    }
}

fn header<'a>(frame: &'a str, name: &str) -> &'a str {
    frame
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {frame}"))
}

fn real(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_message_goes_from_one_client_to_another_and_is_done_when_acked() {
    real(async {
        let server = Server::start(config()).await;
        let mut producer = server.client().await;
        producer.publish("orders", "hello", "r1").await;
        producer.expect("RECEIPT", &["receipt-id:r1"]).await;
        assert_eq!(server.store.owed(), 1);
        let mut consumer = server.client().await;
        consumer.subscribe("orders", "client-individual").await;
        let message = consumer
            .expect("MESSAGE", &["destination:/queue/orders", "\n\nhello"])
            .await;
        let ack = header(&message, "ack");
        consumer
            .send(&format!("ACK\nid:{ack}\nreceipt:a1\n\n"))
            .await;
        consumer.expect("RECEIPT", &["receipt-id:a1"]).await;
        assert_eq!(server.store.owed(), 0);
        let described = server.describe().await;
        assert_eq!(described.connections, 2);
        assert_eq!(described.in_flight, (0, 0));
        let [queue] = &described.destinations[..] else {
            panic!("{described:?}");
        };
        assert_eq!(queue.name, "/queue/orders");
        let figures = queue.report.figures;
        assert_eq!((figures.depth, figures.consumers), (0, 1));
        assert_eq!((figures.arrived, figures.accepted), (1, 1));
    });
}

#[test]
fn a_receipt_waits_for_the_commit() {
    real(async {
        let server = Server::start(config()).await;
        let mut producer = server.client().await;
        server.store.hold(true);
        producer.publish("orders", "hello", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        assert!(producer.stream.try_read(&mut [0; 1]).is_err(), "no receipt");
        server.store.hold(false);
        producer.expect("RECEIPT", &["receipt-id:r1"]).await;
    });
}

#[test]
fn what_a_lost_consumer_had_goes_to_the_next_flagged() {
    real(async {
        let server = Server::start(config()).await;
        let mut producer = server.client().await;
        for n in 1..=3 {
            producer.publish("orders", &format!("m{n}"), "r").await;
            producer.frame().await;
        }
        let mut lost = server.client().await;
        lost.subscribe("orders", "client").await;
        for n in 1..=3 {
            let message = lost.expect("MESSAGE", &[&format!("\n\nm{n}")]).await;
            assert!(!message.contains("redelivered:true"), "{message}");
        }
        drop(lost);
        let mut next = server.client().await;
        next.subscribe("orders", "auto").await;
        for n in 1..=3 {
            next.expect("MESSAGE", &["redelivered:true", &format!("\n\nm{n}")])
                .await;
        }
        server
            .until("acked", |d| d.destinations[0].report.figures.depth == 0)
            .await;
        assert_eq!(server.store.owed(), 0);
    });
}

#[test]
fn a_client_that_only_writes_is_held_by_its_permits_and_loses_nothing() {
    real(async {
        let server = Server::start(config()).await;
        let mut producer = server.client().await;
        server.store.hold(true);
        let frames = "SEND\ndestination:/queue/orders\n\nbody\0".repeat(500);
        producer.stream.write_all(frames.as_bytes()).await.unwrap();
        server.until("held", |d| d.in_flight.0 == 10).await;
        // It leaves while most of what it wrote has not gone on.
        drop(producer);
        server.until("still held", |d| d.in_flight.0 == 10).await;
        server.store.hold(false);
        server
            .until("all stored", |d| {
                d.connections == 0 && d.destinations[0].report.figures.depth == 500
            })
            .await;
        assert_eq!(server.describe().await.in_flight, (0, 0));
        assert!(server.store.submits() <= 80, "{}", server.store.submits());
    });
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_and_little_memory() {
    real(async {
        let server = Server::start(config()).await;
        let mut deaf = server.client().await;
        deaf.send("SUBSCRIBE\nid:1\ndestination:/queue/big\nack:client\nprefetch-count:1000\n\n")
            .await;
        let mut producer = server.client().await;
        let body = "x".repeat(100_000);
        let count = 200;
        for _ in 0..count {
            producer.publish("big", &body, "r").await;
            producer.expect("RECEIPT", &[]).await;
        }
        // It still may write: its ACKs are read while its deliveries are stuck.
        deaf.publish("other", "small", "r").await;
        server
            .until("read though the write is blocked", |d| {
                d.destinations
                    .iter()
                    .any(|queue| queue.name == "/queue/other")
            })
            .await;
        for _ in 0..count {
            let mut frame = deaf.frame().await;
            if frame.starts_with("RECEIPT") {
                frame = deaf.frame().await;
            }
            assert!(frame.ends_with(&body));
        }
    });
}

#[test]
fn the_port_refuses_until_the_server_serves_and_again_after() {
    real(async {
        let server = Server::bound(config());
        assert!(TcpStream::connect(server.address).await.is_err());
        server.serve().await;
        let mut client = server.client().await;
        client.publish("orders", "kept", "r1").await;
        client.frame().await;
        server.stop_serving().await;
        client.expect("ERROR", &["role changed"]).await;
        assert_eq!(client.next().await, None);
        assert!(TcpStream::connect(server.address).await.is_err());
        server.serve().await;
        let mut client = server.client().await;
        client.subscribe("orders", "auto").await;
        client.expect("MESSAGE", &["\n\nkept"]).await;
    });
}

#[test]
fn a_drain_answers_everything_that_was_read_and_then_closes() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.publish("orders", "one", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        let drained = std::rc::Rc::new(Cell::new(false));
        let (flag, handle) = (std::rc::Rc::clone(&drained), server.handle.clone());
        let drain = tokio::task::spawn_local(async move {
            reply(|done| handle.drain(PATIENCE, "maintenance".to_owned(), done)).await;
            flag.set(true);
        });
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!drained.get(), "a request is not answered");
        server.store.hold(false);
        client.expect("RECEIPT", &["receipt-id:r1"]).await;
        client.expect("ERROR", &["maintenance"]).await;
        assert_eq!(client.next().await, None);
        drop(client);
        drain.await.unwrap();
        assert_eq!(server.describe().await.connections, 0);
    });
}

#[test]
fn a_drain_without_end_is_cut_off() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.publish("orders", "one", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        let patience = Duration::from_millis(20);
        reply(|done| server.handle.drain(patience, "now".to_owned(), done)).await;
        client.expect("ERROR", &["now"]).await;
        assert_eq!(client.next().await, None);
    });
}

#[test]
fn permits_of_requests_that_are_never_answered_come_back_when_the_term_ends() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.publish("orders", "one", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        server.stop_serving().await;
        client.expect("ERROR", &["role changed"]).await;
        drop(client);
        server.until("back", |d| d.in_flight == (0, 0)).await;
    });
}

#[test]
fn a_client_that_waits_too_long_for_a_permit_is_told_and_closed() {
    real(async {
        let mut impatient = config();
        impatient.session.block_timeout = Duration::from_millis(20);
        let server = Server::start(impatient).await;
        let mut client = server.client().await;
        server.store.hold(true);
        for _ in 0..12 {
            client.publish("orders", "body", "r").await;
        }
        client
            .expect("ERROR", &["too much waits to be stored"])
            .await;
        assert_eq!(client.next().await, None);
    });
}

#[test]
fn a_client_that_shuts_its_half_still_gets_its_receipts() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.publish("orders", "one", "r1").await;
        client.stream.shutdown().await.unwrap();
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        server.store.hold(false);
        client.expect("RECEIPT", &["receipt-id:r1"]).await;
        assert_eq!(client.next().await, None);
    });
}

#[test]
fn without_the_lease_nothing_leaves() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.publish("orders", "one", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        server.lease.revoke();
        server.store.hold(false);
        assert_eq!(client.next().await, None, "closed without a word");
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    real(async {
        let mut few = config();
        few.admission.connections = 1;
        let server = Server::start(few).await;
        let _first = server.client().await;
        let mut second = Client::connect(server.address).await;
        second
            .expect(
                "ERROR",
                &["too many connections", "`limits.max_connections`"],
            )
            .await;
        assert_eq!(second.next().await, None);
    });
}

#[test]
fn a_full_store_refuses_the_send_and_says_why() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        client.publish("orders", "one", "r1").await;
        client.frame().await;
        server.stop_serving().await;
        server.store.refuse_sends(true);
        server.serve().await;
        let mut client = server.client().await;
        client.publish("orders", "two", "r2").await;
        client.expect("ERROR", &["almost full"]).await;
        assert_eq!(server.store.owed(), 1);
    });
}
