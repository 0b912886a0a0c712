"""Ports for servers that tests start, kill and start again."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_port"]

_FIRST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on right now, and that no outgoing connection will be given.

    Of those that the kernel hands out, one may belong to a client of some other test before the
    server is up, or while it is down to be started again.
    """
    for port in itertools.islice(_PORTS, 1_000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of 1,000 ports from {_FIRST} up is free")


def _ports() -> Iterator[int]:
    """Each process from a place of its own, so that two at once hardly meet."""
    end = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    if end <= _FIRST + 1_000:  # A kernel set up to hand out nearly all of them.
        end = 65_536
    start = random.Random(os.getpid()).randrange(_FIRST, end)
    for offset in itertools.count():
        yield _FIRST + (start - _FIRST + offset) % (end - _FIRST)


_PORTS = _ports()
