//! An operator's commands over the admin API, which the role machine judges and carries out.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use tokio::sync::oneshot;

use crate::actors::ha_manager::HaMessage;
use crate::actors::ha_operator::{OperatorOrder, PromoteAnswer, SwitchoverAnswer};
use crate::actors::post::{Port, post};
use crate::machines::ha::Condition;
use crate::proto::ids::Epoch;

use super::{AdminState, refusal_of};

/// How long the role machine may take to answer: it decides at once, unless its thread is held up.
const ANSWER: Duration = Duration::from_secs(2);

/// The way to the role machine.
pub struct Operator {
    manager: Port<HaMessage>,
}

impl Operator {
    /// By way of HAManager.
    #[must_use]
    pub fn new(manager: Port<HaMessage>) -> Self {
        Self { manager }
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> OperatorOrder) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        post(&self.manager, HaMessage::Operator(order(answer)));
        tokio::time::timeout(ANSWER, answered).await.ok()?.ok()
    }
}

/// `?dry_run=true` changes nothing.
#[derive(Debug, serde::Deserialize)]
pub(super) struct SwitchoverQuery {
    #[serde(default)]
    dry_run: bool,
}

/// 202 with what was found when it is carried out, 200 when it would be, 409 when it is refused.
pub(super) async fn post_switchover(
    request: HttpRequest,
    query: web::Query<SwitchoverQuery>,
    state: web::Data<AdminState>,
) -> HttpResponse {
    if let Some(refusal) = refusal_of(&request, &state) {
        return refusal;
    }
    let dry_run = query.dry_run;
    let asked = state
        .operator
        .ask(|answer| OperatorOrder::Switchover { dry_run, answer })
        .await;
    let Some(said) = asked else {
        return no_answer();
    };
    let body = switchover_json(&said, dry_run);
    match (said.ready, dry_run) {
        (true, false) => HttpResponse::Accepted().json(body),
        // A dry run is answered, whatever it found.
        (_, true) => HttpResponse::Ok().json(body),
        (false, false) => HttpResponse::Conflict().json(body),
    }
}

/// `?accept_loss=true&epoch=N` carries it out; anything less only tells what would be given up.
#[derive(Debug, serde::Deserialize)]
pub(super) struct PromoteQuery {
    #[serde(default)]
    accept_loss: bool,
    epoch: Option<u64>,
}

/// 202 when it is carried out, 200 when it was only asked about, 409 when it is refused.
pub(super) async fn post_promote(
    request: HttpRequest,
    query: web::Query<PromoteQuery>,
    state: web::Data<AdminState>,
) -> HttpResponse {
    if let Some(refusal) = refusal_of(&request, &state) {
        return refusal;
    }
    let epoch = query.epoch.filter(|_| query.accept_loss).map(Epoch);
    let asked = state
        .operator
        .ask(|answer| OperatorOrder::Promote { epoch, answer })
        .await;
    let Some(said) = asked else {
        return no_answer();
    };
    let body = promote_json(&said);
    if epoch.is_none() {
        HttpResponse::Ok().json(body)
    } else if said.copy.is_some() {
        HttpResponse::Accepted().json(body)
    } else {
        HttpResponse::Conflict().json(body)
    }
}

fn promote_json(said: &PromoteAnswer) -> serde_json::Value {
    let found = &said.found;
    let known: Vec<_> = found
        .known
        .iter()
        .map(|known| {
            json!({
                "store": known.store,
                "own": known.own,
                "epoch": known.position.epoch,
                "position": known.position.lsn,
                "source": known.source,
            })
        })
        .collect();
    json!({
        "ready": said.ready,
        "epoch": found.epoch,
        "record": found.record.as_ref().map(|record| json!({
            "number": record.seq,
            "epoch": record.epoch,
            "in_sync": record.isr,
        })),
        "own_epoch": found.own.epoch,
        "own_position": found.own.lsn,
        "known": known,
        "lost_at_least": found.lost_at_least,
        "copy": said.copy,
        "conditions": conditions_json(&found.conditions),
    })
}

fn no_answer() -> HttpResponse {
    HttpResponse::ServiceUnavailable().body(
        "the server's control thread does not answer; whether it will carry this out is not known: \
         look at its status\n",
    )
}

fn switchover_json(said: &SwitchoverAnswer, dry_run: bool) -> serde_json::Value {
    json!({
        "ready": said.ready,
        "dry_run": dry_run,
        "epoch": said.epoch,
        "peer": said.peer,
        "conditions": conditions_json(&said.conditions),
    })
}

fn conditions_json(conditions: &[Condition]) -> Vec<serde_json::Value> {
    conditions
        .iter()
        .map(|condition| {
            json!({
                "condition": condition.what,
                "holds": condition.holds,
                "found": condition.found,
            })
        })
        .collect()
}
