"""A stomp.py producer that sends everything again of which it does not know whether it is stored.

stomp.py is used as it comes; the client follows the host list for ever, in a new connection object each
time (see docs/clients.md). Each message has a number, which is also its `_AMQ_DUPL_ID` and its receipt.
After each connect whatever has no receipt is sent again, and the last few that have one besides, as a
client does whose own notes lag behind. Commands come on standard input:

    send COUNT        numbers that follow those before, at most WINDOW of them without a receipt
    again FIRST END   these numbers once more
    quit

Facts go to standard output, one JSON object a line: connected, receipt (of a number, each time it
comes), error.
"""

import os
import sys
import threading
import time

import lives
from lives import addresses, emit

WINDOW = 100
# Sent again after each connect, though they have a receipt.
CERTAIN = 20


class Life(lives.Life):
    def __init__(self, client, hosts):
        super().__init__(hosts)
        self.client = client
        client.life = self

    def on_receipt(self, frame):
        number = int(frame.headers["receipt-id"])
        with self.client.room:
            self.client.unknown.discard(number)
            self.client.certain = (self.client.certain + [number])[-CERTAIN:]
            self.client.room.notify_all()
        emit("receipt", number=number)


class Client:
    def __init__(self, hosts, queue):
        self.hosts = addresses(hosts)
        self.queue = queue
        self.life = None
        self.sending = threading.RLock()
        self.room = threading.Condition()
        self.unknown = set()
        self.certain = []
        self.next = 0

    def connect(self):
        self.hosts = lives.live(self.hosts, lambda hosts: Life(self, hosts))

    def stay_connected(self):
        while True:
            if not self.life.connection.is_connected():
                with self.sending:
                    self.life.give_up()
                    self.connect()
                    with self.room:
                        again = sorted(self.unknown) + self.certain
                    for number in again:
                        self.send(number)
            time.sleep(0.02)

    def send(self, number):
        with self.room:
            self.unknown.add(number)
        try:
            self.life.connection.send(
                self.queue,
                str(number),
                receipt=str(number),
                headers={"_AMQ_DUPL_ID": f"producer-{number}"},
            )
        except Exception:  # the connection is gone: it is sent again on the next one
            pass

    def send_in_window(self, number):
        with self.room:
            while len(self.unknown) >= WINDOW:
                self.room.wait(0.1)
        with self.sending:
            self.send(number)

    def obey(self, words):
        if words[0] == "send":
            for _ in range(int(words[1])):
                self.send_in_window(self.next)
                self.next += 1
        elif words[0] == "again":
            for number in range(int(words[1]), int(words[2])):
                self.send_in_window(number)
        else:
            emit("error", message=f"unknown command {words[0]}")


def main():
    client = Client(sys.argv[1], sys.argv[2])
    client.connect()
    threading.Thread(target=client.stay_connected, daemon=True).start()
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        client.obey(words)
    os._exit(0)


if __name__ == "__main__":
    main()
