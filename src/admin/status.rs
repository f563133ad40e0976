//! `GET /api/v1/status`: what the board, the store and the client side say, as interface.md spells it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::actors::board::{Board, RoleView, SyncView};
use crate::actors::data_plane::{DataHandle, DataPlaneDescription};
use crate::actors::directory::{BoundDescription, DestinationDescription};
use crate::io::arbiter_file::lock_file_of;
use crate::machines::replication::SyncProgress;
use crate::machines::subscriptions::{Identity, SubscriptionView};
use crate::proto::destination::DestinationKind;
use crate::proto::ids::{NodeId, StoreId};
use crate::proto::peer::ServerState;
use crate::storage::api::SharedStore;
use crate::time::{Clock, Moment, rfc3339};

use super::clients::{at_risk, returned};

/// How long the client side may take to describe itself before `status` goes without it.
const DESCRIBE: Duration = Duration::from_millis(500);
/// Destinations listed by name at most.
const LISTED: usize = 1000;

/// Everything that a status is made of.
pub struct StatusSource {
    /// The server's name: `primary`, `secondary`, `standalone`.
    pub name: String,
    /// The profile.
    pub profile: String,
    /// `standalone`, `replicated`, `shared`.
    pub mode: &'static str,
    /// The lock file as configured; none in standalone mode.
    pub lock_path: Option<String>,
    /// This server.
    pub node: NodeId,
    /// What the actors wrote.
    pub board: Arc<Board>,
    /// The store.
    pub store: SharedStore,
    /// The client side.
    pub data: DataHandle,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
}

impl StatusSource {
    /// Clients are served.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.board.role().state.serves()
    }

    /// The client side's own description; none if its thread is too busy to answer now.
    pub async fn describe_clients(&self) -> Option<DataPlaneDescription> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.data.describe(Box::new(move |description| {
            if tell.send(description).is_err() {
                tracing::debug!(target: "twinmq::admin", "nobody waits for the description any more");
            }
        }));
        tokio::time::timeout(DESCRIBE, told).await.ok()?.ok()
    }

    fn name_of_store(&self, store: StoreId, own: StoreId) -> String {
        if store == own {
            return self.name.clone();
        }
        let link = self.board.link();
        match (&link.facts, &link.peer) {
            (Some(facts), Some((_, name))) if facts.store == store => name.clone(),
            _ => other_name(&self.name).map_or_else(|| store.to_string(), ToOwned::to_owned),
        }
    }

    fn name_of_node(&self, node: NodeId) -> String {
        if node == self.node {
            return self.name.clone();
        }
        match &self.board.link().peer {
            Some((peer, name)) if *peer == node => name.clone(),
            _ => other_name(&self.name).map_or_else(|| node.to_string(), ToOwned::to_owned),
        }
    }
}

/// The status as JSON; clients are `named` to who may read their names.
#[must_use]
pub fn render(source: &StatusSource, clients: Option<DataPlaneDescription>, named: bool) -> Value {
    let role = source.board.role().clone();
    let log = source.store.log_facts();
    let store = source.store.facts();
    let in_sync: Vec<String> = match role.in_sync.first() {
        Some(store) if source.mode == "shared" => who_could_serve(source, &role, *store),
        Some(_) | None => role
            .in_sync
            .iter()
            .map(|id| source.name_of_store(*id, log.store))
            .collect(),
    };
    let paired = source.lock_path.is_some();
    json!({
        "server": source.name,
        "profile": source.profile,
        "mode": source.mode,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "state": role.state.name(),
        "previous_state": role.previous.name(),
        "since": rfc3339(role.since_ms),
        "serving": role.state.serves(),
        "reason": role.reason,
        "epoch": role.epoch,
        "position": log.durable.lsn,
        "committed": source.store.committed(),
        "in_sync": if paired { json!(in_sync) } else { json!([source.name]) },
        "store_id": log.store,
        "node": source.node,
        "peer": paired.then(|| peer(source)),
        "lock": source.lock_path.as_ref().map(|path| json!({
            "path": lock_file_of(Path::new(path), role.lock_generation).display().to_string(),
            "held": role.lock_held,
            "owner": role.owner.map(|node| source.name_of_node(node)),
        })),
        "claims": paired.then_some(json!({
            "tried": role.claims.tried,
            "refused": role.claims.refused,
            "reason": role.claims.reason,
        })),
        "gateway": paired.then(|| {
            let view = source.board.gateway();
            json!({"verdict": view.verdict.name(), "reason": view.reason})
        }),
        "sync": sync(source),
        "store": {
            "bytes": store.bytes,
            "messages": store.messages,
            "destinations": store.destinations,
            "disk_free": store.disk_free,
            "refuses_sends": store.refuses_sends,
            "level": store.level.name(),
            "filled_percent": store.filled_percent,
        },
        "clients": clients.map(|clients| describe_clients(&clients, named)),
    })
}

