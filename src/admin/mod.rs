//! The admin HTTP API: up in every state, on a thread of its own. Reading needs nothing on loopback;
//! a call that changes something needs the admin token and a `Host` header that names this server,
//! so that no web page can make it (interface.md, "Admin HTTP").

mod clients;
mod destinations;
mod explain;
mod operator;
mod status;

pub use explain::{
    EVENTS_SHOWN, ExplainDocument, Explaining, FactDocument, GuardDocument, Profiles, WayDocument,
};
pub use operator::Operator;
pub use status::{StatusSource, render};

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::header;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use crate::actors::ha_chronicle::ExplainAsked;
use crate::io::history;
use crate::proto::history::Event;
use crate::time::rfc3339;

/// How long HAManager may take to explain itself.
const EXPLAIN: Duration = Duration::from_millis(1000);
/// Events given where no limit is asked for.
const HISTORY_LIMIT: usize = 100;

/// What the API may do to its server.
pub struct AdminState {
    /// Where the facts come from.
    pub status: StatusSource,
    /// The admin token.
    pub token: String,
    /// `host:port` values that name this server.
    pub hosts: Vec<String>,
    /// Asks HAManager why the server is in its state.
    pub explain: Box<dyn Fn(ExplainAsked) + Send + Sync>,
    /// The folder of its event history.
    pub node_dir: PathBuf,
    /// Ends the server in order.
    pub stop: Box<dyn Fn() + Send + Sync>,
    /// The way to the role machine for an operator's commands.
    pub operator: Operator,
}

/// Serves the API on a listener that is bound already. The server runs when its future is polled.
///
/// # Errors
/// If the system does not let it listen.
pub fn serve(listener: TcpListener, state: Arc<AdminState>) -> std::io::Result<Server> {
    let state = web::Data::from(state);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .route("/api/v1/status", web::get().to(get_status))
            .route("/api/v1/explain", web::get().to(get_explain))
            .route("/api/v1/history", web::get().to(get_history))
            .route("/api/v1/stop", web::post().to(post_stop))
            .route(
                "/api/v1/switchover",
                web::post().to(operator::post_switchover),
            )
            .route("/api/v1/promote", web::post().to(operator::post_promote))
            .route(
                "/api/v1/destinations",
                web::get().to(destinations::get_destinations),
            )
            .route(
                "/api/v1/destination",
                web::get().to(destinations::get_destination),
            )
            .route(
                "/api/v1/messages",
                web::get().to(destinations::get_messages),
            )
            .route("/api/v1/purge", web::post().to(destinations::post_purge))
            .route("/api/v1/move", web::post().to(destinations::post_move))
            .route("/api/v1/retry", web::post().to(destinations::post_retry))
            .route("/api/v1/delete", web::post().to(destinations::post_delete))
            .route("/healthz", web::get().to(get_healthz))
            .route("/readyz", web::get().to(get_readyz))
            .default_service(web::to(not_found))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    Ok(server)
}

async fn get_status(request: HttpRequest, state: web::Data<AdminState>) -> HttpResponse {
    let clients = state.status.describe_clients().await;
    let named = reading_refusal_of(&request, &state).is_none();
    HttpResponse::Ok().json(render(&state.status, clients, named))
}

async fn get_explain(state: web::Data<AdminState>) -> HttpResponse {
    let (tell, told) = tokio::sync::oneshot::channel();
    (state.explain)(ExplainAsked(Box::new(move |explained| {
        if tell.send(explained).is_err() {
            tracing::debug!(target: "twinmq::admin", "nobody waits for the explanation any more");
        }
    })));
    let Ok(Ok(explained)) = tokio::time::timeout(EXPLAIN, told).await else {
        return HttpResponse::ServiceUnavailable().body(
            "the part of this server that decides its role does not answer: it hangs or is \
             overloaded; see its log, and end its process if it does not recover\n",
        );
    };
    let events = history_of(&state.node_dir, EVENTS_SHOWN).await;
    let role = state.status.board.role().clone();
    let of = Explaining {
        server: state.status.name.clone(),
        profile: state.status.profile.clone(),
        mode: state.status.mode.to_owned(),
        epoch: role.epoch,
        lock_file: state.status.lock_path.as_ref().map(PathBuf::from),
        events: events.unwrap_or_default(),
    };
    let since = rfc3339(role.since_ms);
    HttpResponse::Ok().json(ExplainDocument::of_running(of, &explained, since))
}

