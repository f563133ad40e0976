//! Which clients are connected, so that the other server knows whom to expect; and, on a server that
//! took over, which of them have not come.
//!
//! | a server | knows |
//! |---|---|
//! | that serves | its own clients, of which it tells the peer what changed |
//! | that does not | what the peer told last: a peer that dies or stops serving takes nothing back |
//! | that took over | besides its own, those that the peer had when it said its last |
//!
//! Nothing of it is stored, and nothing rests on it: it is for the operator. A client with a client-id
//! is known again by that, others by login and host; of several with the same, so many are missed as
//! there were more then than have been here at once since.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::proto::ids::SessionId;
use crate::proto::peer::{CLIENT_NEWS_MAX, ClientIdentity, ClientNews, PeerClient};

/// Clients that are known of each server; more are only counted where they are.
pub const CLIENTS_MAX: usize = 10_000;

/// Those that were with the peer under one identity.
#[derive(Debug, Default)]
struct Awaited {
    clients: Vec<PeerClient>,
    /// With this server now.
    here: usize,
    /// The most that were at once.
    returned: usize,
}

/// What has become of those that the peer had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// When this server began to serve, by the wall clock, in milliseconds since 1970.
    pub since_ms: u64,
    /// How many the peer had.
    pub expected: usize,
    /// How many of them came.
    pub returned: usize,
}

/// A term of service.
#[derive(Debug, Default)]
struct Term {
    since_ms: u64,
    here: BTreeMap<u32, PeerClient>,
    awaited: HashMap<ClientIdentity, Awaited>,
    /// Not told to the peer yet.
    came: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    /// The server closes its connections: nobody goes by himself any more.
    ends: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct RollMachine {
    term: Option<Term>,
    /// The session in which the peer is told, once it was told everything.
    told: Option<SessionId>,
    /// The peer's clients by its numbers, as it said last.
    peers: BTreeMap<u32, PeerClient>,
}

impl RollMachine {
    /// This server begins to serve: the peer's clients are expected here.
    pub fn begin(&mut self, now_ms: u64) {
        let mut term = Term {
            since_ms: now_ms,
            ..Term::default()
        };
        for client in std::mem::take(&mut self.peers).into_values() {
            let awaited = term.awaited.entry(client.identity()).or_default();
            awaited.clients.push(client);
        }
        self.term = Some(term);
        self.told = None;
    }

    /// This server is about to close its connections: those who go now are expected at the peer.
    pub fn freeze(&mut self) {
        if let Some(term) = &mut self.term {
            term.ends = true;
        }
    }

    /// This server does not serve any more.
    pub fn end(&mut self) {
        self.term = None;
        self.told = None;
    }

    /// A client has connected; numbers are used once in a term.
    pub fn joined(&mut self, client: PeerClient) {
        let Some(term) = self.term.as_mut().filter(|term| !term.ends) else {
            return;
        };
        if let Some(awaited) = term.awaited.get_mut(&client.identity()) {
            awaited.here = awaited.here.saturating_add(1);
            awaited.returned = awaited.returned.max(awaited.here);
        }
        if term.here.len() < CLIENTS_MAX {
            term.came.insert(client.number);
            term.here.insert(client.number, client);
        }
    }

    /// A client has gone.
    pub fn left(&mut self, number: u32) {
        let Some(term) = self.term.as_mut().filter(|term| !term.ends) else {
            return;
        };
        let Some(client) = term.here.remove(&number) else {
            return;
        };
        if let Some(awaited) = term.awaited.get_mut(&client.identity()) {
            awaited.here = awaited.here.saturating_sub(1);
        }
        if !term.came.remove(&number) {
            term.gone.insert(number);
        }
    }

