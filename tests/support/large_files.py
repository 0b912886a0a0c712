"""Large files for the tests of bounded memory, written piece by piece from a seeded vocabulary."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

__all__ = ["vocabulary", "write_pdf", "write_text"]

_SYLLABLES = [a + b for a in "bcdfglmnprstvz" for b in "aeiou"]
_WORDS_A_SENTENCE = 12
_SENTENCES_A_PARAGRAPH = 6


def vocabulary(n_words: int = 20_000, seed: int = 7) -> list[str]:
    """Words that look like words; the first ones are used as often as common words are."""
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < n_words:
        words["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4)))] = None
    return list(words)


class _Prose:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._words = vocabulary()

    def sentence(self) -> str:
        n_words = self._rng.randint(_WORDS_A_SENTENCE // 2, _WORDS_A_SENTENCE * 3 // 2)
        # Zipf's law, roughly: the rank's logarithm is even.
        ranks = (int(len(self._words) ** self._rng.random()) - 1 for _ in range(n_words))
        return " ".join(self._words[rank] for rank in ranks).capitalize() + "."

    def paragraph(self) -> str:
        return " ".join(self.sentence() for _ in range(_SENTENCES_A_PARAGRAPH))


def write_text(path: Path, size_bytes: int, *, seed: int = 1) -> None:
    """Paragraphs of prose; number n holds the word `marker<n>`."""
    prose = _Prose(seed)
    # Prose is costly to make, so paragraphs are told apart by their markers and else repeat.
    stock = [prose.paragraph() for _ in range(2000)]
    n, written = 0, 0
    with path.open("wb") as file:
        while written < size_bytes:
            text = f"{stock[n % len(stock)]} It is marked as marker{n}.\n\n".encode()
            written += file.write(text)
            n += 1


def write_pdf(path: Path, n_pages: int, *, seed: int = 2) -> None:
    """Pages of about 3,000 characters with a running head; page n holds the word `sheet<n>`."""
    prose = _Prose(seed)
    stock = [_lines(prose) for _ in range(200)]
    offsets: list[int] = []
    with path.open("wb") as file:

        def add(body: bytes) -> None:
            offsets.append(file.tell())
            file.write(b"%d 0 obj\n%s\nendobj\n" % (len(offsets), body))

        file.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
        add(b"<< /Type /Catalog /Pages 2 0 R >>")
        kids = b" ".join(b"%d 0 R" % (5 + 2 * n) for n in range(n_pages))
        add(b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, n_pages))
        add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
        for n in range(1, n_pages + 1):
            body = stock[n % len(stock)]
            # In the middle: what repeats at the edges of pages but for its number is left out.
            marked = [*body[:9], f"This is sheet{n} and no other.", *body[9:]]
            lines = ["The Complete Handbook", *marked, f"Page {n} of {n_pages}"]
            shown = " ".join(f"({line}) Tj T*" for line in lines)
            stream = zlib.compress(f"BT /F1 9 Tf 12 TL 40 810 Td {shown} ET".encode(), 1)
            size = len(stream)
            add(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (size, stream))
            add(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
                b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(offsets)
            )
        start = file.tell()
        file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1))
        file.writelines(b"%010d 00000 n \n" % offset for offset in offsets)
        file.write(
            b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
            % (len(offsets) + 1, start)
        )


def _lines(prose: _Prose) -> list[str]:
    lines: list[str] = []
    for _ in range(5):
        line = ""
        for word in prose.paragraph().split():
            if len(line) + len(word) > 95:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines.append(line)
    return lines
