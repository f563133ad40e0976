//! The only way from one actor to another. actix bounds nothing here and drops silently what is sent
//! to a dead actor, so the depth is counted and a dead neighbour is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix::prelude::{Message, Recipient};

/// From this depth on the log says that an actor is behind.
const SOFT_LIMIT: usize = 10_000;
/// No bounded design reaches this depth: a bug, and the process ends before memory does.
const HARD_LIMIT: usize = 1_000_000;

/// A message in a mailbox; counted until it is handled.
pub struct Posted<M> {
    /// What was posted.
    pub message: M,
    depth: Depth,
}

impl<M> Posted<M> {
    /// The message; it no longer counts as waiting.
    #[must_use]
    pub fn open(self) -> M {
        drop(self.depth);
        self.message
    }
}

impl<M: 'static> Message for Posted<M> {
    type Result = ();
}

/// Counts down when it is dropped, with the message or without its being handled.
struct Depth(Arc<Gauge>);

impl Drop for Depth {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Gauge {
    depth: AtomicUsize,
    behind: AtomicBool,
    ends: AtomicBool,
}

/// One edge of the message graph: who receives, and how much waits there.
pub struct Port<M: Send + 'static> {
    name: &'static str,
    to: Recipient<Posted<M>>,
    gauge: Arc<Gauge>,
}

impl<M: Send + 'static> Clone for Port<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            to: self.to.clone(),
            gauge: Arc::clone(&self.gauge),
        }
    }
}

impl<M: Send + 'static> Port<M> {
    /// An edge to `to`; `name` stands in the log.
    #[must_use]
    pub fn new(name: &'static str, to: Recipient<Posted<M>>) -> Self {
        Self {
            name,
            to,
            gauge: Arc::default(),
        }
    }

    /// Messages that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.gauge.depth.load(Ordering::Relaxed)
    }

    /// Whether what is posted is dropped.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.gauge.ends.load(Ordering::Relaxed)
    }

    /// The receiver stops in good order: what is posted from now on is dropped.
    pub fn retire(&self) {
        self.gauge.ends.store(true, Ordering::Relaxed);
    }
}

/// Posts a message.
///
/// # Panics
/// When the receiver died (unless it was retired) or more waits than any bounded design allows:
/// the process cannot go on.
pub fn post<M: Send + 'static>(port: &Port<M>, message: M) {
    let gauge = &port.gauge;
    if gauge.ends.load(Ordering::Relaxed) {
        return;
    }
    assert!(
        port.to.connected(),
        "actor {} is dead while others still post to it",
        port.name
    );
    let depth = gauge.depth.fetch_add(1, Ordering::Relaxed);
    assert!(
        depth < HARD_LIMIT,
        "{depth} messages wait for actor {}",
        port.name
    );
    if depth >= SOFT_LIMIT && !gauge.behind.swap(true, Ordering::Relaxed) {
        tracing::warn!(target: "twinmq::actors", actor = port.name, depth, "an actor is far behind");
    }
    if depth == 0 {
        gauge.behind.store(false, Ordering::Relaxed);
    }
    let depth = Depth(Arc::clone(gauge));
    #[expect(clippy::disallowed_methods, reason = "this is the place that may")]
    port.to.do_send(Posted { message, depth });
}

#[cfg(test)]
mod tests {
    use actix::prelude::{Actor, ActorContext, Context, Handler};

    use super::*;

    struct Sink(Vec<u32>);

    impl Actor for Sink {
        type Context = Context<Self>;
    }

    impl Handler<Posted<u32>> for Sink {
        type Result = ();

        fn handle(&mut self, posted: Posted<u32>, ctx: &mut Self::Context) {
            let message = posted.open();
            self.0.push(message);
            if message == 0 {
                ctx.stop();
            }
        }
    }

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn depth_counts_what_waits() {
        local(async {
            let port = Port::new("sink", Sink(Vec::new()).start().recipient());
            post(&port, 1);
            post(&port, 2);
            assert_eq!(port.depth(), 2);
            until(|| port.depth() == 0).await;
        });
    }

    #[test]
    #[should_panic(expected = "actor sink is dead")]
    fn a_dead_neighbour_is_fatal() {
        local(async {
            let port = Port::new("sink", Sink(Vec::new()).start().recipient());
            post(&port, 0);
            until(|| !port.to.connected()).await;
            post(&port, 1);
        });
    }

    #[test]
    fn nothing_reaches_a_retired_neighbour_and_its_death_is_no_harm() {
        local(async {
            let port = Port::new("sink", Sink(Vec::new()).start().recipient());
            post(&port, 0);
            port.retire();
            post(&port, 1);
            assert_eq!(port.depth(), 1);
            until(|| !port.to.connected()).await;
            post(&port, 1);
            assert_eq!(port.depth(), 0);
        });
    }
}
