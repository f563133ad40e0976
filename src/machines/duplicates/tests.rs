use super::*;
use crate::proto::ids::Lsn;
use crate::proto::message::{Envelope, MessageWriter, Properties};

const Q: DestId = DestId(7);

fn message(id: Option<&str>) -> Bytes {
    let envelope = Envelope {
        duplicate_id: id,
        ..Envelope::default()
    };
    let writer = MessageWriter::new(&envelope, &Properties::default(), 8);
    writer.finish(id.unwrap_or("none").as_bytes()).unwrap()
}

fn sent(ticket: u64, id: &str) -> Unit {
    Unit {
        ticket: Ticket(ticket),
        records: send(Scope::queue(Q), vec![Q], message(Some(id))),
    }
}

fn show(units: &[Unit]) -> Vec<String> {
    let record = |record: &Draft| match record {
        Draft::Put { message, .. } => message::duplicate_id(message)
            .map_or_else(|| "put".to_owned(), |id| format!("put {id}")),
        Draft::Seen { at_ms, .. } => format!("seen at {at_ms}"),
        Draft::Kv { space, .. } => format!("define {space}"),
        Draft::Ack { .. } => "ack".to_owned(),
        Draft::Delivered { .. } => "mark".to_owned(),
        Draft::DeliveredEach { .. }
        | Draft::Failed { .. }
        | Draft::Part { .. }
        | Draft::UploadEnded(_) => panic!("{record:?}"),
    };
    let unit = |unit: &Unit| {
        let records: Vec<String> = unit.records.iter().map(record).collect();
        format!("{}: {}", unit.ticket.0, records.join(", "))
    };
    units.iter().map(unit).collect()
}

struct World {
    machine: DuplicateMachine,
    /// What the store says it knows.
    stored: Vec<DuplicateId>,
}

impl World {
    fn new() -> Self {
        Self {
            machine: DuplicateMachine::new(DuplicateBounds::default()),
            stored: Vec::new(),
        }
    }

    fn admit(&mut self, units: Vec<Unit>) -> Vec<String> {
        let asked = ids(&units);
        let known: Vec<bool> = asked.iter().map(|id| self.stored.contains(id)).collect();
        show(&self.machine.admit(50, units, &known).units)
    }
}

#[test]
fn an_id_goes_with_its_message_and_the_bounds_with_the_first() {
    let mut world = World::new();
    let plain = Unit {
        ticket: Ticket(1),
        records: send(Scope::queue(Q), vec![Q], message(None)),
    };
    assert_eq!(
        world.admit(vec![plain, sent(2, "a"), sent(3, "b")]),
        [
            "1: put",
            "2: define 3, seen at 50, put a",
            "3: seen at 50, put b"
        ]
    );
    world.machine.set_bounds(DuplicateBounds::default());
    assert_eq!(world.admit(vec![sent(4, "c")]), ["4: seen at 50, put c"]);
    world.machine.set_bounds(DuplicateBounds {
        per_scope: 5,
        ..DuplicateBounds::default()
    });
    assert_eq!(
        world.admit(vec![sent(5, "d")]),
        ["5: define 3, seen at 50, put d"]
    );
}

#[test]
fn what_is_in_flight_or_stored_is_not_stored_again_and_keeps_its_ticket() {
    let mut world = World::new();
    world.machine.told = true;
    assert_eq!(
        world.admit(vec![sent(1, "a"), sent(2, "a")]),
        ["1: seen at 50, put a", "2: "]
    );
    assert_eq!(world.admit(vec![sent(3, "a")]), ["3: "]);
    // The store knows it by then.
    world.machine.committed(&[Ticket(1), Ticket(2), Ticket(3)]);
    assert!(world.machine.in_flight.is_empty());
    world.stored.push(DuplicateId::new(Scope::queue(Q), "a"));
    assert_eq!(world.admit(vec![sent(4, "a")]), ["4: "]);
    assert_eq!(world.machine.hits(Scope::queue(Q)), 3);
    assert_eq!(world.machine.all_hits(), 3);
    // Its window is over.
    world.stored.clear();
    assert_eq!(world.admit(vec![sent(5, "a")]), ["5: seen at 50, put a"]);
}

#[test]
fn ids_leave_as_their_own_unit_is_committed() {
    let mut world = World::new();
    world.admit(vec![sent(1, "a"), sent(0, "b"), sent(3, "c")]);
    let left = |world: &World| world.machine.in_flight.len();
    world.machine.committed(&[Ticket(9)]);
    assert_eq!(left(&world), 3, "of another message");
    world.machine.committed(&[Ticket(1)]);
    assert_eq!(
        left(&world),
        1,
        "nobody hears of the second: it goes with the first"
    );
    world.machine.committed(&[Ticket(8), Ticket(3)]);
    assert_eq!(left(&world), 0);
}

#[test]
fn one_message_of_a_transaction_goes_and_the_rest_stays() {
    let mut world = World::new();
    world.machine.told = true;
    world.stored.push(DuplicateId::new(Scope::queue(Q), "b"));
    let mut records = Vec::new();
    for id in ["a", "b", "c", "c"] {
        records.extend(send(Scope::queue(Q), vec![Q], message(Some(id))));
    }
    records.push(Draft::Ack {
        dest: Q,
        lsns: vec![Lsn(3)],
    });
    let unit = Unit {
        ticket: Ticket(5),
        records,
    };
    assert_eq!(
        world.admit(vec![unit]),
        ["5: seen at 50, put a, seen at 50, put c, ack"]
    );
    world.machine.committed(&[Ticket(5)]);
    assert!(world.machine.in_flight.is_empty());
}

#[test]
fn other_destinations_have_ids_of_their_own() {
    let mut world = World::new();
    world.machine.told = true;
    let other = Unit {
        ticket: Ticket(2),
        records: send(Scope::topic("/topic/t"), vec![Q], message(Some("a"))),
    };
    assert_eq!(
        world.admit(vec![sent(1, "a"), other]),
        ["1: seen at 50, put a", "2: seen at 50, put a"]
    );
}

#[test]
fn with_a_bound_of_zero_nothing_is_looked_at() {
    let mut world = World::new();
    world.stored.push(DuplicateId::new(Scope::queue(Q), "a"));
    world.machine.set_bounds(DuplicateBounds {
        per_scope: 0,
        ..DuplicateBounds::default()
    });
    assert_eq!(
        world.admit(vec![sent(1, "a"), sent(2, "a")]),
        ["1: put a", "2: put a"]
    );
}
