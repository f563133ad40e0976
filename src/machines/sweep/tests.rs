use super::*;
use crate::machines::selector::Dialect;
use crate::proto::message::{Envelope, MessageWriter, Properties};

fn message(headers: &[(&str, &str)]) -> Bytes {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 64);
    for (name, value) in headers {
        writer.header(name, value);
    }
    writer.finish(b"body").unwrap()
}

fn entries(lsns: &[u64]) -> Vec<Entry> {
    let entry = |lsn: &u64| Entry::new(Lsn(*lsn), message(&[("n", &lsn.to_string())]));
    lsns.iter().map(entry).collect()
}

fn spec(action: SweepAction) -> SweepSpec {
    SweepSpec {
        action,
        selector: None,
        count: u64::MAX,
        after: Lsn::ZERO,
        until: Lsn(10),
        memory_until: None,
        deadline: Moment(100),
    }
}

/// A machine and what it said last.
struct World(SweepMachine);

impl World {
    fn begin(spec: SweepSpec) -> Self {
        let mut world = Self(SweepMachine::new(spec));
        assert_eq!(
            world.says(0, SweepInput::Begin),
            [SweepEffect::Fetch(Lsn(0))]
        );
        world
    }

    fn says(&mut self, now: u64, input: SweepInput) -> Vec<SweepEffect> {
        let mut effects = Vec::new();
        self.0.step(Moment(now), input, &mut effects);
        effects
    }

    /// Gives a page; which messages are to be taken out.
    fn page(&mut self, lsns: &[u64], scanned: u64) -> Vec<u64> {
        let entries = entries(lsns);
        let scanned = Lsn(scanned);
        match self
            .says(0, SweepInput::Fetched { entries, scanned })
            .as_slice()
        {
            [SweepEffect::Remove(batch)] => batch.iter().map(|swept| swept.lsn.0).collect(),
            other => panic!("no batch: {other:?}"),
        }
    }

    fn taken(&mut self, lsns: &[u64]) -> Vec<SweepEffect> {
        let taken = Ok(lsns.iter().map(|lsn| Lsn(*lsn)).collect());
        let homeless = 0;
        self.says(0, SweepInput::Removed { taken, homeless })
    }
}

#[test]
fn a_page_is_read_only_after_the_batch_before_is_committed() {
    let mut world = World::begin(spec(SweepAction::Purge));
    assert_eq!(world.page(&[1, 2, 3], 3), [1, 2, 3]);
    assert_eq!(world.taken(&[1, 3]), []);
    let next = [SweepEffect::Fetch(Lsn(3))];
    assert_eq!(world.says(0, SweepInput::Committed), next);
    // What came after the beginning is not touched.
    assert_eq!(world.page(&[7, 11], 11), [7]);
    assert_eq!(world.taken(&[7]), []);
    let report = SweepReport {
        done: 3,
        seen: 4,
        held: 1,
        homeless: 0,
        after: Lsn(10),
        complete: true,
    };
    let end = [SweepEffect::End(Ok(report))];
    assert_eq!(world.says(0, SweepInput::Committed), end);
    assert_eq!(world.says(0, SweepInput::Committed), []);
}

#[test]
fn the_count_is_of_those_that_were_taken() {
    let mut world = World::begin(SweepSpec {
        count: 2,
        ..spec(SweepAction::Move(DestId(9)))
    });
    assert_eq!(world.page(&[1, 2, 3, 4], 10), [1, 2]);
    // One is with a consumer: the count goes on with the next.
    assert_eq!(world.taken(&[2]), []);
    let next = [SweepEffect::Fetch(Lsn(2))];
    assert_eq!(world.says(0, SweepInput::Committed), next);
    assert_eq!(world.page(&[3, 4], 10), [3]);
    world.taken(&[3]);
    let ended = world.says(0, SweepInput::Committed);
    let [SweepEffect::End(Ok(report))] = ended.as_slice() else {
        panic!("{ended:?}");
    };
    assert_eq!(
        (report.done, report.held, report.after),
        (2, 1, Lsn(3)),
        "a further run would begin at the next one"
    );
    assert!(report.complete);
}

