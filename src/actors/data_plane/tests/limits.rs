//! Each limit is reached, says so, and lets others go on.

use super::*;
use crate::actors::overload::MemoryBounds;
use crate::machines::policy::{DestinationPolicy, Policies};
use crate::proto::pattern::NamePattern;
use crate::storage::api::{GatePolicy, RoomLevel};

/// Room for many messages that are not stored yet.
const MANY: PermitLimit = PermitLimit {
    messages: 1000,
    bytes: 16 << 20,
};

fn met(described: &DataPlaneDescription, limit: Limit) -> u64 {
    let mut all = described.limits_met.iter();
    all.find(|(other, _)| *other == limit).unwrap().1
}

impl Server {
    pub(super) async fn await_met(&self, limit: Limit, count: u64) {
        self.until(limit.name(), |described| met(described, limit) == count)
            .await;
    }

    /// A consumer that holds one unacknowledged message of the queue, and its ack.
    pub(super) async fn consumer_with_one(&self, queue: &str) -> (Client, String) {
        let mut client = self.client().await;
        client.publish(queue, "held", "r").await;
        client.expect("RECEIPT", &[]).await;
        client.subscribe(queue, "client-individual").await;
        let message = client.expect("MESSAGE", &[]).await;
        let ack = header(&message, "ack").to_owned();
        (client, ack)
    }
}

#[test]
fn a_nearly_full_store_holds_senders_back_and_lets_acknowledgements_through() {
    real(async {
        let server = Server::start(config()).await;
        let (mut consumer, ack) = server.consumer_with_one("q").await;
        let mut producer = server.client().await;
        server.store.fill(RoomLevel::Blocks);
        server.await_met(Limit::StoreBlocks, 1).await;
        assert_eq!(server.describe().await.limited.len(), 1);
        producer.publish("q", "waits", "r2").await;
        consumer
            .send(&format!("ACK\nid:{ack}\nreceipt:a\n\n"))
            .await;
        consumer.expect("RECEIPT", &["receipt-id:a"]).await;
        assert_eq!(server.store.owed(), 0, "the SEND was not taken");
        server.store.fill(RoomLevel::Low);
        producer.expect("RECEIPT", &["receipt-id:r2"]).await;
    });
}

#[test]
fn a_send_that_waits_too_long_gets_an_error_with_the_reason() {
    real(async {
        let mut config = config();
        config.session.block_timeout = Duration::from_millis(200);
        let server = Server::start(config).await;
        let mut producer = server.client().await;
        server.store.fill(RoomLevel::Blocks);
        server.await_met(Limit::StoreBlocks, 1).await;
        producer.publish("q", "waits", "r").await;
        producer
            .expect("ERROR", &["receipt-id:r", "almost full"])
            .await;
        server.await_met(Limit::BlockTimeout, 1).await;
        assert_eq!(server.store.owed(), 0);
    });
}

#[test]
fn a_connection_that_waits_for_its_permit_can_still_acknowledge() {
    real(async {
        let mut config = config();
        config.directory.connection_permits.messages = 1;
        let server = Server::start(config).await;
        let (mut client, ack) = server.consumer_with_one("q").await;
        server.store.hold(true);
        client.publish("q", "one", "r1").await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        client.send(&format!("ACK\nid:{ack}\n\n")).await;
        let settled = |d: &DataPlaneDescription| d.destinations[0].report.figures.accepted == 1;
        server.until("it is settled", settled).await;
        server.store.hold(false);
        client.expect("RECEIPT", &["receipt-id:r1"]).await;
    });
}