    /// What the peer is to be told next in this session, if anything: at most [`CLIENT_NEWS_MAX`] of
    /// each kind.
    pub fn news(&mut self, session: SessionId) -> Option<ClientNews> {
        let term = self.term.as_mut().filter(|term| !term.ends)?;
        let afresh = self.told != Some(session);
        if afresh {
            self.told = Some(session);
            term.gone.clear();
            term.came = term.here.keys().copied().collect();
        } else if term.came.is_empty() && term.gone.is_empty() {
            return None;
        }
        let mut came = Vec::new();
        while came.len() < CLIENT_NEWS_MAX
            && let Some(number) = term.came.pop_first()
        {
            came.extend(term.here.get(&number).cloned());
        }
        let mut gone = Vec::new();
        while gone.len() < CLIENT_NEWS_MAX
            && let Some(number) = term.gone.pop_first()
        {
            gone.push(number);
        }
        Some(ClientNews { afresh, gone, came })
    }

    /// What the peer says of its clients. A server that serves itself does not listen.
    pub fn hear(&mut self, news: ClientNews) {
        if self.term.is_some() {
            return;
        }
        if news.afresh {
            self.peers.clear();
        }
        for number in news.gone {
            self.peers.remove(&number);
        }
        for client in news.came {
            if self.peers.len() < CLIENTS_MAX {
                self.peers.insert(client.number, client);
            }
        }
    }

    /// The peer's clients that this server knows of, while it does not serve.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// What has become of the peer's clients since this server took over; none while it does not serve,
    /// and where nothing was heard of any.
    #[must_use]
    pub fn returned(&self) -> Option<Returned> {
        let term = self.term.as_ref()?;
        let expected = term.awaited.values().map(|it| it.clients.len()).sum();
        let returned = term.awaited.values();
        let returned = returned.map(|it| it.returned.min(it.clients.len())).sum();
        (expected > 0).then_some(Returned {
            since_ms: term.since_ms,
            expected,
            returned,
        })
    }

    /// Those of them that have not come, at most `count`, by name and address. Of several with one
    /// identity it cannot be said which are missing: the last ones are named.
    #[must_use]
    pub fn missing(&self, count: usize) -> Vec<PeerClient> {
        let awaited = self.term.iter().flat_map(|term| term.awaited.values());
        let missing = awaited.flat_map(|it| it.clients.iter().skip(it.returned));
        let mut missing: Vec<&PeerClient> = missing.collect();
        missing.sort_unstable_by_key(|it| (&it.client_id, &it.login, it.address, it.number));
        missing.into_iter().take(count).cloned().collect()
    }

    /// Whether a client with this number was with the peer before: it has shown that it finds both
    /// servers. None: nothing is known of the peer's clients.
    #[must_use]
    pub fn was_at_peer(&self, number: u32) -> Option<bool> {
        let term = self.term.as_ref()?;
        let client = term.here.get(&number)?;
        let known = term.awaited.contains_key(&client.identity());
        (!term.awaited.is_empty()).then_some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: SessionId = SessionId(1);

    fn named(number: u32, id: &str) -> PeerClient {
        PeerClient {
            number,
            client_id: Some(id.into()),
            login: None,
            address: ([10, 0, 0, 1], 40_000).into(),
        }
    }

    fn unnamed(number: u32, host: u8) -> PeerClient {
        PeerClient {
            number,
            client_id: None,
            login: Some("app".into()),
            address: ([10, 0, 0, host], 50_000).into(),
        }
    }

    fn serving() -> RollMachine {
        let mut roll = RollMachine::default();
        roll.begin(7);
        roll
    }

    /// Passes everything on that there is to be told.
    fn tell(active: &mut RollMachine, passive: &mut RollMachine) -> usize {
        let mut frames = 0;
        while let Some(news) = active.news(LINK) {
            assert!(news.came.len() <= CLIENT_NEWS_MAX && news.gone.len() <= CLIENT_NEWS_MAX);
            passive.hear(news);
            frames += 1;
        }
        frames
    }

    fn names(clients: &[PeerClient]) -> Vec<String> {
        let name = |it: &PeerClient| {
            let host = it.address.ip().to_string();
            it.client_id.as_deref().map_or(host, str::to_owned)
        };
        clients.iter().map(name).collect()
    }

    #[test]
    fn who_took_over_names_those_that_did_not_come() {
        let (mut active, mut passive) = (serving(), RollMachine::default());
        active.joined(named(1, "ann"));
        active.joined(named(2, "bob"));
        active.joined(named(3, "eve"));
        tell(&mut active, &mut passive);
        assert_eq!(passive.peers(), 3);
        // One has gone by himself, another has come, and only that is told.
        active.left(3);
        active.joined(named(4, "joe"));
        assert_eq!(tell(&mut active, &mut passive), 1);
        assert_eq!(passive.returned(), None, "it does not serve");
        passive.begin(99);
        passive.joined(named(1, "bob"));
        passive.joined(named(2, "new"));
        assert_eq!(names(&passive.missing(9)), ["ann", "joe"]);
        let returned = Returned {
            since_ms: 99,
            expected: 3,
            returned: 1,
        };
        assert_eq!(passive.returned(), Some(returned));
        // It came, whatever it does now.
        passive.left(1);
        assert_eq!(names(&passive.missing(1)), ["ann"]);
        assert_eq!(passive.was_at_peer(2), Some(false));
        passive.joined(named(3, "ann"));
        assert_eq!(passive.was_at_peer(3), Some(true));
        assert_eq!(active.was_at_peer(1), None, "nobody was there before");
    }

    #[test]
    fn clients_without_a_name_are_counted_by_host() {
        let (mut active, mut passive) = (serving(), RollMachine::default());
        for (number, host) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
            active.joined(unnamed(number, host));
        }
        tell(&mut active, &mut passive);
        passive.begin(1);
        passive.joined(unnamed(1, 1));
        // The same one again: nobody can tell that it is not a second.
        passive.left(1);
        passive.joined(unnamed(2, 1));
        assert_eq!(
            names(&passive.missing(9)),
            ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
        );
        passive.joined(unnamed(3, 1));
        passive.joined(unnamed(4, 1));
        passive.joined(unnamed(5, 1));
        assert_eq!(names(&passive.missing(9)), ["10.0.0.2"]);
        assert_eq!(passive.returned().map(|it| it.returned), Some(3));
    }

