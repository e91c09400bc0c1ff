"""A DNS server for every name, and a client that connects to what it looks up: `names.py serve`, `names.py connect SERVER PORT COUNT SEED`.

The address of a name says its number (`n7.load.test` is 198.18.0.7 and 2001:db8:c612::7); `big` has so many addresses that they fit no packet.
"""
import socket
import struct
import sys
import threading

A, AAAA = 1, 28


def addresses(name, kind):
    label = name.split(b".")[0].lower()
    numbers = range(200) if label == b"big" else [int(label[1:]) % 65536]
    for number in numbers:
        if kind == A:
            yield socket.inet_aton(f"198.18.{number >> 8}.{number & 255}")
        elif kind == AAAA:
            yield socket.inet_pton(socket.AF_INET6, f"2001:db8:c612::{number:x}")


def read(question):
    """The name, its type, and where the question ends."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]])
        at += 1 + question[at]
    kind = struct.unpack("!H", question[at + 1 : at + 3])[0]
    return b".".join(labels), kind, at + 5


def answer(question, limit):
    name, kind, end = read(question)
    records = [
        struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(address)) + address
        for address in addresses(name, kind)
    ]
    body = b"".join(records)
    cut = end + len(body) > limit
    if cut:
        records, body = [], b""
    flags = 0x8180 | (0x0200 if cut else 0)
    head = question[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return head + question[12:end] + body


def limit(question):
    """What the client takes by UDP: it says so in a record at the end of its question."""
    _, _, end = read(question)
    more = struct.unpack("!H", question[10:12])[0]
    return struct.unpack("!H", question[end + 3 : end + 5])[0] if more else 512


def by_tcp(stream):
    with stream, stream.makefile("rb") as words:
        while len(head := words.read(2)) == 2:
            reply = answer(words.read(struct.unpack("!H", head)[0]), 65535)
            stream.sendall(struct.pack("!H", len(reply)) + reply)


def serve():
    at = ("::", 53)
    listener = socket.create_server(at, family=socket.AF_INET6, dualstack_ipv6=True)

    def accept():
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=by_tcp, args=(stream,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    udp.bind(at)
    print("serving", flush=True)
    while True:
        question, client = udp.recvfrom(4096)
        udp.sendto(answer(question, limit(question)), client)


def look_up(udp, number, name, kind):
    labels = b"".join(bytes([len(part)]) + part for part in name.encode().split(b"."))
    udp.send(struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1))
    while True:
        reply = udp.recv(4096)
        if struct.unpack("!H", reply[:2])[0] == number:
            break
    size = 4 if kind == A else 16
    return reply[-size:]


def connect(server, port, count, seed):
    """Every name is new; what it stands for has to let in at the first try."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(20)
    udp.connect((server, 53))
    for number in range(seed, seed + count):
        for kind, of in ((A, socket.AF_INET), (AAAA, socket.AF_INET6)):
            address = socket.inet_ntop(of, look_up(udp, number, f"n{number}.load.test", kind))
            # One SYN, and its first repetition a second later, which is late.
            with socket.socket(of) as stream:
                stream.settimeout(0.9)
                stream.connect((address, port))
    print(f"{2 * count} connected")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        connect(sys.argv[2], *map(int, sys.argv[3:]))
