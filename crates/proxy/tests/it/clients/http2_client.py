"""HTTP/2 as no client speaks it: `http2_client.py ADDRESS`, where GET /a is allowed and nothing else.

Each case is what is sent after the beginning of a connection, and what may come of it:
  ends    the connection: GOAWAY with an error, or its end
  fails   the stream or the connection; or the request is refused by an answer
  200     the answer; any other number likewise
  pong    the connection goes on
  any     whatever, as long as there is an end to it
After every case somebody else is served. The last line is `N cases, all well`.
"""
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.events
import hpack
from hyperframe import frame as frames

LIMIT = 30
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END, END_HEADERS, PADDED, HAS_PRIORITY = 1, 4, 8, 32
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "h")]
PROBE = b"probing!"


def raw(kind, flags=0, stream=0, body=b""):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def block(headers):
    return hpack.Encoder().encode(headers)


def literal(name, value):
    """A header that no encoder would write."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(headers=GET, stream=1, flags=END | END_HEADERS, extra=b""):
    return raw(HEADERS, flags, stream, block(headers) + extra)


def setting(*pairs):
    return raw(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def number(value):
    return struct.pack(">I", value)


def without(name):
    return [header for header in GET if header[0] != name]


def put(name, value):
    return [(key, value if key == name else old) for key, old in GET]


POST = put(":method", "POST")
OPEN = head(flags=END_HEADERS)
MAX = (1 << 31) - 1

CASES = {
    # Frames in places where they have no business.
    "data of stream 0": (raw(DATA, 0, 0, b"x"), "ends"),
    "headers of stream 0": (head(stream=0), "ends"),
    "reset of stream 0": (raw(RST, 0, 0, number(8)), "ends"),
    "reset of an idle stream": (raw(RST, 0, 1, number(8)), "ends"),
    "reset of 3 bytes": (OPEN + raw(RST, 0, 1, b"abc"), "ends"),
    "settings of stream 1": (raw(SETTINGS, 0, 1), "ends"),
    "settings of 5 bytes": (raw(SETTINGS, 0, 0, b"12345"), "ends"),
    "acknowledged settings with some": (raw(SETTINGS, 1, 0, b"123456"), "ends"),
    "ping of stream 1": (raw(PING, 0, 1, b"12345678"), "ends"),
    "ping of 6 bytes": (raw(PING, 0, 0, b"123456"), "ends"),
    "answer to no ping": (raw(PING, 1, 0, b"12345678"), "pong"),
    "goaway of stream 1": (raw(GOAWAY, 0, 1, bytes(8)), "ends"),
    "goaway of 3 bytes": (raw(GOAWAY, 0, 0, bytes(3)), "ends"),
    "window update of 3 bytes": (raw(WINDOW, 0, 0, bytes(3)), "ends"),
    "window update by nothing": (raw(WINDOW, 0, 0, number(0)), "ends"),
    "window update of a stream by nothing": (OPEN + raw(WINDOW, 0, 1, number(0)), "fails"),
    "window update of an idle stream": (raw(WINDOW, 0, 1, number(1)), "ends"),
    "window too wide": (raw(WINDOW, 0, 0, number(MAX)), "ends"),
    "window of a stream too wide": (OPEN + raw(WINDOW, 0, 1, number(MAX)), "fails"),
    "priority of stream 0": (raw(PRIORITY, 0, 0, bytes(5)), "ends"),
    "priority of 4 bytes": (OPEN + raw(PRIORITY, 0, 1, bytes(4)), "fails"),
    "priority of an idle stream": (raw(PRIORITY, 0, 9, number(0) + b"\7"), "pong"),
    "a stream that depends on itself": (
        raw(HEADERS, END | END_HEADERS | HAS_PRIORITY, 1, number(1) + b"\7" + block(GET)),
        "fails",
    ),
    "a push": (OPEN + raw(PUSH, END_HEADERS, 1, number(2) + block(GET)), "ends"),
    "an unknown frame": (raw(0x42, 0xFF, 0, b"what"), "pong"),
    "an unknown frame of a stream": (OPEN + raw(0x42, 0, 1, b"what") + raw(DATA, END, 1), "200"),
    "unknown flags": (head(flags=END | END_HEADERS | 0xC0), "200"),
    "a ping with unknown flags": (raw(PING, 0xFE, 0, b"12345678"), "pong"),
    "the reserved bit": (raw(HEADERS, END | END_HEADERS, 1 | 1 << 31, block(GET)), "200"),
    "data too long": (OPEN + raw(DATA, END, 1, bytes(16385)), "fails"),
    "headers too long": (raw(HEADERS, END | END_HEADERS, 1, bytes(16385)), "ends"),
    "settings too long": (raw(SETTINGS, 0, 0, bytes(6 * 3000)), "ends"),
    "data of an idle stream": (raw(DATA, END, 1, b"x"), "ends"),
    "an even stream": (head(stream=2), "ends"),
    "streams backwards": (head(stream=5) + head(stream=3), "ends"),
    "the last stream": (head(stream=MAX), "200"),
    "padding longer than data": (OPEN + raw(DATA, END | PADDED, 1, b"\5abcd"), "ends"),
    "padding longer than headers": (raw(HEADERS, END | END_HEADERS | PADDED, 1, b"\xff" + block(GET)), "ends"),
    "padded headers": (raw(HEADERS, END | END_HEADERS | PADDED, 1, b"\3" + block(GET) + bytes(3)), "200"),
    "headers with a priority": (
        raw(HEADERS, END | END_HEADERS | HAS_PRIORITY, 1, number(0) + b"\7" + block(GET)),
        "200",
    ),
    # Blocks of headers.
    "a continuation of nothing": (raw(CONTINUATION, END_HEADERS, 1, block(GET)), "ends"),
    "a continuation of what has ended": (head() + raw(CONTINUATION, END_HEADERS, 1, b""), "ends"),
    "a continuation of another stream": (
        head(flags=END) + raw(CONTINUATION, END_HEADERS, 3, block(GET)),
        "ends",
    ),
    "a continuation of stream 0": (head(flags=END) + raw(CONTINUATION, END_HEADERS, 0, b""), "ends"),
    "data within headers": (head(flags=0) + raw(DATA, END, 1, b"x"), "ends"),
    "a ping within headers": (head(flags=END) + raw(PING, 0, 0, b"12345678"), "ends"),
    "an unknown frame within headers": (head(flags=END) + raw(0x42, 0, 1, b"what"), "ends"),
    "headers within headers": (head(flags=END) + head(stream=3), "ends"),
    "headers in two frames": (
        raw(HEADERS, END, 1, block(GET)[:3]) + raw(CONTINUATION, END_HEADERS, 1, block(GET)[3:]),
        "200",
    ),
    "headers byte by byte": (
        raw(HEADERS, END, 1)
        + b"".join(raw(CONTINUATION, 0, 1, bytes([byte])) for byte in block(GET))
        + raw(CONTINUATION, END_HEADERS, 1),
        "any",
    ),
    "a flood of empty continuations": (head(flags=END) + raw(CONTINUATION, 0, 1) * 20000, "ends"),
    "a flood of continuations": (
        head(flags=END) + raw(CONTINUATION, 0, 1, literal(b"x", b"y" * 100) * 100) * 100,
        "fails",
    ),
    "an index that is not there": (head(extra=b"\xff\x80\x01"), "ends"),
    "index 0": (head(extra=b"\x80"), "ends"),
    "a table too large": (raw(HEADERS, END | END_HEADERS, 1, b"\x3f\xff\xff\x7f" + block(GET)), "ends"),
    "a table resized at the end": (head(extra=b"\x20"), "ends"),
    "a block cut off": (raw(HEADERS, END | END_HEADERS, 1, block(GET)[:-2]), "ends"),
    "a Huffman code that ends nowhere": (head(extra=b"\0\x81\xff\1x"), "ends"),
    "100 KiB of headers": (
        head(GET + [(f"x-{n}", "y" * 1000) for n in range(12)], flags=END)
        + b"".join(
            raw(CONTINUATION, END_HEADERS if n == 8 else 0, 1, literal(b"x-z", b"y" * 100) * 120)
            for n in range(9)
        ),
        "fails",
    ),
    # Settings.
    "push of 2": (setting((2, 2)), "ends"),
    "a window of 2 to the 31st": (setting((4, 1 << 31)), "ends"),
    "frames of 16383": (setting((5, 16383)), "ends"),
    "frames of 2 to the 24th": (setting((5, 1 << 24)), "ends"),
    "an unknown setting": (setting((0x4242, 7)), "pong"),
    "a setting twice": (setting((3, 1), (3, 100)), "pong"),
    "windows that overflow by a setting": (
        OPEN + raw(WINDOW, 0, 1, number(MAX - 65535)) + setting((4, 65536)),
        "ends",
    ),
    "no table": (setting((1, 0)) + head(), "200"),
    # Requests.
    "a name in capitals": (head(extra=literal(b"X-Up", b"1")), "fails"),
    "a name with a space": (head(extra=literal(b"x y", b"1")), "fails"),
    "an empty name": (head(extra=literal(b"", b"1")), "fails"),
    "a value with a line's end": (head(extra=literal(b"x", b"1\r\ny: 2")), "fails"),
    "a value with a zero": (head(extra=literal(b"x", b"1\x002")), "fails"),
    "a pseudo header that comes late": (head([("x", "1")] + GET), "fails"),
    "an unknown pseudo header": (head(GET + [(":who", "me")]), "fails"),
    "an answer's pseudo header": (head(GET + [(":status", "200")]), "fails"),
    "no method": (head(without(":method")), "fails"),
    "no scheme": (head(without(":scheme")), "fails"),
    "no path": (head(without(":path")), "fails"),
    "an empty path": (head(put(":path", "")), "fails"),
    "two methods": (head(GET + [(":method", "GET")]), "fails"),
    "two paths": (head(GET + [(":path", "/b")]), "fails"),
    "two hosts": (head(GET + [("host", "other")]), "fails"),
    "a connection's header": (head(GET + [("connection", "keep-alive")]), "fails"),
    "an encoding of a transfer": (head(GET + [("transfer-encoding", "chunked")]), "fails"),
    "te of gzip": (head(GET + [("te", "gzip")]), "fails"),
    "te of trailers": (head(GET + [("te", "trailers")]), "200"),
    "less than was said": (
        head(GET + [("content-length", "5")], flags=END_HEADERS) + raw(DATA, END, 1, b"x"),
        "fails",
    ),
    "more than was said": (
        head(GET + [("content-length", "1")], flags=END_HEADERS) + raw(DATA, END, 1, b"12345"),
        "fails",
    ),
    "two lengths": (head(GET + [("content-length", "0"), ("content-length", "1")]), "fails"),
    "a body": (head(GET + [("content-length", "1")], flags=END_HEADERS) + raw(DATA, END, 1, b"x"), "200"),
    "trailers": (OPEN + raw(DATA, 0, 1, b"x") + head([("t", "1")]), "200"),
    # The library that the proxy reads frames with takes them for trailers without it; so does the server get them.
    "trailers with a pseudo header": (OPEN + raw(DATA, 0, 1, b"x") + head([(":path", "/b")]), "any"),
    "trailers that do not end it": (OPEN + head([("t", "1")], flags=END_HEADERS), "fails"),
    "data after the end": (head() + raw(DATA, END, 1, b"x"), "any"),
    "headers after the end": (head() + head(), "any"),
    "data after a reset": (OPEN + raw(RST, 0, 1, number(8)) + raw(DATA, END, 1, b"x"), "any"),
    "what no rule allows": (head(put(":path", "/b")), "403"),
    "another method": (head(POST), "403"),
    "a tunnel": (head([(":method", "CONNECT"), (":authority", "h:80")]), "fails"),
    # Floods. Who opens them may be cut off, and holds up nobody else.
    "rapid resets": (
        b"".join(head(stream=n) + raw(RST, 0, n, number(8)) for n in range(1, 4001, 2)),
        "any",
    ),
    "a flood of settings": (setting((3, 100)) * 10000, "any"),
    "a flood of pings": (raw(PING, 0, 0, b"12345678") * 10000, "any"),
    "a flood of empty data": (OPEN + raw(DATA, 0, 1) * 20000, "any"),
    "a flood of priorities": (raw(PRIORITY, 0, 1, bytes(4) + b"\7") * 20000, "any"),
    "too many streams": (
        b"".join(head(stream=n, flags=END_HEADERS) for n in range(1, 601, 2)),
        "fails",
    ),
}


class Connection:
    def __init__(self, address, first=PREFACE + setting()):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), LIMIT)
        self.bytes = b""
        self.decoder = hpack.Decoder()
        self.decoder.max_allowed_table_size = 1 << 16
        self.send(first)

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def frames(self):
        """What comes, until the end."""
        while True:
            while len(self.bytes) >= 9:
                one, length = frames.Frame.parse_frame_header(memoryview(self.bytes[:9]))
                if len(self.bytes) < 9 + length:
                    break
                one.parse_body(memoryview(self.bytes[9 : 9 + length]))
                self.bytes = self.bytes[9 + length :]
                yield one
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            self.bytes += more

    def outcome(self):
        """How it ended: a number of HTTP, `reset`, `ends`; or the probe came back."""
        for one in self.frames():
            if isinstance(one, frames.HeadersFrame):
                headers = dict(self.decoder.decode(one.data))
                return headers[":status"]
            if isinstance(one, frames.RstStreamFrame):
                return "reset"
            if isinstance(one, frames.GoAwayFrame) and one.error_code != 0:
                return "ends"
            if isinstance(one, frames.PingFrame) and one.opaque_data == PROBE:
                return "pong"
        return "ends"

    def close(self):
        self.socket.close()


def allowed(found, wanted):
    if wanted == "fails":
        return found in ("ends", "reset") or found.startswith("4")
    return wanted in ("any", found)


def run(address, name, data, wanted):
    connection = Connection(address)
    # Requests have their own end. All else: either the connection ends, or it answers what comes next.
    probe = b"" if wanted.isdigit() or wanted == "fails" else raw(PING, 0, 0, PROBE)
    connection.send(data + probe)
    try:
        found = connection.outcome()
    except TimeoutError:
        found = "nothing"
    connection.close()
    return None if allowed(found, wanted) else f"{name}: {found}, not {wanted}"


def served(address):
    """A well-behaved client is served."""
    host, port = address.rsplit(":", 1)
    link = socket.create_connection((host, int(port)), LIMIT)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, GET, end_stream=True)
    link.sendall(client.data_to_send())
    status = None
    while data := link.recv(65536):
        for event in client.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[b":status"]
            if isinstance(event, h2.events.StreamEnded):
                link.close()
                return status == b"200"
        link.sendall(client.data_to_send())
    return False


def windows(address):
    """What is sent is what there is room for, to the byte."""
    connection = Connection(address, PREFACE + setting((4, 0)))
    connection.send(head() + raw(PING, 0, 0, PROBE))
    body, started, ended = b"", False, False
    for one in connection.frames():
        if isinstance(one, frames.HeadersFrame):
            started = True
            connection.send(raw(WINDOW, 0, 1, number(1)))
        elif isinstance(one, frames.DataFrame):
            if not started or len(one.data) > 1:
                return f"a window of 1 byte: {one.data!r} came"
            body += one.data
            ended = "END_STREAM" in one.flags
            connection.send(raw(WINDOW, 0, 1, number(1)))
        if ended:
            break
    connection.close()
    return None if body.startswith(b"GET ") else f"a window of 1 byte: {body!r} came"


def beginnings(address):
    """Beginnings that are none: nothing of HTTP/2 comes back but the end."""
    for first in [PREFACE[:-2] + b"XX", b"PRI * HTTP/2.0\r\n\r\nSM", b"PRI / HTTP/1.1\r\nHost: h\r\n\r\n"]:
        connection = Connection(address, first + raw(PING, 0, 0, PROBE) + head())
        connection.socket.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while more := connection.socket.recv(65536):
                said += more
        except ConnectionResetError:
            pass
        if b" 200 " in said or PROBE in said:
            return f"the beginning {first!r}: {said!r}"
    return None


def main(address):
    problems = [beginnings(address), windows(address)]
    for name, (data, wanted) in CASES.items():
        problems.append(run(address, name, data, wanted))
        if not served(address):
            problems.append(f"{name}: the next client is not served")
    problems = [problem for problem in problems if problem]
    print(*problems, sep="\n")
    count = len(CASES) + 2
    print(f"{count} cases, all well" if not problems else f"{len(problems)} of {count} cases")
    return len(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) != 0)
