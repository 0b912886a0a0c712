"""Text in pictures of pages, by RapidOCR: the `ocr` extra (https://github.com/RapidAI/RapidOCR).

Its models (PP-OCRv6 small: detection and recognition of Latin, Chinese and Japanese letters) are in
its wheel, so that nothing is downloaded, and run in the ONNX Runtime that ragdock has anyway.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ragdock.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MEMORY_MB", "Word", "load", "recognised", "require", "scale_for"]

MEMORY_MB: Final = 1024
"""What a parser process needs. The picture of an A4 page took 916 MB of address space."""

_LONG_SIDE_PIXELS: Final = 1600
_PIXELS: Final = 1600 * 1132
_PIXELS_PER_POINT: Final = 200 / 72
# An A4 page has 137 dpi with that. With 2,000 pixels it took 250 MB more and almost twice the time,
# and the same words were read in print of 11 points.


class Word(NamedTuple):
    """A stretch of a line as it was found; pixels, counted from the top left corner."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def require(memory_mb: int) -> None:
    """Raise `ConfigurationError` without the extra, or where processes have too little memory."""
    if importlib.util.find_spec("rapidocr") is None:
        raise ConfigurationError(
            "RAG_OCR is true and the package that recognises text is missing; run "
            "`pip install 'ragdock[ocr]'`, or set RAG_OCR=false."
        )

    if memory_mb < MEMORY_MB:
        raise ConfigurationError(
            f"RAG_OCR is true and a parser process may use {memory_mb} MB; set "
            f"RAG_PARSE_MEMORY_MB={MEMORY_MB} or more where there is room for two of them, or "
            "RAG_OCR=false."
        )


def scale_for(width_points: float, height_points: float) -> float:
    """How many pixels a point becomes when a page is drawn to be read."""
    width, height = max(1.0, width_points), max(1.0, height_points)
    return min(
        _PIXELS_PER_POINT,
        _LONG_SIDE_PIXELS / max(width, height),
        math.sqrt(_PIXELS / (width * height)),
    )


def load() -> None:
    """Read the code and the models, for a process that can open no file afterwards."""
    _engine()


def recognised(picture: NDArray[np.uint8]) -> list[Word]:
    """The words of a picture, (height, width, 3) in the order blue, green, red."""
    # The engine keeps what it was told in its last call.
    found = _engine()(picture, use_det=True, use_cls=False)
    if found.txts is None:
        return []
    words = []
    for text, corners in zip(found.txts, found.boxes, strict=True):
        xs, ys = corners[:, 0], corners[:, 1]
        words.append(Word(text, float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))))
    return words


@lru_cache(maxsize=1)
def _engine() -> Any:
    import cv2  # Heavy, and needed for scans only.
    from rapidocr import RapidOCR

    # A parser process may use one processor: its time is limited, and others go first.
    cv2.setNumThreads(1)
    engine = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.max_side_len": _LONG_SIDE_PIXELS,
            "Det.limit_type": "max",
            "Det.limit_side_len": _LONG_SIDE_PIXELS,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Rec.rec_batch_num": 1,
        }
    )
    # The models are read when they are used first.
    engine(_blank(), use_det=True, use_cls=False)
    engine(_blank(), use_det=False, use_cls=False)
    return engine


def _blank() -> Any:
    import numpy as np

    return np.full((64, 256, 3), 255, dtype=np.uint8)
