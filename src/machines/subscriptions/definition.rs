//! A subscription as the store keeps it.
//!
//! ```text
//! 1  kind: s durable, v goes with its consumers
//! 1  flags: 0x01 shared, 0x02 no-local, 0x04 client id, 0x08 selector, 0x10 texts count as numbers
//! 2+n pattern, 2+n name, 2+n client id, 2+n selector: the last two if flagged
//! ```
//!
//! Of one that goes with its consumers nothing but the kind is read: the next term drops it.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::{Identity, SubscriptionSpec};
use crate::machines::selector::{Dialect, Selector, SelectorError};
use crate::machines::topics::{TopicError, TopicPattern};
use crate::proto::fields::{BadField, FieldReader, put_text};

/// The kind byte of a durable subscription.
pub const KIND_DURABLE: u8 = b's';
/// The kind byte of one that goes with its consumers.
pub const KIND_PASSING: u8 = b'v';

const SHARED: u8 = 0x01;
const NO_LOCAL: u8 = 0x02;
const CLIENT_ID: u8 = 0x04;
const SELECTOR: u8 = 0x08;
const TEXT_IS_NUMERIC: u8 = 0x10;
const KNOWN: u8 = SHARED | NO_LOCAL | CLIENT_ID | SELECTOR | TEXT_IS_NUMERIC;

/// Why bytes are no definition of a durable subscription.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DefinitionError {
    /// Another kind, or of a later version.
    #[error("it is of a kind that this version does not know")]
    Kind,
    /// Ends early, or has too much.
    #[error("it is damaged: {0}")]
    Field(&'static str),
    /// The pattern.
    #[error("its topic is not valid: {0}")]
    Topic(#[from] TopicError),
    /// The selector.
    #[error("its selector is not valid: {0}")]
    Selector(#[from] SelectorError),
}

impl From<BadField> for DefinitionError {
    fn from(BadField(what): BadField) -> Self {
        Self::Field(what)
    }
}

impl SubscriptionSpec {
    /// For the store.
    #[must_use]
    pub fn definition(&self) -> Bytes {
        let (durable, client_id, name) = match &self.identity {
            Identity::Anonymous => (false, None, ""),
            Identity::Named {
                durable,
                client_id,
                name,
            } => (*durable, client_id.as_deref(), &**name),
        };
        let numeric = self.selector.as_ref().map(|selector| selector.dialect())
            == Some(Dialect::TextIsNumeric);
        let flags = [
            (self.shared, SHARED),
            (self.no_local, NO_LOCAL),
            (client_id.is_some(), CLIENT_ID),
            (self.selector.is_some(), SELECTOR),
            (numeric, TEXT_IS_NUMERIC),
        ];
        let mut out = BytesMut::new();
        out.put_u8(if durable { KIND_DURABLE } else { KIND_PASSING });
        let set = flags.iter().filter(|(present, _)| *present);
        out.put_u8(set.map(|(_, flag)| flag).sum());
        let selector = self.selector.as_ref().map(|selector| selector.text());
        let texts = [Some(self.pattern.as_str()), Some(name), client_id, selector];
        for text in texts.into_iter().flatten() {
            put_text(&mut out, text, usize::MAX);
        }
        out.freeze()
    }

    /// A durable subscription from the store.
    ///
    /// # Errors
    /// When it is none, or none that this version can read.
    pub fn read(definition: &Bytes) -> Result<Self, DefinitionError> {
        let mut reader = FieldReader::new(definition.clone());
        let (kind, flags) = (reader.u8("kind")?, reader.u8("flags")?);
        if kind != KIND_DURABLE || flags & !KNOWN != 0 {
            return Err(DefinitionError::Kind);
        }
        let optional = |reader: &mut FieldReader, flag: u8, what| {
            let there = flags & flag != 0;
            there.then(|| reader.text(what)).transpose()
        };
        let pattern = reader.text("pattern")?;
        let name = reader.text("name")?;
        let client_id = optional(&mut reader, CLIENT_ID, "client id")?;
        let selector = optional(&mut reader, SELECTOR, "selector")?;
        reader.end()?;
        let dialect = if flags & TEXT_IS_NUMERIC == 0 {
            Dialect::Strict
        } else {
            Dialect::TextIsNumeric
        };
        let valid = |text: &str| super::is_name(text);
        if !valid(&name) || !client_id.as_deref().is_none_or(valid) {
            return Err(DefinitionError::Field("name"));
        }
        Ok(Self {
            pattern: TopicPattern::parse(&pattern)?,
            // Earlier versions kept blank ones.
            selector: selector
                .map(|text| Selector::wanted(&text, dialect))
                .transpose()?
                .flatten(),
            no_local: flags & NO_LOCAL != 0,
            shared: flags & SHARED != 0,
            identity: Identity::Named {
                durable: true,
                client_id: client_id.map(Into::into),
                name: name.into(),
            },
        })
    }
}
