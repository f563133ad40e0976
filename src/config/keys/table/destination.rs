//! Keys of a `[[destination]]` table.

use super::{count, key, mib, ms};
use crate::config::keys::{Kind, Section};

pub(in crate::config::keys) const DESTINATION: Section = Section {
    path: "destination",
    meaning: "How destinations behave, by their names: any number of tables [[destination]]. For each \
              destination one table decides, the most specific whose match fits its name, whatever \
              their order (compared level by level from the left, a name before *, * before >; then \
              one with /queue/ or /topic/ before one without). For a subscription the table decides that fits what it \
              is subscribed to. Tables are not mixed: a key that the \
              deciding table does not set has its default, as it has without any table.",
    keys: &[
        key(
            "destination.match",
            Kind::Pattern,
            "",
            "Names with levels between dots: * stands for any one level, > at the end for one or more. \
             With /queue/ or /topic/ before it, for that kind only. Temporary queues are never meant.",
            "mandatory; each pattern once",
        )
        .on_reload(),
        key(
            "destination.redelivery_limit",
            count(-1, 1_000_000),
            "-1",
            "How often a message that was not acknowledged (NACK, a lost client, a rollback) is delivered \
             again before it goes to dead_letter. -1: for ever, so that no client's failure moves a \
             message away unasked. (ActiveMQ's clients give up after 6.)",
            "",
        )
        .on_reload(),
        key(
            "destination.redelivery_delay_ms",
            ms(0, 86_400_000),
            "0",
            "How long such a message waits before it is delivered again.",
            "",
        )
        .on_reload(),
        key(
            "destination.dead_letter",
            Kind::QueueName,
            "DMQ",
            "The queue for messages that were delivered too often. \"none\": they are gone.",
            "",
        )
        .on_reload(),
        key(
            "destination.expired_to_dead_letter",
            Kind::Bool,
            "false",
            "Messages whose time to live is over go to dead_letter too. false: they are gone.",
            "needs dead_letter",
        )
        .on_reload(),
        key(
            "destination.max_messages",
            count(0, 1_000_000_000_000),
            "0",
            "Messages that the destination owes at most; for a topic, each of its subscriptions. 0: no bound of \
             its own.",
            "",
        )
        .on_reload(),
        key(
            "destination.max_mib",
            mib(0, 524_288),
            "0",
            "The same in MiB. One message may go over it. Those that are acknowledged out of turn count as the \
             average of their neighbours. 0: no bound of its own.",
            "",
        )
        .on_reload(),
        key(
            "destination.on_full",
            Kind::Choice(&["block", "reject", "drop_oldest", "dead_letter"]),
            "reject",
            "What a send meets at either bound. block: it waits, up to limits.block_timeout_ms. reject: it \
             gets an ERROR. drop_oldest: the oldest message that no consumer holds goes. dead_letter: that \
             one goes to dead_letter. What the server itself brings to a dead message queue is taken at any \
             bound.",
            "dead_letter needs dead_letter",
        )
        .on_reload(),
        key(
            "destination.copies",
            count(1, 2),
            "1",
            "2: a send is confirmed only when it is on the disks of both servers, and refused while one \
             serves alone: no single disk ever holds the only copy of a confirmed message. 1: a server \
             that is alone confirms alone.",
            "2 in replicated mode only",
        )
        .on_reload(),
    ],
};