/// `GET /api/v1/history?limit=`
#[derive(serde::Deserialize)]
struct HistoryQuery {
    limit: Option<usize>,
}

async fn get_history(
    state: web::Data<AdminState>,
    query: web::Query<HistoryQuery>,
) -> HttpResponse {
    let limit = query.limit.unwrap_or(HISTORY_LIMIT);
    match history_of(&state.node_dir, limit).await {
        Ok(events) => HttpResponse::Ok().json(serde_json::json!({ "events": events })),
        Err(error) => HttpResponse::InternalServerError()
            .body(format!("the event history cannot be read: {error}\n")),
    }
}

/// The last events, oldest first.
async fn history_of(dir: &Path, limit: usize) -> std::io::Result<Vec<Event>> {
    let dir = dir.to_path_buf();
    let read = web::block(move || history::read(&dir)).await;
    let mut events = read.map_err(std::io::Error::other)??;
    events.drain(..events.len().saturating_sub(limit));
    Ok(events)
}

/// The process answers: alive, whatever its state.
async fn get_healthz() -> &'static str {
    "ok\n"
}

/// 200 only while clients are served.
async fn get_readyz(state: web::Data<AdminState>) -> HttpResponse {
    let shown = state.status.board.role().state;
    if state.status.serving() {
        HttpResponse::Ok().body(format!("{shown}\n"))
    } else {
        HttpResponse::ServiceUnavailable().body(format!("{shown}: not serving clients\n"))
    }
}

async fn post_stop(request: HttpRequest, state: web::Data<AdminState>) -> HttpResponse {
    if let Some(refusal) = refusal_of(&request, &state) {
        return refusal;
    }
    tracing::info!(target: "twinmq::admin", "stop was asked for over the admin API");
    (state.stop)();
    HttpResponse::Accepted().body("stopping\n")
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    HttpResponse::NotFound().body(format!(
        "{} {} is not part of this API; see docs/operations.md\n",
        request.method(),
        request.path()
    ))
}

/// What names users or shows what they sent is read by who may change it, or on loopback, and by no
/// web page: a name that leads here for once does not name this server.
fn reading_refusal_of(request: &HttpRequest, state: &AdminState) -> Option<HttpResponse> {
    let near = request
        .peer_addr()
        .is_some_and(|peer| peer.ip().is_loopback());
    if near {
        host_refusal_of(request, state)
    } else {
        refusal_of(request, state)
    }
}

fn text_of<'a>(request: &'a HttpRequest, name: &header::HeaderName) -> &'a str {
    let value = request.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn host_refusal_of(request: &HttpRequest, state: &AdminState) -> Option<HttpResponse> {
    let host = text_of(request, &header::HOST);
    let mut known = state.hosts.iter();
    if known.any(|known| known.eq_ignore_ascii_case(host)) {
        return None;
    }
    Some(HttpResponse::Forbidden().body(format!(
        "the Host header \"{host}\" does not name this server\n"
    )))
}

fn refusal_of(request: &HttpRequest, state: &AdminState) -> Option<HttpResponse> {
    if let Some(refusal) = host_refusal_of(request, state) {
        return Some(refusal);
    }
    let token = text_of(request, &header::AUTHORIZATION)
        .strip_prefix("Bearer ")
        .unwrap_or_default();
    if !equal(token.as_bytes(), state.token.as_bytes()) {
        return Some(HttpResponse::Unauthorized().body("the admin token is missing or wrong\n"));
    }
    None
}

/// Takes the same time for every wrong token of the right length.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_only_whole() {
        assert!(equal(b"abc", b"abc"));
        assert!(!equal(b"abc", b"abd"));
        assert!(!equal(b"ab", b"abc"));
        assert!(!equal(b"", b"abc"));
    }
}
