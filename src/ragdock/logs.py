"""Structured logs: one JSON object a line in containers, readable lines on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Final, Literal, TextIO

__all__ = ["configure_logging", "request_id", "trace_id"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}
_QUIET: Final = ("uvicorn.access", "httpx2", "httpcore2")


_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode


@lru_cache(maxsize=4)
def _clock(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Stamp(logging.Filter):
    """Puts the ids of the current request and trace on the record, in the thread that logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        record.trace_id = trace_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "request_id", "trace_id", ...extras}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": f"{_clock(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_extras(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _printable(_encode(entry))


class TextFormatter(logging.Formatter):
    """`12:30:01 info    message  key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extras = "  ".join(f"{key}={value}" for key, value in _extras(record).items())
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}"
        line = f"{line}  {extras}" if extras else line
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return _printable(line)


def configure_logging(
    level: str, form: Literal["auto", "json", "text"], stream: TextIO | None = None
) -> None:
    """Send everything, uvicorn's lines included, to stdout (or the stream) in one form."""
    stream = sys.stdout if stream is None else stream
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_Stamp())
    # Facts that no line shows: finding the caller alone costs more than the rest of a line
    # (docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None  # noqa: SLF001 (the documented way)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _printable(line: str) -> str:
    # A lone surrogate can't be written, and a line about it must not be lost for that.
    return line.encode("utf-8", "backslashreplace").decode()


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {
        key: value
        for key, value in vars(record).items()
        if key not in _STANDARD and value is not None
    }
