"""Logs: one JSON object a line, or one readable line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from ragdock.logs import JsonFormatter, TextFormatter, configure_logging, request_id


@pytest.fixture
def _restored() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    """A record as a logger makes it."""
    return logging.getLogger("ragdock.test").makeRecord(
        "ragdock.test", logging.WARNING, __file__, 1, message, args, None, extra=extra
    )


def test_json_lines_hold_message_and_extras() -> None:
    """A line has time, level, logger, message and what was said beside."""
    entry = json.loads(JsonFormatter().format(record("took %d", 3, job_id=7, why=None)))
    assert entry["message"] == "took 3"
    assert (entry["level"], entry["logger"], entry["job_id"]) == ("warning", "ragdock.test", 7)
    assert "why" not in entry
    assert entry["time"].endswith("Z")
    assert len(entry["time"]) == 24


@pytest.mark.parametrize("value", ["two\nlines", "\ud800", "ü🐝", object(), float("inf"), {1, 2}])
def test_any_value_is_one_line_that_can_be_written(value: object) -> None:
    """Line breaks, half characters and foreign objects neither break the line nor the handler."""
    line = JsonFormatter().format(record("x", value=value))
    assert "\n" not in line
    line.encode()
    assert json.loads(line)["message"] == "x"
    TextFormatter().format(record("x", value=value)).encode()


def test_exceptions_are_in_the_line() -> None:
    """A traceback is a field of the JSON line, and follows the readable one."""
    try:
        raise ValueError("broken")
    except ValueError:
        failed = record("oops")
        failed.exc_info = sys.exc_info()
    assert "ValueError: broken" in json.loads(JsonFormatter().format(failed))["exception"]
    assert TextFormatter().format(failed).endswith("ValueError: broken")


def test_readable_lines_are_short() -> None:
    """On a terminal: clock, level, message, extras."""
    line = TextFormatter().format(record("document indexed", job_id=7))
    assert line[8:] == " warning document indexed  job_id=7"


@pytest.mark.usefixtures("_restored")
def test_the_request_id_is_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    """While a request is served its id is on the lines that are logged for it, and on no other."""
    configure_logging("info", "json")
    token = request_id.set("abc")
    logging.getLogger("ragdock.x").info("inside")
    request_id.reset(token)
    logging.getLogger("uvicorn.error").info("outside")
    logging.getLogger("uvicorn.access").info("dropped")
    logging.getLogger("ragdock.x").debug("dropped")
    inside, outside = map(json.loads, capsys.readouterr().out.splitlines())
    assert inside["request_id"] == "abc"
    assert (outside["message"], outside.get("request_id")) == ("outside", None)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("form", "is_json"), [("auto", True), ("json", True), ("text", False)])
def test_the_form_is_json_unless_a_terminal_looks(
    capsys: pytest.CaptureFixture[str], form: str, is_json: bool
) -> None:
    """`auto` is JSON where nobody reads along."""
    configure_logging("info", form)  # type: ignore[arg-type]
    logging.getLogger("ragdock.x").info("hello")
    assert capsys.readouterr().out.startswith("{") == is_json
