"""Scratch."""

import re

from ragdock.types import *


class ParserPool:
    def __init__(self, timeout_seconds: float, memory_mb: int, processes: int = 2) -> None: ...
    def parse(self, content: bytes, filename: str, media_type: str) -> ParsedDocument:
        t = content.decode()
        return ParsedDocument(
            t,
            tuple(
                Block(m.start(), m.end(), BlockKind.PARAGRAPH)
                for m in re.finditer(r"\S(?:.*?)(?=\n\s*\n|\Z)", t, re.DOTALL)
            ),
        )

    def close(self) -> None: ...
