//! How HAManager reads its inbox: which message is an input of its machine, and which only winds the
//! clockwork.

use std::path::Path;

use crate::actors::ha_inbox::{HaMessage, LinkEvent};
use crate::actors::ha_manager::HaManager;
use crate::io::arbiter_file::lock_file_of;
use crate::machines::gateway::GatewayVerdict;
use crate::machines::ha::{HaInput, HeldLock};
use crate::machines::lock::LockReport;
use crate::machines::replication::ReplicationReport;
use crate::proto::history::EventKind;
use crate::time::Moment;

impl HaManager {
    pub(super) fn input_of_link(&mut self, event: LinkEvent) -> Option<HaInput> {
        match event {
            LinkEvent::Up { session, hello } => {
                let text = format!("a channel to {} came up", hello.name);
                self.note(EventKind::LinkUp, text);
                Some(HaInput::LinkUp { session, hello })
            }
            LinkEvent::Down {
                session,
                end,
                why,
                last_heard,
            } => {
                self.timing.peer_heard(last_heard);
                self.note(EventKind::LinkDown, why);
                Some(HaInput::LinkDown {
                    session,
                    cause: end,
                })
            }
            LinkEvent::Facts { session, facts } => Some(HaInput::PeerFacts { session, facts }),
            LinkEvent::Goodbye { session, epoch } => {
                self.note(
                    EventKind::Peer,
                    "the other server ended its service in order",
                );
                Some(HaInput::PeerGoodbye { session, epoch })
            }
            LinkEvent::Answered { ping_sent_at } => {
                if self.machine.pings_extend_lease() {
                    self.timing.proven(ping_sent_at);
                }
                None
            }
            LinkEvent::ReplySent { at } => {
                self.timing.reply_sent(at);
                None
            }
            LinkEvent::PeerDied { node, epoch } => {
                let text = "the other server's process has ended, says its watchdog";
                self.note(EventKind::Peer, text);
                Some(HaInput::PeerDied { node, epoch })
            }
            LinkEvent::Mismatch { reason } => {
                tracing::error!(target: "twinmq::ha", "{reason}");
                self.note(EventKind::Alarm, reason.clone());
                Some(HaInput::PeerMismatch { reason })
            }
        }
    }

    pub(super) fn input_of_gateway(&mut self, verdict: GatewayVerdict) -> HaInput {
        self.note(
            EventKind::Gateway,
            format!("the gateway is {}", verdict.name()),
        );
        HaInput::GatewayUnreachable(verdict == GatewayVerdict::Unreachable)
    }

    pub(super) fn input_of_stop(&mut self) -> HaInput {
        self.note(EventKind::Operator, "it was asked to stop");
        HaInput::StopRequested
    }

    pub(super) fn input_of_lock(&mut self, now: Moment, report: LockReport) -> HaInput {
        self.note_lock(&report);
        self.timing.lock_told(&report, now);
        match report {
            LockReport::Acquired { lock, record, .. } => {
                self.timing.lock_obtained(now);
                let generation = record.as_ref().map(|it| it.generation).unwrap_or_default();
                let path = lock_file_of(Path::new(&self.identity.lock_path), generation);
                tracing::info!(target: "twinmq::lock", "Successfully acquired lock on: {}",
                    path.display());
                HaInput::LockAcquired(HeldLock { lock, record })
            }
            LockReport::Refused { holder } => HaInput::LockRefused { holder },
            LockReport::Confirmed { record, .. } => HaInput::LockConfirmed { record },
            LockReport::Lost { reason } => {
                tracing::error!(target: "twinmq::lock", reason, "the lock was lost");
                HaInput::LockLost { reason }
            }
            LockReport::Unreachable { reason } => {
                tracing::warn!(target: "twinmq::lock", reason, "the lock file does not answer");
                HaInput::LockUnreachable { reason }
            }
            LockReport::Released => HaInput::LockReleased,
            LockReport::Answered { ticket, answer } => {
                HaInput::ArbiterAnswered { id: ticket, answer }
            }
        }
    }
}

/// When what proves the lease was sent, should the machine find nothing against it: a check that finds
/// the record moved on must not extend the lease by a moment.
pub(super) fn proof_of(message: Option<&HaMessage>) -> Option<Moment> {
    match message {
        Some(HaMessage::Lock(
            LockReport::Acquired { sent_at, .. } | LockReport::Confirmed { sent_at, .. },
        )) => Some(*sent_at),
        _ => None,
    }
}

/// Whether the machine, or only the clockwork, is concerned.
pub(super) fn input_of_report(report: ReplicationReport) -> HaInput {
    match report {
        ReplicationReport::SyncDone { session, store } => HaInput::SyncDone { session, store },
        ReplicationReport::PeerHoldsAll { session } => HaInput::PeerHoldsAll { session },
        ReplicationReport::InSync { session, epoch } => HaInput::InSync { session, epoch },
        ReplicationReport::Progress { session } => HaInput::SyncProgress { session },
        ReplicationReport::SyncFailed { session, reason } => {
            tracing::warn!(target: "twinmq::repl", reason, "the resync failed, it will start over");
            HaInput::SyncFailed { session, reason }
        }
        ReplicationReport::AckOverdue { session } => {
            tracing::warn!(target: "twinmq::repl", "the passive does not acknowledge in time");
            HaInput::AckOverdue { session }
        }
    }
}
