"""The fields of requests: what may stand in them, as checked and as OpenAPI tells it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from ragdock.core.filters import MAX_CONDITIONS, MAX_IN_VALUES, MAX_KEY_CHARACTERS
from ragdock.core.names import COLLECTION_NAME

__all__ = [
    "DOCUMENT_ID",
    "MAX_URLS",
    "NAME",
    "DocumentId",
    "FileName",
    "FilterObject",
    "MetadataObject",
    "Name",
    "Question",
    "Text",
    "TopK",
    "Url",
]

MAX_METADATA_CHARACTERS: Final = 4096
MAX_METADATA_ITEMS: Final = 256
MAX_URLS: Final = 20
MAX_NUMBER: Final = 2**53  # Beyond it a JSON number isn't the same number for everyone (RFC 8259).
NAME: Final = COLLECTION_NAME
DOCUMENT_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}$"

Name = Annotated[str, Field(pattern=NAME, examples=["default"])]
DocumentId = Annotated[str, Field(pattern=DOCUMENT_ID)]
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
_ORDERED: Final = {"type": ["string", "number"]}
_SCALARS: Final = {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MAX_IN_VALUES}
# The rules are those of `parse_filter`, whose messages are better than a schema's.
FilterObject = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Conditions on metadata, all of which must hold: a value, a list of "
            "values, or an object of eq, ne, in, gt, gte, lt, lte, exists.",
            "examples": [{"year": {"gte": 2024}, "team": ["ops", "legal"]}],
            "maxProperties": MAX_CONDITIONS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
            "additionalProperties": {
                "anyOf": [
                    _SCALAR,
                    _SCALARS,
                    {
                        "type": "object",
                        "minProperties": 1,
                        "additionalProperties": False,
                        "properties": {
                            **dict.fromkeys(("eq", "ne"), _SCALAR),
                            **dict.fromkeys(("gt", "gte", "lt", "lte"), _ORDERED),
                            "in": _SCALARS,
                            "exists": {"type": "boolean"},
                        },
                    },
                ]
            },
        }
    ),
]


def _integral(value: Any) -> Any:
    # 5.0 is an integer in JSON Schema, and some languages write all their numbers so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


TopK = Annotated[int, Field(ge=1, le=100), BeforeValidator(_integral)]
Text = Annotated[
    str,
    Field(
        min_length=1,
        # Checked with better messages in `uploads`.
        json_schema_extra={"pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"},
    ),
]
Question = Annotated[
    str, Field(min_length=1, json_schema_extra={"pattern": r"[^\s\u0000]", "maxLength": 2000})
]
Url = Annotated[
    # What is wrong with one of several URLs is told beside the others' outcomes, not as a 422.
    str, Field(min_length=1, max_length=2048, examples=["https://example.org/guide.pdf"])
]
FileName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        json_schema_extra={
            "description": "A plain name, at most 255 bytes of UTF-8.",
            "pattern": r"^(?!\s*\.{0,2}\s*$)[^/\\\u0000-\u001f\u007f-\u009f\u2028-\u202e"
            r"\u2066-\u2069]*$",
        },
    ),
]


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_METADATA_CHARACTERS:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _metadata_value(value: Any) -> Any:
    # One sentence instead of the five that a union's members would say.
    if isinstance(value, list):
        fits = len(value) <= MAX_METADATA_ITEMS and all(map(_is_text, value))
    elif isinstance(value, int | float):
        fits = abs(value) < MAX_NUMBER  # False for NaN as well; true and false are 1 and 0.
    else:
        fits = _is_text(value)
    if not fits:
        raise ValueError(
            f"not a string of up to {MAX_METADATA_CHARACTERS} characters, a number below 2**53, a "
            f"boolean, or a list of up to {MAX_METADATA_ITEMS} strings"
        )
    return value


MetadataValue = Annotated[
    Any,
    PlainValidator(
        _metadata_value,
        json_schema_input_type=Annotated[str, Field(max_length=MAX_METADATA_CHARACTERS)]
        | Annotated[float, Field(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
        | bool
        | Annotated[
            list[Annotated[str, Field(max_length=MAX_METADATA_CHARACTERS)]],
            Field(max_length=MAX_METADATA_ITEMS),
        ],
    ),
]
MetadataObject = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARACTERS)], MetadataValue],
    Field(description="Flat: strings, numbers, booleans, lists of strings.", max_length=64),
]
