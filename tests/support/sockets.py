"""Bare connections, for clients that don't behave."""

from __future__ import annotations

import socket
import time

__all__ = ["connect", "head", "read_all", "seconds_until_closed"]


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection to a server of this machine."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    return connection


def head(method: str, path: str, *lines: str) -> bytes:
    """A whole header."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the server keeps a connection on which it says nothing."""
    start = time.monotonic()
    assert read_all(connection) == b""
    return time.monotonic() - start