/// Shared mode: there is one store, and these servers can open it.
fn who_could_serve(source: &StatusSource, role: &RoleView, store: StoreId) -> Vec<String> {
    let own = source.store.log_facts().store == store && role.reason.is_none();
    let link = source.board.link();
    let peer = link.facts.as_ref().filter(|facts| {
        let fits = facts.store == store && facts.eligible;
        link.connected && fits
    });
    let peer = peer.and(link.peer.as_ref()).map(|(_, name)| name.clone());
    own.then(|| source.name.clone())
        .into_iter()
        .chain(peer)
        .collect()
}

fn peer(source: &StatusSource) -> Value {
    let link = source.board.link().clone();
    let state = match (&link.facts, link.connected) {
        (Some(facts), true) => facts.state,
        (Some(_) | None, _) => ServerState::Dead,
    };
    let heard = link.last_heard.map(|at| age_ms(source.clock.now(), at));
    let name = link
        .peer
        .map(|(_, name)| name)
        .or_else(|| other_name(&source.name).map(ToOwned::to_owned));
    json!({
        "server": name,
        "connected": link.connected,
        "state": state.name(),
        "position": link.facts.as_ref().map(|facts| facts.position.lsn),
        "last_heard_ms": heard,
        "trouble": link.trouble,
    })
}

fn sync(source: &StatusSource) -> Option<Value> {
    let SyncView { progress, before } = source.board.replication().sync?;
    let moved = progress.done_bytes.saturating_sub(before.0);
    let eta_s = eta_s(progress, moved, source.clock.now().since(before.1));
    Some(json!({
        "kind": progress.kind,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "eta_s": eta_s,
    }))
}

/// At the rate of late, by what moved in the last `elapsed`; none while nothing moves.
fn eta_s(progress: SyncProgress, moved: u64, elapsed: Duration) -> Option<u64> {
    let missing = progress.total_bytes.saturating_sub(progress.done_bytes);
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let ms = u128::from(missing) * u128::from(elapsed_ms) / u128::from(moved.max(1));
    (moved > 0).then(|| u64::try_from(ms.div_ceil(1000)).unwrap_or(u64::MAX))
}

fn describe_clients(clients: &DataPlaneDescription, named: bool) -> Value {
    let listed: Vec<Value> = clients
        .destinations
        .iter()
        .take(LISTED)
        .map(destination)
        .collect();
    json!({
        "connections": clients.connections,
        "at_risk": at_risk(&clients.clients, named),
        "returned": returned(&clients.clients, named),
        "at_peer": clients.clients.at_peer,
        "limits": limits(clients),
        "in_flight_messages": clients.in_flight.0,
        "in_flight_bytes": clients.in_flight.1,
        "duplicates": clients.duplicates,
        "destinations": listed,
    })
}

/// What is limited now and why, and how often each limit was met.
fn limits(clients: &DataPlaneDescription) -> Value {
    let mut now = clients.limited.clone();
    if clients.connections_full {
        now.push(format!(
            "new connections are refused: there are {}, which is limits.max_connections",
            clients.connections
        ));
    }
    let met = clients.limits_met.iter();
    let met: serde_json::Map<String, Value> = met
        .map(|(limit, count)| (limit.name().to_owned(), json!(count)))
        .collect();
    json!({"now": now, "met": met, "memory_bytes": clients.memory_bytes})
}

fn destination(described: &DestinationDescription) -> Value {
    let figures = described.report.figures;
    json!({
        "name": described.name,
        "depth": figures.depth,
        "consumers": figures.consumers,
        "in_flight": figures.unsettled,
        "arrived": figures.arrived,
        "accepted": figures.accepted,
        "expired": figures.expired,
        "dead": figures.dead,
        "selector_reads": figures.selector_reads,
        "duplicates": described.duplicates,
        "fetching": described.report.fetching > 0,
        "kept_bytes": described.report.kept_bytes,
        "subscription": described.subscription.as_ref().map(subscription),
        "bytes": figures.bytes,
        "dropped": figures.dropped,
        "refused": figures.refused,
        "bound": described.bound.map(bound),
    })
}

