//! The scratch pair's two profiles, made from one of the user's: the same mode, intervals, limits and
//! store settings; places and addresses of its own.

use std::path::{Path, PathBuf};

use crate::cli::CliError;
use crate::cli::scratch::Role;
use crate::config::render::Profile;
use crate::config::{Effective, Loaded, Mode, Origin, load_text};

/// What the scratch pair has of its own, besides what is set below: what belongs to the user's
/// machines, accounts and files.
const OWN: [&str; 13] = [
    "name",
    "demo",
    "client.listen",
    "client.allow_anonymous",
    "admin.",
    "store.path",
    "store.node_path",
    "ha.primary",
    "ha.ip_address",
    "ha.backup_",
    "ha.lock.lock_file",
    "ha.tls.",
    "log.",
];
/// The gateway of the scratch pair is this machine.
const OWN_GATEWAY: [&str; 3] = ["ha.port", "ha.gateway.gateway_", "ha.gateway.probe_targets"];

/// Where the scratch pair's lock file lies, and in shared mode its store.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) lock_file: PathBuf,
    pub(super) shared_store: PathBuf,
}

impl Places {
    /// In the scratch folder, which the servers run in.
    pub(super) fn scratch() -> Self {
        Self {
            lock_file: PathBuf::from("lock/drill.lck"),
            shared_store: PathBuf::from("data/store"),
        }
    }

    /// On the user's share, under a name that no other drill has.
    pub(super) fn on_share(share: &Path, unique: &str) -> Self {
        Self {
            lock_file: share.join(format!("twinmq-drill-{unique}.lck")),
            shared_store: share.join(format!("twinmq-drill-{unique}.store")),
        }
    }
}

/// The profiles with their names, the primary's first.
///
/// # Errors
/// When the user's profile is none of a pair, or cannot be made one of a scratch pair.
pub(super) fn profiles(
    loaded: &Loaded,
    places: &Places,
) -> Result<[(String, Profile); 2], CliError> {
    if loaded.config.mode == Mode::Standalone {
        return Err(CliError::Usage(format!(
            "{} is a standalone profile: a drill takes that of a pair, such as -p replicated/primary",
            loaded.config.profile
        )));
    }
    let made = [Role::Primary, Role::Secondary].map(|role| {
        let name = format!("drill/{}", role.name());
        (name, profile(loaded, places, role))
    });
    for (name, profile) in &made {
        load_text(name, &profile.render())?;
    }
    Ok(made)
}

fn profile(loaded: &Loaded, places: &Places, role: Role) -> Profile {
    let own = Path::new("data").join(role.name());
    let (store, node) = match loaded.config.mode {
        Mode::Shared => (places.shared_store.clone(), Some(own)),
        Mode::Replicated | Mode::Standalone => (own, None),
    };
    let port = match role {
        Role::Primary => 1,
        Role::Secondary => 2,
    };
    let taken = loaded.values.iter().filter(|value| is_taken_over(value));
    let profile = Profile {
        preamble: vec![format!("The {} of a drill's scratch pair.", role.name())],
        set: taken
            .map(|value| (value.key.path, value.value.clone()))
            .collect(),
        ..Profile::default()
    }
    .flag("demo", true)
    .list("client.listen", &["127.0.0.1:3"])
    .text("store.path", &store.display().to_string())
    .flag("ha.primary", role == Role::Primary)
    // The ports count only for the check before the start: the free ones come on the command line.
    .number("ha.port", port)
    .text("ha.backup_ha_ip_address", "127.0.0.1")
    .text("ha.lock.lock_file", &places.lock_file.display().to_string())
    .text("ha.gateway.gateway_server_ip_address", "127.0.0.1");
    match node {
        Some(node) => profile.text("store.node_path", &node.display().to_string()),
        None => profile,
    }
}

fn is_taken_over(value: &Effective) -> bool {
    let path = value.key.path;
    let own = |prefix: &&str| path.starts_with(*prefix);
    value.origin != Origin::Default && !OWN.iter().any(own) && !OWN_GATEWAY.iter().any(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSource, load};

    fn made(source: &ConfigSource) -> [Loaded; 2] {
        let loaded = load(source).unwrap();
        profiles(&loaded, &Places::scratch())
            .unwrap()
            .map(|(name, profile)| load_text(&name, &profile.render()).unwrap())
    }

    #[test]
    fn intervals_and_limits_are_those_of_the_profile_and_places_are_not() {
        let mut source = ConfigSource::profile("replicated/secondary");
        source.set = [
            "ha.lock.passive_lock_acquisition_interval_ms=7000",
            "ha.lock.max_wait_timeout_ms=9000",
            "limits.prefetch=17",
            "store.path=/somewhere/else",
            "ha.lock.lock_file=/share/real.lck",
            "log.file=/var/log/real.log",
        ]
        .map(str::to_owned)
        .to_vec();
        let [primary, secondary] = made(&source).map(|loaded| loaded.config);
        for config in [&primary, &secondary] {
            let ha = config.ha.as_ref().unwrap();
            assert_eq!(ha.passive_interval.as_millis(), 7000);
            assert_eq!(ha.max_wait.as_millis(), 9000);
            assert_eq!(config.limits.prefetch, 17);
            assert_eq!(ha.lock_file, Path::new("lock/drill.lck"));
            assert!(ha.tls.is_none() && config.log.file.is_none());
        }
        assert!(primary.ha.unwrap().primary && !secondary.ha.unwrap().primary);
        assert_eq!(primary.store.path, Path::new("data/primary"));
        assert_eq!(secondary.store.path, Path::new("data/secondary"));
    }

    #[test]
    fn a_shared_pair_has_one_store() {
        let [primary, secondary] = made(&ConfigSource::profile("shared/primary"));
        assert_eq!(primary.config.mode, Mode::Shared);
        assert_eq!(primary.config.store.path, secondary.config.store.path);
    }

    #[test]
    fn a_standalone_profile_is_refused_with_a_hint() {
        let loaded = load(&ConfigSource::profile("standalone")).unwrap();
        let error = profiles(&loaded, &Places::scratch()).unwrap_err();
        assert!(
            error.to_string().contains("-p replicated/primary"),
            "{error}"
        );
    }
}
