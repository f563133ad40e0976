//! The layers: each source of values read into (key, value, origin), checked against the table of
//! keys, and handed to the crate `config` to be merged.

use std::collections::{BTreeMap, HashMap};

use config::{Map, ValueKind};
use toml_edit::{Document, Item, TableLike};

use super::error::{ConfigError, Origin};
use super::keys::{self, Key};
use super::value::{Misfit, Value, quoted};

pub(super) mod tables;

/// The prefix of environment variables; sections and key are separated by `__`.
pub const ENVIRONMENT_PREFIX: &str = "TWINMQ__";

/// A file with more mistakes than this is not a profile: the first ones are told.
const ERRORS_MAX: usize = 50;
/// Longest key or value in a message, in characters.
const SHOWN_MAX: usize = 120;

/// One layer, checked. Later values of a key win over earlier ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    /// Keys that stand once.
    pub(super) values: Vec<(&'static Key, Value, Origin)>,
    /// `[[destination]]`.
    pub(super) tables: Vec<tables::TableLayer>,
}

/// Reads the built-in defaults.
pub(super) fn defaults() -> Layer {
    let values = keys::all().map(|key| (key, key.default_value(), Origin::Default));
    Layer {
        values: values.collect(),
        tables: Vec::new(),
    }
}

/// Reads a profile's text. `name` is what messages call it.
pub(super) fn profile(name: &str, text: &str, errors: &mut Vec<ConfigError>) -> Layer {
    let lines = Lines::new(name, text);
    let mut layer = Layer::default();
    match Document::parse(text) {
        Ok(document) => flatten("", document.as_table(), &lines, &mut layer, errors),
        Err(error) => errors.push(ConfigError::Syntax {
            at: lines.at(error.span().map_or(0, |span| span.start)),
            cause: error.message().replace('\n', ", "),
        }),
    }
    layer
}

/// Reads the environment's variables that begin with [`ENVIRONMENT_PREFIX`].
pub(super) fn environment(variables: &[(String, String)], errors: &mut Vec<ConfigError>) -> Layer {
    let mut layer = Layer::default();
    for (variable, text) in variables {
        if let Some(rest) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
            let path = rest.to_ascii_lowercase().replace("__", ".");
            let at = Origin::Environment(variable.clone());
            layer.add_text(&path, text, at, errors);
        }
    }
    layer
}

/// Reads what was given with `--set`, and `--db-path` as `store.path`.
pub(super) fn command_line(
    set: &[String],
    db_path: Option<&str>,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    let mut layer = Layer::default();
    for assignment in set {
        let at = Origin::CommandLine(format!("--set {assignment}"));
        match assignment.split_once('=') {
            Some((path, text)) => layer.add_text(path.trim(), text.trim(), at, errors),
            None => errors.push(ConfigError::NoAssignment { at }),
        }
    }
    if let Some(path) = db_path {
        let at = Origin::CommandLine("--db-path".to_owned());
        layer.add_text("store.path", path, at, errors);
    }
    layer
}

impl Layer {
    fn add_text(&mut self, path: &str, text: &str, at: Origin, errors: &mut Vec<ConfigError>) {
        let Some(key) = keys::find(path) else {
            if tables::set(path, text, &at, &mut self.tables, errors) {
                return;
            }
            errors.push(match in_section(path) {
                Some((section, example)) => ConfigError::Section {
                    at,
                    section,
                    example,
                },
                None => unknown(path, at),
            });
            return;
        };
        match Value::from_text(key.kind, text) {
            Ok(value) => self.values.push((key, value, at)),
            Err(misfit) => {
                let value = match misfit {
                    Misfit::Type => quoted(text),
                    Misfit::Range => text.to_owned(),
                };
                errors.push(bad(key, shortened(&value), at));
            }
        }
    }
}

fn flatten(
    prefix: &str,
    table: &dyn TableLike,
    lines: &Lines<'_>,
    layer: &mut Layer,
    errors: &mut Vec<ConfigError>,
) {
    for (name, item) in table.iter() {
        if errors.len() >= ERRORS_MAX {
            return;
        }
        let span = table
            .key(name)
            .and_then(toml_edit::Key::span)
            .or_else(|| item.span());
        let at = lines.of(span);
        // A quoted key with a dot in it would pass for a path.
        let name = if name.contains('.') {
            quoted(name)
        } else {
            name.to_owned()
        };
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        if let Some(key) = keys::find(&path) {
            take(key, item, at, layer, errors);
        } else if path == tables::NAME {
            tables::read(item, lines, &mut layer.tables, errors);
        } else if is_section(&path) {
            match item.as_table_like() {
                Some(inner) => flatten(&path, inner, lines, layer, errors),
                None => errors.push(ConfigError::BadValue {
                    at,
                    key: path,
                    value: shown(item),
                    rule: "is a section, not a key".to_owned(),
                }),
            }
        } else {
            errors.push(unknown(&path, at));
        }
    }
}

fn take(
    key: &'static Key,
    item: &Item,
    at: Origin,
    layer: &mut Layer,
    errors: &mut Vec<ConfigError>,
) {
    match take_value(key, item) {
        Some(value) => layer.values.push((key, value, at)),
        None => errors.push(bad(key, shown(item), at)),
    }
}

