"""Sends messages with stomp.py as it comes, each with a receipt, and prints what became of each: one
line of JSON, {"event": "receipt"} or {"event": "error", "message": .., "body": ..} (the last one).

    stomp_send.py HOST PORT DESTINATION COUNT BYTES
"""

import json
import sys
import threading

import stomp


class Listener(stomp.ConnectionListener):
    def __init__(self):
        self.answered = threading.Semaphore(0)
        self.failed = threading.Event()

    def on_receipt(self, frame):
        if self.failed.is_set():
            # Of DISCONNECT.
            return
        say(event="receipt")
        self.answered.release()

    def on_error(self, frame):
        if not self.failed.is_set():
            self.failed.set()
            say(event="error", message=frame.headers.get("message"), body=frame.body)
        self.answered.release()

    def on_disconnected(self):
        if not self.failed.is_set():
            self.failed.set()
            say(event="error", message="disconnected", body="")
        self.answered.release()


def say(**facts):
    print(json.dumps(facts), flush=True)


def main():
    host, port, destination, count, size = sys.argv[1:]
    listener = Listener()
    connection = stomp.Connection12([(host, int(port))], reconnect_attempts_max=1)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    for number in range(int(count)):
        connection.send(destination, "x" * int(size), receipt=str(number))
        listener.answered.acquire()
        if listener.failed.is_set():
            return
    listener.failed.set()
    connection.disconnect()


main()