#[test]
fn memory_that_is_short_holds_senders_back() {
    real(async {
        let mut config = config();
        config.directory.memory = MemoryBounds {
            high: 300 << 10,
            critical: 1 << 30,
            connection: 1 << 30,
        };
        let server = Server::start(config).await;
        let (mut consumer, ack) = server.consumer_with_one("other").await;
        let mut producer = server.client().await;
        server.store.hold(true);
        let body = "x".repeat(60 << 10);
        for _ in 0..6 {
            producer.publish("q", &body, "r1").await;
        }
        server.await_met(Limit::MemoryHigh, 1).await;
        producer.publish("q", "second", "r2").await;
        consumer.send(&format!("ACK\nid:{ack}\n\n")).await;
        let settled = |d: &DataPlaneDescription| {
            let mut all = d.destinations.iter();
            all.any(|one| one.report.figures.accepted == 1)
        };
        server.until("it is settled", settled).await;
        let described = server.describe().await;
        assert_eq!(described.in_flight.0, 6, "{described:?}");
        assert!(described.limited[0].contains("memory_high_mib"));
        server.store.hold(false);
        for _ in 0..6 {
            producer.expect("RECEIPT", &["receipt-id:r1"]).await;
        }
        producer.expect("RECEIPT", &["receipt-id:r2"]).await;
    });
}

#[test]
fn the_largest_offender_is_closed_when_memory_is_critical_and_others_stay() {
    real(async {
        let mut config = config();
        config.directory.connection_permits = MANY;
        config.directory.memory = MemoryBounds {
            high: 1 << 30,
            critical: 3 << 20,
            connection: 1 << 30,
        };
        let server = Server::start(config).await;
        let mut small = server.client().await;
        let mut large = server.client().await;
        server.store.hold(true);
        small.publish("q", "small", "s").await;
        let body = "x".repeat(60 << 10);
        for _ in 0..60 {
            large.publish("q", &body, "l").await;
        }
        large
            .expect("ERROR", &["`limits.memory_critical_mib`"])
            .await;
        server.store.hold(false);
        small.expect("RECEIPT", &["receipt-id:s"]).await;
        assert_eq!(met(&server.describe().await, Limit::MemoryCritical), 1);
    });
}

#[test]
fn a_connection_that_holds_too_much_is_closed() {
    real(async {
        let mut config = config();
        config.directory.connection_permits = MANY;
        config.directory.memory.connection = 1 << 20;
        let server = Server::start(config).await;
        let mut client = server.client().await;
        server.store.hold(true);
        for _ in 0..30 {
            client.publish("q", &"x".repeat(60 << 10), "r").await;
        }
        client
            .expect("ERROR", &["`limits.connection_memory_mib`"])
            .await;
        server.store.hold(false);
        assert_eq!(met(&server.describe().await, Limit::ConnectionMemory), 1);
    });
}

#[test]
fn a_client_that_does_not_read_is_closed_and_its_messages_go_to_another() {
    real(async {
        let mut config = config();
        config.session.slow_consumer = Some(Duration::from_millis(300));
        let server = Server::start(config).await;
        let mut producer = server.client().await;
        // More than the system's buffers take.
        let body = "x".repeat(1 << 20);
        for _ in 0..16 {
            producer.publish("q", &body, "r").await;
            producer.expect("RECEIPT", &[]).await;
        }
        let mut deaf = server.client().await;
        deaf.subscribe("q", "client").await;
        server.await_met(Limit::SlowConsumer, 1).await;
        let mut other = server.client().await;
        other.subscribe("q", "client").await;
        for _ in 0..16 {
            other.expect("MESSAGE", &[]).await;
        }
        drop(deaf);
    });
}

#[test]
fn a_connection_that_nobody_needs_is_closed_and_a_subscriber_is_not() {
    real(async {
        let mut config = config();
        config.session.idle_timeout = Some(Duration::from_millis(300));
        let server = Server::start(config).await;
        let mut subscriber = server.client().await;
        subscriber.subscribe("q", "auto").await;
        let mut idle = server.client().await;
        idle.expect("ERROR", &["`limits.idle_timeout_s`"]).await;
        assert_eq!(idle.next().await, None);
        let mut producer = server.client().await;
        producer.publish("q", "still here", "r").await;
        subscriber.expect("MESSAGE", &["still here"]).await;
        server
            .until("one idle at least", |d| met(d, Limit::Idle) >= 1)
            .await;
    });
}

