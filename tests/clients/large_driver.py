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
import os
import sys
import threading
import time

import lives
from lives import addresses, emit


def body_of(name, size):
    block = hashlib.shake_256(name.encode()).digest(65536)
    return (block * (size // len(block) + 1))[:size]


class Life(lives.Life):
    def __init__(self, client, hosts):
        super().__init__(hosts, auto_decode=False)
        self.client = client
        client.life = self

    def begin(self):
        super().begin()
        for queue in self.client.queues:
            self.subscribe(queue)
        for one in list(self.client.unconfirmed):
            self.send(*one)

    def subscribe(self, queue):
        headers = {"prefetch-count": "2"}
        self.connection.subscribe(queue, id=queue, ack="client-individual", headers=headers)

    def send(self, queue, name, size, transaction=None):
        emit("sending", name=name)
        headers = {"name": name, "receipt": name}
        if transaction:
            headers["transaction"] = transaction
        self.connection.send(queue, body_of(name, size), headers=headers)

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


class Client:
    def __init__(self, hosts):
        self.hosts = addresses(hosts)
        self.queues = []
        self.unconfirmed = []
        self.life = None

    def connect(self):
        self.hosts = lives.live(self.hosts, lambda hosts: Life(self, hosts))

    def stay_connected(self):
        while True:
            if not self.life.connection.is_connected():
                self.life.give_up()
                self.connect()
            time.sleep(0.02)

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
            self.queues.append(words[1])
            life.subscribe(words[1])
        elif what == "browse":
            life.connection.subscribe(words[1], id="look", ack="auto", headers={"browser": "true"})
        elif what in ("begin", "commit", "abort"):
            getattr(life.connection, what)(transaction=words[1], receipt=" ".join(words))
        elif what == "quit":
            os._exit(0)


def main():
    client = Client(sys.argv[1])
    client.connect()
    threading.Thread(target=client.stay_connected, daemon=True).start()
    for line in sys.stdin:
        try:
            client.obey(line.split())
        except Exception as error:
            # The connection was lost meanwhile: what is unconfirmed is sent again on the next.
            emit("lost", message=repr(error))


if __name__ == "__main__":
    main()
