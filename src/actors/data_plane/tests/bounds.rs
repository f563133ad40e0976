//! Destinations with bounds of their own, seen by clients.

use super::*;
use crate::machines::policy::{DestinationPolicy, OnFull, Policies};
use crate::proto::pattern::NamePattern;

fn bounded(pattern: &str, max_messages: u64, on_full: OnFull) -> DataPlaneConfig {
    let policy = DestinationPolicy {
        max_messages: Some(max_messages),
        on_full,
        ..DestinationPolicy::default()
    };
    let pattern = NamePattern::parse(pattern).unwrap();
    DataPlaneConfig {
        policies: Arc::new(Policies::new(vec![(pattern, policy)])),
        ..config()
    }
}

fn waiting(described: &DataPlaneDescription) -> u32 {
    let all = described.destinations.iter();
    all.filter_map(|it| it.bound).map(|it| it.waiting).sum()
}

impl Client {
    /// All of them in one write.
    async fn burst(&mut self, destination: &str, receipts: std::ops::RangeInclusive<u32>) {
        let frame = |receipt| format!("SEND\ndestination:{destination}\nreceipt:{receipt}\n\nx\0");
        let frames: String = receipts.map(frame).collect();
        self.stream.write_all(frames.as_bytes()).await.unwrap();
    }

    async fn receipts(&mut self, receipts: std::ops::RangeInclusive<u32>) {
        for receipt in receipts {
            let wanted = format!("receipt-id:{receipt}");
            self.expect("RECEIPT", &[&wanted]).await;
        }
    }
}

#[test]
fn a_full_queue_that_blocks_holds_its_senders_back_while_others_send_and_acknowledge() {
    real(async {
        let server = Server::start(bounded("q", 3, OnFull::Block)).await;
        let (mut consumer, ack) = server.consumer_with_one("q").await;
        let mut producer = server.client().await;
        producer.burst("/queue/q", 1..=8).await;
        producer.receipts(1..=2).await;
        server.until("it waits", |d| waiting(d) == 1).await;
        assert_eq!(server.store.owed(), 3, "no more than the bound");
        let said = server.describe().await.limited;
        assert!(
            said[0].contains("/queue/q is full: max_messages = 3"),
            "{said:?}"
        );
        // Another queue is not held back, nor is the same connection's consumer.
        consumer.publish("other", "x", "o").await;
        let mut next = ack;
        let mut seen = 0;
        while seen < 8 {
            let frame = consumer.frame().await;
            if frame.starts_with("MESSAGE") {
                seen += 1;
                consumer.send(&format!("ACK\nid:{next}\n\n")).await;
                header(&frame, "ack").clone_into(&mut next);
            }
        }
        producer.receipts(3..=8).await;
        server
            .until("nobody waits", |d| waiting(d) == 0 && d.limited.is_empty())
            .await;
    });
}

#[test]
fn a_sender_that_waits_too_long_for_a_full_queue_is_told_which() {
    real(async {
        let mut config = bounded("q", 1, OnFull::Block);
        config.session.block_timeout = Duration::from_millis(200);
        let server = Server::start(config).await;
        let mut producer = server.client().await;
        producer.burst("/queue/q", 1..=2).await;
        producer.receipts(1..=1).await;
        let said = ["/queue/q is full", "max_messages = 1"];
        producer.expect("ERROR", &said).await;
        server.until("it is gone", |d| waiting(d) == 0).await;
        assert_eq!(server.store.owed(), 1);
    });
}

#[test]
fn a_full_queue_that_rejects_answers_with_an_error() {
    real(async {
        let server = Server::start(bounded("q", 2, OnFull::Reject)).await;
        let mut producer = server.client().await;
        producer.burst("/queue/q", 1..=2).await;
        producer.receipts(1..=2).await;
        producer.burst("/queue/q", 3..=3).await;
        let said = ["receipt-id:3", "/queue/q is full", "max_messages = 2"];
        producer.expect("ERROR", &said).await;
        assert_eq!(server.store.owed(), 2);
    });
}

