//! One value of a key, checked against the key's kind.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::keys::Kind;
use super::model::HostPort;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::pattern::NamePattern;

/// Longest list of addresses.
const LIST_MAX: usize = 16;
/// Longest text of any value, in bytes: PATH_MAX.
const TEXT_MAX: usize = 4096;

/// One value, of the right type for its key. Shown as TOML spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Another type than the key's.
    Type,
    /// The right type, but outside what the key takes.
    Range,
}

impl Value {
    /// Reads the spelling of the environment and of `--set`: lists are comma-separated, texts need
    /// no quotes.
    ///
    /// # Errors
    /// When it does not fit the kind.
    pub fn from_text(kind: Kind, text: &str) -> Result<Self, Misfit> {
        let value = match kind {
            Kind::Bool => Self::Bool(text.trim().parse().map_err(|_| Misfit::Type)?),
            Kind::Integer { .. } => {
                let digits = text.trim().replace('_', "");
                Self::Integer(digits.parse().map_err(|_| Misfit::Type)?)
            }
            Kind::Addresses | Kind::Targets => Self::List(split_list(text)),
            Kind::Choice(_)
            | Kind::Name
            | Kind::Ip
            | Kind::Host
            | Kind::Path
            | Kind::Levels
            | Kind::Pattern
            | Kind::QueueName => Self::Text(text.to_owned()),
        };
        value.fits(kind)?;
        Ok(value)
    }

    /// Whether the value is one of its key's.
    ///
    /// # Errors
    /// When it is not.
    pub fn fits(&self, kind: Kind) -> Result<(), Misfit> {
        let good = match (kind, self) {
            (Kind::Bool, Self::Bool(_)) => true,
            (Kind::Integer { min, max, .. }, Self::Integer(number)) => (min..=max).contains(number),
            (Kind::Choice(words), Self::Text(text)) => words.contains(&text.as_str()),
            (Kind::Name, Self::Text(text)) => is_name(text),
            (Kind::Ip, Self::Text(text)) => text.parse::<IpAddr>().is_ok(),
            (Kind::Host, Self::Text(text)) => text.is_empty() || is_host(text),
            (Kind::Path, Self::Text(text)) => is_path(text),
            (Kind::Levels, Self::Text(text)) => is_levels(text),
            (Kind::Pattern, Self::Text(text)) => NamePattern::parse(text).is_ok(),
            (Kind::QueueName, Self::Text(text)) => is_queue_name(text),
            (Kind::Addresses, Self::List(items)) => {
                items.len() <= LIST_MAX && items.iter().all(|item| parse_address(item).is_some())
            }
            (Kind::Targets, Self::List(items)) => {
                items.len() <= LIST_MAX && items.iter().all(|item| parse_target(item).is_some())
            }
            _ => return Err(Misfit::Type),
        };
        if good { Ok(()) } else { Err(Misfit::Range) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(value) => quoted(value).fmt(f),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", quoted(item))?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A text as TOML quotes it, in one line whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => {
                out.push_str(&format!("\\u{:04X}", u32::from(other)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// An IP address and a port that is not zero.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    text.parse::<SocketAddr>()
        .ok()
        .filter(|address| address.port() != 0)
}

/// A host and a port that is not zero; IPv6 addresses in brackets.
#[must_use]
pub fn parse_target(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) => Some(inside).filter(|inside| inside.contains(':')),
        None => Some(host).filter(|host| !host.contains(':')),
    }?;
    is_host(host).then(|| HostPort {
        host: host.to_owned(),
        port,
    })
}

/// An IP address, or a name in the letters of the DNS.
pub(crate) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (!text.is_empty()
            && text.len() <= 253
            && text.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            }))
}

pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_queue_name(text: &str) -> bool {
    DestinationName::new(DestinationKind::Queue, text).is_ok()
        && !text.starts_with('/')
        && !text.contains(['*', '>'])
}

fn is_path(text: &str) -> bool {
    text.len() < TEXT_MAX && !text.chars().any(char::is_control)
}

fn is_levels(text: &str) -> bool {
    text.len() < TEXT_MAX
        && !text.trim().is_empty()
        // A bare word that is no level would be taken as a target: a misspelled level, silently.
        && text.split(',').all(|part| {
            part.contains('=') || part.trim().parse::<tracing::metadata::LevelFilter>().is_ok()
        })
        && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

fn split_list(text: &str) -> Vec<String> {
    let text = text.trim();
    let text = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .filter(|inside| inside.contains('"') || inside.is_empty())
        .unwrap_or(text);
    text.split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_are_hosts_with_ports() {
        for good in [
            "a:1",
            "10.0.0.1:65535",
            "[::1]:7",
            "gate-way.example_1.org:22",
        ] {
            assert_eq!(parse_target(good).unwrap().to_string(), good);
        }
        for bad in [
            "", ":1", "a", "a:", "a:0", "a:65536", "::1:7", "[a]:1", "a b:1", "-a:1", "[::1]",
            "a..b:1",
        ] {
            assert_eq!(parse_target(bad), None, "{bad}");
        }
    }

    #[test]
    fn levels_are_levels() {
        let fits = |text: &str| Value::Text(text.to_owned()).fits(Kind::Levels);
        for good in [
            "info",
            "WARN",
            "info,twinmq::ha=debug",
            "off",
            "twinmq[peer]=trace",
        ] {
            assert_eq!(fits(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "inof", "info,debgu", "twinmq=loud", "="] {
            assert_eq!(fits(bad), Err(Misfit::Range), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quoted_texts_read_back_from_one_line(text in any::<String>()) {
            let quoted = quoted(&text);
            prop_assert!(!quoted.contains('\n'));
            let line = format!("key = {quoted}\n");
            let document = toml_edit::Document::parse(line).unwrap();
            prop_assert_eq!(document.as_table()["key"].as_str(), Some(text.as_str()));
        }
    }
}