/// The value of an item, if it is one for this key.
fn take_value(key: &Key, item: &Item) -> Option<Value> {
    typed(item).filter(|value| value.fits(key.kind).is_ok())
}

/// The value of an item; none for types that no key has.
fn typed(item: &Item) -> Option<Value> {
    Some(match item.as_value()? {
        toml_edit::Value::Boolean(value) => Value::Bool(*value.value()),
        toml_edit::Value::Integer(value) => Value::Integer(*value.value()),
        toml_edit::Value::String(value) => Value::Text(value.value().clone()),
        toml_edit::Value::Array(items) => Value::List(
            items
                .iter()
                .map(|item| item.as_str().map(ToOwned::to_owned))
                .collect::<Option<_>>()?,
        ),
        toml_edit::Value::Float(_)
        | toml_edit::Value::Datetime(_)
        | toml_edit::Value::InlineTable(_) => return None,
    })
}

/// An item in one short line.
fn shown(item: &Item) -> String {
    if !item.is_value() {
        return "a table".to_owned();
    }
    let text = match typed(item) {
        Some(value) => value.to_string(),
        None => item.to_string().trim().replace(['\n', '\r'], " "),
    };
    shortened(&text)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_section(path: &str) -> bool {
    keys::sections().iter().any(|section| section.path == path)
}

/// The section of this path and the first key in it.
fn in_section(path: &str) -> Option<(&'static str, &'static str)> {
    keys::all().find_map(|key| {
        let rest = key.path.strip_prefix(path)?;
        let section = key.path.strip_suffix(rest)?;
        rest.starts_with('.').then_some((section, key.path))
    })
}

fn bad(key: &Key, value: String, at: Origin) -> ConfigError {
    ConfigError::BadValue {
        at,
        key: key.path.to_owned(),
        value,
        rule: format!("must be {}", key.kind.expected()),
    }
}

fn unknown(path: &str, at: Origin) -> ConfigError {
    ConfigError::UnknownKey {
        at,
        key: shortened(path),
        nearest: keys::nearest(path).map(ToOwned::to_owned),
    }
}

/// Line numbers of byte offsets in one text.
struct Lines<'a> {
    name: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(name: &'a str, text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { name, starts }
    }

    /// Where a part of the text begins; the first line for one without a place.
    fn of(&self, span: Option<std::ops::Range<usize>>) -> Origin {
        self.at(span.map_or(0, |span| span.start))
    }

    fn at(&self, offset: usize) -> Origin {
        let before = self.starts.partition_point(|newline| *newline < offset);
        Origin::Profile {
            name: self.name.to_owned(),
            line: before.saturating_add(1),
        }
    }
}

/// The layers merged: each key with its value and where that came from, in the table's order.
pub(super) type Merged = BTreeMap<&'static str, (Value, Origin)>;

/// Merges the layers, the lowest first, through the crate `config`.
///
/// # Errors
/// When the crate refuses, which checked layers give it no reason to.
pub(super) fn merge(layers: &[Layer]) -> Result<(config::Config, Merged), ConfigError> {
    let mut origins = HashMap::new();
    let mut builder = config::Config::builder();
    for layer in layers {
        let mut values = Map::new();
        for (key, value, origin) in &layer.values {
            let label = origin.to_string();
            values.insert(key.path.to_owned(), external(value, &label));
            origins.insert(label, origin.clone());
        }
        builder = builder.add_source(Checked(values));
    }
    let refused = |error: config::ConfigError| ConfigError::Merge {
        cause: error.to_string(),
    };
    let built = builder.build().map_err(refused)?;
    let mut merged = Merged::new();
    for key in keys::all() {
        let found = look_up(&built.cache, key.path).ok_or_else(|| ConfigError::Merge {
            cause: format!("{} is missing", key.path),
        })?;
        let origin = found
            .origin()
            .and_then(|label| origins.get(label))
            .cloned()
            .unwrap_or(Origin::Default);
        let value = internal(found.clone()).map_err(refused)?;
        merged.insert(key.path, (value, origin));
    }
    Ok((built, merged))
}

/// A value of the merged tree, with its origin (which `config::Config::get` does not keep).
fn look_up<'a>(tree: &'a config::Value, path: &str) -> Option<&'a config::Value> {
    path.split('.')
        .try_fold(tree, |tree, name| match &tree.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        })
}

/// A layer as the crate `config` takes it.
#[derive(Clone, Debug)]
struct Checked(Map<String, config::Value>);

impl config::Source for Checked {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, config::Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn external(value: &Value, label: &String) -> config::Value {
    let kind = match value {
        Value::Bool(value) => ValueKind::Boolean(*value),
        Value::Integer(value) => ValueKind::I64(*value),
        Value::Text(value) => ValueKind::String(value.clone()),
        Value::List(items) => ValueKind::Array(
            items
                .iter()
                .map(|item| config::Value::new(Some(label), item.clone()))
                .collect(),
        ),
    };
    config::Value::new(Some(label), kind)
}

fn internal(value: config::Value) -> Result<Value, config::ConfigError> {
    Ok(match &value.kind {
        ValueKind::Boolean(value) => Value::Bool(*value),
        ValueKind::I64(value) => Value::Integer(*value),
        ValueKind::Array(_) => Value::List(value.try_deserialize()?),
        _ => Value::Text(value.into_string()?),
    })
}
