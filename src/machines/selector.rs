//! Selectors: which messages a consumer wants, in JMS's subset of SQL-92 (JMS 2.0, 3.8.1).
//!
//! A text is compiled once; what comes out never changes and is shared by whoever judges messages.
//! A judgement decodes only the properties that the selector names, each once.
//!
//! | where JMS leaves it open | here |
//! |---|---|
//! | comparing types that have nothing to do with each other | false, so that NOT makes it true (3.8.1.2) |
//! | texts compared with `<` and the like | false; an error where it can be seen in the selector |
//! | arithmetic on what is no number; whole numbers divided by 0 or beyond 64 bits | unknown |
//! | a property of a type that JMS does not have | as if it were not there |
//! | IN and LIKE on what is no text | false |
//!
//! `NOT BETWEEN` is the two comparisons that it stands for (`<` or `>`), `NOT IN` and `NOT LIKE` are the
//! negations of theirs.

use std::fmt;
use std::sync::Arc;

use crate::proto::message::Message;

mod code;
mod compile;
mod error;
mod lexer;
mod like;
mod names;

pub use error::{SelectorError, SelectorFault};

use code::{Step, Value};
use names::Name;

/// Longest text, in bytes. A compiled selector takes at most some 32 bytes for each.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// How deep parentheses, NOT and signs may be nested.
pub const NESTING_MAX: usize = 64;
/// How many different properties and headers a selector may name.
pub const NAMES_MAX: usize = 32;
/// How many texts a list after IN may have.
pub const LIST_ITEMS_MAX: usize = 1024;

/// Values and names up to which a judgement allocates nothing.
const USUAL_HEIGHT: usize = 12;
const USUAL_NAMES: usize = 4;

/// How values that are text count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// As JMS says: a text is a text.
    Strict,
    /// For clients whose headers are all text. Where a number is needed, a text that is a decimal
    /// number counts as that number; where a truth is needed, `true` and `false` in any case count as
    /// that truth. Two texts are equal only if they are the same, and are ordered only if both are
    /// numbers.
    TextIsNumeric,
}

/// A compiled selector.
#[derive(Debug)]
pub struct Selector {
    text: Box<str>,
    dialect: Dialect,
    steps: Box<[Step]>,
    names: Box<[Name]>,
    /// Most values on the stack at a time.
    height: usize,
}

impl Selector {
    /// Compiles a text. One that is empty or blank takes every message, as JMS says: see
    /// [`Selector::wanted`].
    ///
    /// # Errors
    /// The text is no selector, or exceeds one of this module's bounds; the error says where.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Arc<Self>, SelectorError> {
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            let end = text.floor_char_boundary(TEXT_BYTES_MAX);
            let fault = SelectorFault::TooLong { bytes };
            return Err(SelectorError::new(text, end, fault));
        }
        let blank = text.trim().is_empty();
        let compiled = compile::compile(if blank { "TRUE" } else { text })?;
        Ok(Arc::new(Self {
            text: text.into(),
            dialect,
            steps: compiled.steps.into(),
            names: compiled.names.into(),
            height: compiled.height,
        }))
    }

    /// The same, where one that is empty or blank is none.
    ///
    /// # Errors
    /// As of [`Selector::parse`].
    pub fn wanted(text: &str, dialect: Dialect) -> Result<Option<Arc<Self>>, SelectorError> {
        let selector = Self::parse(text, dialect)?;
        Ok((!selector.text.trim().is_empty()).then_some(selector))
    }

    /// Whether the message is wanted: the selector is true of it, neither false nor unknown.
    #[must_use]
    pub fn matches(&self, message: &Message<'_>) -> bool {
        self.judge(message) == Some(true)
    }

    /// The same for a canonical message's bytes; what is none is not wanted.
    #[must_use]
    pub fn matches_bytes(&self, message: &[u8]) -> bool {
        Message::read(message).is_ok_and(|message| self.matches(&message))
    }

    /// What was compiled, as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How it was compiled.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// True, false, or nothing for unknown.
    fn judge<'a>(&'a self, message: &Message<'a>) -> Option<bool> {
        let (mut few_values, mut many_values);
        let stack = if self.height <= USUAL_HEIGHT {
            few_values = [Value::Unknown; USUAL_HEIGHT];
            &mut few_values[..]
        } else {
            many_values = vec![Value::Unknown; self.height];
            &mut many_values[..]
        };
        let (mut few_names, mut many_names);
        let loaded = if self.names.len() <= USUAL_NAMES {
            few_names = [None; USUAL_NAMES];
            &mut few_names[..]
        } else {
            many_names = vec![None; self.names.len()];
            &mut many_names[..]
        };
        code::run(&self.steps, self.dialect, stack, |number| {
            *loaded[number].get_or_insert_with(|| self.names[number].value(message))
        })
    }
}

/// Two selectors are the same if they were written the same, apart from white space around them.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text.trim() == other.text.trim() && self.dialect == other.dialect
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
