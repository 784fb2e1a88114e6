"""The forms of annotations, by name."""

from __future__ import annotations

from paddleseg_segformer.annotations.folders import Folders
from paddleseg_segformer.annotations.source import Annotations

FORMATS: dict[str, type[Annotations]] = {"folders": Folders}
