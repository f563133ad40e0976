"""Several kinds of load at once for the soak, each an activity of a few lines on connections of its own.

stomp.py is used as it comes; every connection follows the host list for ever, in a new connection object
each time (see docs/clients.md). What an activity sends has a number of its own, and what arrives is told
with it; the Rust side keeps the ledger. Commands come on standard input: `stop` (producers end; what is
there is still received), `quit`. Facts go to standard output, one JSON object a line:

    {"activity": "plain", "event": "confirmed", "number": 0}
    {"activity": "plain", "event": "received", "number": 0, "message_id": "..", "redelivered": false}
    {"activity": "plain", "event": "idle"}          its producer has ended, nothing is unknown any more
    {"activity": "plain", "event": "error", "message": ".."}
    {"event": "connected", "host": ".."}, {"event": "lost", "message": ".."}     of any connection

To add an activity: a function of (name, soak), and its place in ACTIVITIES.
"""

import os
import random
import sys
import threading
import time

import lives
from lives import addresses

WINDOW = 50


def emit(activity, event, **facts):
    lives.emit(event, activity=activity, **facts)


class Life(lives.Life):
    def __init__(self, link, hosts):
        super().__init__(hosts)
        self.link = link
        self.headers = link.headers
        link.life = self

    def begin(self):
        super().begin()
        self.link.subscribe(self.connection)
        self.link.on_new()

    def on_error(self, frame):
        message = frame.headers.get("message", "") + " " + str(frame.body)
        # The server may learn of a connection's end after its successor has come: it comes again.
        if "consumer already" not in message:
            emit(self.link.name, "error", message=message)

    def on_receipt(self, frame):
        if self.link.life is self:
            self.link.on_receipt(frame.headers["receipt-id"])

    def on_message(self, frame):
        if self.link.life is self:
            try:
                self.link.on_message(frame)
            except Exception:  # the connection is gone: it comes again
                pass


class Link:
    """A connection for ever. `subscribe` is called on each new one."""

    def __init__(self, name, soak, subscribe=lambda connection: None, client_id=None):
        self.name = name
        self.headers = {"client-id": client_id} if client_id else {}
        self.hosts = list(soak.hosts)
        self.subscribe = subscribe
        self.on_message = lambda frame: None
        self.on_receipt = lambda receipt: None
        self.on_new = lambda: None
        self.life = None
        self.using = threading.RLock()
        self.alive = True

    def start(self):
        self.connect()
        threading.Thread(target=self.stay, daemon=True).start()
        return self

    @property
    def connection(self):
        return self.life.connection

    def connect(self):
        make, wanted = lambda hosts: Life(self, hosts), lambda: self.alive
        self.hosts = lives.live(self.hosts, make, wanted)

    def stay(self):
        while self.alive:
            if not self.connection.is_connected():
                with self.using:
                    self.life.give_up()
                    self.connect()
            time.sleep(0.05)


class Producer:
    """Sends numbered units, each confirmed by the receipt of its number, at a pace and in a window.
    `send(connection, unit)` sends one, `numbers(unit)` are those of its messages that must arrive; `again`:
    what is unknown after a new connection is sent once more."""

    def __init__(self, name, soak, send, numbers=lambda unit: [unit], again=False):
        self.name, self.soak, self.send, self.again = name, soak, send, again
        self.numbers = numbers
        self.unknown = set()
        self.room = threading.Condition()
        self.link = Link(name, soak)
        self.link.on_receipt = self.confirmed
        self.link.on_new = self.renewed
        threading.Thread(target=self.run, daemon=True).start()

    def confirmed(self, receipt):
        with self.room:
            known = int(receipt) in self.unknown
            self.unknown.discard(int(receipt))
            self.room.notify_all()
        for number in self.numbers(int(receipt)) if known else []:
            emit(self.name, "confirmed", number=number)

    def renewed(self):
        with self.room:
            units = sorted(self.unknown)
            if not self.again:
                self.unknown.clear()
        if self.again:
            for unit in units:
                self.send(self.link.connection, unit)

    def run(self):
        self.link.start()
        unit = 0
        while not self.soak.stopping.wait(1.0 / self.soak.rate):
            with self.room:
                while len(self.unknown) >= WINDOW and not self.soak.stopping.is_set():
                    self.room.wait(0.1)
            with self.link.using:
                try:
                    with self.room:
                        self.unknown.add(unit)
                    self.send(self.link.connection, unit)
                except Exception:  # unknown, like everything without an answer
                    pass
            unit += 1
        with self.room:
            while self.unknown:
                self.room.wait(0.1)
        emit(self.name, "idle")


