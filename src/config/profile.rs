//! Where a profile comes from: a path, `conf/profiles/`, `/etc/twinmq/profiles/`, or the binary.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::rules::Identity;

/// The profiles that are built in: name and text.
pub const STOCK: [(&str, &str); 5] = [
    (
        "standalone",
        include_str!("../../conf/profiles/standalone.toml"),
    ),
    (
        "replicated/primary",
        include_str!("../../conf/profiles/replicated/primary.toml"),
    ),
    (
        "replicated/secondary",
        include_str!("../../conf/profiles/replicated/secondary.toml"),
    ),
    (
        "shared/primary",
        include_str!("../../conf/profiles/shared/primary.toml"),
    ),
    (
        "shared/secondary",
        include_str!("../../conf/profiles/shared/secondary.toml"),
    ),
];

/// The profile that is used when none is named.
pub const DEFAULT: &str = "standalone";

/// Where named profiles are looked for, in this order, before the built-in ones.
#[must_use]
pub(super) fn default_search() -> Vec<PathBuf> {
    vec![
        PathBuf::from("conf/profiles"),
        PathBuf::from("/etc/twinmq/profiles"),
    ]
}

/// The reference's profiles, and what stands for them here.
const REFERENCE: [(&str, &str); 5] = [
    ("FioranoMQ", "standalone"),
    ("FioranoMQ_HA_rpl/HAPrimary", "replicated/primary"),
    ("FioranoMQ_HA_rpl/HASecondary", "replicated/secondary"),
    ("FioranoMQ_HA_shared/HAPrimary", "shared/primary"),
    ("FioranoMQ_HA_shared/HASecondary", "shared/secondary"),
];

/// Larger files are not profiles.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A profile's text and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) text: String,
}

/// Finds and reads a profile.
///
/// # Errors
/// When there is none of that name, or it cannot be read.
pub(super) fn find(asked: &str, search: &[PathBuf]) -> Result<Found, ConfigError> {
    let name = asked.replace('\\', "/");
    let bare = name.strip_suffix(".toml").unwrap_or(&name);
    let as_path = [asked, &name]
        .into_iter()
        .map(PathBuf::from)
        .chain([PathBuf::from(format!("{bare}.toml"))])
        .chain([Path::new(&name).join("profile.toml")]);
    let named = search
        .iter()
        .filter(|_| !Path::new(bare).is_absolute())
        .map(|folder| folder.join(format!("{bare}.toml")));
    if let Some(path) = as_path.chain(named).find(|path| path.is_file()) {
        let text = read(&path)?;
        return Ok(Found {
            identity: Identity {
                profile: bare.to_owned(),
                shown: path.display().to_string(),
                file: Some(path),
            },
            text,
        });
    }
    match STOCK.iter().find(|(stock, _)| *stock == bare) {
        Some((stock, text)) => Ok(Found {
            identity: Identity {
                profile: (*stock).to_owned(),
                shown: format!("built-in profile {stock}"),
                file: None,
            },
            text: (*text).to_owned(),
        }),
        None => Err(ConfigError::NoProfile {
            name: asked.to_owned(),
            nearest: nearest(bare, search),
            looked: looked(bare, search),
        }),
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause: String| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}

fn looked(bare: &str, search: &[PathBuf]) -> String {
    let mut places = vec![format!("{bare}.toml")];
    places.extend(search.iter().map(|folder| folder.display().to_string()));
    format!("{} and the built-in profiles", places.join(", "))
}

fn nearest(bare: &str, search: &[PathBuf]) -> Option<String> {
    // Comparing takes memory in proportion to the length.
    if bare.len() > 256 {
        return None;
    }
    // The reference's documents spell some of their own names wrongly.
    let alike = |one: &str, other: &str| {
        strsim::normalized_damerau_levenshtein(
            &one.to_ascii_lowercase(),
            &other.to_ascii_lowercase(),
        )
    };
    let stock = STOCK.iter().map(|(name, _)| (*name, *name));
    let named: Vec<String> = search.iter().flat_map(|folder| list(folder)).collect();
    stock
        .chain(REFERENCE)
        .chain(named.iter().map(|name| (name.as_str(), name.as_str())))
        .map(|(name, meant)| {
            // `primary` alone, or the wrong folder, still names something.
            let leaf = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
            let likeness = alike(bare, name).max(alike(&leaf(bare), &leaf(name)) * 0.8);
            (likeness, meant)
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        // The first of equals, so that stock profiles come before others.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, meant)| meant.to_owned())
}

/// The profiles in a folder and its folders.
fn list(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries(folder) {
        let path = entry.path();
        if path.is_dir() {
            names.extend(entries(&path).map(|entry| entry.path()));
        } else {
            names.push(path);
        }
    }
    names
        .iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .filter_map(|path| path.strip_prefix(folder).ok())
        .filter_map(|path| path.with_extension("").to_str().map(ToOwned::to_owned))
        .collect()
}
