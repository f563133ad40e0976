//! What a session shows of its client to whoever describes the server.

use super::Session;
use crate::actors::directory::ClientSigns;

impl Session {
    /// Tells who the client is, once it has said so, and how it behaves.
    pub(super) fn show_signs(&mut self) {
        if self.machine.version().is_none() {
            return;
        }
        if !self.introduced
            && let Some(address) = self.socket.peer()
        {
            self.introduced = true;
            let (client_id, login) = (self.machine.client_id(), self.machine.login());
            let directory = &self.context.directory;
            directory.introduce(self.key, client_id, login, address);
        }
        self.inbox.shows(ClientSigns {
            heard: self.last_sign,
            hears_beats: self.machine.sends_heart_beats(),
            open_transactions: self.machine.open_transactions(),
        });
    }
}
