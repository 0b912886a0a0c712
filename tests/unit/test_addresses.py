"""Which addresses the server may fetch from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.addresses import is_public

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1"),
    *("127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "192.31.196.1", "192.52.193.1", "192.175.48.1"),
    # Unspecified, loopback, mapped, compatible, NAT64 (both), discard, local NAT64.
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "::93.184.216.34"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "100::1", "::ffff:0:127.0.0.1"),
    # Teredo, benchmarks, ORCHID, documentation, 6to4, documentation, SRv6.
    *("2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1"),
    *("3fff::1", "5f00::1", "2620:4f:8000::1"),
    # Unique local (with AWS's metadata service), link-local, site-local, multicast, zones, ISATAP.
    *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    *("2606:4700::1%1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.0.1.1", "223.255.255.255", "168.63.129.15", "169.253.255.255"),
    *("2606:4700:4700::1111", "2a00:1450:4001:829::200e", "2001:4860:4860::8888", "2620:fe::fe"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_special_addresses_are_not_public(address: str) -> None:
    """Nothing private, local, reserved, embedded or that belongs to a cloud's host is fetched."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_ordinary_addresses_are_public(address: str) -> None:
    """The neighbours of the special ranges, and well-known hosts, are public."""
    assert is_public(address)


@pytest.mark.parametrize(
    "text", ["", "localhost", "2130706433", "0x7f.1", "127.1", "010.0.0.1", "1.1.1.1 ", "１.1.1.1"]
)
def test_what_is_no_address_is_not_public(text: str) -> None:
    """Names and odd spellings are never taken for an address."""
    assert not is_public(text)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_ipv4_agrees_with_the_standard_library(address: IPv4Address) -> None:
    """What we call public, Python calls global and not multicast."""
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_ipv6_agrees_with_the_standard_library(address: IPv6Address) -> None:
    """What we call public, Python calls global, and it carries no IPv4 address."""
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast
        assert (address.ipv4_mapped, address.sixtofour, address.teredo) == (None, None, None)
