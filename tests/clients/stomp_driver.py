"""A resident stomp.py client for the cluster tests: sends, receives, and follows the host list.

stomp.py is used as it comes. The settings are those of docs/clients.md: the transport goes round the
host list for ever (`reconnect_attempts_max=-1`, 0.05 s, no increase), and the listener connects and
subscribes again when the connection is gone, because stomp.py does not do that by itself. Each time in
a new connection object, see `lives`.

Facts go to standard output, one JSON object a line; the Rust side keeps the ledger:

    {"event": "connected", "at": ns, "host": "127.1.2.3:1856"}
    {"event": "sent", "at": ns, "number": 0}                       before the first byte leaves
    {"event": "receipt", "at": ns, "number": 0, "host": "127.1.2.3:1856"}
    {"event": "received", "at": ns, "host": "..", "sender": "p", "number": 0, "message_id": "..", "redelivered": false}
    {"event": "disconnected", "at": ns}
    {"event": "lost", "at": ns, "message": ".."}     a connection that could not be made, or closed in order
    {"event": "error", "at": ns, "message": ".."}
    {"event": "idle", "at": ns}          sending is over, and nothing is under way any more
    {"event": "stacks", "at": ns, "text": ".."}      what every thread does
    {"event": "end", "at": ns}

Commands come on standard input, one a line: `stop-sending`,
`stacks`, `quit`. The end of standard input is `quit`.
"""

import argparse
import os
import sys
import threading
import time
import traceback

import lives
from lives import addresses, emit


def stacks():
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        names.get(ident, "?") + "\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    )


class Life(lives.Life):
    def __init__(self, client, hosts):
        beat = client.options.heart_beat
        super().__init__(hosts, heartbeats=(beat, beat))
        self.client = client
        client.life = self

    def begin(self):
        super().begin()
        if self.client.options.receive:
            self.connection.subscribe(
                destination=self.client.options.queue, id="1", ack="client-individual"
            )

    def on_disconnected(self):
        if self.client.life is self and self.connected.is_set():
            self.client.on_gone()

    def on_message(self, frame):
        if self.client.life is not self:
            return  # read too late: it comes again on the connection that counts, flagged
        sender, number = frame.body.split(" ", 2)[:2]
        emit(
            "received",
            host=self.host,
            sender=sender,
            number=int(number),
            message_id=frame.headers["message-id"],
            redelivered=frame.headers.get("redelivered") == "true",
        )
        try:
            self.connection.ack(frame.headers["ack"])
        except Exception as error:  # the connection is gone: the message comes again, flagged
            emit("error", message=f"ack: {error!r}")

    def on_receipt(self, frame):
        number = frame.headers["receipt-id"]
        if number.isdigit():
            emit("receipt", number=int(number), host=self.host)
            self.client.settled(int(number))


class Client:
    def __init__(self, options):
        self.options = options
        self.hosts = addresses(options.hosts)
        self.life = None
        self.gate = threading.Lock()  # held while sending, and while there is no connection
        self.reconnecting = threading.Lock()
        self.ready = False
        self.closing = False
        self.pending = set()
        self.room = threading.Condition()
        self.sending_over = threading.Event()

    # Connection

    def connect(self):
        """Connects and subscribes, for as long as it takes. Only one thread does it."""
        if not self.reconnecting.acquire(blocking=False):
            return
        try:
            with self.gate:
                with self.room:
                    # Without an answer they are unknown, and stay so.
                    self.pending.clear()
                make, wanted = lambda hosts: Life(self, hosts), lambda: not self.closing
                self.hosts = lives.live(self.hosts, make, wanted)
                with self.room:
                    self.ready = not self.closing
                    self.room.notify_all()
        finally:
            self.reconnecting.release()

    def is_gone(self):
        return not self.closing and not self.life.connection.is_connected()

    def on_gone(self):
        with self.room:
            self.ready = False
            self.room.notify_all()
        emit("disconnected")
        if not self.closing:
            self.connect()

    # Sending

    def settled(self, number):
        with self.room:
            self.pending.discard(number)
            self.room.notify_all()

    def produce(self):
        number = 0
        pause = 1.0 / self.options.rate if self.options.rate else 0.0
        while not self.sending_over.is_set():
            if pause:
                self.sending_over.wait(pause)
            with self.room:
                while not self.sending_over.is_set() and (
                    not self.ready or len(self.pending) >= self.options.window
                ):
                    self.room.wait(0.1)
            if self.sending_over.is_set():
                break
            with self.gate:
                if self.ready:
                    self.send(number)
                    number += 1
        with self.room:
            while self.pending and not self.closing:
                self.room.wait(0.1)
        emit("idle")

    def send(self, number):
        with self.room:
            self.pending.add(number)
        emit("sent", number=number)
        body = f"{self.options.name} {number} ".ljust(self.options.body_bytes, ".")
        try:
            self.life.connection.send(
                self.options.queue, body, receipt=str(number), persistent="true"
            )
        except Exception as error:  # unknown, like everything without an answer
            emit("error", message=f"send: {error!r}")
            with self.room:
                self.pending.discard(number)

    # Life

    def run(self):
        threading.Thread(target=self.connect, daemon=True).start()
        if self.options.send:
            threading.Thread(target=self.produce, daemon=True).start()
        commands = threading.Thread(target=self.read_commands, daemon=True)
        commands.start()
        while commands.is_alive():
            commands.join(0.2)
            # A connection may die between its CONNECTED and its SUBSCRIBE, unnoticed.
            if self.ready and self.is_gone():
                self.on_gone()
        self.closing = True
        if self.life and self.life.connection.is_connected():
            try:
                self.life.connection.disconnect(receipt="farewell")
            except Exception as error:
                emit("error", message=f"disconnect: {error!r}")
        emit("end")
        os._exit(0)

    def read_commands(self):
        for line in sys.stdin:
            command = line.strip()
            if command == "stop-sending":
                self.sending_over.set()
            elif command == "stacks":
                emit("stacks", text=stacks())
            elif command == "quit":
                return
            else:
                emit("error", message=f"unknown command {command}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--name", default="p")
    parser.add_argument("--send", action="store_true")
    parser.add_argument("--receive", action="store_true")
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.0, help="messages per second, 0: no limit")
    parser.add_argument("--body-bytes", type=int, default=256)
    parser.add_argument("--heart-beat", type=int, default=0, help="milliseconds, both ways")
    Client(parser.parse_args()).run()


if __name__ == "__main__":
    main()
