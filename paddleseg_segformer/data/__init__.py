"""Data: label sets, data sets, transforms, loading and auditing."""

from paddleseg_segformer.data.datasets import DATASETS, RawSample, SegmentationDataset
from paddleseg_segformer.data.labels import LABEL_SETS, LabelSet

__all__ = ["DATASETS", "LABEL_SETS", "LabelSet", "RawSample", "SegmentationDataset"]
