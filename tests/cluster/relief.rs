//! A sender that waits for room, across the death of the server at which it waits.

use crate::bounds::await_listed;
use crate::large::Client;
use crate::support::pair::Pair;
use crate::test_name;

const QUEUE: &str = "/queue/q";

#[test]
fn a_sender_that_waits_at_a_server_that_dies_goes_on_when_there_is_room_at_the_other() {
    // One message of each size: an upload waits at its head.
    for bytes in [20, 300_000] {
        let settings = [
            ("destination.q.max_messages", "2"),
            ("destination.q.on_full", "block"),
        ];
        let test = format!("{}_{bytes}", test_name!());
        let mut pair = Pair::in_sync_with(&test, &settings);
        let mut producer = Client::start(&pair.hosts());
        for name in ["a", "b"] {
            producer.0.say(&format!("send {QUEUE} {name} {bytes}"));
            producer.0.receipt(name);
        }
        producer.0.say(&format!("send {QUEUE} c {bytes}"));
        let waits =
            |it: &serde_json::Value| it["bound"]["senders_waiting"] == 1 && it["depth"] == 2;
        let dead = pair.active();
        await_listed(pair.server(dead), QUEUE, "the sender waits", waits);
        pair.server(dead).kill();
        let active = pair.active();
        assert_eq!(active, dead.other());
        // It is full there too, and the sender has come.
        await_listed(pair.server(active), QUEUE, "it waits again", waits);
        let mut consumer = Client::start(&pair.hosts());
        consumer.0.say(&format!("subscribe {QUEUE}"));
        for name in ["a", "b", "c"] {
            consumer.received(name, bytes);
        }
        producer.0.receipt("c");
        await_listed(pair.server(active), QUEUE, "all is done", |it| {
            it["bound"]["senders_waiting"] == 0 && it["depth"] == 0
        });
    }
}
