//! The destinations over the admin API: what there is, what is in them, and an operator's work on it.
//! Reading is free where reading is; what changes something needs the token.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::actors::directory::{
    Administration, AdministrationError, BrowseQuery, DestinationDescription, DestinationPage,
    DestinationQuery, MessagePage, Reply, SweepOrder, SweepProgress, SweepWish, kind_of,
};
use crate::machines::selector::{Dialect, Selector};
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::message::{self, Message, PropertyValue};
use crate::storage::api::Entry;

use super::{AdminState, reading_refusal_of, refusal_of};

/// How long the data thread may take: a stretch of work and the commits of its last batch.
const ANSWER: Duration = Duration::from_secs(4);
/// First bytes of a body that are shown where no number is asked for, and at most.
const BODY_SHOWN: usize = 200;
const BODY_SHOWN_MAX: usize = 16 * 1024;
/// Messages in one answer where no number is asked for.
const MESSAGES_SHOWN: usize = 20;
/// An answer's bodies together, in bytes.
const BODIES_MAX: usize = 1 << 20;

type Answer<T> = Result<T, Refusal>;

/// Why there is no answer.
enum Refusal {
    /// The data thread's own reason.
    Said(AdministrationError),
    /// The term ended, or the thread hangs.
    Silent,
    /// The question is wrong.
    Question(String),
}

impl From<Refusal> for HttpResponse {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = match refusal {
            Refusal::Said(error) => {
                let code = match error {
                    AdministrationError::NotServing | AdministrationError::Busy => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    AdministrationError::Unknown(_) => StatusCode::NOT_FOUND,
                    AdministrationError::Refused(_) => StatusCode::CONFLICT,
                };
                (code, error.to_string())
            }
            Refusal::Silent => (
                StatusCode::SERVICE_UNAVAILABLE,
                "this server stopped serving, or its data thread is too busy: what was not done yet is \
                 not known here; ask again at the server that serves"
                    .to_owned(),
            ),
            Refusal::Question(reason) => (StatusCode::BAD_REQUEST, reason),
        };
        HttpResponse::build(code).json(json!({ "error": reason }))
    }
}

async fn ask<T: Send + 'static>(
    state: &AdminState,
    asked: impl FnOnce(Reply<T>) -> Administration,
) -> Answer<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    state.status.data.administer(asked(Box::new(move |answer| {
        if tell.send(answer).is_err() {
            tracing::debug!(target: "twinmq::admin", "nobody waits for the answer any more");
        }
    })));
    match tokio::time::timeout(ANSWER, told).await {
        Ok(Ok(answer)) => answer.map_err(Refusal::Said),
        Ok(Err(_)) | Err(_) => Err(Refusal::Silent),
    }
}

fn respond(answer: Answer<Value>) -> HttpResponse {
    match answer {
        Ok(json) => HttpResponse::Ok().json(json),
        Err(refusal) => refusal.into(),
    }
}

