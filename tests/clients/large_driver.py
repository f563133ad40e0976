"""A stomp.py client for the tests of large messages: does what it is told, line by line.

stomp.py is used as it comes; the client follows the host list for ever, in a new connection object each
time (see docs/clients.md). Commands come on standard input, words apart by one space:

    send QUEUE NAME BYTES [TX]   a body of so many bytes that NAME determines, with the receipt NAME; sent
                                 again on each new connection until the receipt has come
    begin TX | commit TX | abort TX     each with a receipt: `begin TX` and so on
    subscribe QUEUE              client-individual, prefetch 2; each message is acknowledged
    browse QUEUE
    quit

Facts go to standard output, one JSON object a line: connected, sending, receipt, received (with `whole`:
the body is what its name says), browsed, error.
"""

import hashlib
import json
import os
import sys
import threading
import time

import stomp

WRITING = threading.Lock()
CONNECT_SECONDS = 2


def emit(event, **facts):
    line = json.dumps({"event": event, **facts}) + "\n"
    with WRITING:
        sys.stdout.write(line)
        sys.stdout.flush()


def body_of(name, size):
    block = hashlib.shake_256(name.encode()).digest(65536)
    return (block * (size // len(block) + 1))[:size]


class Life(stomp.ConnectionListener):
    """One connection."""

    def __init__(self, client, hosts):
        self.client = client
        self.connected = threading.Event()
        self.connection = stomp.Connection12(
            hosts,
            auto_decode=False,
            reconnect_sleep_initial=0.05,
            reconnect_sleep_increase=0.0,
            reconnect_attempts_max=-1,
            timeout=CONNECT_SECONDS,
        )
        self.connection.set_listener("large", self)

    def begin(self):
        self.connection.connect(wait=False)
        if not self.connected.wait(CONNECT_SECONDS):
            raise TimeoutError("no CONNECTED")
        for queue, headers, ack in self.client.queues:
            self.connection.subscribe(queue, id=queue, ack=ack, headers=headers)
        for queue, name, size in list(self.client.unconfirmed):
            self.send(queue, name, size)

    def send(self, queue, name, size, transaction=None):
        emit("sending", name=name)
        headers = {"name": name, "receipt": name}
        if transaction:
            headers["transaction"] = transaction
        self.connection.send(queue, body_of(name, size), headers=headers)

    def give_up(self):
        try:
            self.connection.transport.stop()
            self.connection.transport.disconnect_socket()
        except Exception:
            pass

    def on_connected(self, frame):
        emit("connected", host="%s:%d" % self.connection.transport.current_host_and_port)
        self.connected.set()

    def on_error(self, frame):
        body = frame.body
        detail = body.decode() if isinstance(body, bytes) else body
        emit("error", message=frame.headers.get("message"), detail=detail)

    def on_receipt(self, frame):
        name = frame.headers["receipt-id"]
        self.client.unconfirmed = [one for one in self.client.unconfirmed if one[1] != name]
        emit("receipt", id=name)

    def on_message(self, frame):
        headers = frame.headers
        if headers.get("browser") == "end":
            emit("browsed")
            return
        body = frame.body if isinstance(frame.body, bytes) else frame.body.encode()
        name = headers["name"]
        emit(
            "received",
            name=name,
            bytes=len(body),
            whole=body == body_of(name, len(body)),
            redelivered=headers.get("redelivered") == "true",
        )
        if "ack" in headers:
            self.connection.ack(headers["ack"])

    def on_disconnected(self):
        self.client.lost(self)


class Client:
    def __init__(self, hosts):
        self.hosts = hosts
        self.queues = []
        self.unconfirmed = []
        self.life = None
        self.changed = threading.Condition()

    def lost(self, life):
        with self.changed:
            if self.life is life:
                self.life = None
                self.changed.notify_all()

    def run(self):
        while True:
            life = Life(self, self.hosts)
            try:
                with self.changed:
                    self.life = life
                life.begin()
                with self.changed:
                    self.changed.wait_for(lambda: self.life is not life)
            except Exception:
                time.sleep(0.05)
            life.give_up()

    def obey(self, words):
        life = self.life
        what = words[0]
        if what == "send" and len(words) == 5:
            life.send(words[1], words[2], int(words[3]), words[4])
        elif what == "send":
            one = (words[1], words[2], int(words[3]))
            self.unconfirmed.append(one)
            life.send(*one)
        elif what == "subscribe":
            one = (words[1], {"prefetch-count": "2"}, "client-individual")
            self.queues.append(one)
            life.connection.subscribe(one[0], id=one[0], ack=one[2], headers=one[1])
        elif what == "browse":
            life.connection.subscribe(words[1], id="look", ack="auto", headers={"browser": "true"})
        elif what in ("begin", "commit", "abort"):
            getattr(life.connection, what)(transaction=words[1], receipt=" ".join(words))
        elif what == "quit":
            os._exit(0)


def main():
    hosts = []
    for text in sys.argv[1].split(","):
        host, port = text.rsplit(":", 1)
        hosts.append((host, int(port)))
    client = Client(hosts)
    threading.Thread(target=client.run, daemon=True).start()
    for line in sys.stdin:
        try:
            client.obey(line.split())
        except Exception as error:
            # The connection was lost meanwhile: what is unconfirmed is sent again on the next.
            emit("lost", detail=str(error))


main()
