"""Data: label sets, data sets, transforms, loading and auditing."""

from paddleseg_segformer.data.datasets import DATASETS, RawSample, SegmentationDataset
from paddleseg_segformer.data.labels import LABEL_SETS, LabelSet
from paddleseg_segformer.data.transforms import TRANSFORMS

__all__ = [
    "DATASETS",
    "LABEL_SETS",
    "TRANSFORMS",
    "LabelSet",
    "RawSample",
    "SegmentationDataset",
]
