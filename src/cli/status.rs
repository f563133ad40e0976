//! `twinmq status`: both servers of a pair side by side, as one of them sees it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::thread;
use std::time::Duration;

use super::admin_client::{AdminClient, AdminError, ClientsStatus, Status};
use super::args::{AdminAddress, StatusArgs};
use super::{CliError, print, print_json, status_clients};
use crate::exit::ExitCode;

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        Self::of(ExitCode::Failed, error)
    }
}

/// Neither server of a pair can be asked.
#[derive(Debug, thiserror::Error)]
#[error("{own}; its peer cannot be asked either: {peer}")]
struct NeitherAnswers {
    own: AdminError,
    peer: AdminError,
}

/// Whom to ask: the server, and its peer if it is not running.
struct Asked {
    own: AdminClient,
    peer: Option<AdminClient>,
}

/// Prints the state, once or again and again. A server that is not running is shown by its peer, if
/// the profile names one.
///
/// # Errors
/// When neither is running; with `--watch` that is shown and waited out.
pub fn run(args: &StatusArgs) -> Result<ExitCode, CliError> {
    let asked = Asked::of(args.server.admin()?);
    if !args.watch {
        show(&asked, args.json, "")?;
        return Ok(ExitCode::Done);
    }
    let clear = if std::io::stdout().is_terminal() && !args.json {
        CLEAR
    } else {
        ""
    };
    loop {
        match show(&asked, args.json, clear) {
            Err(error @ CliError::Command { .. }) => print(&format!("{clear}{error}"))?,
            other => other?,
        }
        thread::sleep(WATCH_EVERY);
    }
}

fn show(asked: &Asked, json: bool, clear: &str) -> Result<(), CliError> {
    if json {
        let (status, own_error) = asked.ask(AdminClient::status_json)?;
        if let Some(error) = own_error {
            // Standard output is for the JSON alone; without standard error there is nobody to tell.
            writeln!(std::io::stderr(), "twinmq: {}", by_its_peer(&error, asked)).ok();
        }
        return print_json(&status);
    }
    let (status, own_error) = asked.ask(AdminClient::status)?;
    let note = own_error.map_or_else(String::new, |error| {
        format!("{}\n\n", by_its_peer(&error, asked))
    });
    print(&format!("{clear}{note}{}", table(&status)))
}

/// What stands above the peer's answer.
fn by_its_peer(error: &AdminError, asked: &Asked) -> String {
    let peer = asked.peer.as_ref().map_or("", AdminClient::url);
    format!("{error}\nits peer at {peer} runs, and says:")
}

impl Asked {
    fn of(address: AdminAddress) -> Self {
        Self {
            own: AdminClient::new(&address.url, None),
            peer: address.peer.map(|url| AdminClient::new(&url, None)),
        }
    }

    /// The answer; with it, where it is the peer's, why the server's own could not be had.
    fn ask<T>(
        &self,
        question: impl Fn(&AdminClient) -> Result<T, AdminError>,
    ) -> Result<(T, Option<AdminError>), CliError> {
        let own = match question(&self.own) {
            Ok(answer) => return Ok((answer, None)),
            Err(error) => error,
        };
        // A server that answers, however strangely, is not spoken for by another.
        match (&self.peer, &own) {
            (Some(peer), AdminError::NotRunning { .. } | AdminError::Silent { .. }) => {
                match question(peer) {
                    Ok(answer) => Ok((answer, Some(own))),
                    Err(peer) => Err(CliError::of(ExitCode::Failed, NeitherAnswers { own, peer })),
                }
            }
            (Some(_) | None, _) => Err(own.into()),
        }
    }
}

