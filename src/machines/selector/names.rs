//! What a selector can name: application properties, and some headers of JMS.

use crate::proto::message::{Field, Message, PropertyValue};

use super::code::Value;

/// A name in a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Property(Box<str>),
    Header(Header),
}

/// A header of JMS that selectors may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    DeliveryMode,
    Priority,
    MessageId,
    Timestamp,
    CorrelationId,
    Type,
    GroupId,
}

impl Header {
    const ALL: [Self; 7] = [
        Self::DeliveryMode,
        Self::Priority,
        Self::MessageId,
        Self::Timestamp,
        Self::CorrelationId,
        Self::Type,
        Self::GroupId,
    ];
}

/// A header of JMS that selectors may not name.
#[derive(Debug)]
pub(super) struct Unselectable;

impl Name {
    pub(super) fn new(name: Box<str>) -> Result<Self, Unselectable> {
        let header = Header::ALL
            .into_iter()
            .find(|header| header.name() == &*name);
        if let Some(header) = header {
            return Ok(Self::Header(header));
        }
        // JMS keeps the names that begin so for itself; JMSX and JMS_ are properties.
        if name.starts_with("JMS") && !name.starts_with("JMSX") && !name.starts_with("JMS_") {
            return Err(Unselectable);
        }
        Ok(Self::Property(name))
    }

    pub(super) fn value<'a>(&self, message: &Message<'a>) -> Value<'a> {
        match self {
            Self::Property(name) => message.property(name).into(),
            Self::Header(header) => header.value(message),
        }
    }
}

impl Header {
    fn value<'a>(self, message: &Message<'a>) -> Value<'a> {
        let envelope = message.envelope();
        let field = match self {
            Self::DeliveryMode if envelope.persistent => return Value::Text("PERSISTENT"),
            Self::DeliveryMode => return Value::Text("NON_PERSISTENT"),
            Self::Priority => return Value::Integer(i64::from(envelope.priority)),
            Self::MessageId => Field::MessageId,
            Self::Timestamp => Field::CreationTime,
            Self::CorrelationId => Field::CorrelationId,
            Self::Type => Field::Subject,
            Self::GroupId => {
                if let Some(group) = envelope.group {
                    return Value::Text(group);
                }
                Field::GroupId
            }
        };
        // Protocols without such a field send a header of this name.
        let value = message
            .field(field)
            .or_else(|| message.property(self.name()));
        match (self, value) {
            (Self::Timestamp, value) => value.into(),
            // Ids of AMQP may be numbers; those of JMS are texts.
            (_, Some(PropertyValue::Text(text))) => Value::Text(text),
            (
                _,
                None
                | Some(
                    PropertyValue::Boolean(_)
                    | PropertyValue::Integer(_)
                    | PropertyValue::Unsigned(_)
                    | PropertyValue::Float(_),
                ),
            ) => Value::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::DeliveryMode => "JMSDeliveryMode",
            Self::Priority => "JMSPriority",
            Self::MessageId => "JMSMessageID",
            Self::Timestamp => "JMSTimestamp",
            Self::CorrelationId => "JMSCorrelationID",
            Self::Type => "JMSType",
            Self::GroupId => "JMSXGroupID",
        }
    }
}
