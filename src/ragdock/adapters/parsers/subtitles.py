"""Subtitles (SubRip and WebVTT): what is said, in paragraphs labelled with their time."""

from __future__ import annotations

import html
import re
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_TIMES: Final = re.compile(
    r"[ \t]*(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})[ \t]*-->[ \t]*"
    r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})[^\n]*"
)
_VOICE: Final = re.compile(r"<v(?:\.[^ >]*)? +([^>]{1,100})>")
_MARKUP: Final = re.compile(r"<[^<>\n]{0,200}>|\{\\[^{}\n]{0,100}\}")
_SENTENCE_END: Final = re.compile(r"[.!?…。！？][\"'”’)]*$")
_PARAGRAPH_SECONDS: Final = 30  # Long enough for a thought, short enough to find it again.
_PAUSE_SECONDS: Final = 5
_MAX_CHARACTERS: Final = 1000


def parse(content: bytes) -> ParsedDocument:
    """Records of about half a minute, each labelled `00:01:05 - 00:01:34`."""
    cues = _cues(decode_text(content).replace("\r\n", "\n").replace("\r", "\n"))
    builder = TextBuilder()
    texts: list[str] = []
    begin = last = 0
    for start, end, text in cues:
        if texts and (
            start - last > _PAUSE_SECONDS
            or sum(map(len, texts)) > _MAX_CHARACTERS
            or (end - begin > _PARAGRAPH_SECONDS and _SENTENCE_END.search(texts[-1]))
        ):
            _write(builder, begin, last, texts)
            texts = []
        if not texts:
            begin = start
        if not texts or texts[-1] != text:  # Rolling captions repeat their last line.
            texts.append(text)
        last = end
    _write(builder, begin, last, texts)
    if builder.length == 0:
        raise DocumentError(
            "The file holds no subtitles: no line tells when something is said. Upload SubRip "
            "(.srt), WebVTT (.vtt) or plain text.",
            code="damaged",
        )
    return builder.document()


def _write(builder: TextBuilder, begin: int, end: int, texts: list[str]) -> None:
    label = f"{_clock(begin)} - {_clock(end)}"
    builder.add(" ".join(texts), BlockKind.RECORD, label=label)


def _cues(text: str) -> list[tuple[int, int, str]]:
    """(start, end, text), times in whole seconds."""
    found = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        times = _TIMES.fullmatch(lines[at])
        at += 1
        if times is None:
            continue
        first = at
        while at < len(lines) and lines[at].strip() and not _TIMES.fullmatch(lines[at]):
            at += 1
        body = _plain(" ".join(lines[first:at]))
        if body:
            found.append((_seconds(times, 1), _seconds(times, 5), body))
    return found


def _plain(text: str) -> str:
    text = _VOICE.sub(r"\1: ", text)
    return " ".join(html.unescape(_MARKUP.sub("", text)).replace("\0", "").split())


def _seconds(times: re.Match[str], group: int) -> int:
    hours, minutes, seconds = (int(times[group + n] or 0) for n in range(3))
    return hours * 3600 + minutes * 60 + seconds


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
