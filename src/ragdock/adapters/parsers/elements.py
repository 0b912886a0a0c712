"""Expat's handlers for a reader that knows some elements by name and skips others whole."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from ragdock.adapters.parsers.packages import Attributes, local_name

__all__ = ["ElementReader"]


class ElementReader:
    """Calls `_starts` and `_ends` by an element's name; subclasses fill them.

    An element of `skipped` is passed over with all that is in it. `local` makes the name that the
    two and `skipped` are asked with.
    """

    def __init__(self, skipped: AbstractSet[str], local: Callable[[str], str] = local_name) -> None:
        self._skipped = skipped
        self._local = local
        self._depth = 0
        self._skipping: int | None = None  # The depth of the element whose inside is skipped.
        self._starts: dict[str, Callable[[Attributes], None]] = {}
        self._ends: dict[str, Callable[[], None]] = {}

    def start(self, name: str, attributes: Attributes) -> None:
        """Expat's StartElementHandler."""
        self._depth += 1
        if self._skipping is not None:
            return
        local = self._local(name)
        if local in self._skipped:
            self._skipping = self._depth
        elif local in self._starts:
            self._starts[local](attributes)

    def end(self, name: str) -> None:
        """Expat's EndElementHandler."""
        self._depth -= 1
        if self._skipping is not None:
            if self._depth < self._skipping:
                self._skipping = None
            return
        local = self._local(name)
        if local in self._ends:
            self._ends[local]()
