//! How destinations behave, by patterns over their names: what a profile's `[[destination]]` tables
//! say.
//!
//! One table decides for a destination: the most specific that matches its name. It is not mixed with
//! others; what it does not say is as [`DestinationPolicy::default`] has it.

use std::sync::Arc;
use std::time::Duration;

use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::pattern::NamePattern;

/// What becomes of messages that are refused too often, expire, or are too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPolicy {
    /// Deliveries that may fail after the first one; the next failure moves the message away. `None`:
    /// a message is delivered again for ever.
    pub redelivery_limit: Option<u32>,
    /// How long a message that was refused waits before it is delivered again.
    pub redelivery_delay: Duration,
    /// The queue (`NAME`, without `/queue/`) that takes what is refused too often; `None`: it is
    /// acknowledged and gone.
    pub dead_letter: Option<String>,
    /// Expired messages go to `dead_letter`, too.
    pub expired_to_dead_letter: bool,
    /// Bound of messages owed.
    pub max_messages: Option<u64>,
    /// Bound of the bytes owed.
    pub max_bytes: Option<u64>,
    /// What happens at a bound.
    pub on_full: OnFull,
    /// A send is confirmed only when it is on the disks of both servers: refused while one is alone.
    pub both_copies: bool,
}

/// What happens when a destination is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// A SEND is refused.
    #[default]
    Reject,
    /// A SEND waits.
    Block,
    /// The oldest messages go.
    DropOldest,
    /// The oldest messages go to the dead message queue.
    DeadLetter,
}

impl OnFull {
    /// As profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Block => "block",
            Self::DropOldest => "drop_oldest",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// The queue for dead messages where nothing else is said.
pub const DEAD_LETTER: &str = "DMQ";

impl Default for DestinationPolicy {
    fn default() -> Self {
        Self {
            redelivery_limit: None,
            redelivery_delay: Duration::ZERO,
            dead_letter: Some(DEAD_LETTER.to_owned()),
            expired_to_dead_letter: false,
            max_messages: None,
            max_bytes: None,
            on_full: OnFull::Reject,
            both_copies: false,
        }
    }
}

impl DestinationPolicy {
    /// It has a bound of its own.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.max_messages.is_some() || self.max_bytes.is_some()
    }

    /// At its bound the oldest messages go to the dead message queue.
    fn passes_on(&self) -> bool {
        self.is_bounded() && self.on_full == OnFull::DeadLetter
    }
}

/// The policies of all destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// The most specific first.
    tables: Vec<(NamePattern, Arc<DestinationPolicy>)>,
    default: Arc<DestinationPolicy>,
    any_both_copies: bool,
    any_bounds: bool,
}

impl Policies {
    /// From tables in any order. Of two with the same pattern the first counts.
    #[must_use]
    pub fn new(tables: Vec<(NamePattern, DestinationPolicy)>) -> Self {
        let any_both_copies = tables.iter().any(|(_, policy)| policy.both_copies);
        let any_bounds = tables.iter().any(|(_, policy)| policy.is_bounded());
        let mut tables: Vec<_> = tables
            .into_iter()
            .map(|(pattern, policy)| (pattern, Arc::new(policy)))
            .collect();
        tables.sort_by(|(one, _), (other, _)| one.by_specificity(other));
        Self {
            tables,
            default: Arc::default(),
            any_both_copies,
            any_bounds,
        }
    }

    /// The policy of a destination: that of the most specific table that matches, else the default.
    #[must_use]
    pub fn of(&self, name: &DestinationName) -> &Arc<DestinationPolicy> {
        let table = self
            .tables
            .iter()
            .find(|(pattern, _)| pattern.matches(name));
        table.map_or(&self.default, |(_, policy)| policy)
    }

    /// Whether there is a destination with a bound of its own.
    #[must_use]
    pub fn any_bounds(&self) -> bool {
        self.any_bounds
    }

    /// How a destination behaves: as its policy says, but for one whose oldest messages would come back to
    /// it, directly or by way of other dead message queues that are bounded so: nothing may be lost and
    /// nothing go round for ever, so it refuses sends, and takes what the server brings.
    #[must_use]
    pub fn behaviour(&self, name: &DestinationName) -> Arc<DestinationPolicy> {
        let policy = self.of(name);
        if !self.comes_back(name) {
            return Arc::clone(policy);
        }
        Arc::new(DestinationPolicy {
            on_full: OnFull::Reject,
            ..DestinationPolicy::clone(policy)
        })
    }

