"""A STOMP client of the guest, with nothing but Python's own library: it sends, receives, and keeps the ledger.

    client.py run HOSTS QUEUE FACTS          sends and receives until its standard input ends
    client.py judge FACTS MARKS LOG...            the verdict over a ledger and the logs of both servers

HOSTS is HOST:PORT,HOST:PORT. Facts are lines of JSON, times CLOCK_BOOTTIME in nanoseconds, which the servers'
logs have too: the machines of the guest are namespaces of one kernel. MARKS has
{"event": "mark", "name": "kill a"} for each server that was killed.
"""

import json
import os
import re
import socket
import sys
import threading
import time

CONNECT_SECONDS = 0.5
# A server that is cut off takes a send and answers nothing.
ANSWER_SECONDS = 2.0
PAUSE_SECONDS = 0.03
# After the last send, what was confirmed must have come within so long.
DRAIN_SECONDS = 60.0
WRITING = threading.Lock()


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Facts:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)

    def note(self, event, **facts):
        with WRITING:
            self.file.write(json.dumps({"event": event, "at": now(), **facts}) + "\n")


class Connection:
    """Frames over one socket. Anything unexpected is an OSError: the caller goes to the next host."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, CONNECT_SECONDS)
        self.socket.settimeout(ANSWER_SECONDS)
        self.rest = b""
        self.write("CONNECT", {"accept-version": "1.2", "host": "/", "heart-beat": "0,1000"})
        command, headers, _ = self.read()
        if command != "CONNECTED":
            raise OSError(f"{command} {headers}")

    def write(self, command, headers, body=""):
        lines = [command] + [f"{name}:{value}" for name, value in headers.items()]
        self.socket.sendall(("\n".join(lines) + "\n\n" + body + "\0").encode())

    def read(self):
        while True:
            self.rest = self.rest.lstrip(b"\n")
            if b"\0" in self.rest:
                frame, self.rest = self.rest.split(b"\0", 1)
                head, body = frame.decode().split("\n\n", 1)
                lines = head.split("\n")
                return lines[0], dict(line.split(":", 1) for line in lines[1:]), body
            # Every second a heart-beat comes from a server that lives.
            more = self.socket.recv(65536)
            if not more:
                raise OSError("closed")
            self.rest += more


def forever(hosts, ended, life):
    """One connection after the other, round the hosts."""
    turn = 0
    while not ended.is_set():
        host = hosts[turn % len(hosts)]
        turn += 1
        connection = None
        try:
            connection = Connection(host)
            life(connection, f"{host[0]}:{host[1]}")
            turn -= 1
        except (OSError, ValueError, KeyError):
            time.sleep(0.05)
        finally:
            if connection:
                connection.socket.close()


def produce(hosts, queue, facts, ended, confirmed):
    numbers = iter(range(1 << 40))

    def life(connection, host):
        while not ended.is_set():
            number = next(numbers)
            facts.note("sent", number=number)
            connection.write(
                "SEND", {"destination": queue, "persistent": "true", "receipt": number}, str(number)
            )
            command, headers, body = connection.read()
            if command != "RECEIPT" or headers["receipt-id"] != str(number):
                raise OSError(f"{command} {headers} {body}")
            confirmed.add(number)
            facts.note("receipt", number=number, host=host)
            time.sleep(PAUSE_SECONDS)

    forever(hosts, ended, life)


def consume(hosts, queue, facts, ended, received):
    def life(connection, host):
        connection.write("SUBSCRIBE", {"destination": queue, "id": 1, "ack": "client-individual"})
        connection.socket.settimeout(4.0)
        while not ended.is_set():
            command, headers, body = connection.read()
            if command != "MESSAGE":
                raise OSError(f"{command} {headers} {body}")
            facts.note(
                "received", number=int(body), host=host, again=headers.get("redelivered") == "true"
            )
            received.add(int(body))
            connection.write("ACK", {"id": headers["ack"]})

    forever(hosts, ended, life)


def run(hosts, queue, path):
    hosts = [(host, int(port)) for host, port in (one.rsplit(":", 1) for one in hosts.split(","))]
    facts, sent_all, over = Facts(path), threading.Event(), threading.Event()
    confirmed, received = set(), set()
    producer = threading.Thread(target=produce, args=(hosts, queue, facts, sent_all, confirmed))
    consumer = threading.Thread(
        target=consume, args=(hosts, queue, facts, over, received), daemon=True
    )
    producer.start()
    consumer.start()
    sys.stdin.read()
    sent_all.set()
    producer.join()
    until = time.monotonic() + DRAIN_SECONDS
    while confirmed - received and time.monotonic() < until:
        time.sleep(0.2)
    # What comes twice has a moment to come.
    time.sleep(2)
    facts.note("end")
    over.set()


def load(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def intervals(server, log, kills):
    """As src/cli/serving.rs: who served from when to when, by the server's own log."""
    found, begun = [], None
    number = lambda name, line: int(re.search(rf"\b{name}=(\d+)", line).group(1))

    def close(end):
        found.append((begun[0], end, server, begun[1]))

    def killed(otherwise):
        return next((kill for kill in kills if kill > begun[0]), otherwise)

    for line in log:
        if ": serving begins " in line:
            if begun:
                close(killed(number("boot_ns", line)))
            begun = (number("boot_ns", line), number("epoch", line))
        elif ": serving ends " in line and begun:
            close(number("until_ns", line))
            begun = None
        elif line.startswith("watchdog: ") and " is killed " in line and begun:
            close(min(number("boot_ns", line), killed(1 << 62)))
            begun = None
    if begun:
        close(killed(now()))
    return found


