"""One connection of an unmodified stomp.py client, told what to do line by line.

Commands come on standard input, one JSON object a line; `headers` may stand in each:

    {"do": "subscribe", "id": "s", "destination": "/topic/t", "ack": "auto"}
    {"do": "unsubscribe", "id": "s"}
    {"do": "send", "destination": "/topic/t", "body": "text"}
    {"do": "ack", "id": ".."}                 also nack
    {"do": "disconnect"}
    {"do": "begin", "transaction": "x"}      also commit, abort

Every frame that comes is told on standard output, one JSON object a line:

    {"frame": "MESSAGE", "headers": {..}, "body": ".."}
    {"frame": "CLOSED"}

A `receipt` is asked for by its header. The end of standard input cuts the connection.
"""

import json
import os
import sys
import threading
import time

import stomp

WRITING = threading.Lock()


def emit(frame, headers=None, body=""):
    line = json.dumps({"frame": frame, "headers": headers or {}, "body": body}) + "\n"
    with WRITING:
        sys.stdout.write(line)
        sys.stdout.flush()


class Listener(stomp.ConnectionListener):
    def on_connected(self, frame):
        emit("CONNECTED", frame.headers)

    def on_message(self, frame):
        emit("MESSAGE", frame.headers, frame.body)

    def on_receipt(self, frame):
        emit("RECEIPT", frame.headers)

    def on_error(self, frame):
        emit("ERROR", frame.headers, frame.body)

    def on_disconnected(self):
        emit("CLOSED")


def connect(hosts, headers):
    """Goes round the list until a server serves."""
    for _ in range(1200):
        connection = stomp.Connection12(hosts, reconnect_attempts_max=1, timeout=2)
        connection.set_listener("reconnecting-listener", Listener())
        try:
            connection.connect(wait=True, headers=headers)
            return connection
        except Exception:  # whatever it was: the next round will tell
            time.sleep(0.05)
    sys.exit("no server serves")


def carry_out(connection, command):
    headers = command.get("headers", {})
    what = command["do"]
    if what == "subscribe":
        connection.subscribe(
            command["destination"], command["id"], command.get("ack", "auto"), headers
        )
    elif what == "unsubscribe":
        # stomp.py puts `id` into the keywords only if nothing else names the subscription.
        connection.unsubscribe(command["id"], **headers)
    elif what == "send":
        connection.send(command["destination"], command["body"], headers=headers)
    elif what == "ack":
        connection.ack(command["id"], **headers)
    elif what == "nack":
        connection.nack(command["id"], **headers)
    elif what == "disconnect":
        connection.disconnect(headers.get("receipt"))
    elif what == "begin":
        connection.begin(command["transaction"])
    elif what == "commit":
        connection.commit(command["transaction"], **headers)
    elif what == "abort":
        connection.abort(command["transaction"])


def main():
    hosts = [entry.rsplit(":", 1) for entry in sys.argv[1].split(",")]
    connection = connect(
        [(host, int(port)) for host, port in hosts], json.loads(sys.argv[2])
    )
    for line in sys.stdin:
        try:
            carry_out(connection, json.loads(line))
        except Exception as error:
            emit("FAILED", {"why": repr(error)})
    os._exit(0)


main()