    fn comes_back(&self, name: &DestinationName) -> bool {
        let mut seen = vec![name.clone()];
        let mut at = name.clone();
        loop {
            let policy = self.of(&at);
            let next = policy.dead_letter.as_ref().filter(|_| policy.passes_on());
            let next = next.map(|queue| DestinationName::new(DestinationKind::Queue, queue));
            let Some(Ok(next)) = next else {
                return false;
            };
            if next == *name {
                return true;
            }
            if seen.contains(&next) {
                return false;
            }
            seen.push(next.clone());
            at = next;
        }
    }

    /// Whether there is a destination whose sends demand both servers.
    #[must_use]
    pub fn any_demands_both(&self) -> bool {
        self.any_both_copies
    }

    /// Whether sends to this destination demand both servers.
    #[must_use]
    pub fn demands_both(&self, name: &DestinationName) -> bool {
        self.any_both_copies && self.of(name).both_copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(policies: &Policies, spelling: &str) -> Option<String> {
        let name = DestinationName::parse(spelling).unwrap();
        policies.of(&name).dead_letter.clone()
    }

    fn policies(patterns: &[&str]) -> Policies {
        let table = |text: &&str| {
            let policy = DestinationPolicy {
                dead_letter: Some((*text).to_owned()),
                ..DestinationPolicy::default()
            };
            (NamePattern::parse(text).unwrap(), policy)
        };
        Policies::new(patterns.iter().map(table).collect())
    }

    #[test]
    fn the_most_specific_table_decides_wherever_it_stands() {
        let patterns = [">", "orders.>", "orders.*", "orders.eu", "/topic/orders.eu"];
        let mut backwards = patterns;
        backwards.reverse();
        for order in [patterns, backwards] {
            let policies = policies(&order);
            for (name, table) in [
                ("/queue/orders.eu", "orders.eu"),
                ("/topic/orders.eu", "/topic/orders.eu"),
                ("/queue/orders.us", "orders.*"),
                ("/queue/orders.us.ny", "orders.>"),
                ("/queue/orders", ">"),
            ] {
                assert_eq!(named(&policies, name).as_deref(), Some(table), "{name}");
            }
        }
    }

    #[test]
    fn without_a_table_it_is_the_default() {
        let policies = policies(&["orders.>"]);
        assert_eq!(
            named(&policies, "/queue/other").as_deref(),
            Some(DEAD_LETTER)
        );
        let name = DestinationName::parse("/queue/other").unwrap();
        assert_eq!(**policies.of(&name), DestinationPolicy::default());
        assert!(!policies.demands_both(&name));
    }

    #[test]
    fn what_would_come_back_to_its_own_queue_is_not_passed_on() {
        let bounded = |dead_letter: &str| DestinationPolicy {
            dead_letter: Some(dead_letter.to_owned()),
            max_messages: Some(1),
            on_full: OnFull::DeadLetter,
            ..DestinationPolicy::default()
        };
        let table =
            |(pattern, dead): (&str, &str)| (NamePattern::parse(pattern).unwrap(), bounded(dead));
        let tables = [
            (">", "DMQ"),
            ("a", "b"),
            ("b", "a"),
            ("c", "a"),
            ("d", "unbounded"),
        ];
        let mut tables: Vec<_> = tables.into_iter().map(table).collect();
        let pattern = NamePattern::parse("unbounded").unwrap();
        tables.push((pattern, DestinationPolicy::default()));
        let policies = Policies::new(tables);
        for (name, on_full) in [
            ("x", OnFull::DeadLetter),
            ("DMQ", OnFull::Reject),
            ("a", OnFull::Reject),
            ("b", OnFull::Reject),
            ("c", OnFull::DeadLetter),
            ("d", OnFull::DeadLetter),
        ] {
            let name = DestinationName::new(DestinationKind::Queue, name).unwrap();
            assert_eq!(policies.behaviour(&name).on_full, on_full, "{name:?}");
        }
    }

    #[test]
    fn both_copies_are_demanded_by_pattern() {
        let policy = DestinationPolicy {
            both_copies: true,
            ..DestinationPolicy::default()
        };
        let pattern = NamePattern::parse("pay.>").unwrap();
        let policies = Policies::new(vec![(pattern, policy)]);
        let demands =
            |spelling: &str| policies.demands_both(&DestinationName::parse(spelling).unwrap());
        assert!(demands("/queue/pay.card"));
        assert!(!demands("/queue/pay"));
    }
}
