use super::*;
use crate::cli::toy_server::{Faults, ToyServer};

const QUIET: Duration = Duration::from_secs(2);

fn plan(server: &ToyServer, count: u64) -> LoadPlan {
    LoadPlan {
        hosts: server.address.to_string(),
        options: StompOptions::default(),
        destinations: vec!["/queue/a".to_owned(), "/queue/b".to_owned()],
        producers: 3,
        consumers: 2,
        window: 10,
        body_bytes: 64,
        count: Some(count),
        rate: None,
        patience: Duration::from_secs(10),
        silence: None,
    }
}

fn run(faults: Faults, count: u64) -> LoadOutcome {
    let server = ToyServer::start(faults);
    Load::start(plan(&server, count))
        .unwrap()
        .finish(QUIET, &|| false)
}

#[test]
fn every_message_is_confirmed_delivered_once_and_counted_where_it_belongs() {
    let outcome = run(Faults::default(), 100);
    assert!(outcome.holds(), "{outcome:?}");
    assert_eq!(outcome.ledger.confirmed, 100);
    assert_eq!(outcome.ledger.delivered_once, 100);
    let each: Vec<u64> = outcome.destinations.iter().map(|d| d.confirmed).collect();
    assert_eq!(each.iter().sum::<u64>(), 100);
    assert!(each.iter().all(|count| *count > 0));
    assert_eq!(outcome.all.received, 100);
    assert_eq!(outcome.reconnects, 0);
}

#[test]
fn a_server_that_confirms_and_forgets_is_found_out() {
    let outcome = run(
        Faults {
            lose_every: 10,
            ..Faults::default()
        },
        50,
    );
    assert_eq!(outcome.ledger.lost, 5);
    assert!(!outcome.holds());
}

#[test]
fn clients_come_back_after_a_cut_and_nothing_is_lost() {
    let outcome = run(
        Faults {
            cut_every: 30,
            ..Faults::default()
        },
        100,
    );
    assert!(outcome.holds(), "{outcome:?}");
    assert!(outcome.reconnects > 0);
    assert_eq!(outcome.ledger.attempted, 100);
}

#[test]
fn a_server_that_forgets_the_redelivered_flag_is_found_out() {
    // Whether a message is under way at a cut is chance, so cut often.
    let outcome = run(
        Faults {
            cut_every: 7,
            forget_flag: true,
            ..Faults::default()
        },
        400,
    );
    assert!(outcome.ledger.duplicated > 0, "{outcome:?}");
    assert!(!outcome.holds());
}

#[test]
fn load_without_a_count_runs_until_it_is_told_to_stop_and_shows_when_it_was_cut() {
    let server = ToyServer::start(Faults {
        cut_every: 100,
        ..Faults::default()
    });
    let mut endless = plan(&server, 0);
    endless.count = None;
    endless.rate = Some(1000);
    let load = Load::start(endless).unwrap();
    let began = SystemClock.now();
    while !load.all_served_anew_since(began) || load.progress().received < 50 {
        assert_eq!(load.failure(), None);
        thread::yield_now();
    }
    assert!(!load.all_served_anew_since(SystemClock.now()));
    assert!(load.longest_gap() > Duration::ZERO);
    load.watch_gaps();
    let seen = load.progress().confirmed;
    while load.progress().confirmed < seen + 20 {
        thread::yield_now();
    }
    assert!(load.longest_gap() > Duration::ZERO);
    load.stop_sending();
    let outcome = load.finish(QUIET, &|| false);
    assert!(outcome.holds(), "{outcome:?}");
}

#[test]
fn a_plan_without_producers_is_refused() {
    let server = ToyServer::start(Faults::default());
    let mut nothing = plan(&server, 1);
    nothing.producers = 0;
    let error = Load::start(nothing).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the number of producers must be at least 1"
    );
}
