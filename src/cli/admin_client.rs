//! The client side of the admin HTTP API: what `status`, `wait`, `stop` and `demo` ask a running
//! server, and the JSON of `/api/v1/status` as types.
//!
//! Reading is lenient: a field that is missing or new does not stop a newer or older command from
//! showing the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CliError;
use super::args::AdminAddress;
use super::status_clients::{AtRiskStatus, ReturnedStatus};
use crate::admin::ExplainDocument;
use crate::exit::ExitCode;
use crate::proto::history::Event;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A status answer may not be longer, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why the admin API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error(
        "no server is running at {url}: {reason}; start it with `twinmq run`, or name another by -p or --url"
    )]
    NotRunning {
        /// The base address.
        url: String,
        /// What the attempt met.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "{url} does not answer within {} s: the process may hang or be stopped, or its machine cannot be reached; see docs/operations.md",
        CALL_TIMEOUT.as_secs()
    )]
    Silent {
        /// The call.
        url: String,
    },
    /// Somebody listens and does not answer as this API does.
    #[error("{url} does not answer as TwinMQ's admin API: {reason}; check the port")]
    Strange {
        /// The call.
        url: String,
        /// What was wrong.
        reason: String,
    },
    /// The token was missing or wrong.
    #[error(
        "{url} wants the admin token of that server: name it by its profile with -p, as a user who may read its token file"
    )]
    Forbidden {
        /// The call.
        url: String,
    },
    /// The server understood and refused.
    #[error("{url} refused with HTTP {code}: {reason}")]
    Refused {
        /// The call.
        url: String,
        /// HTTP status.
        code: u16,
        /// The body.
        reason: String,
    },
}

/// A token file that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the admin token {path}: {error}; run this as the server's user")]
struct TokenError {
    path: String,
    error: std::io::Error,
}

impl AdminAddress {
    /// A client that may change something, if the token is at hand. Without its file a server may
    /// still be asked: its answer says what is missing.
    ///
    /// # Errors
    /// When the token's file is there and cannot be read.
    pub fn authorized(&self) -> Result<AdminClient, CliError> {
        let token = match &self.token_file {
            Some(path) if path.exists() => match std::fs::read_to_string(path) {
                Ok(token) => Some(token.trim().to_owned()),
                Err(error) => {
                    let path = path.display().to_string();
                    return Err(CliError::of(ExitCode::Failed, TokenError { path, error }));
                }
            },
            Some(_) | None => None,
        };
        Ok(AdminClient::new(&self.url, token))
    }
}

/// One server's admin API.
#[derive(Clone, Debug)]
pub struct AdminClient {
    url: String,
    token: Option<String>,
    agent: ureq::Agent,
}

impl AdminClient {
    /// A client for `http://HOST:PORT`; `HOST:PORT` alone will do. Calls that change something need
    /// the token.
    #[must_use]
    pub fn new(url: &str, token: Option<String>) -> Self {
        Self::patient(url, token, CALL_TIMEOUT)
    }

    fn patient(url: &str, token: Option<String>, patience: Duration) -> Self {
        let url = url.trim_end_matches('/');
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        Self { url, token, agent }
    }

    /// The base address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's state, as it sent it.
    ///
    /// # Errors
    /// If it is not running or answers strangely.
    pub fn status_json(&self) -> Result<Value, AdminError> {
        self.get_json("/api/v1/status")
    }

    /// The server's state, typed.
    ///
    /// # Errors
    /// As [`AdminClient::status_json`].
    pub fn status(&self) -> Result<Status, AdminError> {
        let json = self.status_json()?;
        serde_json::from_value(json).map_err(|error| AdminError::Strange {
            url: format!("{}/api/v1/status", self.url),
            reason: error.to_string(),
        })
    }

    /// Why the server is in its state.
    ///
    /// # Errors
    /// As [`AdminClient::status_json`].
    pub fn explain(&self) -> Result<ExplainDocument, AdminError> {
        self.get_json("/api/v1/explain")
    }

    /// The server's last events, oldest first.
    ///
    /// # Errors
    /// As [`AdminClient::status_json`].
    pub fn history(&self, limit: usize) -> Result<Vec<Event>, AdminError> {
        #[derive(Deserialize)]
        struct Answer {
            events: Vec<Event>,
        }
        let answer: Answer = self.get_json(&format!("/api/v1/history?limit={limit}"))?;
        Ok(answer.events)
    }

    /// Calls what changes nothing and may need the token: `what` is the rest of its path, with the query.
    ///
    /// # Errors
    /// As [`AdminClient::status_json`], or when the server refuses.
    pub fn get(&self, what: &str) -> Result<Value, AdminError> {
        let call = format!("{}/api/v1/{what}", self.url);
        let mut request = self.agent.get(&call);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let text = self.read(&call, request.call())?;
        serde_json::from_str(&text).map_err(|error| AdminError::Strange {
            url: call,
            reason: error.to_string(),
        })
    }

