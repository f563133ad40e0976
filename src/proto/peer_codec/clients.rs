//! The bytes of what a server tells its peer of its clients.
//!
//! ```text
//! u8 afresh | u16 count | u32 number... | u16 count | part...      a part: u32 number, address, names
//! ```

use core::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use crate::proto::fields::{BadField, FieldReader, put_part, put_text};
use crate::proto::peer::{CLIENT_NAME_BYTES_MAX, CLIENT_NEWS_MAX, ClientNews, PeerClient};

const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// What is beyond the bounds of [`ClientNews`] is not told.
pub(super) fn put(news: &ClientNews, to: &mut BytesMut) {
    to.put_u8(u8::from(news.afresh));
    let gone = &news.gone[..news.gone.len().min(CLIENT_NEWS_MAX)];
    put_count(gone.len(), to);
    for number in gone {
        to.put_u32(*number);
    }
    let came = &news.came[..news.came.len().min(CLIENT_NEWS_MAX)];
    put_count(came.len(), to);
    for client in came {
        put_client(client, to);
    }
}

fn put_count(count: usize, to: &mut BytesMut) {
    to.put_u16(u16::try_from(count).expect("cut to a few hundred"));
}

fn put_client(client: &PeerClient, to: &mut BytesMut) {
    let mut part = Vec::with_capacity(64);
    part.put_u32(client.number);
    match client.address.ip() {
        IpAddr::V4(ip) => {
            part.put_u8(IPV4);
            part.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            part.put_u8(IPV6);
            part.put_slice(&ip.octets());
        }
    }
    part.put_u16(client.address.port());
    for name in [&client.client_id, &client.login] {
        part.put_u8(u8::from(name.is_some()));
        let name = name.as_deref().unwrap_or_default();
        put_text(&mut part, name, CLIENT_NAME_BYTES_MAX);
    }
    put_part(to, &part);
}

pub(super) fn take(from: &mut FieldReader) -> Result<ClientNews, BadField> {
    let afresh = from.bool("afresh")?;
    let mut gone = Vec::new();
    for _ in 0..take_count(from)? {
        gone.push(from.u32("gone")?);
    }
    let mut came = Vec::new();
    for _ in 0..take_count(from)? {
        came.push(take_client(&mut from.part("client")?)?);
    }
    Ok(ClientNews { afresh, gone, came })
}

fn take_count(from: &mut FieldReader) -> Result<u16, BadField> {
    let count = from.u16("count")?;
    let fits = usize::from(count) <= CLIENT_NEWS_MAX;
    fits.then_some(count).ok_or(BadField("count"))
}

fn take_client(from: &mut FieldReader) -> Result<PeerClient, BadField> {
    let number = from.u32("number")?;
    let ip = match from.u8("address")? {
        IPV4 => IpAddr::from(from.array::<4>("address")?),
        IPV6 => IpAddr::from(from.array::<16>("address")?),
        _ => return Err(BadField("address")),
    };
    let address = SocketAddr::new(ip, from.u16("port")?);
    let mut name = || {
        let is_there = from.bool("name")?;
        let text = from.text("name")?;
        if text.len() > CLIENT_NAME_BYTES_MAX {
            return Err(BadField("name"));
        }
        Ok(is_there.then(|| text.into_boxed_str()))
    };
    Ok(PeerClient {
        number,
        client_id: name()?,
        login: name()?,
        address,
    })
}
