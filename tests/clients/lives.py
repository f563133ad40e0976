"""What the drivers share: facts as lines of JSON, and connections that live once.

stomp.py is used as it comes. Its own reconnecting follows the host list; what lives once here is the object:
stomp.py's heart-beat thread may outlive a connection, and would then be missing in one that is made anew in
the same object.
"""

import json
import sys
import threading
import time

import stomp

# For one connect, and for its answer: a machine that stands still takes connections and says nothing,
# and so long it is waited for before the other one is tried.
CONNECT_SECONDS = 0.5
WRITING = threading.Lock()


def emit(event, **facts):
    """`at` is CLOCK_BOOTTIME in nanoseconds."""
    facts = {"event": event, "at": time.clock_gettime_ns(time.CLOCK_BOOTTIME), **facts}
    line = json.dumps(facts) + "\n"
    with WRITING:
        sys.stdout.write(line)
        sys.stdout.flush()


def addresses(text):
    entries = [entry.rsplit(":", 1) for entry in text.split(",")]
    return [(host, int(port)) for host, port in entries]


class Life(stomp.ConnectionListener):
    """One connection, from its first byte to its end."""

    def __init__(self, hosts, **settings):
        self.host = None
        self.connected = threading.Event()
        self.connection = stomp.Connection12(
            hosts,
            reconnect_sleep_initial=0.05,
            reconnect_sleep_increase=0.0,
            reconnect_attempts_max=-1,
            timeout=CONNECT_SECONDS,
            **settings,
        )
        # Listeners are called in the order of their names: after stomp.py's "protocol-listener".
        self.connection.set_listener("reconnecting-listener", self)

    # Of its CONNECT.
    headers = {}

    def begin(self):
        """Connects, or raises. A server that hangs takes the connection and never answers: stomp.py
        itself would wait for ever."""
        self.connection.connect(wait=False, headers=self.headers)
        if not self.connected.wait(CONNECT_SECONDS):
            raise TimeoutError(f"no CONNECTED from {self.connection.transport.current_host_and_port}")

    def give_up(self):
        try:
            self.connection.transport.stop()
            self.connection.transport.disconnect_socket()
        except Exception as error:
            emit("lost", message=f"give up: {error!r}")

    def on_connected(self, frame):
        address = self.connection.transport.current_host_and_port
        self.host = "%s:%d" % address if address else None
        emit("connected", host=self.host)
        self.connected.set()

    def on_error(self, frame):
        emit("error", message=frame.headers.get("message", "") + " " + str(frame.body))


def live(hosts, make, wanted=lambda: True):
    """One life after the other until one of `make(hosts)` has begun, or none is wanted. Gives the hosts,
    which are turned after each failure: one that hangs would be first again."""
    while wanted():
        life = make(hosts)
        try:
            life.begin()
            break
        except Exception as error:  # whatever it was: the next round will tell
            emit("lost", message=f"connect: {error!r}")
            life.give_up()
            hosts = hosts[1:] + hosts[:1]
            time.sleep(0.05)
    return hosts
