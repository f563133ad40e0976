//! Transactions through the whole data thread.

use super::*;

const BEGIN: &str = "BEGIN\ntransaction:t\n\n";

fn send(queue: &str, body: &str) -> String {
    format!("SEND\ndestination:/queue/{queue}\ntransaction:t\n\n{body}\0")
}

fn commit(receipt: &str) -> String {
    format!("COMMIT\ntransaction:t\nreceipt:{receipt}\n\n")
}

#[test]
fn a_transaction_over_new_queues_and_an_ack_is_one_unit_and_its_receipt_waits_for_it() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        client.publish("in", "taken", "r1").await;
        client.expect("RECEIPT", &["r1"]).await;
        client.subscribe("in", "client-individual").await;
        let message = client.expect("MESSAGE", &["\n\ntaken"]).await;
        let ack = header(&message, "ack");
        let before = server.store.submits();
        server.store.hold(true);
        let frames = format!(
            "{BEGIN}\0{}{}ACK\nid:{ack}\ntransaction:t\n\n\0{}",
            send("left", "one"),
            send("right", "two"),
            commit("c")
        );
        client.send(&frames).await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        let is_settled = |d: &DataPlaneDescription| {
            let queue = d.destinations.iter().find(|d| d.name == "/queue/in");
            queue.is_some_and(|queue| queue.report.figures.unsettled == 0)
        };
        server.until("settled", is_settled).await;
        assert_eq!(server.store.submits(), before + 1);
        assert_eq!(server.store.owed(), 1, "nothing is stored yet");
        assert!(client.stream.try_read(&mut [0; 1]).is_err(), "no receipt");
        server.store.hold(false);
        client.expect("RECEIPT", &["receipt-id:c"]).await;
        assert_eq!(server.store.owed(), 2);
        assert_eq!(server.describe().await.in_flight, (0, 0));
    });
}

#[test]
fn what_a_client_sends_after_its_commit_comes_after_it() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        // The last of these queues answers last; the plain SEND is to the first.
        let frames: String = ["a", "b", "c"]
            .iter()
            .map(|queue| send(queue, "1"))
            .collect();
        let after = "SEND\ndestination:/queue/a\nreceipt:after\n\n2";
        let all = format!("{BEGIN}\0{frames}{}\0{after}", commit("c"));
        client.send(&all).await;
        client.expect("RECEIPT", &["receipt-id:c"]).await;
        client.expect("RECEIPT", &["receipt-id:after"]).await;
        client.subscribe("a", "client").await;
        client.expect("MESSAGE", &["\n\n1"]).await;
        client.expect("MESSAGE", &["\n\n2"]).await;
    });
}

#[test]
fn a_refused_transaction_stores_nothing_and_takes_nothing() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        client.publish("in", "kept", "r1").await;
        client.expect("RECEIPT", &["r1"]).await;
        client.subscribe("in", "client-individual").await;
        let message = client.expect("MESSAGE", &["\n\nkept"]).await;
        let ack = header(&message, "ack");
        server.store.refuse_sends(true);
        let frames = format!(
            "{BEGIN}\0{}ACK\nid:{ack}\ntransaction:t\n\n\0{}",
            send("out", "never"),
            commit("c")
        );
        // The store is asked a few times a second.
        let mut probe = server.client().await;
        loop {
            probe.publish("probe", "x", "p").await;
            let answer = probe.frame().await;
            if answer.starts_with("ERROR") {
                break;
            }
        }
        let owed = server.store.owed();
        client.send(&frames).await;
        client
            .expect("ERROR", &["the request was refused", "receipt-id:c"])
            .await;
        server.store.refuse_sends(false);
        let mut next = server.client().await;
        next.subscribe("in", "client").await;
        next.expect("MESSAGE", &["redelivered:true", "\n\nkept"])
            .await;
        assert_eq!(server.store.owed(), owed);
    });
}

#[test]
fn open_transactions_of_all_connections_are_bounded_and_an_end_frees_them() {
    real(async {
        let mut config = config();
        config.directory.permits.bytes = 10_000;
        let server = Server::start(config).await;
        let mut one = server.client().await;
        let body = "x".repeat(6000);
        let frames = format!(
            "{BEGIN}\0{}BEGIN\ntransaction:u\nreceipt:b\n\n",
            send("q", &body)
        );
        one.send(&frames).await;
        one.expect("RECEIPT", &["receipt-id:b"]).await;
        let mut two = server.client().await;
        two.send(&format!("{BEGIN}\0{}\n", send("q", &body))).await;
        two.expect("ERROR", &["too much waits for a COMMIT", "roll"])
            .await;
        // Plain sends of others go on.
        let mut three = server.client().await;
        three.publish("q", &body, "r").await;
        three.expect("RECEIPT", &["receipt-id:r"]).await;
        drop(one);
        server.until("it is gone", |d| d.connections <= 2).await;
        three
            .send(&format!("{BEGIN}\0{}{}", send("q", &body), commit("c")))
            .await;
        three.expect("RECEIPT", &["receipt-id:c"]).await;
        assert_eq!(server.store.owed(), 2);
    });
}

#[test]
fn a_server_that_stops_serving_forgets_what_was_not_committed() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        client.publish("in", "kept", "r1").await;
        client.expect("RECEIPT", &["r1"]).await;
        client.subscribe("in", "client-individual").await;
        let message = client.expect("MESSAGE", &["\n\nkept"]).await;
        let ack = header(&message, "ack");
        let frames = format!(
            "{BEGIN}\0{}ACK\nid:{ack}\ntransaction:t\nreceipt:a\n\n",
            send("in", "never")
        );
        client.send(&frames).await;
        client.expect("RECEIPT", &["receipt-id:a"]).await;
        server.stop_serving().await;
        client.expect("ERROR", &["the server closes"]).await;
        server.serve().await;
        assert_eq!(server.store.owed(), 1);
        let mut next = server.client().await;
        next.subscribe("in", "client").await;
        next.expect("MESSAGE", &["redelivered:true", "\n\nkept"])
            .await;
    });
}
