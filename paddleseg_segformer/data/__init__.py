"""Data: label sets, data sets, transforms, loading and auditing."""

from paddleseg_segformer.data import mixing, transforms
from paddleseg_segformer.data.datasets import DATASETS, RawSample, SegmentationDataset
from paddleseg_segformer.data.labels import LABEL_SETS, LabelSet

TRANSFORMS = transforms.TRANSFORMS | mixing.TRANSFORMS

__all__ = [
    "DATASETS",
    "LABEL_SETS",
    "TRANSFORMS",
    "LabelSet",
    "RawSample",
    "SegmentationDataset",
]
