//! Who is closed for the memory that all hold.

use std::time::Duration;

use super::*;
use crate::actors::overload::MemoryBounds;

/// A consumer that reads nothing of so many messages of 64 KiB in a queue of its own.
async fn deaf(world: &World, name: &str, count: u32) -> (SessionKey, Rc<Inbox>) {
    let port = world.port(name);
    let (session, inbox) = world.directory.open_session();
    world.attach(&port, session);
    let (producer, _answers) = world.directory.open_session();
    let body = Bytes::from(vec![b'x'; 64 << 10]);
    let messages = (1..=count).map(|request| (RequestNumber(request), body.clone()));
    let publish = DestinationCommand::Publish {
        session: producer,
        messages: messages.collect(),
    };
    world.directory.command(&port, vec![publish]);
    world.settle_down().await;
    world.directory.close_session(producer);
    (session, inbox)
}

#[test]
fn the_next_is_closed_only_when_what_the_largest_held_does_not_come_back() {
    local(async {
        let world = World::new(DirectoryConfig {
            memory: MemoryBounds {
                high: 1 << 30,
                critical: 3 << 20,
                connection: 1 << 30,
            },
            ..DirectoryConfig::default()
        });
        world.directory.activate();
        let (_, large) = deaf(&world, "large", 40).await;
        let (_, small) = deaf(&world, "small", 20).await;
        let closed = || (large.is_shed(), small.is_shed());
        world.directory.look_at_store();
        assert_eq!(closed(), (true, false));
        // Its deliveries are still its queue's, which has not heard of it.
        world.directory.look_at_store();
        assert_eq!(closed(), (true, false), "what it holds is on its way back");
        tokio::time::advance(Duration::from_secs(1)).await;
        world.directory.look_at_store();
        assert_eq!(closed(), (true, true), "nothing came back");
    });
}
