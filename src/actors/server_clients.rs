//! The client side of a real server: what the store and HAManager say to the data thread.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use crate::actors::data_plane::DataHandle;
use crate::actors::ha_manager::{ClientSide, HaMessage};
use crate::actors::post::{Port, post};
use crate::actors::server::{End, tell};
use crate::actors::store_sink::CommittedSink;
use crate::machines::ha::ExitCause;
use crate::proto::ids::Epoch;
use crate::storage::api::{Committed, Fetched};

/// The store's events for the client side.
pub(super) struct Clients {
    pub(super) data: DataHandle,
}

impl CommittedSink for Clients {
    fn committed(&self, committed: Committed) {
        self.data.committed(committed);
    }

    fn fetched(&self, fetched: Fetched) {
        self.data.fetched(fetched);
    }

    fn parts_read(&self, whose: u32, parts: Vec<Bytes>) {
        self.data.parts_read(whose, parts);
    }
}

/// The client side of a real server, as HAManager commands it.
pub(super) struct ServerClients {
    pub(super) data: DataHandle,
    pub(super) manager: Port<HaMessage>,
    pub(super) ends: UnboundedSender<End>,
}

impl ClientSide for ServerClients {
    fn serve(&self, epoch: Epoch) {
        let ends = self.ends.clone();
        self.data.serve(
            epoch,
            Box::new(move |listening| {
                if let Err(error) = listening {
                    tell(&ends, End::ClientPort(error));
                }
            }),
        );
    }

    fn stop_serving(&self, reason: &str) {
        self.data.stop_serving(reason.to_owned(), Box::new(|()| {}));
    }

    fn drain(&self, patience: Duration, reason: &str) {
        let manager = self.manager.clone();
        self.data.drain(
            patience,
            reason.to_owned(),
            Box::new(move |()| post(&manager, HaMessage::ClientsDrained)),
        );
    }

    fn end_process(&self, cause: &ExitCause) {
        tell(&self.ends, End::Role(cause.clone()));
    }
}
