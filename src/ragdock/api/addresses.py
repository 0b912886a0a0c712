"""Who a request comes from, as far as that can be known."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, TypeAlias

from starlette.types import Scope

from ragdock.errors import ConfigurationError

__all__ = ["Networks", "client_address", "is_trusted_peer", "limited_as", "parse_networks"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

UNKNOWN: Final = "unknown"  # A Unix socket, say: all its clients are one.


def parse_networks(text: str) -> Networks:
    """`10.0.0.0/8, 192.168.1.5` as networks; raises `ConfigurationError`."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise ConfigurationError(
                f"RAG_TRUSTED_PROXIES={text!r}: {part!r} is no address and no network; give "
                "addresses or networks such as 10.0.0.0/8, separated by commas."
            ) from None
    return tuple(found)


def is_trusted_peer(scope: Scope, trusted: Networks) -> bool:
    """Whether the connection comes from a proxy that is trusted."""
    client = scope.get("client")
    return client is not None and _is_trusted(client[0], trusted)


def client_address(scope: Scope, trusted: Networks) -> str:
    """The client's address.

    Behind trusted proxies it is the rightmost hop of `X-Forwarded-For` that isn't one of them:
    each proxy appends whom it saw, and whatever stands left of that anybody may have written.
    """
    client = scope.get("client")
    peer = client[0] if client else UNKNOWN
    if not trusted or not _is_trusted(peer, trusted):
        return str(peer)
    hops = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    found = str(peer)
    for hop in reversed(hops.decode("latin-1").split(",")):
        address = _parsed(_bare(hop.strip()))
        if address is None:
            break
        found = str(address)
        if not _is_trusted(found, trusted):
            break
    return found


@lru_cache(maxsize=4096)
def limited_as(address: str) -> str:
    """What limits count an address as: an IPv6 client has a /64 to itself, so that counts as one.

    RFC 6177 and RIPE-690: a /64 is the least that a site or a phone is given.
    """
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _bare(hop: str) -> str:
    """An address without its port: `1.2.3.4:80`, `[::1]:80`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


@lru_cache(maxsize=1024)
def _is_trusted(text: str, trusted: Networks) -> bool:
    address = _parsed(text)
    return address is not None and any(address in network for network in trusted)
