//! The operator, who is called when the pair says that it needs one, and does what docs/operations.md
//! says of the reason that it gives: puts the newest record or store back, or promotes a server and
//! accepts the loss of what only the other one had.

use std::time::Duration;

use tokio::sync::oneshot;
use twinmq::actors::ha_manager::HaMessage;
use twinmq::actors::ha_operator::{OperatorOrder, PromoteAnswer};
use twinmq::actors::post::post;
use twinmq::proto::ids::Epoch;
use twinmq::storage::memory::MemoryDisk;

use crate::pair::Pair;

/// What has happened that can leave a pair in need of an operator.
#[derive(Default)]
pub(crate) struct Misfortunes {
    /// The record was deleted or put back.
    pub(crate) record: bool,
    /// A copy went that nobody else may have had.
    pub(crate) copy: bool,
    /// Shared mode: the newest copy of a store that was put back.
    pub(crate) newest: Option<MemoryDisk>,
}

/// What a server that waits needs, by the reason that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// "The share was lost or restored".
    Record,
    /// "When the good copy is lost".
    Copy,
    /// Shared mode: "put the newest copy back".
    Store,
}

/// How the reasons begin, as operations.md lists them.
const REASONS: [(&str, Need); 8] = [
    ("the arbiter record is gone", Need::Record),
    ("there is no arbiter record, but the peer's", Need::Record),
    ("the arbiter record went back from number", Need::Record),
    ("the arbiter record is of epoch", Need::Record),
    ("not in sync since epoch", Need::Copy),
    ("this store is older than what it has", Need::Copy),
    ("a resync into this store was interrupted", Need::Copy),
    ("the shared store ends at", Need::Store),
];

impl Pair {
    /// Does what is needed. Fails where the machines do not say that an operator is, or where nothing
    /// has happened that would explain it.
    pub(crate) async fn call_operator(&mut self, suffered: &Misfortunes, restores: bool) {
        let need = self.need();
        let explained = match need {
            Some(Need::Record) => suffered.record,
            // An older record may name a copy that has fallen behind since.
            Some(Need::Copy) => suffered.copy || suffered.record,
            Some(Need::Store) => suffered.newest.is_some(),
            None => false,
        };
        if !explained {
            let reasons = [0, 1].map(|at| {
                let running = self.runs(at).then(|| self.server(at));
                running.and_then(|server| server.wired.board.role().reason.clone())
            });
            self.fail(&format!(
                "the pair does not become whole ({need:?} needed: {reasons:?})"
            ));
        }
        self.world.trace.tell(format_args!("-- needed: {need:?}"));
        match (need, &suffered.newest) {
            (Some(Need::Store), Some(newest)) => self.put_store_back(newest).await,
            // There is nothing to promote where there is one store.
            (_, _) if suffered.record && (restores || self.is_shared()) => {
                self.put_record_back().await;
            }
            (_, _) => self.promote().await,
        }
    }

    /// By the reasons that the servers give, of which none serves.
    fn need(&self) -> Option<Need> {
        let running = (0..2).filter(|at| self.runs(*at));
        let needs = running.filter_map(|at| {
            let server = self.server(at);
            if server.clients.serving() {
                return None;
            }
            let reason = server.wired.board.role().reason.clone()?;
            let mut known = REASONS.iter();
            known.find_map(|(begin, need)| reason.starts_with(begin).then_some(*need))
        });
        let ended = self.ended_for.iter().flatten();
        let ended = ended.filter(|why| why.contains("the shared store ends at"));
        needs.chain(ended.map(|_| Need::Store)).max()
    }

    async fn stop_both(&mut self) {
        for at in 0..2 {
            if self.runs(at) {
                self.stop(at).await;
            }
        }
    }

    async fn start_both(&mut self) {
        for at in 0..2 {
            if !self.runs(at) {
                self.start(at).await;
            }
        }
    }

    async fn put_record_back(&mut self) {
        self.world.trace.mark("records put back by the operator");
        self.stop_both().await;
        self.world.share.restore_record();
        self.start_both().await;
    }

    async fn put_store_back(&mut self, newest: &MemoryDisk) {
        self.world.trace.mark("stores put back by the operator");
        self.stop_both().await;
        self.disk(0).revert_to(newest);
        self.start_both().await;
    }

    /// Of those that would carry it out, the one that reaches further.
    async fn promote(&mut self) {
        let mut best: Option<(usize, PromoteAnswer)> = None;
        for at in 0..2 {
            if !self.runs(at) {
                continue;
            }
            let answer = self.ask_promotion(at, None).await;
            self.world.trace.tell(format_args!("{at}: {answer:?}"));
            let better = best
                .as_ref()
                .is_none_or(|(_, best)| answer.found.own > best.found.own);
            if answer.ready && better {
                best = Some((at, answer));
            }
        }
        let Some((at, answer)) = best else {
            self.fail("an operator is needed, and there is no server to promote");
        };
        self.world.trace.mark("servers promoted by the operator");
        let before = self.world.ledger.override_begins();
        let epoch = answer.found.epoch;
        let said = self.ask_promotion(at, Some(epoch)).await;
        if said.copy.is_none() {
            self.fail(&format!("the promotion of {at} was refused: {said:?}"));
        }
        self.until("the promoted server serves", |pair| {
            pair.runs(at) && pair.server(at).clients.serving()
        })
        .await;
        let owed = self.owed(at).await;
        match self.world.ledger.override_ends(&before, &owed) {
            Ok(given_up) => {
                self.world
                    .trace
                    .tell(format_args!("-- given up: {given_up:?}"));
            }
            Err(wrong) => self.fail(&format!("the promotion of {at}: {wrong}")),
        }
    }

    async fn ask_promotion(&mut self, at: usize, epoch: Option<Epoch>) -> PromoteAnswer {
        let (answer, mut heard) = oneshot::channel();
        let order = OperatorOrder::Promote { epoch, answer };
        post(&self.server(at).wired.manager, HaMessage::Operator(order));
        loop {
            self.run_for(Duration::from_millis(1)).await;
            match heard.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.fail("a server ended instead of answering the operator")
                }
            }
        }
    }
}