/// A destination's own bound: a number that is no bound is null.
pub(super) fn bound(described: BoundDescription) -> Value {
    let most = described.bounds.most;
    let number = |most: u64| (most < u64::MAX).then_some(most);
    json!({
        "max_messages": number(most.messages),
        "max_bytes": number(most.bytes),
        "on_full": described.bounds.on_full.name(),
        "reached": described.reached,
        "senders_waiting": described.waiting,
    })
}

/// What a subscription is owed messages of.
fn subscription(view: &SubscriptionView) -> Value {
    let spec = &view.spec;
    let (durable, name) = match &spec.identity {
        Identity::Anonymous => (false, None),
        Identity::Named { durable, name, .. } => (*durable, Some(name)),
    };
    json!({
        "topic": format!("{}{}", DestinationKind::Topic.prefix(), spec.pattern),
        "name": name,
        "client_id": spec.identity.client_id(),
        "durable": durable,
        "shared": spec.shared,
        "selector": spec.selector.as_ref().map(|selector| selector.text()),
        "no_local": spec.no_local,
        "active": view.active,
    })
}

fn age_ms(now: Moment, then: Moment) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}

fn other_name(name: &str) -> Option<&'static str> {
    match name {
        "primary" => Some("secondary"),
        "secondary" => Some("primary"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::destination::DestinationReport;
    use crate::machines::destination::DestinationFigures;
    use crate::machines::destination::account::{Bounds, Load};
    use crate::machines::policy::OnFull;
    use crate::machines::replication::SyncKind;
    use crate::machines::subscriptions::SubscriptionSpec;
    use crate::machines::topics::TopicPattern;

    #[test]
    fn a_destination_is_told_in_numbers() {
        let described = DestinationDescription {
            name: "/queue/q".to_owned(),
            report: DestinationReport {
                figures: DestinationFigures {
                    depth: 5,
                    consumers: 2,
                    unsettled: 3,
                    arrived: 9,
                    accepted: 4,
                    expired: 2,
                    dead: 1,
                    selector_reads: 8,
                    bytes: 70,
                    dropped: 8,
                    refused: 10,
                },
                fetching: 1,
                acks: 0,
                kept_bytes: 6,
                steps: 20,
            },
            subscription: Some(SubscriptionView {
                spec: SubscriptionSpec {
                    pattern: TopicPattern::parse("news.*").unwrap(),
                    selector: None,
                    no_local: true,
                    shared: false,
                    identity: Identity::Named {
                        durable: true,
                        client_id: Some("ann".into()),
                        name: "mail".into(),
                    },
                },
                active: true,
            }),
            duplicates: 6,
            bound: Some(BoundDescription {
                bounds: Bounds {
                    most: Load {
                        messages: 5,
                        bytes: u64::MAX,
                    },
                    on_full: OnFull::DropOldest,
                },
                reached: true,
                waiting: 0,
            }),
        };
        let expected = json!({
            "name": "/queue/q", "depth": 5, "consumers": 2, "in_flight": 3, "arrived": 9,
            "accepted": 4, "expired": 2, "dead": 1, "fetching": true, "kept_bytes": 6,
            "selector_reads": 8, "duplicates": 6, "subscription": {
                "topic": "/topic/news.*", "name": "mail", "client_id": "ann", "durable": true,
                "shared": false, "selector": null, "no_local": true, "active": true,
            },
            "bytes": 70, "dropped": 8, "refused": 10, "bound": {
                "max_messages": 5, "max_bytes": null, "on_full": "drop_oldest", "reached": true,
                "senders_waiting": 0,
            },
        });
        assert_eq!(destination(&described), expected);
    }

    #[test]
    fn the_rest_takes_as_long_as_the_same_bytes_took() {
        let progress = |done_bytes, total_bytes| SyncProgress {
            kind: SyncKind::Full,
            done_bytes,
            total_bytes,
        };
        let elapsed = Duration::from_secs(10);
        assert_eq!(eta_s(progress(25, 100), 0, elapsed), None);
        assert_eq!(eta_s(progress(25, 100), 25, elapsed), Some(30));
        assert_eq!(eta_s(progress(50, 100), 5, elapsed), Some(100));
        assert_eq!(eta_s(progress(100, 100), 5, elapsed), Some(0));
        assert_eq!(eta_s(progress(150, 100), 5, elapsed), Some(0));
    }
}
