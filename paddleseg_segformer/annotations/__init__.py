"""Own data in any form: recognised, split, and converted to label images and lists."""

from paddleseg_segformer.annotations.convert import Prepared, prepare
from paddleseg_segformer.annotations.detect import Detected, detect
from paddleseg_segformer.annotations.source import (
    Annotations,
    Conclusion,
    Files,
    Options,
    Sample,
)

__all__ = [
    "Annotations",
    "Conclusion",
    "Detected",
    "Files",
    "Options",
    "Prepared",
    "Sample",
    "detect",
    "prepare",
]
