"""A stomp.py client for the transaction tests: does what it is told, line by line.

stomp.py is used as it comes; the client follows the host list for ever, in a new connection object each
time (see docs/clients.md). Commands come on standard input, words apart by one space:

    subscribe QUEUE              client-individual, prefetch 20
    send QUEUE BODY [TX]         with a receipt named BODY where there is no transaction
    begin TX | commit TX | abort TX     each with a receipt: `begin TX` and so on
    ack BODY [TX] | nack BODY [TX]      of the last delivery with this body
    unsubscribe QUEUE
    moves COUNT                  from now on each message "NAME.HOP" starts a transaction that
                                 acknowledges it, sends COUNT messages "NUMBER INDEX NAME.HOP" to
                                 /queue/left and /queue/right in turn, and NAME.HOP+1 to where the
                                 message came from; the receipt of its COMMIT is its NUMBER
    rest                         no more of these
    die                          at once, without a farewell
    quit

Facts go to standard output, one JSON object a line: connected, received, receipt, moved (before the
first byte leaves), error, end.
"""

import os
import sys
import threading
import time

import lives
from lives import addresses, emit


class Life(lives.Life):
    def __init__(self, client, hosts):
        super().__init__(hosts)
        self.client = client
        self.acks = {}
        client.life = self

    def begin(self):
        super().begin()
        for queue in self.client.queues:
            self.subscribe(queue)

    def subscribe(self, queue):
        headers = {"prefetch-count": "20"}
        self.connection.subscribe(queue, id=queue, ack="client-individual", headers=headers)

    def on_error(self, frame):
        emit("error", message=frame.headers.get("message", ""), detail=str(frame.body))

    def on_receipt(self, frame):
        emit("receipt", id=frame.headers["receipt-id"])

    def on_message(self, frame):
        if self.client.life is not self:
            return  # read too late: it comes again, flagged
        self.acks[frame.body] = frame.headers["ack"]
        emit(
            "received",
            queue=frame.headers["destination"],
            body=frame.body,
            redelivered=frame.headers.get("redelivered") == "true",
        )
        if self.client.moves:
            try:
                with self.client.moving:
                    self.move(frame)
            except Exception as error:  # the connection is gone: the outcome is unknown
                emit("lost", message=repr(error))
            time.sleep(0.004)

    def move(self, frame):
        if not self.client.moves:
            return
        number = self.client.next_number()
        emit("moved", number=number, body=frame.body)
        name = str(number)
        self.connection.begin(transaction=name)
        for index in range(self.client.moves):
            queue = ("/queue/left", "/queue/right")[index % 2]
            body = f"{number} {index} {frame.body}"
            self.connection.send(queue, body, transaction=name)
        self.connection.ack(frame.headers["ack"], transaction=name)
        token, hop = frame.body.split(".")
        again = f"{token}.{int(hop) + 1}"
        self.connection.send(frame.headers["destination"], again, transaction=name)
        self.connection.commit(transaction=name, receipt=name)


class Client:
    def __init__(self, hosts):
        self.hosts = addresses(hosts)
        self.life = None
        self.queues = []
        self.moves = 0
        self.number = 0
        self.moving = threading.Lock()

    def next_number(self):
        self.number += 1
        return self.number

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
        connection = life.connection
        command, rest = words[0], words[1:]
        if command == "subscribe":
            self.queues.append(rest[0])
            life.subscribe(rest[0])
        elif command == "unsubscribe":
            self.queues.remove(rest[0])
            connection.unsubscribe(rest[0])
        elif command == "send":
            if len(rest) > 2:
                connection.send(rest[0], rest[1], transaction=rest[2])
            else:
                connection.send(rest[0], rest[1], receipt=rest[1])
        elif command in ("begin", "commit", "abort"):
            method = getattr(connection, command)
            method(transaction=rest[0], receipt=f"{command} {rest[0]}")
        elif command in ("ack", "nack"):
            method = getattr(connection, command)
            method(life.acks[rest[0]], transaction=rest[1] if len(rest) > 1 else None)
        elif command == "moves":
            self.moves = int(rest[0])
        elif command == "rest":
            with self.moving:
                self.moves = 0
            emit("rests")
        elif command == "die":
            os._exit(9)
        else:
            emit("error", message=f"unknown command {command}", detail="")


def main():
    client = Client(sys.argv[1])
    client.connect()
    threading.Thread(target=client.stay_connected, daemon=True).start()
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        try:
            client.obey(words)
        except Exception as error:
            emit("error", message="the command failed", detail=f"{line}: {error!r}")
    emit("end")
    os._exit(0)


if __name__ == "__main__":
    main()
