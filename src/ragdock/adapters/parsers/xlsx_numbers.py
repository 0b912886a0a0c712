"""What a number in a sheet looks like: the few of Excel's number formats that change its meaning.

Dates and times become ISO 8601, because `03/04/25` means one day to one reader and another to the
next; percentages, decimals, thousands and currencies are shown as the sheet shows them.
See ECMA-376 part 1, 18.8.30 and 18.8.31.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

__all__ = ["BUILTIN_FORMATS", "show_number"]

BUILTIN_FORMATS: Final = {
    0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%",
    14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm", 19: "h:mm:ss",
    20: "h:mm", 21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 37: "#,##0", 38: "#,##0", 39: "#,##0.00",
    40: "#,##0.00", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss",
}  # fmt: skip
"""Formats by their number that no file spells out."""

_LITERAL: Final = re.compile(r'"([^"]*)"|\\(.)|_.|\*.')
_BRACKETS: Final = re.compile(r"\[\$([^\]-]*)[^\]]*\]|\[(h+|m+|s+)\]|\[[^\]]*\]", re.IGNORECASE)
_EPOCH: Final = dt.datetime(1899, 12, 30)  # noqa: DTZ001  # Sheets know no zones.
_EPOCH_1904: Final = dt.datetime(1904, 1, 1)  # noqa: DTZ001
_DAY_SECONDS: Final = 86_400
_MAX_DAY: Final = 2_958_466  # The day after 9999-12-31.
_CURRENCY: Final = re.compile(r"[$€£¥₹₽₩₺]|CHF|USD|EUR")


def show_number(raw: str, code: str, *, since_1904: bool = False) -> str:
    """The number `raw` under the format `code`; `raw` itself when it is no number."""
    try:
        value = float(raw)
    except ValueError:
        return raw
    if value != value or value in (float("inf"), float("-inf")):
        return raw
    section = _section(code, value)
    currency = ""
    elapsed = False

    def bracket(match: re.Match[str]) -> str:
        nonlocal currency, elapsed
        currency = currency or (match[1] or "")
        elapsed = elapsed or bool(match[2])
        return match[2] or ""

    plain = _BRACKETS.sub(bracket, section)
    literals = "".join((m[1] or m[2] or "") for m in _LITERAL.finditer(plain))
    plain = _LITERAL.sub("", plain)
    letters = plain.lower()
    if "general" not in letters and re.search(r"[ymdhs]", letters):
        return _date(value, letters, elapsed, since_1904) or _general(value)
    found = _CURRENCY.search(plain + literals)
    return _decimal(value, plain, currency or (found[0] if found else ""))


def _section(code: str, value: float) -> str:
    parts = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', code) if len(code) <= 200 else [code[:200]]
    if value == 0 and len(parts) > 2:
        return parts[2] if "0" in parts[2] or "#" in parts[2] else parts[0]
    return parts[0]


def _date(value: float, letters: str, elapsed: bool, since_1904: bool) -> str:
    if not 0 <= value < _MAX_DAY:
        return ""
    has_date = (
        "y" in letters or "d" in letters or ("m" in letters and not re.search("[hs]", letters))
    )
    total = round(value * _DAY_SECONDS)
    if elapsed:
        hours, rest = divmod(total, 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"
    when = (_EPOCH_1904 if since_1904 else _EPOCH) + dt.timedelta(seconds=total)
    shape = []
    if has_date:
        shape.append("%Y-%m-%d" if "d" in letters or "y" not in letters else "%Y-%m")
    if re.search("[hs]", letters):
        shape.append("%H:%M:%S" if "s" in letters else "%H:%M")
    return when.strftime(" ".join(shape)) if when.year >= 1000 else ""


def _decimal(value: float, plain: str, currency: str) -> str:
    digits = plain.partition(".")
    if "general" in plain.lower() or not re.search("[0#]", plain) or "e+" in plain.lower():
        return f"{currency} {_general(value)}".strip()
    percent = "%" in plain
    places = min(len(re.findall("[0#?]", digits[2])), 10)
    scaled = value * 100 if percent else value
    if abs(scaled) >= 1e15 or "/" in plain:
        return _general(value)
    text = f"{scaled:,.{places}f}" if "," in digits[0] else f"{scaled:.{places}f}"
    if float(text.replace(",", "")) == 0 and scaled != 0:
        text = _general(scaled)  # Rounded to nothing is no number to search for.
    return f"{currency} {text}".strip() + ("%" if percent else "")


def _general(value: float) -> str:
    return f"{value:.15g}" if abs(value) < 1e15 else f"{value:.6g}"
