//! Clients in `twinmq status`: who may not come back whole after a failover, and who has not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Clients that are named in a table.
const NAMED: usize = 10;

/// Clients that may not come back whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AtRiskStatus {
    /// How many.
    pub count: u64,
    /// How often each reason holds.
    pub reasons: BTreeMap<String, u64>,
    /// The first of them; none for who may not read names.
    pub clients: Vec<ClientStatus>,
}

/// What has become of the peer's clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReturnedStatus {
    /// When this server took over.
    pub since: String,
    /// How many the peer had.
    pub expected: u64,
    /// How many of them came here.
    pub returned: u64,
    /// The first of those that did not; none for who may not read names.
    pub missing: Vec<ClientStatus>,
}

/// A client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStatus {
    /// What it calls itself.
    pub client_id: Option<String>,
    /// As whom it logged in.
    pub login: Option<String>,
    /// Where it is.
    pub address: String,
    /// Why it may not come back whole.
    pub reasons: Vec<String>,
}

impl ClientStatus {
    fn name(&self) -> String {
        let name = self.client_id.as_deref().or(self.login.as_deref());
        // A client chooses its name.
        let printable = |name: &str| -> String {
            let letters = name.chars();
            letters
                .map(|it| if it.is_control() { ' ' } else { it })
                .collect()
        };
        match name {
            Some(name) => format!("{} at {}", printable(name), self.address),
            None => format!("unnamed at {}", self.address),
        }
    }
}

/// Lines about clients at risk, of `connections` in all; none when there are none.
pub(super) fn at_risk(at_risk: &AtRiskStatus, connections: u64) -> Vec<String> {
    if at_risk.count == 0 {
        return Vec::new();
    }
    let reasons = at_risk.reasons.iter().filter(|(_, count)| **count > 0);
    let reasons: Vec<String> = reasons
        .map(|(reason, count)| format!("{count} {}", reason.replace('-', " ")))
        .collect();
    let head = format!(
        "{} of {connections} clients may not come back whole after a failover: {}",
        at_risk.count,
        reasons.join(", ")
    );
    let named = at_risk.clients.iter();
    let named = named.map(|it| format!("{}: {}", it.name(), it.reasons.join(", ")));
    with_more(head, named, at_risk.count)
}

/// Lines about clients that did not come; none when all did.
pub(super) fn missing(returned: Option<&ReturnedStatus>) -> Vec<String> {
    let Some(returned) = returned else {
        return Vec::new();
    };
    let count = returned.expected.saturating_sub(returned.returned);
    if count == 0 {
        return Vec::new();
    }
    let head = format!(
        "{count} of the {} clients of the other server have not come since {}",
        returned.expected, returned.since
    );
    with_more(head, returned.missing.iter().map(ClientStatus::name), count)
}

fn with_more(head: String, named: impl Iterator<Item = String>, count: u64) -> Vec<String> {
    let mut lines = vec![head];
    lines.extend(named.take(NAMED));
    let shown = u64::try_from(lines.len())
        .unwrap_or(u64::MAX)
        .saturating_sub(1);
    if shown > 0 && shown < count {
        lines.push(format!("and {} more: see --json", count - shown));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: Option<&str>, reasons: &[&str]) -> ClientStatus {
        ClientStatus {
            client_id: name.map(str::to_owned),
            login: None,
            address: "10.0.0.1:4000".to_owned(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        }
    }

    #[test]
    fn clients_are_named_and_those_that_are_not_are_counted() {
        assert!(at_risk(&AtRiskStatus::default(), 5).is_empty());
        let reasons = [("long-idle", 0), ("no-heart-beat", 12)];
        let status = AtRiskStatus {
            count: 12,
            reasons: reasons.map(|(name, count)| (name.to_owned(), count)).into(),
            clients: vec![
                client(Some("a\nnn"), &["no-heart-beat"]),
                client(None, &["x", "y"]),
            ],
        };
        assert_eq!(
            at_risk(&status, 40),
            [
                "12 of 40 clients may not come back whole after a failover: 12 no heart beat",
                "a nn at 10.0.0.1:4000: no-heart-beat",
                "unnamed at 10.0.0.1:4000: x, y",
                "and 10 more: see --json",
            ]
        );
    }

    #[test]
    fn who_did_not_come_is_told_until_all_have_come() {
        assert!(missing(None).is_empty());
        let mut status = ReturnedStatus {
            since: "now".to_owned(),
            expected: 3,
            returned: 2,
            missing: vec![client(Some("ann"), &[])],
        };
        assert_eq!(
            missing(Some(&status)),
            [
                "1 of the 3 clients of the other server have not come since now",
                "ann at 10.0.0.1:4000",
            ]
        );
        status.returned = 3;
        assert!(missing(Some(&status)).is_empty());
    }
}