#[test]
fn an_address_has_a_bound_of_its_own() {
    real(async {
        let mut config = config();
        config.admission.per_address = Some(1);
        let server = Server::start(config).await;
        let first = server.client().await;
        let mut second = Client::connect(server.address).await;
        let said = ["`limits.max_connections_per_address`"];
        second.expect("ERROR", &said).await;
        assert_eq!(
            met(&server.describe().await, Limit::ConnectionsPerAddress),
            1
        );
        drop(first);
        server.until("it is gone", |d| d.connections == 0).await;
        server.client().await;
    });
}

#[test]
fn connections_that_come_too_fast_wait_and_are_not_refused() {
    real(async {
        let mut config = config();
        config.admission.per_second = Some(5);
        config.admission.connections = 100;
        let server = Server::start(config).await;
        let mut clients = Vec::new();
        for _ in 0..7 {
            clients.push(server.client().await);
        }
        let described = server.describe().await;
        assert_eq!(described.connections, 7);
        assert!(met(&described, Limit::AcceptRate) >= 1, "{described:?}");
    });
}

#[test]
fn a_frame_beyond_the_limits_is_counted() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        let headers = "x:y\n".repeat(200);
        client
            .send(&format!("SEND\ndestination:/queue/q\n{headers}\n"))
            .await;
        client.expect("ERROR", &["more than 128 headers"]).await;
        assert_eq!(met(&server.describe().await, Limit::Frame), 1);
    });
}

fn two_copies() -> DataPlaneConfig {
    let policy = DestinationPolicy {
        both_copies: true,
        ..DestinationPolicy::default()
    };
    let pattern = NamePattern::parse("pay.>").unwrap();
    DataPlaneConfig {
        policies: Arc::new(Policies::new(vec![(pattern, policy)])),
        ..config()
    }
}

#[test]
fn a_destination_with_two_copies_takes_sends_only_while_there_are_two() {
    real(async {
        let server = Server::start(two_copies()).await;
        server.store.under(GatePolicy::Alone);
        let mut client = server.client().await;
        client.publish("pay.card", "one", "r1").await;
        let said = ["receipt-id:r1", "copies = 2", "not stored"];
        client.expect("ERROR", &said).await;
        assert_eq!(server.store.owed(), 0);
        let mut client = server.client().await;
        client.publish("other", "any", "r2").await;
        client.expect("RECEIPT", &["receipt-id:r2"]).await;
        let described = server.describe().await;
        assert_eq!(met(&described, Limit::Copies), 1);
        assert!(described.limited[0].contains("copies = 2"));
        server.store.under(GatePolicy::WithPeer);
        client.publish("pay.card", "two", "r3").await;
        client.expect("RECEIPT", &["receipt-id:r3"]).await;
        assert!(server.describe().await.limited.is_empty());
    });
}

#[test]
fn a_send_under_way_when_the_peer_goes_is_stored_but_not_confirmed() {
    real(async {
        let server = Server::start(two_copies()).await;
        server.store.under(GatePolicy::WithPeer);
        let mut client = server.client().await;
        let mut other = server.client().await;
        server.store.hold(true);
        client.publish("pay.card", "one", "r1").await;
        other.publish("q", "two", "r2").await;
        server.until("in flight", |d| d.in_flight.0 == 2).await;
        server.store.under(GatePolicy::Alone);
        server.store.hold(false);
        client
            .expect("ERROR", &["receipt-id:r1", "NOT confirmed"])
            .await;
        other.expect("RECEIPT", &["receipt-id:r2"]).await;
        server.until("none in flight", |d| d.in_flight.0 == 0).await;
        let mut consumer = server.client().await;
        consumer.subscribe("pay.card", "auto").await;
        consumer.expect("MESSAGE", &["\n\none"]).await;
    });
}
