//! How a pair comes up.

use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::{load, test_name};

fn pair_forms(test: &str, first: Role) {
    let mut pair = Pair::new(test);
    pair.server(first).start_and_await();
    pair.server(first.other()).start_and_await();
    pair.await_in_sync();
    let client = load(&pair);
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn the_pair_forms_when_the_primary_starts_first() {
    pair_forms(test_name!(), Role::Primary);
}

#[test]
fn the_pair_forms_when_the_secondary_starts_first() {
    pair_forms(test_name!(), Role::Secondary);
}

#[test]
fn a_new_secondary_alone_does_not_serve_before_it_has_met_its_primary() {
    let mut pair = Pair::new(test_name!());
    pair.secondary.start();
    let status = pair
        .secondary
        .await_status("it says why it waits", |status| {
            status
                .claims
                .as_ref()
                .is_some_and(|claims| claims.reason.is_some())
        });
    assert_eq!(status.state, "WAITING");
    assert!(!status.serving);
}

#[test]
fn both_servers_stopped_in_order_come_back_with_everything() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    for role in [pair.active().other(), pair.active()] {
        assert!(pair.server(role).terminate().success(), "{}", role.name());
    }
    pair.primary.start();
    pair.secondary.start();
    pair.await_in_sync();
    client.await_confirmed(50);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}
