//! Clients in `status`: who may not come back whole after a failover, and who has not come back.

use serde_json::{Map, Value, json};

use crate::actors::directory::{ClientAtRisk, ClientsDescription};
use crate::proto::peer::PeerClient;
use crate::time::rfc3339;

/// Clients at risk; with their names only for who may read those.
pub(super) fn at_risk(clients: &ClientsDescription, named: bool) -> Value {
    let reasons = clients.risks.iter();
    let reasons: Map<String, Value> = reasons
        .map(|(risk, count)| (risk.name().to_owned(), json!(count)))
        .collect();
    let shown = clients.at_risk.iter().filter(|_| named);
    json!({
        "count": clients.at_risk_count,
        "reasons": reasons,
        "clients": shown.map(one_at_risk).collect::<Vec<_>>(),
    })
}

fn one_at_risk(at_risk: &ClientAtRisk) -> Value {
    let facts = &at_risk.facts;
    let reasons = at_risk.risks.iter().map(|risk| risk.name());
    json!({
        "client_id": at_risk.client.client_id,
        "login": at_risk.client.login,
        "address": at_risk.client.address.to_string(),
        "reasons": reasons.collect::<Vec<_>>(),
        "silent_s": facts.silent.as_secs(),
        "was_at_peer": facts.was_at_peer,
        "temporary_queues": facts.temporary_queues,
        "non_durable_subscriptions": facts.passing_subscriptions,
        "open_transactions": facts.open_transactions,
    })
}

/// What has become of the peer's clients; null on a server that did not take over from it.
pub(super) fn returned(clients: &ClientsDescription, named: bool) -> Value {
    let Some(returned) = clients.returned else {
        return Value::Null;
    };
    let missing = clients.missing.iter().filter(|_| named);
    json!({
        "since": rfc3339(returned.since_ms),
        "expected": returned.expected,
        "returned": returned.returned,
        "missing": missing.map(one_missing).collect::<Vec<_>>(),
    })
}

fn one_missing(client: &PeerClient) -> Value {
    json!({
        "client_id": client.client_id,
        "login": client.login,
        "address": client.address.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machines::returning::{ClientFacts, Risk};
    use crate::machines::roll::Returned;

    #[test]
    fn names_are_shown_to_who_may_read_them() {
        let client = PeerClient::new(3, Some("ann"), None, ([10, 0, 0, 1], 4000).into());
        let clients = ClientsDescription {
            at_risk: vec![ClientAtRisk {
                client: client.clone(),
                facts: ClientFacts {
                    silent: Duration::from_millis(4_500),
                    open_transactions: 2,
                    ..ClientFacts::default()
                },
                risks: vec![Risk::NoHeartBeat, Risk::OpenTransactions],
            }],
            at_risk_count: 1,
            risks: vec![(Risk::NoHeartBeat, 1)],
            returned: Some(Returned {
                since_ms: 0,
                expected: 3,
                returned: 2,
            }),
            missing: vec![client],
            at_peer: 0,
        };
        let ann = json!({
            "client_id": "ann", "login": null, "address": "10.0.0.1:4000",
            "reasons": ["no-heart-beat", "open-transactions"], "silent_s": 4,
            "was_at_peer": null, "temporary_queues": 0, "non_durable_subscriptions": 0,
            "open_transactions": 2,
        });
        let shown = at_risk(&clients, true);
        assert_eq!(shown["clients"], json!([ann]));
        assert_eq!(shown["reasons"], json!({"no-heart-beat": 1}));
        let missing = json!([{"client_id": "ann", "login": null, "address": "10.0.0.1:4000"}]);
        assert_eq!(returned(&clients, true)["missing"], missing);
        for hidden in [at_risk(&clients, false), returned(&clients, false)] {
            assert!(!hidden.to_string().contains("ann"), "{hidden}");
        }
        assert_eq!(at_risk(&clients, false)["count"], 1);
        assert_eq!(returned(&clients, false)["expected"], 3);
        assert_eq!(returned(&ClientsDescription::default(), true), Value::Null);
    }
}