async fn topic_consumer(server: &Server) -> (Client, String) {
    let mut client = server.client().await;
    client
        .send("SUBSCRIBE\nid:1\ndestination:/topic/news.*\nack:client-individual\nreceipt:sub\n\n")
        .await;
    client.expect("RECEIPT", &["receipt-id:sub"]).await;
    let mut producer = server.client().await;
    producer.burst("/topic/news.a", 1..=1).await;
    producer.receipts(1..=1).await;
    let message = client.expect("MESSAGE", &[]).await;
    let ack = header(&message, "ack").to_owned();
    (client, ack)
}

#[test]
fn one_full_subscription_refuses_a_message_to_its_topic_for_all_and_is_named() {
    real(async {
        let server = Server::start(bounded("/topic/news.>", 2, OnFull::Reject)).await;
        let (_one, _) = topic_consumer(&server).await;
        let mut two = server.client().await;
        two.send("SUBSCRIBE\nid:1\ndestination:/topic/news.*\n\n")
            .await;
        let two_is_there = |d: &DataPlaneDescription| d.destinations.len() == 2;
        server.until("both subscribe", two_is_there).await;
        let mut producer = server.client().await;
        producer.burst("/topic/news.a", 2..=2).await;
        producer.receipts(2..=2).await;
        producer.burst("/topic/news.a", 3..=3).await;
        let said = ["receipt-id:3", "/subscription/", "is full"];
        producer.expect("ERROR", &said).await;
        two.expect("MESSAGE", &[]).await;
        let first_holds_two = |d: &DataPlaneDescription| {
            let mut all = d.destinations.iter();
            all.any(|it| it.report.figures.depth == 2)
        };
        server.until("nothing came", first_holds_two).await;
    });
}

#[test]
fn one_full_subscription_holds_the_senders_to_its_topic_back_and_no_others() {
    real(async {
        let server = Server::start(bounded("/topic/news.>", 1, OnFull::Block)).await;
        let (mut consumer, ack) = topic_consumer(&server).await;
        let mut producer = server.client().await;
        producer.burst("/topic/news.b", 1..=2).await;
        server.until("it waits", |d| waiting(d) == 1).await;
        let mut other = server.client().await;
        other.burst("/topic/weather", 1..=1).await;
        other.receipts(1..=1).await;
        consumer.send(&format!("ACK\nid:{ack}\n\n")).await;
        producer.receipts(1..=1).await;
        let message = consumer.expect("MESSAGE", &[]).await;
        let ack = header(&message, "ack");
        consumer.send(&format!("ACK\nid:{ack}\n\n")).await;
        producer.receipts(2..=2).await;
    });
}

#[test]
fn a_subscription_that_drops_keeps_the_newest_and_its_neighbour_keeps_all() {
    real(async {
        let server = Server::start(bounded("/topic/news.*", 2, OnFull::DropOldest)).await;
        let subscribe = async |id: &str, topic: &str| {
            let mut client = server.client().await;
            let frame = format!(
                "SUBSCRIBE\nid:{id}\ndestination:{topic}\nack:client-individual\n\
                 activemq.prefetchSize:1\nreceipt:sub\n\n"
            );
            client.send(&frame).await;
            client.expect("RECEIPT", &["receipt-id:sub"]).await;
            client
        };
        // The second's topics are spelled otherwise, which no table fits.
        let _one = subscribe("1", "/topic/news.a").await;
        let _two = subscribe("2", "/topic/*.a").await;
        let mut producer = server.client().await;
        producer.burst("/topic/news.a", 1..=8).await;
        producer.receipts(1..=8).await;
        let as_wanted = |d: &DataPlaneDescription| {
            let mut depths: Vec<(u64, u64)> = d
                .destinations
                .iter()
                .map(|it| (it.report.figures.depth, it.report.figures.dropped))
                .collect();
            depths.sort_unstable();
            depths == [(2, 6), (8, 0)]
        };
        server.until("the oldest are gone", as_wanted).await;
    });
}
