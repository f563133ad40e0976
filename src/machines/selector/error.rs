//! Why a text is no selector, and where: for the log in one line, for people with the place marked.

use std::fmt;

use thiserror::Error;

use super::{LIST_ITEMS_MAX, NAMES_MAX, NESTING_MAX, TEXT_BYTES_MAX};

/// How many characters of the text are shown on each side of the place.
const SHOWN: usize = 40;

/// A text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{fault} at character {}", .character + 1)]
pub struct SelectorError {
    fault: SelectorFault,
    offset: usize,
    character: usize,
    /// One line around the place.
    excerpt: String,
    /// The place in the excerpt, in characters.
    column: usize,
}

impl SelectorError {
    pub(super) fn new(text: &str, offset: usize, fault: SelectorFault) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let after = text.get(offset..).unwrap_or("");
        let character = before.chars().count();
        let column = character.min(SHOWN);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let excerpt = before
            .chars()
            .skip(character - column)
            .chain(after.chars().take(SHOWN))
            .map(plain)
            .collect();
        Self {
            fault,
            offset,
            character,
            excerpt,
            column,
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> &SelectorFault {
        &self.fault
    }

    /// Where, in bytes from the text's start; the text's length when it ends too early.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Where, in characters from the text's start, counted from 0.
    #[must_use]
    pub fn character(&self) -> usize {
        self.character
    }

    /// Two lines: the text around the place (at most 80 characters, without line ends), and a `^`
    /// below the place.
    #[must_use]
    pub fn marked(&self) -> String {
        format!("{}\n{:>width$}", self.excerpt, '^', width = self.column + 1)
    }
}

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFault {
    /// Longer than [`TEXT_BYTES_MAX`].
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Something else has to stand here.
    Expected {
        /// What.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A character that begins nothing.
    Character(char),
    /// A double quote: texts stand in single ones.
    DoubleQuote,
    /// A text whose closing quote is missing.
    OpenText,
    /// Not a number as Java writes it.
    Number(&'static str),
    /// Parentheses, NOT and signs are nested deeper than [`NESTING_MAX`].
    Nesting,
    /// More properties than [`NAMES_MAX`].
    Names,
    /// A list of more than [`LIST_ITEMS_MAX`] texts.
    ListItems,
    /// A header of JMS that no selector may name.
    Header(String),
    /// An operand of a type that its operator does not take.
    Type {
        /// What the operator takes.
        expected: &'static str,
        /// What it got.
        found: &'static str,
    },
    /// IS NULL, IN and LIKE ask about a property.
    NotAProperty,
    /// An escape that is not one character.
    EscapeLength,
    /// An escape character in a pattern that stands before none of `%`, `_` and itself.
    EscapeUse,
}

impl fmt::Display for SelectorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(
                f,
                "the selector has {bytes} bytes, {TEXT_BYTES_MAX} are the limit,"
            ),
            Self::Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::Character(c) => write!(f, "{c:?} has no meaning in a selector"),
            Self::DoubleQuote => f.write_str("a text stands in single quotes, found '\"'"),
            Self::OpenText => f.write_str("no closing quote for the text that begins"),
            Self::Number(what) => f.write_str(what),
            Self::Nesting => write!(f, "nested deeper than {NESTING_MAX}"),
            Self::Names => write!(f, "more than {NAMES_MAX} different properties"),
            Self::ListItems => write!(f, "more than {LIST_ITEMS_MAX} texts in one list"),
            Self::Header(name) => write!(
                f,
                "{name} cannot be selected by; of the JMS headers JMSDeliveryMode, JMSPriority, \
                 JMSMessageID, JMSTimestamp, JMSCorrelationID and JMSType can,"
            ),
            Self::Type { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::NotAProperty => f.write_str("IS NULL, IN and LIKE take a property's name"),
            Self::EscapeLength => f.write_str("ESCAPE takes a text of one character"),
            Self::EscapeUse => f.write_str(
                "the escape character stands before none of '%', '_' and itself in the pattern",
            ),
        }
    }
}
