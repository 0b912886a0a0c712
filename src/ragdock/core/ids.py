"""Public ids: numbers that tell nobody how many there are, nor what came before.

The ledger numbers its rows 1, 2, 3 ... for all collections. Shown as they are, these numbers would
tell one tenant how much another one writes, and invite guessing. Here a number becomes another by a
keyed permutation of 64 bits: a Feistel network whose round function is HMAC-SHA256. With a
pseudo-random round function, four rounds already can't be told from a random permutation (Luby and
Rackoff, "How to Construct Pseudorandom Permutations from Pseudorandom Functions", SIAM J. Comput.
17, 1988); as each half is only 32 bits wide, there are ten, as many as NIST SP 800-38G's FF1 has.
"""

from __future__ import annotations

import hmac
from typing import Final

__all__ = ["PublicIds"]

N_ROUNDS: Final = 10
N_SYMBOLS: Final = 13
_HALF: Final = 0xFFFF_FFFF
_LARGEST: Final = 2**63 - 1
# Crockford's base 32 in lower case: no i, l, o, u (https://www.crockford.com/base32.html).
_SYMBOLS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {symbol: value for value, symbol in enumerate(_SYMBOLS)}


class PublicIds:
    """Numbers from 0 to 2**63 - 1 as ids such as `job_6v8n2h0fkq3zd`, and back.

    `key` is 32 secret bytes. Kinds have permutations of their own: the id of job 7 says nothing
    about that of event 7.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, kind: str, number: int) -> str:
        """The id of a number."""
        left, right = number >> 32, number & _HALF
        for n_round in range(N_ROUNDS):
            left, right = right, left ^ self._round(kind, n_round, right)
        value = left << 32 | right
        symbols = (_SYMBOLS[value >> shift & 31] for shift in range(5 * (N_SYMBOLS - 1), -1, -5))
        return f"{kind}_{''.join(symbols)}"

    def decode(self, kind: str, text: str) -> int | None:
        """The number of an id; None for whatever `encode` doesn't make under this key."""
        symbols = text.removeprefix(f"{kind}_")
        if len(symbols) != N_SYMBOLS or len(text) != len(kind) + 1 + N_SYMBOLS:
            return None
        value = 0
        for symbol in symbols:
            digit = _VALUES.get(symbol)
            if digit is None:
                return None
            value = value << 5 | digit
        left, right = value >> 32, value & _HALF
        if left > _HALF:
            return None
        for n_round in reversed(range(N_ROUNDS)):
            left, right = right ^ self._round(kind, n_round, left), left
        number = left << 32 | right
        return number if number <= _LARGEST else None

    def _round(self, kind: str, n_round: int, half: int) -> int:
        message = b"%s\0%d\0%d" % (kind.encode(), n_round, half)
        return int.from_bytes(hmac.digest(self._key, message, "sha256")[:4], "big")
