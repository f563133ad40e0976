//! Messages that are sent again, through the whole data thread.

use super::*;

fn send(id: &str, receipt: &str) -> String {
    format!("SEND\ndestination:/queue/q\n_AMQ_DUPL_ID:{id}\nreceipt:{receipt}\n\n{id}")
}

#[test]
fn the_second_receipt_waits_for_the_first_message_and_nothing_is_stored_again() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        server.store.hold(true);
        client.send(&send("a", "r1")).await;
        server.until("in flight", |d| d.in_flight.0 == 1).await;
        // Another connection, as after a loss that the server has not noticed.
        let mut again = server.client().await;
        again.send(&send("a", "r2")).await;
        server.until("in flight", |d| d.in_flight.0 == 2).await;
        server.until("found", |d| d.duplicates == 1).await;
        assert!(again.stream.try_read(&mut [0; 1]).is_err(), "no receipt");
        server.store.hold(false);
        client.expect("RECEIPT", &["receipt-id:r1"]).await;
        again.expect("RECEIPT", &["receipt-id:r2"]).await;
        // Now the store knows it.
        again.send(&send("a", "r3")).await;
        again.expect("RECEIPT", &["receipt-id:r3"]).await;
        assert_eq!(server.store.owed(), 1);
        let described = server.describe().await;
        assert_eq!((described.in_flight, described.duplicates), ((0, 0), 2));
        assert_eq!(described.destinations[0].duplicates, 2);
    });
}

#[test]
fn a_refused_message_is_not_known() {
    real(async {
        let server = Server::start(config()).await;
        let mut client = server.client().await;
        client.send(&send("first", "r0")).await;
        client.expect("RECEIPT", &["receipt-id:r0"]).await;
        server.store.refuse_sends(true);
        // Until the server has noticed that its store is full.
        let refused = async {
            for number in 0.. {
                client.send(&send(&number.to_string(), "r")).await;
                if client.frame().await.starts_with("ERROR\n") {
                    return number;
                }
            }
            unreachable!("numbers do not end");
        };
        let number = tokio::time::timeout(PATIENCE, refused).await.unwrap();
        let stored = server.store.owed();
        server.store.refuse_sends(false);
        let again = async {
            loop {
                let mut client = server.client().await;
                client.send(&send(&number.to_string(), "again")).await;
                if client.frame().await.starts_with("RECEIPT\n") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, again).await.unwrap();
        assert_eq!(server.store.owed(), stored + 1);
        assert_eq!(server.describe().await.duplicates, 0);
    });
}
