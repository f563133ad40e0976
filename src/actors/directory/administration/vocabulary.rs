//! What an operator may ask of the destinations, and what is answered.

use std::sync::Arc;

use super::super::{DestinationDescription, Unavailable};
use crate::machines::selector::Selector;
use crate::machines::sweep::SweepReport;
use crate::proto::destination::DestinationKind;
use crate::proto::ids::Lsn;
use crate::storage::api::Entry;

/// Works and looks at once.
pub(super) const RUNNING_MAX: usize = 16;
/// Destinations in one answer.
pub(super) const LISTED_MAX: usize = 1000;

/// Takes an answer; called on the data thread, must not block. Dropped when the term ends before.
pub type Reply<T> = Box<dyn FnOnce(Result<T, AdministrationError>) + Send>;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdministrationError {
    /// This server is not the active one.
    #[error("this server does not serve: ask the active one of the pair")]
    NotServing,
    /// There is none of this name.
    #[error("there is no destination {0}: `twinmq queue list` shows which there are")]
    Unknown(String),
    /// It does not fit what the destination is or does; in words.
    #[error("{0}")]
    Refused(String),
    /// As many as there may be at once.
    #[error("{RUNNING_MAX} works and looks are under way already: try again")]
    Busy,
}

/// Which destinations are asked for.
#[derive(Clone, Debug, Default)]
pub struct DestinationQuery {
    /// Names with or without their prefix; `*` stands for any text. None: all.
    pub pattern: Option<String>,
    /// As in [`kind_of`]; none: all.
    pub kind: Option<String>,
    /// Only names after this one.
    pub after: Option<String>,
    /// At most; 1,000 is the limit.
    pub limit: usize,
}

/// A page of destinations.
#[derive(Clone, Debug, Default)]
pub struct DestinationPage {
    /// By name.
    pub destinations: Vec<DestinationDescription>,
    /// How many the question is about, on all pages.
    pub total: usize,
    /// There is more after the last of them.
    pub more: bool,
}

/// Which messages are asked for.
#[derive(Clone, Debug)]
pub struct BrowseQuery {
    /// The destination, spelled in full.
    pub name: String,
    /// Only those after this.
    pub after: Lsn,
    /// At most; 256 is the limit.
    pub limit: usize,
}

/// A page of messages.
#[derive(Clone, Debug, Default)]
pub struct MessagePage {
    /// In LSN order.
    pub entries: Vec<Entry>,
    /// Everything up to here is in this page or before it.
    pub after: Lsn,
    /// There may be more after it.
    pub more: bool,
}

/// What becomes of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepWish {
    /// They are done with.
    Purge,
    /// They go to this destination.
    Move(String),
    /// They go to where they came from.
    Retry,
}

/// Work on messages.
#[derive(Clone, Debug)]
pub struct SweepOrder {
    /// The destination, spelled in full.
    pub name: String,
    /// What becomes of them.
    pub wish: SweepWish,
    /// Which; none: all.
    pub selector: Option<Arc<Selector>>,
    /// So many at most.
    pub count: u64,
    /// Only those after this.
    pub after: Lsn,
    /// Only those up to here; none: up to what is there now.
    pub until: Option<Lsn>,
}

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepProgress {
    /// What the stretch did.
    pub report: SweepReport,
    /// The end of the work: to go on with.
    pub until: Lsn,
}

/// What went with a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Messages that it held.
    pub messages: u64,
    /// Connections that wait with a message for it, and make it anew.
    pub senders: u32,
}

/// What is asked.
pub enum Administration {
    /// Which destinations there are.
    List(DestinationQuery, Reply<DestinationPage>),
    /// What is in one of them.
    Browse(BrowseQuery, Reply<MessagePage>),
    /// A stretch of work.
    Sweep(SweepOrder, Reply<SweepProgress>),
    /// One is to go, with what is in it. Its name, and so many messages may be in it at most.
    Delete(String, u64, Reply<Deletion>),
}

impl Administration {
    /// Answers that it cannot be.
    pub fn refuse(self, error: AdministrationError) {
        match self {
            Self::List(_, reply) => reply(Err(error)),
            Self::Browse(_, reply) => reply(Err(error)),
            Self::Sweep(_, reply) => reply(Err(error)),
            Self::Delete(_, _, reply) => reply(Err(error)),
        }
    }
}

/// `queue`, `subscription`, `temporary-queue`.
#[must_use]
pub fn kind_of(name: &str) -> &'static str {
    let kinds = [
        (DestinationKind::Queue, "queue"),
        (DestinationKind::Topic, "topic"),
        (DestinationKind::TemporaryQueue, "temporary-queue"),
        (DestinationKind::Subscription, "subscription"),
    ];
    let found = kinds
        .iter()
        .find(|(kind, _)| name.starts_with(kind.prefix()));
    found.map_or("queue", |(_, word)| word)
}

/// Whether a text fits a pattern in which `*` stands for any text.
#[must_use]
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl DestinationQuery {
    /// The name is asked for.
    pub(super) fn takes(&self, name: &str) -> bool {
        let bare = name.splitn(3, '/').nth(2).unwrap_or(name);
        let pattern = self.pattern.as_deref();
        let kind = self.kind.as_deref();
        pattern.is_none_or(|pattern| fits(pattern, name) || fits(pattern, bare))
            && kind.is_none_or(|kind| kind == kind_of(name))
    }
}

impl From<Unavailable> for AdministrationError {
    fn from(error: Unavailable) -> Self {
        match error {
            Unavailable::NotServing => Self::NotServing,
            other => Self::Refused(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu", true),
            ("*.eu", "orders.eu", true),
            ("o*.*u", "orders.eu", true),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_query_takes_names_with_and_without_their_prefix() {
        let query = |pattern: &str, kind: Option<&str>| DestinationQuery {
            pattern: Some(pattern.to_owned()),
            kind: kind.map(str::to_owned),
            ..DestinationQuery::default()
        };
        assert!(query("ord*", None).takes("/queue/orders"));
        assert!(query("/queue/o*", Some("queue")).takes("/queue/orders"));
        assert!(!query("ord*", Some("subscription")).takes("/queue/orders"));
        assert!(query("*/audit", Some("subscription")).takes("/subscription/app/audit"));
    }
}
