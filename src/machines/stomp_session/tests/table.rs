//! Every kind of input in every phase.

use super::super::*;
use super::support::*;
use crate::proto::stomp::Command;

/// In words: what is written, then what is done.
fn outcome(text: &str, effects: &[SessionEffect]) -> String {
    let frames = text.split_terminator("^@").map(|frame| {
        let mut lines = frame.lines();
        match (lines.next(), lines.next()) {
            (Some("ERROR"), Some(message)) => format!("ERROR {}", &message["message:".len()..]),
            (command, _) => command.unwrap_or_default().to_owned(),
        }
    });
    let done = effects.iter().map(|effect| {
        let word = format!("{effect:?}");
        word.split([' ', '{']).next().unwrap_or_default().to_owned()
    });
    let words: Vec<_> = frames.chain(done).collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(", ")
    }
}

/// A session in each phase; in the middle two with consumer 1 attached, delivery 5 unsettled and
/// request 1 unanswered.
fn phases() -> Vec<(&'static str, Rig)> {
    let busy = || {
        let mut rig = Rig::subscribed("1.2", "client");
        rig.delivered(&[5]);
        rig.say("SEND\ndestination:/queue/a\nreceipt:1\n\n\0");
        rig
    };
    let mut leaving = busy();
    leaving.say("DISCONNECT\n\n\0");
    let mut closed = Rig::connected("1.2");
    closed.say("DISCONNECT\n\n\0");
    vec![
        ("Greeting", Rig::fresh()),
        ("Connected", busy()),
        ("Leaving", leaving),
        ("Closed", closed),
    ]
}

fn frame(command: ClientCommand) -> String {
    let headers = match command {
        ClientCommand::Send => "destination:/queue/a\n",
        ClientCommand::Ack | ClientCommand::Nack => "id:1-5\n",
        ClientCommand::Subscribe => "id:t\ndestination:/queue/b\n",
        ClientCommand::Unsubscribe => "id:s\n",
        ClientCommand::Connect
        | ClientCommand::Stomp
        | ClientCommand::Disconnect
        | ClientCommand::Begin
        | ClientCommand::Commit
        | ClientCommand::Abort => "",
    };
    format!("{}\n{headers}\n\0", command.name())
}

type MakeInput = Box<dyn Fn() -> SessionInput>;

fn inputs() -> Vec<(&'static str, MakeInput)> {
    fn event(event: SessionEvent) -> MakeInput {
        Box::new(move || SessionInput::Event(event.clone()))
    }
    let request = RequestNumber(1);
    vec![
        (
            "malformed",
            Box::new(|| SessionInput::Malformed(DecodeError::NoColon { line: 2 })),
        ),
        ("heart-beat", Box::new(|| SessionInput::HeartBeat)),
        ("flushed", Box::new(|| SessionInput::OutputFlushed)),
        ("deadline", Box::new(|| SessionInput::Deadline)),
        ("attached", event(SessionEvent::Attached { consumer: 1 })),
        (
            "delivered",
            event(SessionEvent::Delivered {
                consumer: 1,
                deliveries: vec![delivery(6, plain())],
            }),
        ),
        (
            "committed",
            event(SessionEvent::Committed {
                requests: vec![request],
            }),
        ),
        (
            "refused",
            event(SessionEvent::Refused {
                request,
                reason: "no".into(),
            }),
        ),
        (
            "closing",
            event(SessionEvent::Closing {
                reason: "bye".into(),
            }),
        ),
        ("submitted", event(SessionEvent::Submitted { request })),
    ]
}

#[test]
fn every_input_in_every_phase_has_its_outcome() {
    let mut table = String::new();
    for index in 0..phases().len() {
        for command in ClientCommand::ALL {
            let (phase, mut rig) = phases().swap_remove(index);
            let (text, effects) = rig.say(&frame(*command));
            let outcome = outcome(&text, &effects);
            table += &format!("{phase} | {} | {outcome}\n", command.name());
        }
        for (input, make) in inputs() {
            let (phase, mut rig) = phases().swap_remove(index);
            rig.step(make());
            let text = String::from_utf8_lossy(&rig.out).replace('\0', "^@");
            let outcome = outcome(&text, &rig.effects);
            table += &format!("{phase} | {input} | {outcome}\n");
        }
    }
    assert_eq!(table, include_str!("table.txt"));
}