/// `GET /api/v1/destinations?match=&kind=&after=&limit=`
#[derive(serde::Deserialize)]
pub(super) struct ListParameters {
    #[serde(rename = "match")]
    pattern: Option<String>,
    kind: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn get_destinations(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<ListParameters>,
) -> HttpResponse {
    if let Some(refusal) = reading_refusal_of(&request, &state) {
        return refusal;
    }
    let query = query.into_inner();
    let query = DestinationQuery {
        pattern: query.pattern,
        kind: query.kind,
        after: query.after,
        limit: query.limit.unwrap_or(100),
    };
    respond(
        ask(&state, |reply| Administration::List(query, reply))
            .await
            .map(|page| page_json(&page)),
    )
}

fn page_json(page: &DestinationPage) -> Value {
    let next = page.destinations.last().filter(|_| page.more);
    json!({
        "destinations": page.destinations.iter().map(destination_json).collect::<Vec<_>>(),
        "total": page.total,
        "next": next.map(|last| last.name.clone()),
    })
}

/// One destination, as the list shows it.
fn destination_json(described: &DestinationDescription) -> Value {
    let figures = described.report.figures;
    let subscription = described.subscription.as_ref().map(|view| {
        json!({
            "pattern": view.spec.pattern.to_string(),
            "selector": view.spec.selector.as_ref().map(ToString::to_string),
            "client_id": view.spec.identity.client_id(),
            "durable": view.spec.identity.is_durable(),
            "shared": view.spec.shared,
            "no_local": view.spec.no_local,
            "active": view.active,
        })
    });
    json!({
        "name": described.name,
        "kind": kind_of(&described.name),
        "depth": figures.depth,
        "consumers": figures.consumers,
        "unsettled": figures.unsettled,
        "arrived": figures.arrived,
        "accepted": figures.accepted,
        "subscription": subscription,
        "bytes": figures.bytes,
        "expired": figures.expired,
        "dead": figures.dead,
        "dropped": figures.dropped,
        "refused": figures.refused,
        "bound": described.bound.map(super::status::bound),
    })
}

/// `?name=`
#[derive(serde::Deserialize)]
pub(super) struct NameParameter {
    name: String,
}

/// `GET /api/v1/destination?name=`
pub(super) async fn get_destination(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<NameParameter>,
) -> HttpResponse {
    if let Some(refusal) = reading_refusal_of(&request, &state) {
        return refusal;
    }
    let name = DestinationName::in_full(&query.into_inner().name);
    let asked = DestinationQuery {
        after: None,
        pattern: Some(name.clone()),
        kind: None,
        limit: 1000,
    };
    let page = ask(&state, |reply| Administration::List(asked, reply)).await;
    respond(page.and_then(|page| {
        let found = page.destinations.iter().find(|it| it.name == name);
        let unknown = || Refusal::Said(AdministrationError::Unknown(name.clone()));
        found.map(destination_json).ok_or_else(unknown)
    }))
}

/// `GET /api/v1/messages?name=&after=&limit=&bytes=`
#[derive(serde::Deserialize)]
pub(super) struct MessagesParameters {
    name: String,
    after: Option<u64>,
    limit: Option<usize>,
    bytes: Option<usize>,
}

pub(super) async fn get_messages(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<MessagesParameters>,
) -> HttpResponse {
    if let Some(refusal) = reading_refusal_of(&request, &state) {
        return refusal;
    }
    let query = query.into_inner();
    let shown = query.bytes.unwrap_or(BODY_SHOWN).min(BODY_SHOWN_MAX);
    let limit = query.limit.unwrap_or(MESSAGES_SHOWN);
    let asked = BrowseQuery {
        name: query.name,
        after: Lsn(query.after.unwrap_or(0)),
        // What is shown of the bodies is bounded in all, too.
        limit: limit.min(BODIES_MAX / shown.max(1)),
    };
    respond(
        ask(&state, |reply| Administration::Browse(asked, reply))
            .await
            .map(|page| messages_json(&page, shown)),
    )
}

fn messages_json(page: &MessagePage, shown: usize) -> Value {
    let messages = page.entries.iter().map(|entry| message_json(entry, shown));
    json!({
        "messages": messages.collect::<Vec<_>>(),
        "next": page.more.then_some(page.after.0),
    })
}

fn message_json(entry: &Entry, shown: usize) -> Value {
    let Ok(message) = Message::read(&entry.message) else {
        let size = message::whole_bytes(&entry.message);
        return json!({ "position": entry.lsn.0, "size": size, "unreadable": true });
    };
    let (envelope, properties) = (message.envelope(), message.properties());
    let headers: serde_json::Map<String, Value> = message
        .headers()
        .map(|(name, _)| {
            let value = message.property(name);
            (name.to_owned(), value.map_or(Value::Null, property_json))
        })
        .collect();
    let body = message.body();
    // It is not read for a list.
    let large = message.parts().map(|parts| parts.bytes());
    let first = &body[..body.len().min(shown)];
    // A cut may lie within a letter.
    let text = match std::str::from_utf8(first) {
        Ok(text) => Some(text),
        Err(error) if first.len() < body.len() && first.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&first[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    json!({
        "position": entry.lsn.0,
        "message_id": format!("tm-{}", entry.lsn),
        "size": message::whole_bytes(&entry.message),
        "persistent": envelope.persistent,
        "priority": envelope.priority,
        "expires_ms": envelope.expiry_ms,
        "due_ms": envelope.due_ms,
        "group": envelope.group,
        "to": properties.to,
        "reply_to": properties.reply_to,
        "correlation_id": properties.correlation_id,
        "content_type": properties.content_type,
        "failures": entry.failures,
        "headers": headers,
        "body": text.filter(|_| large.is_none()),
        "body_hex": text.is_none().then(|| hex(first)),
        "body_bytes": large.unwrap_or(body.len() as u64),
        "large": large.is_some(),
    })
}

fn property_json(value: PropertyValue<'_>) -> Value {
    match value {
        PropertyValue::Boolean(it) => json!(it),
        PropertyValue::Integer(it) => json!(it),
        PropertyValue::Unsigned(it) => json!(it),
        PropertyValue::Float(it) => json!(it),
        PropertyValue::Text(it) => json!(it),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `?name=&to=&selector=&count=&after=&until=`
#[derive(serde::Deserialize)]
pub(super) struct SweepParameters {
    name: String,
    to: Option<String>,
    selector: Option<String>,
    count: Option<u64>,
    after: Option<u64>,
    until: Option<u64>,
}

/// `POST /api/v1/purge`
pub(super) async fn post_purge(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<SweepParameters>,
) -> HttpResponse {
    sweep(&request, &state, query.into_inner(), |_| {
        Ok(SweepWish::Purge)
    })
    .await
}

/// `POST /api/v1/move`
pub(super) async fn post_move(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<SweepParameters>,
) -> HttpResponse {
    sweep(&request, &state, query.into_inner(), |to| {
        let missing = || Refusal::Question("to=/queue/NAME is missing: where to?".to_owned());
        to.map(SweepWish::Move).ok_or_else(missing)
    })
    .await
}

/// `POST /api/v1/retry`
pub(super) async fn post_retry(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<SweepParameters>,
) -> HttpResponse {
    sweep(&request, &state, query.into_inner(), |_| {
        Ok(SweepWish::Retry)
    })
    .await
}

async fn sweep(
    request: &HttpRequest,
    state: &AdminState,
    query: SweepParameters,
    wish: impl FnOnce(Option<String>) -> Answer<SweepWish>,
) -> HttpResponse {
    if let Some(refusal) = refusal_of(request, state) {
        return refusal;
    }
    let order = selector_of(query.selector.as_deref()).and_then(|selector| {
        Ok(SweepOrder {
            name: query.name,
            wish: wish(query.to)?,
            selector,
            count: query.count.unwrap_or(u64::MAX),
            after: Lsn(query.after.unwrap_or(0)),
            until: query.until.map(Lsn),
        })
    });
    let order = match order {
        Ok(order) => order,
        Err(refusal) => return refusal.into(),
    };
    let answer = ask(state, |reply| Administration::Sweep(order, reply)).await;
    respond(answer.map(progress_json))
}

/// Selectors of operators count texts as numbers where these are wanted, as those of STOMP clients do.
fn selector_of(text: Option<&str>) -> Answer<Option<Arc<Selector>>> {
    let parsed = text.map(|text| Selector::parse(text, Dialect::TextIsNumeric));
    parsed
        .transpose()
        .map_err(|error| Refusal::Question(error.to_string()))
}

fn progress_json(progress: SweepProgress) -> Value {
    let report = progress.report;
    json!({
        "done": report.done,
        "seen": report.seen,
        "held": report.held,
        "homeless": report.homeless,
        "complete": report.complete,
        "after": report.after.0,
        "until": progress.until.0,
    })
}

/// `?name=&messages=`
#[derive(serde::Deserialize)]
pub(super) struct DeleteParameters {
    name: String,
    messages: Option<u64>,
}

/// `POST /api/v1/delete`
pub(super) async fn post_delete(
    request: HttpRequest,
    state: web::Data<AdminState>,
    query: web::Query<DeleteParameters>,
) -> HttpResponse {
    if let Some(refusal) = refusal_of(&request, &state) {
        return refusal;
    }
    let query = query.into_inner();
    let messages = query.messages.unwrap_or(0);
    let name = query.name.clone();
    let asked = |reply| Administration::Delete(query.name, messages, reply);
    respond(
        ask(&state, asked).await.map(
            |gone| json!({ "deleted": name, "messages": gone.messages, "senders": gone.senders }),
        ),
    )
}