#[test]
fn a_selector_picks_and_the_rest_is_only_seen() {
    let selector = Selector::parse("n >= 3", Dialect::TextIsNumeric).unwrap();
    let mut world = World::begin(SweepSpec {
        selector: Some(selector),
        ..spec(SweepAction::Purge)
    });
    let (entries, scanned) = (entries(&[1, 2]), Lsn(2));
    let effects = world.says(0, SweepInput::Fetched { entries, scanned });
    assert_eq!(effects, [SweepEffect::Fetch(Lsn(2))]);
    assert_eq!(world.page(&[3], 10), [3]);
}

#[test]
fn a_stretch_ends_in_time_and_says_how_far_it_came() {
    let mut world = World::begin(spec(SweepAction::Purge));
    assert_eq!(world.page(&[1], 1), [1]);
    world.taken(&[1]);
    let ended = world.says(100, SweepInput::Committed);
    let [SweepEffect::End(Ok(report))] = ended.as_slice() else {
        panic!("{ended:?}");
    };
    assert_eq!((report.after, report.complete), (Lsn(1), false));
}

#[test]
fn what_is_in_memory_comes_last_and_is_bounded_by_what_was_there() {
    let at = |number: u64| Lsn::volatile(number);
    let mut world = World::begin(SweepSpec {
        memory_until: Some(at(5)),
        ..spec(SweepAction::Purge)
    });
    assert_eq!(world.page(&[1], 10), [1]);
    world.taken(&[1]);
    let next = [SweepEffect::Fetch(at(0))];
    assert_eq!(world.says(0, SweepInput::Committed), next);
    let page = [at(2).0, at(5).0, at(6).0];
    assert_eq!(world.page(&page, page[2]), page[..2]);
    world.taken(&page[..2]);
    let ended = world.says(100, SweepInput::Committed);
    let [SweepEffect::End(Ok(report))] = ended.as_slice() else {
        panic!("{ended:?}");
    };
    assert_eq!((report.done, report.complete), (3, true));
    assert_eq!(
        world.0.until(),
        at(5),
        "a stretch more would have this bound"
    );
}

#[test]
fn what_the_destination_refuses_ends_it() {
    let mut world = World::begin(spec(SweepAction::Move(DestId(2))));
    world.page(&[1], 1);
    let taken = Err("full".to_owned());
    let ended = world.says(0, SweepInput::Removed { taken, homeless: 0 });
    assert_eq!(ended, [SweepEffect::End(Err("full".to_owned()))]);
}

#[test]
fn a_dead_message_goes_back_to_where_its_headers_say() {
    let mut world = World::begin(spec(SweepAction::Retry));
    let of = |lsn, headers: &[(&str, &str)]| Entry::new(Lsn(lsn), message(headers));
    let entries = vec![
        of(1, &[("TMQ_ORIGINAL_DESTINATION", "/queue/a")]),
        of(2, &[("other", "/queue/b")]),
        of(3, &[("dead-letter-destination", "/queue/c")]),
    ];
    let scanned = Lsn(3);
    let effects = world.says(0, SweepInput::Fetched { entries, scanned });
    let [SweepEffect::Remove(batch)] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    let targets: Vec<_> = batch
        .iter()
        .map(|it| (it.lsn.0, it.target.clone()))
        .collect();
    let named = |text: &str| SweepTarget::Named(text.into());
    assert_eq!(targets, [(1, named("/queue/a")), (3, named("/queue/c"))]);
    let taken = Ok(vec![Lsn(1)]);
    assert_eq!(
        world.says(0, SweepInput::Removed { taken, homeless: 1 }),
        []
    );
    assert_eq!(world.0.report.homeless, 2);
    assert_eq!(world.0.report.held, 0);
}
