"""gRPC's own client and server: `grpc_clients.py serve` and `grpc_clients.py call ADDRESS`, which ends with `all well`."""
import sys
import threading

import grpc

LIMIT = 60
BIG = b"x" * (1 << 20)


def serve():
    from concurrent import futures

    def total(messages, context):
        context.set_trailing_metadata((("seen", "yes"),))
        return str(sum(len(message) for message in messages)).encode()

    def count(message, _):
        for number in range(int(message)):
            yield str(number).encode()

    def talk(messages, _):
        yield from messages

    def fail(_, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Drop": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Cart", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0)


def same(found, wanted):
    assert found == wanted, f"{found!r}, not {wanted!r}"


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        same(error.code(), code)
        return
    raise AssertionError(f"no {code}")


def call(address):
    options = [("grpc.max_receive_message_length", 4 << 20)]
    with grpc.insecure_channel(address, options) as channel:
        method = {
            name: kind(f"/shop.Cart/{name}")
            for name, kind in {
                "Echo": channel.unary_unary,
                "Fail": channel.unary_unary,
                "Drop": channel.unary_unary,
                "Total": channel.stream_unary,
                "Count": channel.unary_stream,
                "Talk": channel.stream_stream,
            }.items()
        }
        same(method["Echo"](b"hello", timeout=LIMIT), b"hello")
        same(method["Echo"](BIG, timeout=LIMIT), BIG)
        answer, ended = method["Total"].with_call(iter([b"ab", BIG, b""]), timeout=LIMIT)
        same(answer, str(len(BIG) + 2).encode())
        same(dict(ended.trailing_metadata()).get("seen"), "yes")
        numbers = [str(number).encode() for number in range(500)]
        same(list(method["Count"](b"500", timeout=LIMIT)), numbers)
        talk(method["Talk"])
        refused(lambda: method["Fail"](b"", timeout=LIMIT), grpc.StatusCode.NOT_FOUND)
        for _ in range(3):
            denied = grpc.StatusCode.PERMISSION_DENIED
            refused(lambda: method["Drop"](BIG, timeout=LIMIT), denied)
        # The connection goes on after denials.
        calls = [method["Echo"].future(str(n).encode(), timeout=LIMIT) for n in range(100)]
        same([one.result() for one in calls], [str(n).encode() for n in range(100)])
    print("all well")


def talk(method):
    """Each message comes back before the next one is sent; then one side breaks off."""
    go = threading.Semaphore(0)

    def messages():
        for number in range(50):
            go.acquire()
            yield str(number).encode()

    answers = method(messages(), timeout=LIMIT)
    for number in range(50):
        go.release()
        same(next(answers), str(number).encode())
    same(list(answers), [])
    same(answers.code(), grpc.StatusCode.OK)
    stop = threading.Event()

    def forever():
        yield b"first"
        stop.wait(LIMIT)

    answers = method(forever(), timeout=LIMIT)
    same(next(answers), b"first")
    answers.cancel()
    same(answers.code(), grpc.StatusCode.CANCELLED)
    stop.set()


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    {"serve": serve, "call": call}[what](*rest)
