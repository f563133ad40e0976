//! CONNECT and CONNECTED.

use std::borrow::Cow;

use bytes::BytesMut;

use super::ends::{Problem, UNSUPPORTED_VERSION};
use super::{HeartBeatOffer, Phase, StompSession, heart_beats};
use crate::proto::stomp::{ClientFrame, FrameWriter, ServerCommand, Version};

impl StompSession {
    pub(super) fn connect(
        &mut self,
        frame: &ClientFrame,
        out: &mut BytesMut,
    ) -> Result<(), Problem> {
        let headers = &frame.headers;
        let Some(version) = Version::negotiate(headers.raw_value(b"accept-version")) else {
            return Err(Problem::new(
                UNSUPPORTED_VERSION,
                format!(
                    "this server speaks STOMP {}; name at least one of them in accept-version",
                    Version::ALL
                ),
            ));
        };
        let client = match headers.raw_value(b"heart-beat") {
            None => HeartBeatOffer::default(),
            Some(text) => heart_beats::parse(text).ok_or_else(|| {
                Problem::new(
                    "the heart-beat header is wrong",
                    "heart-beat is two numbers of milliseconds, as in heart-beat:10000,10000",
                )
            })?,
        };
        let text = |name| headers.get(name).map(Cow::into_owned);
        self.client_id = text("client-id");
        self.login = text("login");
        self.version = version;
        let server = self.config.heart_beat_ms;
        self.beats.agree(server, client);
        self.phase = Phase::Connected;
        let mut connected = FrameWriter::new(out, version, ServerCommand::Connected);
        connected.raw_header("version", version.name().as_bytes());
        connected.number_header("session", u64::from(self.session.0));
        connected.header("server", self.config.server_name.as_bytes());
        let offer = format!("{},{}", server.send, server.receive);
        connected.raw_header("heart-beat", offer.as_bytes());
        connected.finish();
        Ok(())
    }
}
