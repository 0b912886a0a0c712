"""Which IP addresses are on the public internet: the only ones that the server fetches from.

The lists are IANA's registries of special-purpose addresses (RFC 6890 and its updates), written
out: what `ipaddress.is_global` says changed between Python's patch releases.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final

__all__ = ["is_public"]

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # This network.
        "10.0.0.0/8",  # Private.
        "100.64.0.0/10",  # Carrier-grade NAT; also the metadata service of Alibaba Cloud.
        "127.0.0.0/8",  # Loopback.
        "168.63.129.16/32",  # A public address by the registry; inside Azure it is the host.
        "169.254.0.0/16",  # Link-local: the metadata services of nearly every cloud.
        "172.16.0.0/12",  # Private.
        "192.0.0.0/24",  # Protocol assignments; also the metadata service of Oracle Cloud.
        "192.0.2.0/24",  # Documentation.
        "192.31.196.0/24",  # AS112.
        "192.52.193.0/24",  # Multicast tunnels (AMT).
        "192.88.99.0/24",  # 6to4 relays.
        "192.168.0.0/16",  # Private.
        "192.175.48.0/24",  # AS112.
        "198.18.0.0/15",  # Benchmarks.
        "198.51.100.0/24",  # Documentation.
        "203.0.113.0/24",  # Documentation.
        "224.0.0.0/4",  # Multicast.
        "240.0.0.0/4",  # Reserved, and broadcast.
    )
)
# What IANA has given out for global unicast. Outside of it are loopback, unspecified, mapped and
# compatible IPv4 addresses, both NAT64 prefixes, unique local, link-local, site-local, multicast.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Protocol assignments, among them Teredo, which carries IPv4 addresses.
        "2001:db8::/32",  # Documentation.
        "2002::/16",  # 6to4, which carries IPv4 addresses.
        "2620:4f:8000::/48",  # AS112.
        "3fff::/20",  # Documentation.
    )
)
# RFC 5214: an interface that tunnels to the IPv4 address in its last four bytes.
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


def is_public(address: str) -> bool:
    """Whether an address is unicast and reachable for everybody on the internet.

    False for what isn't an address, and for IPv6 addresses with a zone or another address inside.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_UNICAST:
        return False
    if (int(parsed) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(parsed in network for network in _NOT_PUBLIC_6)
