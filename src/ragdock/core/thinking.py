"""Keeps a reasoning model's thoughts out of the answer. Pure.

Servers that don't split them off send `<think>...</think>` at the start of the content.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ThinkFilter"]

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"


class ThinkFilter:
    """Drops a leading thought from text that comes in pieces; unfinished thoughts give nothing."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False

    def feed(self, piece: str) -> str:
        """The part of the text so far that is answer and was not returned yet."""
        if self._begun:
            return piece
        self._held += piece
        if not self._thinking:
            head = self._held.lstrip()
            if _OPEN.startswith(head[: len(_OPEN)]) and len(head) < len(_OPEN):
                return ""
            if not head.startswith(_OPEN):
                return self._begin(self._held)
            self._thinking, self._held = True, head[len(_OPEN) :]
        thought, closed, rest = self._held.partition(_CLOSE)
        if not closed:
            self._held = thought[-len(_CLOSE) :]
            return ""
        if not rest.strip():
            # White space between thought and answer may come in pieces too.
            self._held = _CLOSE + rest
            return ""
        return self._begin(rest.lstrip())

    def close(self) -> str:
        """What was held back and turns out to be answer."""
        return "" if self._begun or self._thinking else self._begin(self._held)

    def _begin(self, text: str) -> str:
        self._begun, self._held = True, ""
        return text