    fn get_json<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, AdminError> {
        let call = format!("{}{path}", self.url);
        let answer = self.agent.get(&call).call();
        let text = self.read(&call, answer)?;
        serde_json::from_str(&text).map_err(|error| AdminError::Strange {
            url: call,
            reason: error.to_string(),
        })
    }

    /// Asks the server to stop in order. It answers before it is gone.
    ///
    /// # Errors
    /// If it is not running, or refuses.
    pub fn stop(&self) -> Result<(), AdminError> {
        self.post("stop").map(drop)
    }

    /// Calls what changes something: `what` is the rest of its path, with the query.
    ///
    /// # Errors
    /// If the server is not running, or refuses.
    pub fn post(&self, what: &str) -> Result<String, AdminError> {
        let call = format!("{}/api/v1/{what}", self.url);
        let mut request = self.agent.post(&call);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = request.send_empty();
        self.read(&call, answer)
    }

    fn read(
        &self,
        call: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, AdminError> {
        let mut answer = answer.map_err(|error| match error {
            ureq::Error::Timeout(_) => silent(call),
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                AdminError::NotRunning {
                    url: self.url.clone(),
                    reason: error.to_string(),
                }
            }
            other => AdminError::Strange {
                url: call.to_owned(),
                reason: other.to_string(),
            },
        })?;
        let code = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| match error {
                ureq::Error::Timeout(_) => silent(call),
                other => AdminError::Strange {
                    url: call.to_owned(),
                    reason: other.to_string(),
                },
            })?;
        match code {
            200..=299 => Ok(text),
            401 | 403 => Err(AdminError::Forbidden {
                url: call.to_owned(),
            }),
            // A call that this API knows, about something that it does not.
            404 if text.starts_with("{\"error\"") => Err(AdminError::Refused {
                url: call.to_owned(),
                code,
                reason: text,
            }),
            404 | 405 => Err(AdminError::Strange {
                url: call.to_owned(),
                reason: format!("HTTP {code}"),
            }),
            code => Err(AdminError::Refused {
                url: call.to_owned(),
                code,
                reason: text.trim().to_owned(),
            }),
        }
    }
}

fn silent(call: &str) -> AdminError {
    AdminError::Silent {
        url: call.to_owned(),
    }
}

/// `GET /api/v1/status`; interface.md says what each field means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// This server's name in the pair.
    pub server: String,
    /// The profile that it runs.
    pub profile: String,
    /// `standalone`, `replicated` or `shared`.
    pub mode: String,
    /// The server's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `ACTIVE`, `PASSIVE` and so on.
    pub state: String,
    /// The state before.
    pub previous_state: Option<String>,
    /// Since when, in RFC 3339.
    pub since: String,
    /// Whether clients are served.
    pub serving: bool,
    /// Generation of service.
    pub epoch: u64,
    /// The last LSN durable here.
    pub position: u64,
    /// The last LSN durable on the whole in-sync set.
    pub committed: u64,
    /// Servers that hold everything confirmed.
    pub in_sync: Vec<String>,
    /// The other server, as this one knows it.
    pub peer: Option<PeerStatus>,
    /// The lock that decides who serves.
    pub lock: Option<LockStatus>,
    /// Attempts to become active.
    pub claims: Option<ClaimsStatus>,
    /// Whether this server is on the network.
    pub gateway: Option<GatewayStatus>,
    /// A running copy to or from the peer.
    pub sync: Option<SyncStatus>,
    /// What is stored.
    pub store: StoreStatus,
    /// Its clients; none while it is too busy to say.
    pub clients: Option<ClientsStatus>,
}

/// The clients of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientsStatus {
    /// Connections that stand.
    pub connections: u64,
    /// What is limited.
    pub limits: LimitsStatus,
    /// Those that may not come back whole after a failover.
    pub at_risk: AtRiskStatus,
    /// What has become of the other server's clients since this one took over.
    pub returned: Option<ReturnedStatus>,
    /// Clients of the other server that this one would expect.
    pub at_peer: u64,
}

/// What is limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsStatus {
    /// Now, and why; in words.
    pub now: Vec<String>,
    /// How often each limit was met since the process began.
    pub met: BTreeMap<String, u64>,
    /// Bytes of messages in memory.
    pub memory_bytes: u64,
}

/// The other server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name in the pair.
    pub server: String,
    /// Whether the HA channel stands.
    pub connected: bool,
    /// Its state, `DEAD` if it does not answer.
    pub state: String,
    /// The last LSN durable there, as far as is known.
    pub position: Option<u64>,
    /// Milliseconds since it was heard.
    pub last_heard_ms: Option<u64>,
}

/// The lock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockStatus {
    /// The lock file.
    pub path: String,
    /// Whether this server holds it.
    pub held: bool,
    /// Who holds it, as far as is known.
    pub owner: Option<String>,
}

