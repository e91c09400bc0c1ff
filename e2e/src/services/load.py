"""Asks one service again and again until standard input ends: by new connections, by connections that are kept, by datagrams.

Takes [address, port] as JSON. Writes what it did, and every failure, as JSON. A kept connection may be closed by its server, as long as the same
request then works by another one: that is how a server that ends looks to its clients.
"""
import json
import socket
import sys
import threading
import time

LIMIT = 3.0
# As long as nothing is lost, nobody waits for a retransmission: the first comes after 0.2 s, of a first packet after 1 s.
SLOW = 0.19
KEPT = 4
TRIES = 3
REQUEST = b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n"

address, port = json.loads(sys.argv[1])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
done = threading.Event()
counts = {"new": 0, "kept": 0, "reopened": 0, "datagrams": 0, "lost": 0}
failures = []
slow = []
backends = set()
last_backend = {}


class Connection:
    def __init__(self):
        self.socket = socket.create_connection((address, port), LIMIT)
        self.socket.settimeout(LIMIT)
        self.stream = self.socket.makefile("rb")

    def ask(self):
        self.socket.sendall(REQUEST)
        if not (line := self.stream.readline()):
            raise ConnectionResetError("closed")
        length = 0
        while line.strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            line = self.stream.readline()
        seen(self.stream.read(length).decode())

    def close(self):
        self.stream.close()
        self.socket.close()


def seen(name):
    backends.add(name)
    last_backend[threading.get_ident()] = name


def note(what, detail):
    slow.append(f"{time.time():.3f} {what}: {detail}")


def new():
    connection = Connection()
    connection.ask()
    connection.close()
    counts["new"] += 1


def datagram():
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(LIMIT / TRIES)
        waiting = 0
        for last in range(1, TRIES + 1):
            asking.sendto(b"hostname", (address, port))
            waiting += 1
            try:
                seen(asking.recv(1024).decode())
                waiting -= 1
                break
            except TimeoutError:
                # Nobody sends lost datagrams again but whoever asks.
                if last == TRIES:
                    raise
        counts["datagrams"] += 1
        if waiting:
            count_lost(asking, waiting)


def count_lost(asking, waiting):
    """An answer that is late is none that is lost."""
    late = 0
    try:
        while late < waiting:
            asking.recv(1024)
            late += 1
    except TimeoutError:
        counts["lost"] += waiting - late
    note("datagrams", f"{waiting - late} lost, {late} late, from port {asking.getsockname()[1]}")


def again_and_again(what, pause):
    while not done.is_set():
        before = time.monotonic()
        try:
            what()
            if (took := time.monotonic() - before) > SLOW:
                note(f"slow {what.__name__}", f"{took:.3f} s, {last_backend.get(threading.get_ident())}")
        except OSError as error:
            failures.append(f"{time.time():.3f} {what.__name__}: {type(error).__name__}: {error}")
        time.sleep(pause)


def keeper():
    connection = None

    def kept():
        nonlocal connection
        if connection is None:
            connection = Connection()
        try:
            connection.ask()
        except (ConnectionResetError, BrokenPipeError):
            connection.close()
            connection = None
            counts["reopened"] += 1
            connection = Connection()
            connection.ask()
        except OSError:
            connection.close()
            connection = None
            raise
        counts["kept"] += 1

    again_and_again(kept, 0.02)


threads = [threading.Thread(target=again_and_again, args=arguments) for arguments in [(new, 0.005), (datagram, 0.01)]]
threads += [threading.Thread(target=keeper) for _ in range(KEPT)]
for thread in threads:
    thread.start()
print("begun", flush=True)
sys.stdin.read()
done.set()
for thread in threads:
    thread.join()
json.dump({**counts, "failures": failures, "slow": slow, "backends": sorted(backends)}, sys.stdout)