def received(name, frame):
    emit(
        name,
        "received",
        number=int(frame.body.split(" ", 1)[0]),
        message_id=frame.headers["message-id"],
        redelivered=frame.headers.get("redelivered") == "true",
    )


def body(number):
    return f"{number} ".ljust(random.randint(100, 2000), ".")


def to(queue, headers=lambda number: {}):
    def send(connection, number):
        connection.send(queue, body(number), receipt=str(number), headers=headers(number))

    return send


def even(number):
    return [] if number % 2 else [number]


def consumer(name, soak, queue, take, **headers):
    """`take(link, frame)` settles a message and tells of it."""

    def subscribe(connection):
        headers.setdefault("prefetch-count", "20")
        connection.subscribe(queue, id="1", ack="client-individual", headers=headers)

    link = Link(name, soak, subscribe)
    link.on_message = lambda frame: take(link, frame)
    threading.Thread(target=link.start, daemon=True).start()


def subscriber(name, soak, topic, take, client_id=None, **headers):
    """A consumer of a durable subscription, which is there when this ends."""
    there = threading.Event()
    headers = {"durable": "true", "subscription-name": name, "prefetch-count": "20", **headers}

    def subscribe(connection):
        ack = "client-individual"
        connection.subscribe(topic, id="1", ack=ack, headers=headers, receipt="subscribed")

    link = Link(name, soak, subscribe, client_id)
    link.on_message = lambda frame: take(link, frame)
    link.on_receipt = lambda receipt: there.set()
    threading.Thread(target=link.start, daemon=True).start()
    there.wait()


def accept(name):
    def take(link, frame):
        received(name, frame)
        link.connection.ack(frame.headers["ack"])

    return take


# The activities


def plain(name, soak):
    Producer(name, soak, to("/queue/soak.plain"))
    for _ in range(2):
        consumer(name, soak, "/queue/soak.plain", accept(name))


def priorities(name, soak):
    Producer(name, soak, to("/queue/soak.priorities", lambda n: {"priority": str(n % 10)}))
    consumer(name, soak, "/queue/soak.priorities", accept(name))


def ids(name, soak):
    """Everything unknown is sent again with its id: it must not arrive under two message-ids."""
    queue = "/queue/soak.ids"
    Producer(name, soak, to(queue, lambda n: {"_AMQ_DUPL_ID": f"soak-{n}"}), again=True)
    consumer(name, soak, queue, accept(name))


def refusals(name, soak):
    """Every tenth message is refused until it comes again."""

    def take(link, frame):
        again = frame.headers.get("redelivered") == "true"
        if not again and random.random() < 0.1:
            link.connection.nack(frame.headers["ack"])
        else:
            received(name, frame)
            link.connection.ack(frame.headers["ack"])

    Producer(name, soak, to("/queue/soak.refusals"))
    consumer(name, soak, "/queue/soak.refusals", take)


def transactions(name, soak):
    """Three messages to two queues in one transaction; each is taken out in a transaction of its own."""
    queues = ["/queue/soak.left", "/queue/soak.right"]

    def numbers(unit):
        return [unit * 3 + index for index in range(3)]

    def send(connection, unit):
        work = f"send-{unit}"
        connection.begin(transaction=work)
        for number in numbers(unit):
            connection.send(queues[number % 2], body(number), transaction=work)
        connection.commit(transaction=work, receipt=str(unit))

    def take(link, frame):
        work = frame.headers["message-id"]
        link.connection.begin(transaction=work)
        link.connection.ack(frame.headers["ack"], transaction=work)
        if random.random() < 0.05 and frame.headers.get("redelivered") != "true":
            link.connection.abort(transaction=work)
            link.connection.nack(frame.headers["ack"])
            return
        received(name, frame)
        link.connection.commit(transaction=work)

    Producer(name, soak, send, numbers)
    for queue in queues:
        consumer(name, soak, queue, take)