/// Attempts to become active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimsStatus {
    /// How many were made since the start.
    pub tried: u64,
    /// How many were refused.
    pub refused: u64,
    /// Why the last one was refused.
    pub reason: Option<String>,
}

/// The gateway probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// `reachable`, `unreachable` or `unknown`.
    pub verdict: String,
}

/// A running resync.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncStatus {
    /// `incremental` or `full`.
    pub kind: String,
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes to copy, as known now.
    pub total_bytes: u64,
    /// Seconds that are left at this rate.
    pub eta_s: Option<f64>,
}

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Bytes on disk.
    pub bytes: u64,
    /// Messages waiting.
    pub messages: u64,
    /// Queues and topics.
    pub destinations: u64,
}

impl Status {
    /// Whether both servers hold everything confirmed, and one of them serves.
    #[must_use]
    pub fn pair_is_in_sync(&self) -> bool {
        // A record that cannot be shrunk names both for as long as its share does not answer.
        let linked = self.peer.as_ref().is_some_and(|peer| peer.connected);
        linked && self.in_sync.len() >= 2 && matches!(self.state.as_str(), "ACTIVE" | "PASSIVE")
    }

    /// How far the peer is behind this server, or this one behind the peer, in log records.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        let peer = self.peer.as_ref()?.position?;
        Some(self.position.abs_diff(peer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one call with `answer` and returns what was asked.
    fn once(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = listener.local_addr().unwrap().to_string();
        let handle = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut chunk = [0; 1024];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut chunk).unwrap();
                asked.extend_from_slice(&chunk[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, handle)
    }

    const EXAMPLE: &str = r#"{"server":"primary","profile":"replicated/primary","mode":"replicated",
        "version":"0.1.0","pid":4711,"state":"ACTIVE","previous_state":"ACTIVE_SYNC",
        "since":"2026-01-31T12:00:00Z","serving":true,"epoch":7,"position":123456,
        "in_sync":["primary","secondary"],"peer":{"server":"secondary","connected":true,
        "state":"PASSIVE","position":123400,"last_heard_ms":120},"committed":123456,
        "lock":{"path":"data/lock/replicated.lck","held":true,"owner":"primary"},
        "claims":{"tried":1,"refused":0,"reason":null},"gateway":{"verdict":"reachable"},
        "sync":null,"store":{"bytes":1048576,"messages":12,"destinations":3},"new":{"field":1}}"#;

    #[test]
    fn the_interfaces_example_is_read_and_unknown_fields_do_not_matter() {
        let status: Status = serde_json::from_str(EXAMPLE).unwrap();
        assert!(status.pair_is_in_sync());
        assert_eq!(status.backlog(), Some(56));
        assert_eq!(status.claims.unwrap().tried, 1);
        let empty: Status = serde_json::from_str("{}").unwrap();
        assert!(!empty.pair_is_in_sync());
    }

    #[test]
    fn stop_carries_the_token() {
        let (url, server) = once("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        AdminClient::new(&url, Some("secret".to_owned()))
            .stop()
            .unwrap();
        let asked = server.join().unwrap();
        assert!(asked.starts_with("POST /api/v1/stop HTTP/1.1"), "{asked}");
        assert!(
            asked
                .to_lowercase()
                .contains("authorization: bearer secret"),
            "{asked}"
        );
        assert!(
            asked.to_lowercase().contains(&format!("host: {url}")),
            "{asked}"
        );
    }

    #[test]
    fn a_server_that_hangs_is_not_called_gone() {
        // The system accepts for a process that is stopped.
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = hung.local_addr().unwrap().to_string();
        let client = AdminClient::patient(&url, None, Duration::from_millis(50));
        let error = client.status().unwrap_err();
        assert!(matches!(error, AdminError::Silent { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("may hang or be stopped"), "{text}");
    }

    #[test]
    fn each_way_of_not_answering_has_its_own_text() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = free.local_addr().unwrap().to_string();
        drop(free);
        let error = AdminClient::new(&dead, None).status().unwrap_err();
        assert!(matches!(error, AdminError::NotRunning { .. }), "{error:?}");
        assert!(error.to_string().contains("twinmq run"), "{error}");

        let (url, _server) = once("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let error = AdminClient::new(&url, None).stop().unwrap_err();
        assert!(matches!(error, AdminError::Forbidden { .. }), "{error:?}");

        let (url, _server) = once("HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nnot today");
        let error = AdminClient::new(&url, None).stop().unwrap_err();
        assert!(error.to_string().contains("503: not today"), "{error}");

        let (url, _server) = once("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
        let error = AdminClient::new(&url, None).status().unwrap_err();
        assert!(matches!(error, AdminError::Strange { .. }), "{error:?}");

        let (url, _server) = once("CONNECTED\nversion:1.2\n\n\0");
        let error = AdminClient::new(&url, None).status().unwrap_err();
        assert!(matches!(error, AdminError::Strange { .. }), "{error:?}");
    }
}
