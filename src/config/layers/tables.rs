//! `[[destination]]` tables: read from a profile, or key by key from the layers above it as
//! `destination.PATTERN.KEY`, and merged by their patterns.

use toml_edit::{Item, Table};

use super::{Lines, bad, shortened, shown, take_value, unknown};
use crate::config::error::{ConfigError, Origin};
use crate::config::keys::{self, Key};
use crate::config::load::{Effective, EffectiveTable};
use crate::config::value::{Misfit, Value, quoted};
use crate::proto::pattern::NamePattern;

/// The key that names the array of tables.
pub(super) const NAME: &str = "destination";
/// A profile with more tables is none: each is tried for each destination.
const TABLES_MAX: usize = 1000;

/// One table of one layer.
#[derive(Clone, Debug)]
pub(in crate::config) struct TableLayer {
    pattern: NamePattern,
    /// Where it begins.
    at: Origin,
    /// Keys but `match`, as they came.
    values: Vec<(&'static Key, Value, Origin)>,
}

/// Reads the tables of a profile.
pub(super) fn read(
    item: &Item,
    lines: &Lines<'_>,
    tables: &mut Vec<TableLayer>,
    errors: &mut Vec<ConfigError>,
) {
    let Some(array) = item.as_array_of_tables() else {
        errors.push(ConfigError::BadValue {
            at: lines.of(item.span()),
            key: NAME.to_owned(),
            value: shown(item),
            rule: "is written as tables: [[destination]], each with its match".to_owned(),
        });
        return;
    };
    for table in array {
        let at = lines.of(table.span());
        if tables.len() >= TABLES_MAX {
            errors.push(ConfigError::BadValue {
                at,
                key: NAME.to_owned(),
                value: "a table".to_owned(),
                rule: format!("there may be at most {TABLES_MAX}"),
            });
            return;
        }
        if let Some(read) = read_one(table, at, lines, errors) {
            add(read, tables, errors);
        }
    }
}

fn read_one(
    table: &Table,
    at: Origin,
    lines: &Lines<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<TableLayer> {
    let mut pattern = None;
    let mut values = Vec::new();
    let before = errors.len();
    for (name, item) in table {
        let span = table.key(name).and_then(toml_edit::Key::span);
        let at = lines.of(span.or_else(|| item.span()));
        let Some(key) = find(name) else {
            errors.push(unknown(&path_of(name), at));
            continue;
        };
        match take_value(key, item) {
            Some(value) if is_match(key) => pattern = pattern_of(&value),
            Some(value) => values.push((key, value, at)),
            None => errors.push(bad(key, shown(item), at)),
        }
    }
    if errors.len() > before {
        return None;
    }
    let Some(pattern) = pattern else {
        errors.push(ConfigError::Missing {
            profile: at.to_string(),
            key: path_of("match"),
            rule:
                "a [[destination]] table says for which names it is, such as match = \"orders.>\""
                    .to_owned(),
        });
        return None;
    };
    Some(TableLayer {
        pattern,
        at,
        values,
    })
}

fn add(read: TableLayer, tables: &mut Vec<TableLayer>, errors: &mut Vec<ConfigError>) {
    match tables.iter().find(|other| other.pattern == read.pattern) {
        Some(first) => errors.push(ConfigError::BadValue {
            at: read.at,
            key: path_of("match"),
            value: quoted(&read.pattern.to_string()),
            rule: format!("is given twice; the first is at {}", first.at),
        }),
        None => tables.push(read),
    }
}

/// Reads `destination.PATTERN.KEY` of the command line or the environment. False: it is not of that
/// form.
pub(super) fn set(
    path: &str,
    text: &str,
    at: &Origin,
    tables: &mut Vec<TableLayer>,
    errors: &mut Vec<ConfigError>,
) -> bool {
    let Some(rest) = path
        .strip_prefix(NAME)
        .and_then(|rest| rest.strip_prefix('.'))
    else {
        return false;
    };
    let Some((pattern, leaf)) = rest.rsplit_once('.') else {
        let example = find(rest).map_or("max_messages", Key::leaf);
        errors.push(ConfigError::UnknownKey {
            at: at.clone(),
            key: shortened(path),
            nearest: Some(format!("{NAME}.PATTERN.{example}")),
        });
        return true;
    };
    let Some(key) = find(leaf).filter(|key| !is_match(key)) else {
        errors.push(unknown(&path_of(leaf), at.clone()));
        return true;
    };
    let pattern = match NamePattern::parse(pattern) {
        Ok(pattern) => pattern,
        Err(error) => {
            errors.push(ConfigError::BadValue {
                at: at.clone(),
                key: path_of("match"),
                value: quoted(&shortened(pattern)),
                rule: error.to_string(),
            });
            return true;
        }
    };
    match Value::from_text(key.kind, text) {
        Ok(value) => {
            let value = (key, value, at.clone());
            match tables.iter_mut().find(|table| table.pattern == pattern) {
                Some(table) => table.values.push(value),
                None => tables.push(TableLayer {
                    pattern,
                    at: at.clone(),
                    values: vec![value],
                }),
            }
        }
        Err(misfit) => {
            let value = match misfit {
                Misfit::Type => quoted(text),
                Misfit::Range => text.to_owned(),
            };
            errors.push(bad(key, shortened(&value), at.clone()));
        }
    }
    true
}

/// The tables of all layers, the lowest layer first: those of one pattern become one, key by key.
pub(in crate::config) fn merge<'a>(
    layers: impl Iterator<Item = &'a [TableLayer]>,
) -> Vec<EffectiveTable> {
    let mut merged: Vec<EffectiveTable> = Vec::new();
    for table in layers.flatten() {
        let at = match merged.iter().position(|one| one.pattern == table.pattern) {
            Some(at) => at,
            None => {
                merged.push(empty(table));
                merged.len() - 1
            }
        };
        for (key, value, origin) in &table.values {
            let slot = merged[at].values.iter_mut().find(|one| one.key == *key);
            if let Some(slot) = slot {
                slot.value = value.clone();
                slot.origin = origin.clone();
            }
        }
    }
    merged
}

/// A table in which nothing is set but its pattern.
fn empty(table: &TableLayer) -> EffectiveTable {
    let values = keys::destination().keys.iter().map(|key| {
        let (value, origin) = if is_match(key) {
            let pattern = Value::Text(table.pattern.to_string());
            (pattern, table.at.clone())
        } else {
            (key.default_value(), Origin::Default)
        };
        Effective { key, value, origin }
    });
    EffectiveTable {
        pattern: table.pattern.clone(),
        at: table.at.clone(),
        values: values.collect(),
    }
}

fn pattern_of(value: &Value) -> Option<NamePattern> {
    match value {
        Value::Text(text) => NamePattern::parse(text).ok(),
        Value::Bool(_) | Value::Integer(_) | Value::List(_) => None,
    }
}

fn is_match(key: &Key) -> bool {
    key.leaf() == "match"
}

fn path_of(leaf: &str) -> String {
    format!("{NAME}.{leaf}")
}

fn find(leaf: &str) -> Option<&'static Key> {
    let keys = keys::destination().keys;
    keys.iter().find(|key| key.leaf() == leaf)
}