def judge(path, marks, logs):
    facts = load(path) + load(marks)
    kills, wrong = {}, []
    sent, confirmed, counts, unflagged = {}, {}, {}, 0
    for fact in facts:
        event = fact["event"]
        if event == "mark" and fact["name"].startswith("kill "):
            kills.setdefault(fact["name"].split()[1], []).append(fact["at"])
        elif event == "sent":
            sent[fact["number"]] = fact["at"]
        elif event == "receipt":
            confirmed[fact["number"]] = (fact["at"], fact["host"])
        elif event == "received":
            seen = counts.get(fact["number"], 0)
            counts[fact["number"]] = seen + 1
            unflagged += seen > 0 and not fact["again"]
    lost = [number for number in confirmed if number not in counts]
    if lost:
        wrong.append(f"lost: {len(lost)}, the first {lost[0]}")
    if unflagged:
        wrong.append(f"repeated unflagged: {unflagged}")
    if not confirmed:
        wrong.append("nothing was confirmed")
    spans = []
    for log in logs:
        server = os.path.basename(log).split(".")[0]
        with open(log, errors="replace") as lines:
            spans += intervals(server, lines, kills.get(server, []))
    spans.sort()
    for before, after in zip(spans, spans[1:]):
        if before[2] != after[2] and before[1] > after[0]:
            wrong.append(f"two serve for {(before[1] - after[0]) / 1e6:.0f} ms: {before} {after}")
        if after[3] <= before[3]:
            wrong.append(f"an epoch comes again: {before} {after}")
    for number, (at, host) in confirmed.items():
        server = "a" if host.startswith("10.0.0.1:") else "b"
        if not any(span[2] == server and span[0] <= at for span in spans):
            wrong.append(f"{number} was confirmed by {server} before it served")
            break
    # The longest time without a confirm.
    order = sorted(confirmed.values())
    gap = max(((b[0] - a[0], a, b) for a, b in zip(order, order[1:])), default=None)
    words = f"confirmed {len(confirmed)}, received {len(counts)}, lost {len(lost)}"
    if gap:
        words += f"; longest gap {gap[0] / 1e9:.2f} s ({gap[1][1]} to {gap[2][1]})"
    print(words)
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0


def main():
    verb, *rest = sys.argv[1:]
    if verb == "run":
        run(*rest)
    else:
        sys.exit(judge(rest[0], rest[1], rest[2:]))


main()
