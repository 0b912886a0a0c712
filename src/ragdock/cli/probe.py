"""The health probe: standard library only, because the container starts it every few seconds.

It speaks HTTP over a bare socket. `urllib.request` and `http.client` import `email` and `ssl` and
take four times as long to load as the question itself takes; this module loads `socket` alone
unless the URL says https.
"""

from __future__ import annotations

import os
import socket
import sys
import time

__all__ = ["main", "probe"]

# Below HEALTHCHECK's own timeout of 5 s, so that the reason is ours and not "exceeded timeout".
DEFAULT_TIMEOUT_SECONDS = 4.0
# /health is below 2 kB; a server that sends more is not ours.
MAX_ANSWER_BYTES = 65536

USAGE = "usage: m3_1_dockerize.py --health [--url URL] [--timeout SECONDS]"


def main(arguments: list[str]) -> int:
    """Probe once and say what was found; 0 for a healthy server, 1 otherwise, 2 for bad usage."""
    # 127.0.0.1, not localhost: that may be ::1 first, where nothing listens.
    url = f"http://127.0.0.1:{os.environ.get('PORT') or '8000'}"
    timeout_seconds = DEFAULT_TIMEOUT_SECONDS
    rest = list(arguments)
    try:
        while rest:
            option, value = rest.pop(0), rest.pop(0)
            if option == "--url":
                url = value
            elif option == "--timeout":
                timeout_seconds = float(value)
            else:
                raise ValueError(option)
        split_url(url)
    except (IndexError, ValueError):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    healthy, detail = probe(url, timeout_seconds)
    (sys.stdout if healthy else sys.stderr).write(f"{detail}\n")
    return 0 if healthy else 1


def probe(url: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> tuple[bool, str]:
    """Ask `{url}/health`; healthy is a 200 (status ok or degraded) within the deadline.

    `timeout_seconds` bounds the whole exchange, not one read. Returns (healthy, one line of why).
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        status, body = _get(url, deadline)
    except TimeoutError:
        return False, f"{url}/health: no answer within {timeout_seconds:g} s"
    except (OSError, ValueError) as exc:
        return False, f"{url}/health: {exc}"
    line = " ".join(body.split())[:1000]
    return status == 200, f"{url}/health: {status} {line}".rstrip()


def split_url(url: str) -> tuple[bool, str, int, str]:
    """Take `http[s]://host[:port][/prefix]` apart: (tls, host, port, prefix). Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ValueError(f"{url!r} must start with http:// or https://")
    authority, _, prefix = rest.partition("/")
    host, port = authority, ""
    if ":" in authority.rpartition("]")[2]:
        host, _, port = authority.rpartition(":")
    if not host:
        raise ValueError(f"{url!r} names no host")
    default_port = 443 if scheme == "https" else 80
    path = f"/{prefix}".rstrip("/")
    return scheme == "https", host.strip("[]"), int(port or default_port), path


def _get(url: str, deadline: float) -> tuple[int, str]:
    tls, host, port, prefix = split_url(url)
    with socket.create_connection((host, port), timeout=_left(deadline)) as plain:
        connection = plain
        if tls:
            import ssl

            connection = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        # HTTP/1.0 without keep-alive: the answer ends where the connection does, never in chunks.
        request = f"GET {prefix}/health HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: */*\r\n\r\n"
        connection.sendall(request.encode("ascii"))
        return _parse(_read_all(connection, deadline))


def _read_all(connection: socket.socket, deadline: float) -> bytes:
    answer = b""
    while len(answer) <= MAX_ANSWER_BYTES:
        connection.settimeout(_left(deadline))
        part = connection.recv(4096)
        if not part:
            return answer
        answer += part
    raise ValueError(f"more than {MAX_ANSWER_BYTES} bytes")


def _parse(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1]), body.decode("utf-8", "replace")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
