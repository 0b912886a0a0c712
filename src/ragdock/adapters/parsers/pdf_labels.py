"""What the pages of a PDF are called: "iv", "A-3" (ISO 32000-1, 12.4.2).

PDFium looks a page's name up in the tree of all names each time: 5,000 pages take 50 ms, and 150 ms
where each has an entry of its own. A tree made to harm makes that 30 s, or crashes PDFium (letters
that are counted from -2**31): so time is limited here, all names are read before anything of the
document is told, and `dispatch` asks again without them where a child dies before that.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Final

import pypdfium2
import pypdfium2.raw as pdfium

__all__ = ["labels_of"]

_MAX_CHARACTERS: Final = 32
_BUFFER_BYTES: Final = 4 * 2 * _MAX_CHARACTERS  # UTF-16, and room for what is cleaned away.
_CPU_SECONDS: Final = 5.0


def labels_of(document: pypdfium2.PdfDocument, clean: Callable[[str], str]) -> dict[int, str]:
    """The names of pages (0-based), as far as they aren't the page's number (1-based).

    A name of more than 32 characters is left out: cut, it would be the name of several pages.
    All are left out where they take more than five seconds of the processor.
    """
    labels = {}
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    deadline = time.process_time() + _CPU_SECONDS
    for number in range(len(document)):
        # Not `get_page_label`, which takes a name of any length, and raises for halves of pairs.
        n_bytes = pdfium.FPDF_GetPageLabel(document, number, buffer, _BUFFER_BYTES)
        if n_bytes == 0 or time.process_time() > deadline:
            return {}  # There are no names in the document; or too much is wrong with them.
        if n_bytes <= _BUFFER_BYTES:
            text = clean(buffer.raw[: n_bytes - 2].decode("utf-16-le", "ignore"))
            label = " ".join("".join(filter(str.isprintable, text)).split())
            if 0 < len(label) <= _MAX_CHARACTERS and label != str(number + 1):
                labels[number] = label
    return labels
