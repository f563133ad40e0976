//! From a profile's name to a valid configuration.

use std::path::PathBuf;

use super::error::{ConfigError, ConfigErrors, ConfigWarning, Origin};
use super::keys::{self, Key};
use super::layers::{self, Layer, Merged};
use super::model::Config;
use super::profile;
use super::raw::RawConfig;
use super::rules::{self, Identity};
use super::value::Value;
use crate::proto::pattern::NamePattern;

/// Where a configuration is loaded from. Loading the same source again is a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSource {
    /// A profile's name or path; none: `standalone`.
    pub profile: Option<String>,
    /// `--db-path`: overrides `store.path`.
    pub db_path: Option<PathBuf>,
    /// `--set KEY=VALUE`, in their order.
    pub set: Vec<String>,
    /// Environment variables; those that do not begin with `TWINMQ__` are ignored.
    pub environment: Vec<(String, String)>,
    /// Folders in which named profiles are looked for.
    pub search: Vec<PathBuf>,
}

impl ConfigSource {
    /// A profile alone, without the process's environment: for tests and for other tools.
    #[must_use]
    pub fn profile(name: &str) -> Self {
        Self {
            profile: Some(name.to_owned()),
            db_path: None,
            set: Vec::new(),
            environment: Vec::new(),
            search: profile::default_search(),
        }
    }

    /// As the command line gave it, with the process's environment.
    #[must_use]
    pub fn from_process(profile: Option<&str>, db_path: Option<PathBuf>, set: Vec<String>) -> Self {
        Self {
            profile: profile.map(ToOwned::to_owned),
            db_path,
            set,
            environment: std::env::vars_os()
                .map(|(name, value)| {
                    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
                    (text(name), text(value))
                })
                .filter(|(name, _)| name.starts_with(layers::ENVIRONMENT_PREFIX))
                .collect(),
            search: profile::default_search(),
        }
    }
}

/// A key's value in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Which key.
    pub key: &'static Key,
    /// Its value.
    pub value: Value,
    /// Where that came from.
    pub origin: Origin,
}

/// A `[[destination]]` table in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveTable {
    /// For which destinations.
    pub pattern: NamePattern,
    /// Where it begins, in the lowest layer that has it.
    pub at: Origin,
    /// Every key of it with its value and origin, `match` first.
    pub values: Vec<Effective>,
}

/// A valid configuration, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works but should be looked at.
    pub warnings: Vec<ConfigWarning>,
    /// Every key with its value and origin, in the order of the profiles.
    pub values: Vec<Effective>,
    /// The `[[destination]]` tables, in the order of the profile.
    pub tables: Vec<EffectiveTable>,
}

/// Loads a configuration.
///
/// # Errors
/// Everything that is wrong with it; nothing is taken then.
pub fn load(source: &ConfigSource) -> Result<Loaded, ConfigErrors> {
    let (identity, layers) = read(source)?;
    assemble(&layers, &identity)
}

/// Loads a profile from its text alone: no file, no environment. Any text is either taken or
/// refused: what a fuzzer calls.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    let identity = Identity {
        profile: name.to_owned(),
        shown: name.to_owned(),
        file: None,
    };
    let mut errors = Vec::new();
    let layer = layers::profile(name, text, &mut errors);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    assemble(&[layers::defaults(), layer], &identity)
}

/// Reads and checks every layer of a source.
pub(super) fn read(source: &ConfigSource) -> Result<(Identity, Vec<Layer>), ConfigErrors> {
    let asked = source.profile.as_deref().unwrap_or(profile::DEFAULT);
    let found = profile::find(asked, &source.search)?;
    let mut errors = Vec::new();
    let db_path = match &source.db_path {
        Some(path) => Some(path.to_str().ok_or_else(|| ConfigError::BadValue {
            at: Origin::CommandLine("--db-path".to_owned()),
            key: "store.path".to_owned(),
            value: format!("{path:?}"),
            rule: "must be UTF-8 text".to_owned(),
        })?),
        None => None,
    };
    let layers = vec![
        layers::defaults(),
        layers::profile(&found.identity.shown, &found.text, &mut errors),
        layers::environment(&source.environment, &mut errors),
        layers::command_line(&source.set, db_path, &mut errors),
    ];
    if errors.is_empty() {
        Ok((found.identity, layers))
    } else {
        Err(ConfigErrors(errors))
    }
}

/// Merges checked layers and validates the whole.
pub(super) fn assemble(layers: &[Layer], identity: &Identity) -> Result<Loaded, ConfigErrors> {
    let (built, merged) = layers::merge(layers)?;
    let raw: RawConfig = built
        .try_deserialize()
        .map_err(|error| ConfigError::Merge {
            cause: error.to_string(),
        })?;
    let tables = layers::tables::merge(layers.iter().map(|layer| layer.tables.as_slice()));
    let (config, warnings) = rules::validate(&raw, &merged, &tables, identity)?;
    Ok(Loaded {
        config,
        warnings,
        values: effective(&merged),
        tables,
    })
}

fn effective(merged: &Merged) -> Vec<Effective> {
    keys::all()
        .filter_map(|key| {
            merged.get(key.path).map(|(value, origin)| Effective {
                key,
                value: value.clone(),
                origin: origin.clone(),
            })
        })
        .collect()
}
