"""Pictures of any size: predicted strip by strip, each kept in a folder as soon as it is done.

The memory that is needed grows with the picture's width, not with its height. A run that was killed
goes on with the first strip that is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.data.io import read_label, write_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import make_folder, write_text
from paddleseg_segformer.inference.pipeline import STRIP_STEP_PX, ImageLogits

KEY_FILE = "made_from.json"


class StripFolder:
    """The finished strips of a picture.

    Args:
        folder: Where they are kept; strips there that were made from something else are removed.
        size_hw: Of the picture.
        made_from: What decides the strips, as plain data: picture, model, options.
        has_confidence: Whether the confidence is kept beside the class ids.
        rows: Of a strip, a multiple of `STRIP_STEP_PX`; the last one may have less.
    """

    def __init__(
        self,
        folder: Path,
        size_hw: tuple[int, int],
        made_from: Mapping[str, Any],
        has_confidence: bool = False,
        rows: int = STRIP_STEP_PX,
    ) -> None:
        assert rows % STRIP_STEP_PX == 0
        self.folder = folder
        self.size_hw = size_hw
        self.has_confidence = has_confidence
        self.rows = rows
        key = json.dumps({**made_from, "rows": rows, "has_confidence": has_confidence}, indent=1)
        path = folder / KEY_FILE
        self.is_new = not path.is_file() or path.read_text(encoding="utf-8") != key
        if self.is_new:
            shutil.rmtree(folder, ignore_errors=True)
            write_text(path, key)

    def spans(self) -> list[tuple[int, int]]:
        """Return first row and last + 1 of each strip."""
        height = self.size_hw[0]
        return [(top, min(top + self.rows, height)) for top in range(0, height, self.rows)]

    def missing(self) -> list[tuple[int, int]]:
        """Return the strips that are not done; each map of a strip is written as a whole."""
        last = "confidence" if self.has_confidence else "label"  # the one that is written last
        return [span for span in self.spans() if not self._path(last, span[0]).is_file()]

    def save(self, top: int, label: np.ndarray, confidence: np.ndarray | None) -> None:
        """Keep a strip: class ids (h, W), and confidence (h, W), 0..1, in 8 bits."""
        write_label(self._path("label", top), label)
        if confidence is not None:
            levels = np.rint(255 * confidence).astype(np.uint8)
            write_label(self._path("confidence", top), levels)

    def read(self, name: str = "label") -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the map "label" or "confidence" of each strip."""
        for top, bottom in self.spans():
            strip = read_label(self._path(name, top))
            if strip.shape != (bottom - top, self.size_hw[1]):
                raise UserError(f"{self.folder}: a strip is damaged. Remove the folder.")
            yield top, strip

    def remove(self) -> None:
        """Delete the folder, whose strips are in their final file."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, top: int) -> Path:
        return make_folder(self.folder) / f"{name}-{top:07d}.png"


def compute_strips(
    logits: ImageLogits,
    strips: StripFolder,
    finish: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Iterator[int]:
    """Predict the strips that are missing; yield each one's number of rows when it is kept.

    Args:
        logits: Of the whole picture.
        strips: Where they go.
        finish: Changes class ids by the confidence, (h, W) each.
    """
    for top, bottom in strips.missing():
        logits.compute_rows(top, bottom)
        label = logits.labels((top, bottom))
        needs_confidence = strips.has_confidence or finish
        confidence = logits.confidence((top, bottom)) if needs_confidence else None
        if finish and confidence is not None:
            label = finish(label, confidence)
        strips.save(top, label, confidence if strips.has_confidence else None)
        logits.forget_above(bottom)
        yield bottom - top


def held_mib(logits: ImageLogits, rows: int, num_classes: int, stride: int) -> float:
    """Return the most that the logits of windows take at once while strips are computed, in MiB.

    Args:
        logits: Of the picture; nothing has to be computed.
        rows: Of a strip.
        num_classes: K.
        stride: Input pixels per logit, along an axis.
    """
    height = logits.size_hw[0]
    most = 0.0
    for top in range(0, height, rows):
        sizes = (logits.window_hw(key) for key in logits.missing(top, min(top + rows, height)))
        most = max(most, sum(-(-h // stride) * -(-w // stride) for h, w in sizes))
    return 4 * (num_classes + 1) * most / 2**20
