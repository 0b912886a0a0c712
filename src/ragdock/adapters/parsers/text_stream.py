"""A text file as characters, piece by piece: memory does not depend on the file's size.

A large file is read twice: the first time to be sure of its encoding, so that a document is
refused before any of it is embedded, and not after an hour.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from ragdock.adapters.parsers import decoding
from ragdock.errors import DocumentError

__all__ = ["TextStream", "size_of"]

_WHOLE_BYTES: Final = 4 * 2**20
_PIECE_BYTES: Final = 2**18
_SAMPLE_BYTES: Final = 2**20


def size_of(file: BinaryIO) -> int:
    """The file's length in bytes; its position is at its start afterwards."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size_bytes


class TextStream:
    """The characters of a file, without a byte-order mark.

    Raises `DocumentError` (`binary`, `wrong_encoding`) when it is made, if the file is no text.
    """

    def __init__(self, file: BinaryIO, *, whole_bytes: int = _WHOLE_BYTES) -> None:
        self._size_bytes = size_of(file)
        self._read_bytes = 0
        if self._size_bytes <= whole_bytes:
            self._pieces = iter((decoding.decode_text(file.read()),))
            self._read_bytes = self._size_bytes
            return
        mark, encoding = _encoding(file, self._size_bytes)
        file.seek(mark)
        self._read_bytes = mark
        self._pieces = self._decoded(file, encoding)

    @property
    def done(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return self._read_bytes / max(1, self._size_bytes)

    def read(self, n_characters: int) -> str:
        """At least so many characters, and some more; fewer only at the end of the file."""
        pieces: list[str] = []
        while n_characters > 0:
            piece = next(self._pieces, None)
            if piece is None:
                break
            pieces.append(piece)
            n_characters -= len(piece)
        return "".join(pieces)

    def _decoded(self, file: BinaryIO, encoding: str) -> Iterator[str]:
        for piece, n_bytes in _pieces(file, encoding):
            self._read_bytes += n_bytes
            yield piece


def _pieces(file: BinaryIO, encoding: str) -> Iterator[tuple[str, int]]:
    """The text from the file's position on, with the bytes that each piece took.

    The `UnicodeDecodeError` of the first byte that is wrong counts `start` from that position.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    n_fed = 0
    while True:
        piece = file.read(_PIECE_BYTES)
        n_fed += len(piece)
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as exc:
            offset = n_fed - len(exc.object) + exc.start
            raise UnicodeDecodeError(encoding, b"", offset, offset + 1, exc.reason) from None
        if not piece:
            if text:
                yield text, 0
            return
        yield text, len(piece)


def _encoding(file: BinaryIO, size_bytes: int) -> tuple[int, str]:
    """(length of the byte-order mark, encoding), after reading all of the file."""
    head = file.read(4)
    for mark, encoding in decoding.MARKS:
        if head.startswith(mark):
            try:
                _check(file, len(mark), encoding)
            except UnicodeDecodeError as exc:
                raise decoding.wrong_marked(encoding, exc.start) from None
            return len(mark), encoding
    try:
        _check(file, 0, "utf-8")
    except UnicodeDecodeError as exc:
        return 0, _guess(file, size_bytes, exc.start)
    return 0, "utf-8"


def _guess(file: BinaryIO, size_bytes: int, wrong: int) -> str:
    """The encoding of a file that is not UTF-8 at byte `wrong`, guessed from samples."""
    samples = []
    for at in sorted({0, max(0, wrong - 1000), size_bytes // 2}):
        file.seek(at)
        samples.append(file.read(_SAMPLE_BYTES))
    encoding = decoding.guess_encoding(b"".join(samples))
    if encoding is not None:
        try:
            _check(file, 0, encoding)
        except UnicodeDecodeError:
            pass
        else:
            return encoding
    n_lines = 0
    file.seek(0)
    left = wrong
    while piece := file.read(min(left, _PIECE_BYTES)):
        n_lines += piece.count(b"\n")
        left -= len(piece)
    raise decoding.wrong_encoding(file.read(1), wrong, n_lines + 1)


def _check(file: BinaryIO, start: int, encoding: str) -> None:
    """Decode all of it; raises `UnicodeDecodeError`, or `DocumentError` if it is no text."""
    file.seek(start)
    n_characters = n_controls = 0
    for text, _ in _pieces(file, encoding):
        if "\0" in text:
            decoding.refuse_controls(start, 0)  # In UTF-16 it is a character like others.
            raise _nul(file)
        n_characters += len(text)
        n_controls += decoding.n_controls(text)
    decoding.refuse_controls(n_controls, n_characters)


def _nul(file: BinaryIO) -> DocumentError:
    file.seek(0)
    head = piece = file.read(_PIECE_BYTES)
    n_before = 0
    while (at := piece.find(b"\0")) < 0 and piece:
        n_before += len(piece)
        piece = file.read(_PIECE_BYTES)
    return decoding.nul_error(head[:2000], n_before + at)
