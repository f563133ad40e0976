//! `[[destination]]` tables.

use std::time::Duration;

use super::{Scratch, refused};
use crate::config::{Config, OnFull, Origin, load, reload};

const TWO: &str = "[[destination]]\nmatch = '>'\nredelivery_limit = 6\n\n\
                   [[destination]]\nmatch = 'orders.>'\nmax_messages = 10\nmax_mib = 2\n\
                   on_full = 'block'\ndead_letter = 'none'\nredelivery_delay_ms = 500\n";

fn patterns(config: &Config) -> Vec<String> {
    let tables = config.destinations.iter();
    tables.map(|table| table.pattern.to_string()).collect()
}

#[test]
fn tables_are_read_with_defaults_for_what_they_do_not_say() {
    let config = Scratch::new(TWO).load().unwrap().config;
    assert_eq!(patterns(&config), [">", "orders.>"]);
    let (all, orders) = (&config.destinations[0], &config.destinations[1]);
    assert_eq!(all.redelivery_limit, Some(6));
    assert_eq!(all.dead_letter.as_deref(), Some("DMQ"));
    assert_eq!(all.max_messages, None);
    assert_eq!(all.on_full, OnFull::Reject);
    // Tables are not mixed.
    assert_eq!(orders.redelivery_limit, None);
    assert_eq!(orders.dead_letter, None);
    assert_eq!(orders.max_messages, Some(10));
    assert_eq!(orders.max_bytes, Some(2 << 20));
    assert_eq!(orders.on_full, OnFull::Block);
    assert_eq!(orders.redelivery_delay, Duration::from_millis(500));
    assert!(!orders.expired_to_dead_letter && !orders.both_copies);
}

#[test]
fn the_command_line_sets_keys_of_tables_and_makes_tables() {
    let scratch = Scratch::new(TWO);
    let mut source = scratch.source();
    source.set = vec![
        "destination.orders.>.max_messages=20".to_owned(),
        "destination./queue/new.max_mib=1".to_owned(),
    ];
    let loaded = load(&source).unwrap();
    let config = &loaded.config;
    assert_eq!(patterns(config), [">", "orders.>", "/queue/new"]);
    assert_eq!(config.destinations[1].max_messages, Some(20));
    assert_eq!(config.destinations[1].max_bytes, Some(2 << 20));
    assert_eq!(config.destinations[2].max_bytes, Some(1 << 20));
    let origin = |leaf: &str| {
        let mut values = loaded.tables[1].values.iter();
        let found = values.find(|one| one.key.leaf() == leaf).unwrap();
        found.origin.clone()
    };
    let line = |line| Origin::Profile {
        name: scratch.path(),
        line,
    };
    assert_eq!(origin("match"), line(5));
    assert_eq!(origin("max_mib"), line(8));
    assert_eq!(
        origin("max_messages"),
        Origin::CommandLine("--set destination.orders.>.max_messages=20".to_owned())
    );
}

#[test]
fn every_mistake_in_a_table_is_told_with_its_place() {
    for (text, said) in [
        (
            "[[destination]]\nmatch = 'a'\nmax_mesages = 1",
            "P:3: unknown key destination.max_mesages, did you mean destination.max_messages?",
        ),
        (
            "[[destination]]\nmatch = 'a.>.b'",
            "P:2: destination.match = \"a.>.b\": must be a pattern such as \"orders.>\" or \
             \"/topic/news.*\"",
        ),
        (
            "\n[[destination]]\nmax_messages = 1",
            "P:2: destination.match is not set: a [[destination]] table says for which names it is, \
             such as match = \"orders.>\"",
        ),
        (
            "[[destination]]\nmatch = 'a'\n[[destination]]\nmatch = 'a'",
            "P:3: destination.match = \"a\": is given twice; the first is at P:1",
        ),
        (
            "[[destination]]\nmatch = 'a'\non_full = 'explode'",
            "P:3: destination.on_full = \"explode\": must be one of \"block\", \"reject\", \
             \"drop_oldest\", \"dead_letter\"",
        ),
        (
            "[[destination]]\nmatch = 'a'\ndead_letter = '/queue/x'",
            "P:3: destination.dead_letter = \"/queue/x\": must be the name of a queue, without \
             /queue/ and wildcards, or \"none\"",
        ),
        (
            "[[destination]]\nmatch = 'a'\ndead_letter = 'none'\non_full = 'dead_letter'",
            "P:4: destination.on_full = \"dead_letter\": needs a dead_letter queue",
        ),
        (
            "[[destination]]\nmatch = 'a'\ndead_letter = 'none'\nexpired_to_dead_letter = true",
            "P:4: destination.expired_to_dead_letter = true: needs a dead_letter queue",
        ),
        (
            "[[destination]]\nmatch = 'a'\ncopies = 2",
            "P:3: destination.copies = 2: a server in standalone mode never has two copies, and would \
             refuse every send: say copies = 1, or use a replicated pair",
        ),
        (
            "destination = 3",
            "P:1: destination = 3: is written as tables: [[destination]], each with its match",
        ),
    ] {
        assert_eq!(refused(text), said, "{text}");
    }
    let scratch = Scratch::new("");
    let mut source = scratch.source();
    source.set = vec![
        "destination.max_messages=1".to_owned(),
        "destination.a.max=1".to_owned(),
        "destination.a>.max_mib=1".to_owned(),
    ];
    let said = scratch.explain(load(&source)).unwrap_err();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].ends_with(
            "unknown key destination.max_messages, did you mean destination.PATTERN.max_messages?"
        ),
        "{said}"
    );
    assert!(lines[1].contains("unknown key destination.max"), "{said}");
    assert!(lines[2].contains("the wildcard at byte 1"), "{said}");
}

#[test]
fn a_reload_takes_tables_and_says_what_changed_in_them() {
    let scratch = Scratch::new(TWO);
    let old = load(&scratch.source()).unwrap();
    scratch.write(
        "[[destination]]\nmatch = 'orders.>'\nmax_messages = 11\nmax_mib = 2\non_full = 'block'\n\
         dead_letter = 'none'\nredelivery_delay_ms = 500\n[[destination]]\nmatch = 'new'\n",
    );
    let plan = reload(&old, &scratch.source()).unwrap();
    assert_eq!(
        plan.to_string().replace(&scratch.path(), "P"),
        "changed: destination orders.>: destination.max_messages: 10 -> 11 (P:3)\n\
         changed: destination new: added (P:8)\n\
         changed: destination >: removed"
    );
    assert_eq!(patterns(&plan.loaded.config), ["orders.>", "new"]);
    assert!(reload(&plan.loaded, &scratch.source()).unwrap().is_empty());
}
