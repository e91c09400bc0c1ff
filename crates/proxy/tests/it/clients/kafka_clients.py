"""Real clients of Kafka, and a broker for them: `kafka.py broker [PORT]`, `kafka.py CLIENT ADDRESS NAME DO TOPIC [HOST PORT]`.

CLIENT is librdkafka or kafka-python, NAME what it calls itself, DO one of produce and consume. The last line says how it ended:
`done`, or the error that the broker gave.

The broker serves on its loopback alone, and tells clients so. With a PORT it is reached there, too; a client of another network then
finds it at HOST and PORT behind a loopback of its own. What they say to each other passes as it is.
"""
import socket
import sys
import threading

LIMIT = 20


def relay(listen, to):
    """Passes on all that comes, both ways."""
    family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    server = socket.create_server(listen, family=family, dualstack_ipv6=family == socket.AF_INET6)

    def copy(one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (one, other):
                end.close()

    def serve():
        while True:
            client, _ = server.accept()
            try:
                upstream = socket.create_connection(to, LIMIT)
            except OSError:
                client.close()
                continue
            upstream.settimeout(None)
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def broker(port=None):
    import confluent_kafka

    mock = confluent_kafka.Producer(
        {"bootstrap.servers": "mock:1", "test.mock.num.brokers": 1, "log_level": 0}
    )
    first = list(mock.list_topics(timeout=LIMIT).brokers.values())[0]
    if port:
        relay(("::", int(port)), (first.host, first.port))
    print(f"{first.host}:{first.port}", flush=True)
    if port:
        threading.Event().wait()
    sys.stdin.read()


def librdkafka(address, name, do, topic):
    import confluent_kafka

    common = {"bootstrap.servers": address, "client.id": name, "log_level": 0}
    if do == "produce":
        ends = []
        producer = confluent_kafka.Producer(
            common | {"message.timeout.ms": LIMIT * 1000}
        )
        producer.produce(topic, b"hello", partition=0, callback=lambda e, _: ends.append(e))
        producer.flush(LIMIT)
        return ends[0].name() if ends[0] else "done"
    consumer = confluent_kafka.Consumer(
        common | {"group.id": "readers", "auto.offset.reset": "earliest"}
    )
    # A consumer asks for a topic that it may not know again and again, and tells nobody.
    denied = consumer.list_topics(topic, timeout=LIMIT).topics[topic].error
    if denied:
        return denied.name()
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    try:
        message = consumer.poll(LIMIT)
    finally:
        consumer.close()
    if message is None:
        return "nothing came"
    if message.error():
        return message.error().name()
    return "done" if message.value() == b"hello" else repr(message.value())


def kafka_python(address, name, do, topic):
    import kafka

    # What the mock broker says of itself is not what this client looks for.
    common = {"bootstrap_servers": address, "client_id": name, "api_version": (2, 0)}
    try:
        if do == "produce":
            # The role of producers has no numbers for them: those are asked for by a request of its own.
            producer = kafka.KafkaProducer(
                max_block_ms=LIMIT * 1000, enable_idempotence=False, **common
            )
            producer.send(topic, b"hello", partition=0).get(timeout=LIMIT)
            return "done"
        consumer = kafka.KafkaConsumer(
            auto_offset_reset="earliest", consumer_timeout_ms=LIMIT * 1000, **common
        )
        consumer.assign([kafka.TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        for message in consumer:
            return "done" if message.value == b"hello" else repr(message.value)
        return "nothing came"
    except kafka.errors.KafkaError as error:
        return type(error).__name__


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "broker":
        broker(*rest)
    else:
        address, name, do, topic, *at = rest
        if at:
            host, _, port = address.rpartition(":")
            relay((host, int(port)), (at[0], int(at[1])))
        print({"librdkafka": librdkafka, "kafka-python": kafka_python}[what](address, name, do, topic))
