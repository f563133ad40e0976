"""Short scenes of stomp.py clients, one for each rule of delivery; prints what they saw in one line.

    stomp_scenes.py SCENE HOST:PORT[,HOST:PORT]
"""

import queue
import sys
import time

import stomp

PATIENCE = 30  # seconds for whatever must come


class Client(stomp.ConnectionListener):
    def __init__(self, hosts):
        self.frames = queue.Queue()
        self.receipts = queue.Queue()
        self.number = 0
        self.connection = stomp.Connection12(
            hosts, reconnect_attempts_max=-1, reconnect_sleep_initial=0.05, timeout=0.5
        )
        self.connection.set_listener("scene", self)
        self.connection.connect(wait=True)

    def on_message(self, frame):
        self.frames.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        raise SystemExit(f"ERROR {frame.headers} {frame.body}")

    def send(self, body, name="q", **headers):
        self.number += 1
        self.connection.send(f"/queue/{name}", body, headers={"receipt": str(self.number), **headers})
        self.receipts.get(timeout=PATIENCE)

    def subscribe(self, name="q", **headers):
        self.connection.subscribe(
            f"/queue/{name}", id="1", ack="client-individual", headers={"receipt": "sub", **headers}
        )
        self.receipts.get(timeout=PATIENCE)

    def take(self, ack=True):
        frame = self.frames.get(timeout=PATIENCE)
        if ack:
            self.connection.ack(frame.headers["ack"])
        return frame

    def nack(self, frame):
        self.connection.nack(frame.headers["ack"])

    def end(self):
        self.connection.disconnect(receipt="bye")
        self.receipts.get(timeout=PATIENCE)


def shown(frame):
    return f"{frame.headers.get('redelivered')}/{frame.headers.get('JMSXDeliveryCount')}"


def priority(hosts):
    client = Client(hosts)
    for body in ["0a", "4a", "9a", "4b", "9b", "0b", "4c"]:
        client.send(body, priority=body[0])
    client.subscribe(**{"prefetch-count": "1"})
    return " ".join(client.take().body for _ in range(7))


def expire(hosts):
    client = Client(hosts)
    past = int(time.time() * 1000) - 1
    soon = int(time.time() * 1000) + 1000
    client.send("gone", expires=str(past))
    client.send("going", name="unwatched", expires=str(soon))
    client.send("stays")
    client.subscribe()
    got = client.take().body
    client.end()
    return got


def groups(hosts):
    first, second, sender = Client(hosts), Client(hosts), Client(hosts)
    second.frames = first.frames  # in one queue; the socket says whose a frame is
    for client in (first, second):
        client.on_message = lambda frame, client=client: first.frames.put((client, frame))
        client.subscribe()
    for number in range(60):
        sender.send(str(number), JMSXGroupID=f"g{number % 6}")
    owner, seen = {}, {}
    for _ in range(60):
        client, frame = first.frames.get(timeout=PATIENCE)
        group = frame.headers["JMSXGroupID"]
        assert owner.setdefault(group, client) is client, f"{group} has two owners"
        seen.setdefault(group, []).append(int(frame.body))
    assert all(numbers == sorted(numbers) for numbers in seen.values()), seen
    assert len(set(map(id, owner.values()))) == 2, "one consumer got every group"
    return "sticky"


def exclusive(hosts):
    first, second, sender = Client(hosts), Client(hosts), Client(hosts)
    first.subscribe(exclusive="true")
    second.subscribe(**{"activemq.exclusive": "true"})
    for number in (1, 2, 3):
        sender.send(str(number))
    one = ",".join(first.take().body for _ in range(3))
    first.end()
    for number in (4, 5, 6):
        sender.send(str(number))
    other = ",".join(second.take().body for _ in range(3))
    return f"first:{one} second:{other}"


def refuse(hosts):
    client = Client(hosts)
    client.send("poison")
    client.subscribe()
    seen = []
    for _ in range(3):
        frame = client.take(ack=False)
        seen.append(shown(frame))
        client.nack(frame)
    seen.append(shown(client.take()))
    return " ".join(seen)


def before_kill(hosts):
    client = Client(hosts)
    client.send("refused", name="refused")
    client.subscribe("refused")
    client.nack(client.take(ack=False))
    client.take(ack=False)
    client.send(str(int(time.time() * 1000) + 8000), name="delayed", AMQ_SCHEDULED_DELAY="8000")
    client.send("memory", name="kept", persistent="false")
    client.send("disk", name="kept")
    return "sent"


def after_kill(hosts):
    client = Client(hosts)
    client.subscribe("refused")
    # The count is what was committed; the flag is the failover's.
    refused = shown(client.take())
    other = Client(hosts)
    other.subscribe("kept")
    frame = other.take()
    assert frame.body == "disk", frame.body
    kept = shown(frame)
    last = Client(hosts)
    last.subscribe("delayed")
    frame = last.take()
    early = int(frame.body) - int(time.time() * 1000)
    return f"refused:{refused} kept:{kept} delayed:{'in-time' if early < 100 else early}"


def main():
    hosts = [(host, int(port)) for host, port in (one.rsplit(":", 1) for one in sys.argv[2].split(","))]
    print({
        "priority": priority,
        "expire": expire,
        "groups": groups,
        "exclusive": exclusive,
        "refuse": refuse,
        "before-kill": before_kill,
        "after-kill": after_kill,
    }[sys.argv[1]](hosts), flush=True)


main()