    #[test]
    fn those_that_the_server_sends_away_are_expected_at_the_peer() {
        let (mut active, mut passive) = (serving(), RollMachine::default());
        active.joined(named(1, "ann"));
        tell(&mut active, &mut passive);
        active.freeze();
        active.left(1);
        assert_eq!(tell(&mut active, &mut passive), 0);
        active.end();
        assert_eq!(tell(&mut active, &mut passive), 0);
        passive.begin(1);
        assert_eq!(names(&passive.missing(9)), ["ann"]);
        // The old one is told of the new one's clients, and expects them in its turn.
        passive.joined(named(1, "ann"));
        tell(&mut passive, &mut active);
        active.begin(2);
        assert_eq!(names(&active.missing(9)), ["ann"]);
    }

    #[test]
    fn a_new_link_is_told_everything_and_a_server_that_serves_does_not_listen() {
        let (mut active, mut passive) = (serving(), RollMachine::default());
        active.joined(named(1, "ann"));
        tell(&mut active, &mut passive);
        active.left(1);
        active.joined(named(2, "bob"));
        let news = active.news(SessionId(2)).expect("all of it");
        assert!(news.afresh && names(&news.came) == ["bob"]);
        let mut other = serving();
        other.hear(news.clone());
        assert_eq!(other.peers(), 0);
        passive.hear(news);
        assert_eq!(passive.peers(), 1);
    }

    #[test]
    fn what_is_kept_and_told_at_once_is_bounded() {
        let (mut active, mut passive) = (serving(), RollMachine::default());
        let many = u32::try_from(CLIENTS_MAX).unwrap() + 5;
        for number in 0..many {
            active.joined(unnamed(number, 1));
        }
        let frames = tell(&mut active, &mut passive);
        assert_eq!(frames, CLIENTS_MAX.div_ceil(CLIENT_NEWS_MAX));
        assert_eq!(passive.peers(), CLIENTS_MAX);
        let came = (0..9).map(|number| unnamed(many + number, 2)).collect();
        passive.hear(ClientNews {
            afresh: false,
            gone: Vec::new(),
            came,
        });
        assert_eq!(passive.peers(), CLIENTS_MAX, "whatever the peer says");
    }
}