def backlog(name, soak):
    """A consumer that comes and goes, so that messages wait in the store."""
    queue = "/queue/soak.backlog"
    Producer(name, soak, to(queue))

    def comings():
        while True:
            soak.stopping.wait(random.uniform(2, 15))
            link = Link(name, soak, lambda c: c.subscribe(queue, id="1", ack="client-individual"))
            link.on_message = lambda frame, link=link: accept(name)(link, frame)
            link.start()
            if soak.stopping.is_set():
                return
            soak.stopping.wait(random.uniform(1, 5))
            if soak.stopping.is_set():
                return
            link.alive = False
            link.life.give_up()

    threading.Thread(target=comings, daemon=True).start()


def durable(name, soak):
    subscriber(name, soak, "/topic/soak.durable.>", accept(name), client_id=name)

    def send(connection, number):
        to(f"/topic/soak.durable.{number % 7}")(connection, number)

    Producer(name, soak, send)


def shared(name, soak):
    """One subscription with several consumers."""
    for _ in range(3):
        subscriber(name, soak, "/topic/soak.shared", accept(name), shared="true")
    Producer(name, soak, to("/topic/soak.shared"))


def selected(name, soak):
    """Of two colours the subscription wants one."""
    colours = ["red", "blue"]

    def take(link, frame):
        if frame.headers["colour"] != "red":
            emit(name, "error", message=f"not selected: {frame.headers}")
        accept(name)(link, frame)

    topic, selector = "/topic/soak.selected", "colour = 'red' AND weight >= 0"
    headers = lambda n: {"colour": colours[n % 2], "weight": str(n)}
    subscriber(name, soak, topic, take, client_id=name, selector=selector)
    Producer(name, soak, to(topic, headers), even)


def delayed(name, soak):
    queue = "/queue/soak.delayed"
    delay = lambda n: {"AMQ_SCHEDULED_DELAY": str(random.randint(200, 3000))}
    Producer(name, soak, to(queue, delay))
    consumer(name, soak, queue, accept(name))


def expiring(name, soak):
    """Some live for long and must arrive; the others wait for nobody and go by themselves."""
    lasting, fleeting = "/queue/soak.lasting", "/queue/soak.fleeting"

    def expires(milliseconds):
        return lambda n: {"expires": str(int(time.time() * 1000) + milliseconds)}

    def send(connection, number):
        if number % 2:
            to(fleeting, expires(random.randint(10, 2000)))(connection, number)
        else:
            to(lasting, expires(3_600_000))(connection, number)

    Producer(name, soak, send, even)
    consumer(name, soak, lasting, accept(name))


def picked(name, soak):
    """Consumers of one queue, each with a selector: together they take everything."""
    queue, colours = "/queue/soak.picked", ["red", "green", "blue"]
    Producer(name, soak, to(queue, lambda n: {"colour": colours[n % 3], "weight": str(n % 10)}))
    for selector in ["colour = 'red'", "colour <> 'red' AND weight < 5", "colour <> 'red' AND weight >= 5"]:
        consumer(name, soak, queue, accept(name), selector=selector)


def large(name, soak):
    """Bodies in parts, one in a second."""
    queue = "/queue/soak.large"

    def send(connection, number):
        if number % int(soak.rate) == 0:
            text = body(number).ljust(random.randint(70_000, 3_000_000), ".")
            connection.send(queue, text, receipt=str(number))
        else:
            connection.send(queue, body(number), receipt=str(number))

    Producer(name, soak, send)
    consumer(name, soak, queue, accept(name))


def passing(name, soak):
    """Every other message is in memory alone and may be lost with the server."""
    queue = "/queue/soak.passing"
    Producer(name, soak, to(queue, lambda n: {"persistent": str(not n % 2).lower()}), even)
    consumer(name, soak, queue, accept(name))


ACTIVITIES = {
    "plain": plain,
    "priorities": priorities,
    "ids": ids,
    "refusals": refusals,
    "transactions": transactions,
    "backlog": backlog,
    "durable": durable,
    "shared": shared,
    "selected": selected,
    "delayed": delayed,
    "expiring": expiring,
    "picked": picked,
    "large": large,
    "passing": passing,
}


class Soak:
    def __init__(self, hosts, rate):
        self.hosts = addresses(hosts)
        self.rate = rate
        self.stopping = threading.Event()


def main():
    soak = Soak(sys.argv[1], float(sys.argv[2]))
    for name in sys.argv[3:] or ACTIVITIES:
        ACTIVITIES[name](name, soak)
    for line in sys.stdin:
        if line.strip() == "stop":
            soak.stopping.set()
        elif line.strip() == "quit":
            break
    os._exit(0)


if __name__ == "__main__":
    main()
