//! Names of destinations as clients spell them: `/queue/NAME`, `/topic/NAME`,
//! `/remote-temp-queue/NAME`; and `/subscription/NAME`, which only the server and its operators use.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The longest name, in bytes, without its prefix.
pub const NAME_BYTES_MAX: usize = 200;
/// The same of names that the server makes.
const MADE_BYTES_MAX: usize = 2048;

/// How a destination hands out its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationKind {
    /// Each message to one consumer.
    Queue,
    /// Each message to every subscriber.
    Topic,
    /// A queue that goes with the connection that made it.
    TemporaryQueue,
    /// A subscription of a topic: what it is owed. No client can spell one.
    Subscription,
}

impl DestinationKind {
    /// What stands before the name.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Queue => "/queue/",
            Self::Topic => "/topic/",
            Self::TemporaryQueue => "/remote-temp-queue/",
            Self::Subscription => "/subscription/",
        }
    }

    fn name_bytes_max(self) -> usize {
        match self {
            Self::Queue | Self::Topic => NAME_BYTES_MAX,
            Self::TemporaryQueue | Self::Subscription => MADE_BYTES_MAX,
        }
    }
}

/// Why a destination's spelling was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DestinationError {
    /// No kind's prefix stands first.
    #[error("a destination is spelled /queue/NAME or /topic/NAME")]
    Prefix,
    /// Nothing after the prefix.
    #[error("the destination's name is empty")]
    Empty,
    /// Over [`NAME_BYTES_MAX`].
    #[error("the destination's name has {0} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Control characters make names that cannot be shown or typed.
    #[error("the destination's name holds a control character at byte {0}")]
    Control(usize),
    /// Not UTF-8.
    #[error("the destination is not UTF-8")]
    Encoding,
}

/// A valid destination: its kind and a name of 1 to [`NAME_BYTES_MAX`] bytes without control
/// characters. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName {
    kind: DestinationKind,
    spelling: Arc<str>,
}

impl DestinationName {
    /// Makes one of a bare name.
    ///
    /// # Errors
    /// When the name is empty, too long or holds control characters.
    pub fn new(kind: DestinationKind, name: &str) -> Result<Self, DestinationError> {
        if name.is_empty() {
            return Err(DestinationError::Empty);
        }
        if name.len() > kind.name_bytes_max() {
            return Err(DestinationError::TooLong(name.len()));
        }
        if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(DestinationError::Control(at));
        }
        Ok(Self {
            kind,
            spelling: Arc::from([kind.prefix(), name].concat()),
        })
    }

    /// A spelling as people type it, in full: a bare name is a queue's.
    #[must_use]
    pub fn in_full(typed: &str) -> String {
        if typed.starts_with('/') {
            typed.to_owned()
        } else {
            [DestinationKind::Queue.prefix(), typed].concat()
        }
    }

    /// Reads `/queue/NAME`, `/topic/NAME` or `/remote-temp-queue/NAME`.
    ///
    /// # Errors
    /// Says what is wrong with the spelling.
    pub fn parse(spelling: &str) -> Result<Self, DestinationError> {
        let kinds = [
            DestinationKind::Queue,
            DestinationKind::Topic,
            DestinationKind::TemporaryQueue,
        ];
        for kind in kinds {
            if let Some(name) = spelling.strip_prefix(kind.prefix()) {
                return Self::new(kind, name);
            }
        }
        Err(DestinationError::Prefix)
    }

    /// As [`DestinationName::parse`], from bytes.
    ///
    /// # Errors
    /// Says what is wrong with the spelling.
    pub fn parse_bytes(spelling: &[u8]) -> Result<Self, DestinationError> {
        Self::parse(std::str::from_utf8(spelling).map_err(|_| DestinationError::Encoding)?)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> DestinationKind {
        self.kind
    }

    /// The name without its prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spelling[self.kind.prefix().len()..]
    }

    /// The whole spelling, `/queue/NAME`.
    #[must_use]
    pub fn spelling(&self) -> &str {
        &self.spelling
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelling)
    }
}

impl fmt::Debug for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DestinationName({})", self.spelling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_what_it_prints() {
        let name = DestinationName::parse("/queue/orders/é").unwrap();
        assert_eq!(name.kind(), DestinationKind::Queue);
        assert_eq!(name.name(), "orders/é");
        assert_eq!(name.to_string(), "/queue/orders/é");
        assert_eq!(
            DestinationName::parse("/topic/news").unwrap().kind(),
            DestinationKind::Topic
        );
    }

    #[test]
    fn every_bad_spelling_has_its_reason() {
        let long = format!("/queue/{}", "x".repeat(NAME_BYTES_MAX + 1));
        for (spelling, error) in [
            ("orders", DestinationError::Prefix),
            ("/subscription/a/b", DestinationError::Prefix),
            ("", DestinationError::Prefix),
            ("/queue", DestinationError::Prefix),
            ("/queue/", DestinationError::Empty),
            ("/queue/a\u{7}", DestinationError::Control(1)),
            ("/queue/é\n", DestinationError::Control(2)),
            ("/queue/a\u{85}", DestinationError::Control(1)),
            (&long, DestinationError::TooLong(NAME_BYTES_MAX + 1)),
        ] {
            assert_eq!(DestinationName::parse(spelling), Err(error), "{spelling:?}");
        }
        assert!(DestinationName::parse(&long[..long.len() - 1]).is_ok());
        assert_eq!(
            DestinationName::parse_bytes(b"/queue/\xff"),
            Err(DestinationError::Encoding)
        );
    }
}
