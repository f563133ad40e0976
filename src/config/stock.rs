//! What the stock profiles set. The files under `conf/profiles/` are written from this; a test keeps
//! them equal.

use super::render::Profile;

const ONE_MACHINE: &str = "The two stock profiles of a pair run on one machine as they are: to try things out, NOT to be \
     highly available. `twinmq pair init` makes the profiles of a pair on two machines.";
const HOW: &str = "A line that begins with # gives a default. Environment variables \
                   (TWINMQ__SECTION__KEY) come before this file, and --set KEY=VALUE before them. \
                   `twinmq config show` prints what is in effect and where it came from.";

/// The stock profile of this name; none if there is no such one.
#[must_use]
pub fn stock(name: &str) -> Option<Profile> {
    match name {
        "standalone" => Some(standalone()),
        "replicated/primary" => Some(of_pair("replicated", true)),
        "replicated/secondary" => Some(of_pair("replicated", false)),
        "shared/primary" => Some(of_pair("shared", true)),
        "shared/secondary" => Some(of_pair("shared", false)),
        _ => None,
    }
}

fn standalone() -> Profile {
    Profile {
        preamble: vec![
            "TwinMQ, one server without a peer: twinmq run".to_owned(),
            HOW.to_owned(),
        ],
        ..Profile::default()
    }
    .text("mode", "standalone")
    .list("client.listen", &["127.0.0.1:1856"])
    .text("store.path", "data/standalone")
}

fn of_pair(mode: &str, primary: bool) -> Profile {
    let role = if primary { "primary" } else { "secondary" };
    let path = match mode {
        "shared" => "data/shared/store".to_owned(),
        _ => format!("data/{mode}/{role}"),
    };
    let (own, other) = if primary {
        (Ports::PRIMARY, Ports::SECONDARY)
    } else {
        (Ports::SECONDARY, Ports::PRIMARY)
    };
    let profile = Profile {
        preamble: vec![
            format!("TwinMQ, the {role} of a {mode} pair: twinmq run -p {mode}/{role}"),
            ONE_MACHINE.to_owned(),
            HOW.to_owned(),
        ],
        ..Profile::default()
    };
    let profile = match mode {
        "shared" => profile.text("store.node_path", &format!("data/shared/{role}")),
        _ => profile,
    };
    profile
        .text("mode", mode)
        .flag("demo", true)
        .list("client.listen", &[&format!("127.0.0.1:{}", own.client)])
        .number("admin.rmi_server_port", own.admin)
        .text("store.path", &path)
        .flag("ha.primary", primary)
        .text("ha.cluster", mode)
        .number("ha.port", own.ha)
        .text("ha.backup_ha_ip_address", "127.0.0.1")
        .number("ha.backup_ha_port", other.ha)
        .number("ha.backup_server_port", other.client)
        .number("ha.backup_rmi_server_port", other.admin)
        .number("ha.ping_interval_ms", 500)
        .text("ha.lock.lock_file", &format!("data/lock/{mode}.lck"))
        .number("ha.lock.active_lock_re_acquisition_interval_ms", 1000)
        .number("ha.lock.passive_lock_acquisition_interval_ms", 2500)
        .text("ha.gateway.gateway_server_ip_address", "127.0.0.1")
}

/// The ports of the stock profiles.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Clients.
    pub client: i64,
    /// The HA channel.
    pub ha: i64,
    /// Admin HTTP.
    pub admin: i64,
}

impl Ports {
    /// The primary's.
    pub const PRIMARY: Self = Self {
        client: 1856,
        ha: 2000,
        admin: 1858,
    };
    /// The secondary's.
    pub const SECONDARY: Self = Self {
        client: 1956,
        ha: 3000,
        admin: 1859,
    };
}