/// The state as text.
#[must_use]
pub fn table(status: &Status) -> String {
    let mut out = String::new();
    let mut add = |name: &str, value: String| {
        writeln!(out, "{name:<10}{value}").expect("writing to a string cannot fail");
    };
    add("server", head(status));
    if let Some(peer) = &status.peer {
        add("", servers(status, peer).trim_end().to_owned());
        if is_shared(status) {
            add("standby", standby(status, peer));
        } else {
            add("in sync", in_sync(status));
        }
    } else {
        add("state", state(status));
        add("position", status.position.to_string());
    }
    let closed = is_shared(status) && !status.serving;
    add(
        "epoch",
        match closed {
            true => status.epoch.to_string(),
            false => format!("{}, committed up to {}", status.epoch, status.committed),
        },
    );
    if let Some(sync) = &status.sync {
        let share = percent(sync.done_bytes, sync.total_bytes);
        let eta = sync
            .eta_s
            .map_or(String::new(), |eta| format!(", {eta:.0} s left"));
        add(
            "resync",
            format!(
                "{}: {share} % ({} of {}){eta}",
                sync.kind,
                bytes(sync.done_bytes),
                bytes(sync.total_bytes)
            ),
        );
    }
    if let Some(lock) = &status.lock {
        let holder = match (lock.held, &lock.owner) {
            (true, _) => "held by this server".to_owned(),
            (false, Some(owner)) => format!("not held here, last owner {owner}"),
            (false, None) => "not held here".to_owned(),
        };
        add("lock", format!("{} ({holder})", lock.path));
    }
    if let Some(claims) = status.claims.as_ref().filter(|claims| claims.tried > 0) {
        let mut text = format!("{} tried, {} refused", claims.tried, claims.refused);
        if let Some(reason) = &claims.reason {
            text.push_str(": ");
            text.push_str(reason);
        }
        add("claims", text);
    }
    if let Some(gateway) = &status.gateway {
        add("gateway", gateway.verdict.clone());
    }
    let store = &status.store;
    add(
        "store",
        match closed {
            true => "closed here: only the server that serves opens it".to_owned(),
            false => format!(
                "{} messages in {} destinations, {}",
                store.messages,
                store.destinations,
                bytes(store.bytes)
            ),
        },
    );
    for (name, lines) in status.clients.iter().flat_map(of_clients) {
        for (index, line) in lines.into_iter().enumerate() {
            add(if index == 0 { name } else { "" }, line);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// What is limited, which clients are at risk, and which did not come.
fn of_clients(clients: &ClientsStatus) -> [(&'static str, Vec<String>); 3] {
    let at_risk = status_clients::at_risk(&clients.at_risk, clients.connections);
    let missing = status_clients::missing(clients.returned.as_ref());
    [
        ("limited", clients.limits.now.clone()),
        ("at risk", at_risk),
        ("missing", missing),
    ]
}

fn head(status: &Status) -> String {
    format!(
        "{} ({}), TwinMQ {}, process {}",
        status.server, status.profile, status.version, status.pid
    )
}

fn state(status: &Status) -> String {
    let serving = if status.serving {
        "serves clients"
    } else {
        "does not serve clients"
    };
    let mut text = format!("{} since {}, {serving}", status.state, status.since);
    if let Some(previous) = &status.previous_state {
        text.push_str(", before that ");
        text.push_str(previous);
    }
    text
}

/// A row for each server under a head line.
fn servers(status: &Status, peer: &super::admin_client::PeerStatus) -> String {
    let records = |count: Option<u64>| match count {
        Some(0) => "none".to_owned(),
        Some(records) => format!("{records} records"),
        None => "unknown".to_owned(),
    };
    // The one that serves is not behind. What is known of it is a moment old: this one may be further.
    let (own_behind, behind) = match matches!(&*peer.state, "ACTIVE" | "ACTIVE_SYNC" | "STANDALONE")
    {
        true => {
            let count = peer
                .position
                .map(|theirs| theirs.saturating_sub(status.position));
            (records(count), "-".to_owned())
        }
        false => ("-".to_owned(), records(status.backlog())),
    };
    let heard = match (peer.connected, peer.last_heard_ms) {
        (true, Some(ms)) => format!("linked, heard {ms} ms ago"),
        (true, None) => "linked".to_owned(),
        (false, Some(ms)) => format!("not linked, heard {} s ago", ms / 1000),
        (false, None) => "not linked".to_owned(),
    };
    let own = if status.serving {
        "answers here, serves clients"
    } else {
        "answers here"
    };
    if is_shared(status) {
        return rows(&[
            ["", "state", "seen"].map(str::to_owned),
            [status.server.clone(), status.state.clone(), own.to_owned()],
            [peer.server.clone(), peer.state.clone(), heard],
        ]);
    }
    let position = |lsn: Option<u64>| lsn.map_or("unknown".to_owned(), |lsn| lsn.to_string());
    rows(&[
        ["", "state", "position", "backlog", "seen"].map(str::to_owned),
        [
            status.server.clone(),
            status.state.clone(),
            position(Some(status.position)),
            own_behind,
            own.to_owned(),
        ],
        [
            peer.server.clone(),
            peer.state.clone(),
            position(peer.position),
            behind,
            heard,
        ],
    ])
}

/// The last column takes what room it needs.
fn rows<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let margin = if index == 0 { "" } else { "          " };
        let mut line = margin.to_owned();
        for (column, text) in row.iter().enumerate() {
            let width = match column {
                0 => 12,
                last if last + 1 == COLUMNS => 0,
                _ => 14,
            };
            write!(line, "{text:<width$}").expect("writing to a string cannot fail");
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// One store for both: nothing is copied, so nothing is in sync or behind.
fn is_shared(status: &Status) -> bool {
    status.mode == "shared"
}

fn standby(status: &Status, peer: &super::admin_client::PeerStatus) -> String {
    let one = "a confirmed message is on the one store that both share";
    let standby = match (status.serving, peer.connected) {
        (_, false) => "none that is known of: the other server is not linked".to_owned(),
        (true, true) if peer.state == "PASSIVE" => format!("{} can take over", peer.server),
        (true, true) => format!("the {} is {}", peer.server, peer.state),
        (false, true) if peer.state == "ACTIVE" => format!("{} can take over", status.server),
        (false, true) => "neither server serves".to_owned(),
    };
    format!("{standby}; {one}")
}
fn in_sync(status: &Status) -> String {
    match status.in_sync.as_slice() {
        [] => "unknown".to_owned(),
        [one] => format!("{one} alone: a confirmed message is on one server only"),
        several => format!(
            "{}: a confirmed message is on all of them",
            several.join(" and ")
        ),
    }
}

fn percent(done: u64, total: u64) -> u64 {
    done.saturating_mul(100).checked_div(total).unwrap_or(0)
}

/// A count of bytes with its largest whole unit.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if count >= size {
            return format!("{:.1} {unit}", count as f64 / size as f64);
        }
    }
    format!("{count} bytes")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use tokio::net::TcpSocket;

    use super::*;
    use crate::cli::admin_client::{
        ClaimsStatus, GatewayStatus, LockStatus, PeerStatus, StoreStatus, SyncStatus,
    };
    use crate::cli::args::ServerArgs;

    fn active() -> Status {
        Status {
            server: "primary".to_owned(),
            profile: "replicated/primary".to_owned(),
            mode: "replicated".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 4711,
            state: "ACTIVE".to_owned(),
            since: "2026-01-31T12:00:00Z".to_owned(),
            serving: true,
            epoch: 7,
            position: 120,
            committed: 100,
            in_sync: vec!["primary".to_owned(), "secondary".to_owned()],
            peer: Some(PeerStatus {
                server: "secondary".to_owned(),
                connected: true,
                state: "PASSIVE".to_owned(),
                position: Some(100),
                last_heard_ms: Some(120),
            }),
            lock: Some(LockStatus {
                path: "data/lock/replicated.lck".to_owned(),
                held: true,
                owner: Some("primary".to_owned()),
            }),
            gateway: Some(GatewayStatus {
                verdict: "reachable".to_owned(),
            }),
            store: StoreStatus {
                bytes: 1_572_864,
                messages: 12,
                destinations: 3,
            },
            ..Status::default()
        }
    }

    /// An address that is taken and at which nobody listens, as long as the socket is held.
    fn dead() -> (String, TcpSocket) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        (socket.local_addr().unwrap().to_string(), socket)
    }

    /// Answers one call with this status, as a server's admin port does.
    fn answering(status: &Status) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let body = serde_json::to_string(status).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut chunk = [0; 1024];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut chunk).unwrap();
                asked.extend_from_slice(&chunk[..read]);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        });
        address
    }

    /// Asked by the profile of a secondary that has these two admin ports.
    fn asked(own: &str, peer: &str) -> Asked {
        let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
        let mut args = ServerArgs::default();
        args.profile.profile = Some("replicated/secondary".to_owned());
        args.profile.set = vec![
            format!("admin.rmi_server_port={}", port(own)),
            format!("ha.backup_rmi_server_port={}", port(peer)),
        ];
        Asked::of(args.admin().unwrap())
    }

    #[test]
    fn a_server_that_is_not_running_is_shown_by_its_peer() {
        let (own, _held) = dead();
        let asked = asked(&own, &answering(&active()));
        let (status, own) = asked.ask(AdminClient::status).unwrap();
        assert_eq!(status, active());
        let said = by_its_peer(&own.unwrap(), &asked);
        let peer = asked.peer.unwrap();
        assert!(
            said.starts_with(&format!("no server is running at {}: ", asked.own.url())),
            "{said}"
        );
        assert!(
            said.ends_with(&format!("\nits peer at {} runs, and says:", peer.url())),
            "{said}"
        );
    }

    #[test]
    fn a_server_that_runs_speaks_for_itself() {
        let (peer, _held) = dead();
        let asked = asked(&answering(&active()), &peer);
        let (status, own) = asked.ask(AdminClient::status).unwrap();
        assert_eq!((status, own.is_none()), (active(), true));
    }

    #[test]
    fn when_neither_runs_both_are_named() {
        let ((own, _held), (peer, _also_held)) = (dead(), dead());
        let asked = asked(&own, &peer);
        let said = asked.ask(AdminClient::status).unwrap_err().to_string();
        let peer = asked.peer.unwrap();
        for client in [&asked.own, &peer] {
            let place = format!("no server is running at {}: ", client.url());
            assert!(said.contains(&place), "{place} in {said}");
        }
    }

    #[test]
    fn both_servers_stand_side_by_side() {
        assert_eq!(
            table(&active()),
            "\
server    primary (replicated/primary), TwinMQ 0.1.0, process 4711
                      state         position      backlog       seen
          primary     ACTIVE        120           -             answers here, serves clients
          secondary   PASSIVE       100           20 records    linked, heard 120 ms ago
in sync   primary and secondary: a confirmed message is on all of them
epoch     7, committed up to 100
lock      data/lock/replicated.lck (held by this server)
gateway   reachable
store     12 messages in 3 destinations, 1.5 MiB"
        );
    }

    #[test]
    fn a_waiting_server_shows_its_reason_and_a_resync_its_progress() {
        let mut status = active();
        status.claims = Some(ClaimsStatus {
            tried: 3,
            refused: 3,
            reason: Some("this store is older".to_owned()),
        });
        status.in_sync = vec!["secondary".to_owned()];
        status.sync = Some(SyncStatus {
            kind: "full".to_owned(),
            done_bytes: 1 << 20,
            total_bytes: 4 << 20,
            eta_s: Some(3.2),
        });
        let text = table(&status);
        for line in [
            "claims    3 tried, 3 refused: this store is older",
            "in sync   secondary alone: a confirmed message is on one server only",
            "resync    full: 25 % (1.0 MiB of 4.0 MiB), 3 s left",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_pair_with_one_store_has_a_standby_and_no_copies() {
        let mut status = active();
        status.mode = "shared".to_owned();
        status.profile = "shared/primary".to_owned();
        let text = table(&status);
        assert!(
            text.starts_with(
                "\
server    primary (shared/primary), TwinMQ 0.1.0, process 4711
                      state         seen
          primary     ACTIVE        answers here, serves clients
          secondary   PASSIVE       linked, heard 120 ms ago
standby   secondary can take over; a confirmed message is on the one store that both share
epoch     7, committed up to 100
"
            ),
            "{text}"
        );
        for words in ["in sync", "backlog", "position", "all of them"] {
            assert!(!text.contains(words), "{words} in {text}");
        }
        status.peer.as_mut().unwrap().connected = false;
        assert!(table(&status).contains("standby   none that is known of"));
        status.serving = false;
        let text = table(&status);
        assert!(text.contains("\nepoch     7\n"), "{text}");
        assert!(text.contains("store     closed here"), "{text}");
    }

    #[test]
    fn the_passive_is_the_one_that_is_behind() {
        let mut status = active();
        status.serving = false;
        status.state = "PASSIVE".to_owned();
        let peer = status.peer.as_mut().unwrap();
        peer.state = "ACTIVE".to_owned();
        let row = |status: &Status, name: &str| {
            let text = table(status);
            let mut rows = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            rows.find(|row| row.starts_with(name)).unwrap()
        };
        // This one has written more than was last heard of the other.
        assert!(row(&status, "primary P").starts_with("primary PASSIVE 120 none"));
        assert!(row(&status, "secondary A").starts_with("secondary ACTIVE 100 - "));
        status.position = 70;
        assert!(row(&status, "primary P").contains("70 30 records"));
    }

    #[test]
    fn a_standalone_server_has_no_peer_to_show() {
        let mut status = active();
        status.peer = None;
        status.lock = None;
        status.state = "STANDALONE".to_owned();
        let text = table(&status);
        assert!(
            text.contains("state     STANDALONE since 2026-01-31T12:00:00Z, serves clients"),
            "{text}"
        );
        assert!(!text.contains("in sync"), "{text}");
    }
}
