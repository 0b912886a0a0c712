"""Server-sent events, the part that LLM servers use: bytes in, the events' data out. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, with
one leniency: an event that the stream's end completes counts, because some servers leave out the
last blank line.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

__all__ = ["SseDecoder"]

_LINE_END: Final = re.compile(r"\r\n|\n|\r")


class SseDecoder:
    """Feed it bytes as they come; each call returns the data of the events that got complete.

    Comments (keep-alives), ids, retry times and event names are skipped; several `data` lines are
    one event, joined by line feeds. Raises `UnicodeDecodeError` for what isn't UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that this chunk completes."""
        self._text += self._decoder.decode(chunk)
        return self._events(final=False)

    def close(self) -> list[str]:
        """The data of an event that only the stream's end completes."""
        self._text += self._decoder.decode(b"", final=True)
        events = self._events(final=True)
        if self._text:
            self._line(self._text)
        if self._data:
            events.append("\n".join(self._data))
        self._text, self._data = "", []
        return events

    def _events(self, *, final: bool) -> list[str]:
        events: list[str] = []
        at = 0
        for match in _LINE_END.finditer(self._text):
            if match.group() == "\r" and match.end() == len(self._text) and not final:
                break  # The line feed that belongs to it may be in the next chunk.
            line = self._text[at : match.start()]
            at = match.end()
            if line:
                self._line(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        self._text = self._text[at:]
        return events

    def _line(self, line: str) -> None:
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
