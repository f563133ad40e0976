//! Patterns over the names of destinations, as profiles spell them: `orders.>`, `/topic/news.*`.
//!
//! A name has levels with `.` between them. In a pattern `*` stands for any one level, and `>`, as its
//! last, for one or more of them. A pattern that begins with `/queue/` or `/topic/` is for that kind
//! only, others are for both. None is for temporary queues: those go with a connection, and their names
//! are made by the server.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

use super::destination::{DestinationKind, DestinationName, NAME_BYTES_MAX};
use super::levels::{self, ANY_LEVEL, ANY_REST, levels, wildcard_beside_others};

/// Why a text is no pattern. Places are in bytes from the start of the name, without its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing, or nothing after the prefix.
    #[error("the pattern is empty")]
    Empty,
    /// Longer than any name.
    #[error("the pattern has {0} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// No name holds one.
    #[error("the pattern holds a control character at byte {0}")]
    Control(usize),
    /// `*` or `>` beside other characters.
    #[error("the wildcard at byte {0} is not a level of its own: put dots around it")]
    WildcardInLevel(usize),
    /// Something follows `>`.
    #[error("the '>' at byte {0} is not the last level: it stands for all the rest")]
    RestNotLast(usize),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamePattern {
    kind: Option<DestinationKind>,
    /// Without the prefix.
    name: Box<str>,
}

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (kind, name) = [DestinationKind::Queue, DestinationKind::Topic]
            .into_iter()
            .find_map(|kind| Some((Some(kind), text.strip_prefix(kind.prefix())?)))
            .unwrap_or((None, text));
        if name.is_empty() {
            return Err(PatternError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(PatternError::TooLong(name.len()));
        }
        if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(PatternError::Control(at));
        }
        for (at, level) in levels(name) {
            if let Some(wildcard) = wildcard_beside_others(level) {
                return Err(PatternError::WildcardInLevel(at + wildcard));
            }
            if level == ANY_REST && at + level.len() < name.len() {
                return Err(PatternError::RestNotLast(at));
            }
        }
        Ok(Self {
            kind,
            name: name.into(),
        })
    }

    /// Whether a destination is meant.
    #[must_use]
    pub fn matches(&self, destination: &DestinationName) -> bool {
        let fits = match self.kind {
            Some(kind) => kind == destination.kind(),
            None => destination.kind() != DestinationKind::TemporaryQueue,
        };
        fits && levels::matches(&self.name, destination.name())
    }

    /// The more specific one is less. Patterns are compared level by level from the left: a name comes
    /// before `*`, and `*` before `>`; between equals the one for one kind comes first. Of different
    /// patterns that match the same destination no two are equal.
    #[must_use]
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        let rank = |level: &str| match level {
            ANY_LEVEL => 1,
            ANY_REST => 2,
            _ => 0,
        };
        let ranks = |pattern: &Self| pattern.name.split('.').map(rank).collect::<Vec<u8>>();
        ranks(self)
            .cmp(&ranks(other))
            .then(self.kind.is_none().cmp(&other.kind.is_none()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            f.write_str(kind.prefix())?;
        }
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> NamePattern {
        NamePattern::parse(text).unwrap()
    }

    fn matches(text: &str, destination: &str) -> bool {
        pattern(text).matches(&DestinationName::parse(destination).unwrap())
    }

    #[test]
    fn levels_and_kinds_decide() {
        for (text, destination, expected) in [
            ("orders", "/queue/orders", true),
            ("orders", "/topic/orders", true),
            ("/queue/orders", "/topic/orders", false),
            ("/topic/orders", "/topic/orders", true),
            ("orders", "/queue/orders.eu", false),
            ("orders.*", "/queue/orders.eu", true),
            ("orders.*", "/queue/orders", false),
            ("orders.*", "/queue/orders.eu.de", false),
            ("orders.>", "/queue/orders.eu.de", true),
            ("orders.>", "/queue/orders", false),
            ("*.eu", "/queue/orders.eu", true),
            (">", "/queue/a/b", true),
            ("a/b", "/queue/a/b", true),
            ("a..b", "/queue/a..b", true),
            ("a.*.b", "/queue/a..b", true),
            (">", "/remote-temp-queue/1f-2/answers", false),
            ("*", "/remote-temp-queue/1f-2/answers", false),
        ] {
            assert_eq!(matches(text, destination), expected, "{text} {destination}");
        }
    }

    #[test]
    fn bad_patterns_say_where() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("/queue/", PatternError::Empty),
            ("a*", PatternError::WildcardInLevel(1)),
            ("a.>b", PatternError::WildcardInLevel(2)),
            ("/queue/a.>.b", PatternError::RestNotLast(2)),
            ("a\n", PatternError::Control(1)),
        ] {
            assert_eq!(NamePattern::parse(text), Err(error), "{text:?}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(
            NamePattern::parse(&long),
            Err(PatternError::TooLong(NAME_BYTES_MAX + 1))
        );
    }

    #[test]
    fn the_more_specific_comes_first() {
        let order = [
            "/queue/orders.eu",
            "orders.eu",
            "orders.*",
            "orders.>",
            "*.eu",
            "*.*",
            "/topic/>",
            ">",
        ];
        for (index, one) in order.iter().enumerate() {
            for other in &order[index + 1..] {
                let (one, other) = (pattern(one), pattern(other));
                assert_eq!(one.by_specificity(&other), Ordering::Less, "{one} {other}");
                assert_eq!(other.by_specificity(&one), Ordering::Greater);
            }
        }
    }

    proptest! {
        #[test]
        fn no_two_patterns_for_one_destination_are_equally_specific(
            one in "(/queue/)?(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?",
            other in "(/queue/)?(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?",
            name in "(a|b)(\\.(a|b)){0,3}",
        ) {
            let (one, other) = (pattern(&one), pattern(&other));
            let name = DestinationName::new(DestinationKind::Queue, &name).unwrap();
            if one != other && one.matches(&name) && other.matches(&name) {
                prop_assert_ne!(one.by_specificity(&other), Ordering::Equal);
            }
        }

        #[test]
        fn any_text_is_read_or_refused_and_reads_back(text in "(/queue/|/topic/)?.{0,12}") {
            if let Ok(read) = NamePattern::parse(&text) {
                prop_assert_eq!(read.to_string(), text);
            }
        }
    }
}
