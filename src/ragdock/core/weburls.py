"""URLs of the web, read strictly: what two programs could read differently is refused.

Request forgery lives off such differences: one program checks the host that it sees, another one
connects to the host that it sees. Here a URL is taken apart once, and nothing else is ever used.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from ragdock.errors import InputError

__all__ = ["HostRule", "WebUrl", "parse_web_url", "url_id"]

MAX_CHARACTERS: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"(?i:(https?))://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%]*)(?::([0-9]{0,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_UNQUOTED: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%"
)


@dataclass(frozen=True, slots=True)
class WebUrl:
    """An http or https URL without credentials and fragment.

    `host` is in lower case and ASCII, an IPv6 address without its brackets; `target` is path and
    query as they go over the wire.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL and in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def page(self) -> str:
        """The URL without its query, which may hold secrets (a signature, a token)."""
        return str(self).partition("?")[0]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


class HostRule:
    """Which hosts may be fetched from: `docs.example.org`, or `*.example.org` for those below it.

    Raises `InputError` for an entry that is neither. Without an entry every host may.
    """

    def __init__(self, text: str) -> None:
        self._names: set[str] = set()
        self._parents: set[str] = set()
        for entry in filter(None, (part.strip() for part in text.split(","))):
            below = entry.startswith("*.")
            host = _host(entry.removeprefix("*."))
            (self._parents if below else self._names).add(host)

    def allows(self, host: str) -> bool:
        """Whether a host, as `WebUrl` has it, may be fetched from."""
        if not self._names and not self._parents:
            return True
        labels = host.split(".")
        above = {".".join(labels[start:]) for start in range(1, len(labels))}
        return host in self._names or not above.isdisjoint(self._parents)


def parse_web_url(text: str) -> WebUrl:
    """Take a URL apart; `InputError` (`bad_url`) when it isn't plainly one of http or https."""
    if len(text) > MAX_CHARACTERS:
        raise _wrong(f"has {len(text)} characters and may have {MAX_CHARACTERS}")
    if any(character <= " " or unicodedata.category(character) in _ODD for character in text):
        raise _wrong("holds white space or control characters")
    if "\\" in text:
        raise _wrong("holds a backslash")
    found = _URL.fullmatch(text)
    if found is None:
        raise _wrong("isn't one of http or https")
    scheme, authority, path, query = found[1].lower(), found[2], found[3], found[4] or ""
    if "@" in authority:
        raise _wrong("holds a user name")
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        raise _wrong("has no proper host")
    port = int(split[2]) if split[2] else _PORTS[scheme]
    return WebUrl(scheme, _host(split[1]), port, _quoted(path or "/") + _quoted(query))


def url_id(url: WebUrl) -> str:
    """The id of a URL's document: fetching it again replaces the document."""
    slug = re.sub(r"[^A-Za-z0-9._~-]+", "-", f"{url.host}{url.target}").strip("-._~")[:160]
    return f"{slug or 'url'}-{hashlib.sha256(str(url).encode()).hexdigest()[:12]}"


_ODD: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})


def _host(text: str) -> str:
    """A name or an address in its one spelling."""
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except AddressValueError:
            raise _wrong("has no proper host") from None
    host = (text if text.isascii() else _ascii(text)).lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _wrong("has no proper host")
    if _NUMBER.fullmatch(labels[-1]):
        # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 for some resolvers: only 127.0.0.1 itself is.
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise _wrong("has no proper host") from None
    return host


def _ascii(name: str) -> str:
    import idna  # Half a megabyte of tables, which ASCII names don't need.

    try:
        return idna.encode(unicodedata.normalize("NFC", name).lower()).decode("ascii")
    except idna.IDNAError:
        raise _wrong("has no proper host") from None


def _quoted(text: str) -> str:
    return "".join(
        character if character in _UNQUOTED else "".join(f"%{b:02X}" for b in character.encode())
        for character in text
    )


def _wrong(problem: str) -> InputError:
    return InputError(
        f"The URL {problem}; send one such as https://example.org/guide.pdf.", code="bad_url"
    )
