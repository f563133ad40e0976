//! Definitions of queues, as the store keeps them: a kind byte and a name.

use bytes::{BufMut, Bytes, BytesMut};

use crate::proto::destination::{DestinationKind, DestinationName};

/// The kind byte of a queue's definition.
pub(super) const KIND_QUEUE: u8 = b'q';

/// A queue's definition as the store keeps it, temporary or not.
pub(super) fn definition(kind: u8, name: &DestinationName) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + name.name().len());
    value.put_u8(kind);
    value.put_slice(name.name().as_bytes());
    value.freeze()
}

/// The name in a queue's definition.
pub(super) fn queue_name(definition: &[u8]) -> Option<DestinationName> {
    let (kind, name) = definition.split_first()?;
    if *kind != KIND_QUEUE {
        return None;
    }
    DestinationName::new(DestinationKind::Queue, std::str::from_utf8(name).ok()?).ok()
}
