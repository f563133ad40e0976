//! What it costs to find out who wants a message: selectors and the router of topics.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use twinmq::machines::selector::{Dialect, Selector};
use twinmq::machines::topics::{TopicName, TopicPattern, TopicRouter};
use twinmq::proto::message::{Envelope, Message, MessageWriter, Properties};

/// A message with ten headers, of which selectors name the last ones.
fn message() -> bytes::Bytes {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 1024);
    for number in 0..7 {
        writer.header(&format!("header-{number}"), "some value");
    }
    writer.header("region", "emea-north");
    writer.header("age", "42");
    writer.header("color", "red");
    writer.finish(&[b'x'; 1024]).expect("within the limit")
}

fn selectors(criterion: &mut Criterion) {
    let bytes = message();
    let mut group = criterion.benchmark_group("selector");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("equal", "color = 'red'"),
        ("number", "age > 40"),
        ("like", "region LIKE 'emea-%th'"),
        (
            "five",
            "color IN ('blue', 'red') AND age BETWEEN 18 AND 65 AND region NOT LIKE 'apac%' \
             AND gone IS NULL AND (JMSPriority >= 4 OR age * 2 = 1)",
        ),
    ] {
        let selector = Selector::parse(text, Dialect::TextIsNumeric).expect("a selector");
        assert!(selector.matches_bytes(&bytes));
        group.bench_function(format!("{name}, read and judge"), |bencher| {
            bencher.iter(|| selector.matches_bytes(black_box(&bytes)));
        });
        let message = Message::read(&bytes).expect("just written");
        group.bench_function(format!("{name}, judge"), |bencher| {
            bencher.iter(|| selector.matches(black_box(&message)));
        });
        group.bench_function(format!("{name}, compile"), |bencher| {
            bencher.iter(|| Selector::parse(black_box(text), Dialect::Strict));
        });
    }
    group.finish();
}

const SUBSCRIPTIONS: u32 = 100_000;

/// As many subscriptions, most of them to one name of their own, some with wildcards.
fn patterns() -> Vec<TopicPattern> {
    let text = |number: u32| match number {
        0..10 => "orders.>".to_owned(),
        10..20 => "orders.*.new".to_owned(),
        20..1000 => format!("orders.{number}.*"),
        _ => format!("orders.{number}.new"),
    };
    (0..SUBSCRIPTIONS)
        .map(|number| TopicPattern::parse(&text(number)).expect("a pattern"))
        .collect()
}

fn topics(criterion: &mut Criterion) {
    let patterns = patterns();
    let mut router = TopicRouter::new();
    for (pattern, key) in patterns.iter().zip(0..) {
        router.insert(pattern, key);
    }
    let mut group = criterion.benchmark_group("topics, 100,000 subscriptions");
    for (name, topic, found) in [
        ("publish to 21", "orders.50000.new", 21),
        ("publish to 10", "orders.50000.old", 10),
        ("publish to nobody", "invoices.50000.new", 0),
    ] {
        let topic = TopicName::parse(topic).expect("a name");
        let mut keys = Vec::new();
        router.matching(topic, &mut keys);
        assert_eq!(keys.len(), found);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                router.matching(black_box(topic), &mut keys);
                keys.len()
            });
        });
    }
    let pattern = TopicPattern::parse("orders.50001.more.*").expect("a pattern");
    group.bench_function("subscribe and unsubscribe", |bencher| {
        bencher.iter(|| {
            router.insert(black_box(&pattern), SUBSCRIPTIONS);
            router.remove(black_box(&pattern), SUBSCRIPTIONS)
        });
    });
    group.sample_size(10);
    group.bench_function("subscribe all", |bencher| {
        bencher.iter_batched(
            TopicRouter::new,
            |mut router| {
                for (pattern, key) in patterns.iter().zip(0..SUBSCRIPTIONS) {
                    router.insert(pattern, key);
                }
                router
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, selectors, topics);
criterion_main!(benches);
