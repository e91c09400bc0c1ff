"""Asks many servers at once who they are and whom they see; runs where the client is, so that its sockets are the client's.

Takes a list of [protocol, address, port] as JSON, writes a list of [host name, address seen] or of an error's text.
"""
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

LIMIT = 3.0
QUESTIONS = ("hostname", "clientip")


def over_tcp(address, port):
    with socket.create_connection((address, port), LIMIT) as connection:
        connection.settimeout(LIMIT)
        stream = connection.makefile("rb")
        answers = []
        for question in QUESTIONS:
            request = f"GET /{question} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(request.encode())
            length = 0
            while (line := stream.readline().strip()):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            answers.append(stream.read(length).decode().strip())
        return answers


def over_udp(address, port):
    """Twice: by an unconnected socket, whose answers must come from where they were sent, and by a connected one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as loose:
        loose.settimeout(LIMIT)
        loose.sendto(QUESTIONS[0].encode(), (address, port))
        name, sender = loose.recvfrom(1024)
        if sender[:2] != (address, port):
            raise OSError(f"answer from {sender[0]} {sender[1]}")
    with socket.socket(family, socket.SOCK_DGRAM) as connected:
        connected.settimeout(LIMIT)
        connected.connect((address, port))
        if connected.getpeername()[:2] != (address, port):
            raise OSError(f"connected to {connected.getpeername()}")
        connected.send(QUESTIONS[1].encode())
        return [name.decode().strip(), connected.recv(1024).decode().strip()]


def ask(question):
    protocol, address, port = question
    try:
        return (over_tcp if protocol == "TCP" else over_udp)(address, port)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


questions = json.loads(sys.argv[1])
with ThreadPoolExecutor(max_workers=32) as pool:
    json.dump(list(pool.map(ask, questions)), sys.stdout)
