//! Bodies in parts through the whole data thread.

use super::*;
use crate::actors::overload::Limit;
use crate::proto::message::PART_BYTES;
use crate::storage::api::RoomLevel;

/// Of five parts, with letters that say where they stand.
fn body() -> String {
    let letters =
        (0..PART_BYTES * 4 + 99).map(|at| char::from(b'a' + u8::try_from(at / 999 % 26).unwrap()));
    letters.collect()
}

fn send(queue: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!("SEND\ndestination:/queue/{queue}\ncontent-length:{length}\n{more}\n{body}")
}

impl Server {
    /// Whether a small message is refused.
    async fn refuses(&self, client: &mut Client) -> bool {
        client.publish("probe", "x", "p").await;
        client.frame().await.starts_with("ERROR")
    }

    async fn ended(&self, uploads: usize) {
        let what = format!("{uploads} uploads have ended");
        let wait = async {
            while self.store.uploads().1.len() != uploads {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        assert!(outcome.is_ok(), "{what}: {:?}", self.store.uploads());
    }
}

#[test]
fn a_large_message_goes_from_one_client_to_another_with_and_without_its_length() {
    real(async {
        let server = Server::start(config()).await;
        let (mut producer, body) = (server.client().await, body());
        producer
            .send(&send("q", "receipt:r1\nown:1\n", &body))
            .await;
        producer.expect("RECEIPT", &["receipt-id:r1"]).await;
        producer.publish("q", &body, "r2").await;
        producer.expect("RECEIPT", &["receipt-id:r2"]).await;
        assert_eq!(server.store.owed(), 2);
        assert_eq!(server.store.uploads().0, 10);
        server.ended(2).await;
        let mut consumer = server.client().await;
        consumer.subscribe("q", "client-individual").await;
        let mut acks = Vec::new();
        for own in [true, false] {
            let message = consumer.expect("MESSAGE", &["destination:/queue/q"]).await;
            assert_eq!(message.contains("own:1"), own);
            let length = body.len().to_string();
            assert_eq!(header(&message, "content-length"), length);
            assert!(message.ends_with(&format!("\n\n{body}")));
            acks.push(header(&message, "ack").to_owned());
        }
        for ack in acks {
            consumer
                .send(&format!("ACK\nid:{ack}\nreceipt:a\n\n"))
                .await;
            consumer.expect("RECEIPT", &["receipt-id:a"]).await;
        }
        assert_eq!(server.store.owed(), 0);
        assert_eq!(server.describe().await.in_flight, (0, 0));
    });
}

#[test]
fn messages_of_a_connection_stay_in_order_whatever_their_size() {
    real(async {
        let server = Server::start(config()).await;
        let (mut producer, body) = (server.client().await, body());
        let large = send("q", "", &body);
        producer
            .send(&format!(
                "{}\0{large}\0{}",
                send("q", "", "1"),
                send("q", "receipt:r\n", "3")
            ))
            .await;
        producer.expect("RECEIPT", &["receipt-id:r"]).await;
        let mut consumer = server.client().await;
        consumer.subscribe("q", "auto").await;
        for expected in ["1", &body, "3"] {
            consumer
                .expect("MESSAGE", &[&format!("\n\n{expected}")])
                .await;
        }
        server
            .until("all are settled", |d| {
                d.destinations[0].report.figures.depth == 0
            })
            .await;
    });
}

#[test]
fn a_large_send_takes_permits_and_stops_reading_when_the_store_does_not_get_on() {
    real(async {
        let mut config = config();
        config.directory.connection_permits.messages = 3;
        let server = Server::start(config).await;
        server.store.hold(true);
        let (mut producer, body) = (server.client().await, body());
        producer.send(&send("q", "receipt:r\n", &body)).await;
        server
            .until("held", |d| d.in_flight == (3, PART_BYTES * 3))
            .await;
        assert_eq!(server.store.uploads().0, 0);
        server.store.hold(false);
        producer.expect("RECEIPT", &["receipt-id:r"]).await;
        assert_eq!(server.store.owed(), 1);
    });
}

#[test]
fn what_else_there_is_for_a_client_comes_after_the_message_that_it_is_reading() {
    real(async {
        let server = Server::start(config()).await;
        let (mut client, body) = (server.client().await, body().repeat(15));
        client.send(&send("q", "receipt:r\n", &body)).await;
        client.expect("RECEIPT", &["receipt-id:r"]).await;
        client.subscribe("q", "client").await;
        // It does not read its message and goes on to send.
        client.publish("other", "small", "after").await;
        server
            .until("both are stored", |_| server.store.owed() == 2)
            .await;
        let message = client.expect("MESSAGE", &[]).await;
        assert!(message.ends_with(&body));
        client.expect("RECEIPT", &["receipt-id:after"]).await;
    });
}

#[test]
fn the_receipt_of_disconnect_comes_after_those_that_wait_behind_a_message() {
    real(async {
        let mut config = config();
        let limits = &mut Arc::make_mut(&mut config.session.stomp).limits;
        (limits.body_bytes, limits.frame_bytes) = (32 << 20, 33 << 20);
        let server = Server::start(config).await;
        // More than two sockets hold.
        let (mut client, body) = (server.client().await, body().repeat(60));
        client.send(&send("q", "receipt:r\n", &body)).await;
        client.expect("RECEIPT", &["receipt-id:r"]).await;
        client.subscribe("q", "client").await;
        // It does not read its message, sends once more and leaves.
        client.publish("other", "small", "after").await;
        client.send("DISCONNECT\nreceipt:bye\n\n").await;
        server
            .until("both are stored", |_| server.store.owed() == 2)
            .await;
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).await.unwrap();
        let tail = String::from_utf8_lossy(&rest[rest.len() - 100..]).into_owned();
        let frames: Vec<&str> = tail.split('\0').collect();
        let (last, before) = (frames[frames.len() - 2], frames[frames.len() - 3]);
        assert!(last.contains("receipt-id:bye"), "{tail}");
        assert!(before.contains("receipt-id:after"), "{tail}");
        assert!(frames[0].ends_with(&body[body.len() - 9..]), "{tail}");
    });
}

#[test]
fn a_transaction_holds_large_messages_until_its_end() {
    real(async {
        let server = Server::start(config()).await;
        let (mut client, body) = (server.client().await, body());
        let in_one = |id: &str| send("q", &format!("transaction:{id}\nreceipt:s{id}\n"), &body);
        for (id, end) in [("1", "ABORT"), ("2", "COMMIT")] {
            client.send(&format!("BEGIN\ntransaction:{id}\n\n")).await;
            client.send(&in_one(id)).await;
            client
                .expect("RECEIPT", &[&format!("receipt-id:s{id}")])
                .await;
            assert_eq!(server.store.owed(), 0);
            client
                .send(&format!("{end}\ntransaction:{id}\nreceipt:{end}\n\n"))
                .await;
            client
                .expect("RECEIPT", &[&format!("receipt-id:{end}")])
                .await;
        }
        server.ended(2).await;
        assert_eq!(server.store.owed(), 1);
        client.subscribe("q", "client").await;
        client.expect("MESSAGE", &[&body]).await;
    });
}

#[test]
fn an_upload_that_its_client_leaves_is_ended_and_nothing_is_owed() {
    real(async {
        let server = Server::start(config()).await;
        let (mut producer, body) = (server.client().await, body());
        let all = send("q", "", &body);
        let half = &all.as_bytes()[..PART_BYTES * 3];
        producer.stream.write_all(half).await.unwrap();
        let stored = || server.store.uploads().0 == 2;
        server.until("two parts are stored", |_| stored()).await;
        assert!(server.store.uploads().1.is_empty());
        drop(producer);
        server.ended(1).await;
        assert_eq!(
            (server.store.owed(), server.describe().await.in_flight),
            (0, (0, 0))
        );
    });
}

#[test]
fn an_upload_whose_client_goes_before_its_answer_is_ended_after_it() {
    real(async {
        let server = Server::start(config()).await;
        let (mut producer, body) = (server.client().await, body());
        server.store.hold(true);
        producer.send(&send("q", "", &body)).await;
        // The parts are let through, the message is not.
        server.until("parts wait", |d| d.in_flight.0 == 5).await;
        server.store.let_through(5);
        server
            .until("the message waits", |d| d.in_flight.0 == 1)
            .await;
        drop(producer);
        server.until("it is gone", |d| d.connections == 0).await;
        assert!(
            server.store.uploads().1.is_empty(),
            "the message needs its parts"
        );
        server.store.hold(false);
        server.ended(1).await;
        assert_eq!(server.store.owed(), 1);
    });
}

#[test]
fn a_large_send_is_refused_with_its_receipt() {
    real(async {
        let server = Server::start(config()).await;
        let (mut producer, body) = (server.client().await, body());
        server.store.refuse_sends(true);
        // Until the data thread has looked.
        while !server.refuses(&mut server.client().await).await {}
        producer.send(&send("q", "receipt:r\n", &body)).await;
        producer
            .expect("ERROR", &["receipt-id:r", "almost full"])
            .await;
        server.ended(1).await;
        assert_eq!(server.store.uploads().0, 0);
    });
}

#[test]
fn a_large_send_that_waits_too_long_within_its_body_is_refused_with_its_receipt() {
    real(async {
        let mut config = config();
        config.session.block_timeout = Duration::from_millis(200);
        let server = Server::start(config).await;
        let (mut producer, body) = (server.client().await, body());
        let all = send("q", "receipt:r\n", &body);
        let (begun, rest) = all.split_at(PART_BYTES * 3);
        producer.stream.write_all(begun.as_bytes()).await.unwrap();
        server
            .until("two parts are stored", |_| server.store.uploads().0 == 2)
            .await;
        server.store.fill(RoomLevel::Blocks);
        server.await_met(Limit::StoreBlocks, 1).await;
        producer.send(rest).await;
        producer
            .expect("ERROR", &["receipt-id:r", "almost full"])
            .await;
        server.ended(1).await;
        assert_eq!(server.store.owed(), 0);
    });
}

#[test]
fn a_body_over_the_limit_is_refused_at_once() {
    real(async {
        let server = Server::start(config()).await;
        let mut producer = server.client().await;
        let over = Limits::default().body_bytes + 1;
        let head = format!("SEND\ndestination:/queue/q\ncontent-length:{over}\n\n");
        producer.stream.write_all(head.as_bytes()).await.unwrap();
        producer.expect("ERROR", &["the body exceeds"]).await;
    });
}

#[test]
fn a_message_whose_parts_are_gone_ends_the_connection_and_not_the_server() {
    real(async {
        let server = Server::start(config()).await;
        let (mut client, body) = (server.client().await, body());
        client.send(&send("q", "receipt:r\n", &body)).await;
        client.expect("RECEIPT", &[]).await;
        server.store.lose_parts();
        client.subscribe("q", "client").await;
        let end = client.next().await;
        assert!(end.is_none(), "{end:?}");
        server.client().await;
    });
}

#[test]
fn a_refusal_within_a_message_ends_the_connection_and_puts_nothing_into_the_body() {
    real(async {
        let mut config = config();
        let mut stomp = (*config.session.stomp).clone();
        stomp.limits.body_bytes = 64 << 20;
        stomp.limits.frame_bytes = 65 << 20;
        config.session.stomp = Arc::new(stomp);
        let server = Server::start(config).await;
        // More than the sockets hold.
        let (mut client, body) = (server.client().await, body().repeat(60));
        client.send(&send("q", "receipt:r\n", &body)).await;
        client.expect("RECEIPT", &["receipt-id:r"]).await;
        server.store.refuse_sends(true);
        while !server.refuses(&mut server.client().await).await {}
        client.subscribe("q", "client").await;
        client.publish("q", "small", "refused").await;
        server
            .until("it has no consumer any more", |d| {
                let of_queue = |it: &&DestinationDescription| it.name == "/queue/q";
                let queue = d.destinations.iter().find(of_queue).unwrap();
                queue.report.figures.consumers == 0
            })
            .await;
        assert_eq!(client.next().await, None);
        let text = std::str::from_utf8(&client.buffer).unwrap();
        let (_, got) = text.split_once("\n\n").unwrap();
        assert!(got.len() < body.len() && body.starts_with(got));
    });
}
