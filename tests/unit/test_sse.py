from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.sse import SseDecoder
from ragdock.core.thinking import ThinkFilter


def decode(stream: bytes, size: int = 10**6) -> list[str]:
    """The events of a stream that comes in chunks of `size` bytes."""
    decoder = SseDecoder()
    events = [
        event
        for at in range(0, len(stream), size)
        for event in decoder.feed(stream[at : at + size])
    ]
    return events + decoder.close()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b": keep-alive\n\n: again\n\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data\n\ndata: a\n\n", ["", "a"]),
        (b"data: [DONE]", ["[DONE]"]),
        (b"data: a\n", ["a"]),
        ("data: 编程 ü\u2028x\n\n".encode(), ["编程 ü\u2028x"]),
        (b"database: no\n\n", []),
        (b"", []),
    ],
)
def test_events(stream: bytes, events: list[str]) -> None:
    """Line ends, several data lines, comments and other fields are read as standardised."""
    assert decode(stream) == events


@given(st.text(alphabet="ab:\r\n data编", max_size=60), st.integers(1, 5))
def test_chunks_dont_matter(text: str, size: int) -> None:
    """However the bytes are cut, within a character or a line end, the events are the same."""
    stream = "data: " + text
    assert decode(stream.encode(), size) == decode(stream.encode())


def test_not_utf8_is_an_error() -> None:
    """Bytes that aren't UTF-8 are no text to guess at."""
    with pytest.raises(UnicodeDecodeError):
        decode(b"data: \xff\n\n")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Plain.", "Plain."),
        ("<think>a [1]</think>\n\nAnswer.", "Answer."),
        (" \n<think></think>Answer.", "Answer."),
        ("<think>never ends", ""),
        ("<thin", "<thin"),
        ("<table>", "<table>"),
        ("An answer with <think>.", "An answer with <think>."),
        ("<think>a</think>b<think>c</think>", "b<think>c</think>"),
        ("<think>a</think>  ", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_thoughts_are_dropped(text: str, answer: str, size: int) -> None:
    """Only a leading thought is dropped, however the text is cut."""
    thoughts = ThinkFilter()
    pieces = [thoughts.feed(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join(pieces) + thoughts.close() == answer
