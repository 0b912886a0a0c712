"""A TCP server on loopback that answers with exactly the bytes that a test wants, also over TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["RawServer", "make_certificate", "response"]

Answer = Callable[[bytes], Iterable[bytes]]
"""The request's head to the pieces of the answer; sleeping between pieces is allowed."""


def response(
    body: bytes = b"", *, status: str = "200 OK", headers: str = "", length: bool = True
) -> bytes:
    """A whole HTTP/1.1 response; `headers` are lines that end in CRLF."""
    size = f"Content-Length: {len(body)}\r\n" if length else ""
    return f"HTTP/1.1 {status}\r\n{size}{headers}Connection: close\r\n\r\n".encode() + body


class RawServer:
    """Listens on `address` inside the block; `heads` holds the request heads that came."""

    def __init__(
        self,
        answer: Answer,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.heads: list[bytes] = []
        self.n_connections = 0
        self._answer = answer
        self._context = context
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> RawServer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        # Closing alone doesn't wake `accept` on Linux.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.n_connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        # The other side may leave at any moment: that is what most tests are about.
        with connection, suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    head += piece
                self.heads.append(head)
                for piece in self._answer(head):
                    if self._closing.is_set():
                        return
                    connection.sendall(piece)


def make_certificate(directory: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a certificate for these names, and of a client that trusts it."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    alternatives = ",".join(f"DNS:{name}" for name in names)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=ragdock tests"),
            *("-addext", f"subjectAltName={alternatives}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
