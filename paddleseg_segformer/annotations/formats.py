"""The forms of annotations, by name."""

from __future__ import annotations

from paddleseg_segformer.annotations.coco import Coco
from paddleseg_segformer.annotations.cvat import Cvat
from paddleseg_segformer.annotations.folders import Folders
from paddleseg_segformer.annotations.labelme import LabelMe
from paddleseg_segformer.annotations.labelstudio import LabelStudio
from paddleseg_segformer.annotations.published import (
    AdeFiles,
    CityscapesFiles,
    CocoStuffFiles,
    CvatMasks,
    Sbd,
    Voc,
)
from paddleseg_segformer.annotations.source import Annotations
from paddleseg_segformer.annotations.yolo import Yolo

FORMATS: dict[str, type[Annotations]] = {
    "coco": Coco,
    "labelme": LabelMe,
    "yolo": Yolo,
    "cvat": Cvat,
    "cvat_masks": CvatMasks,
    "labelstudio": LabelStudio,
    "voc": Voc,
    "sbd": Sbd,
    "cityscapes": CityscapesFiles,
    "ade": AdeFiles,
    "coco_stuff": CocoStuffFiles,
    "folders": Folders,  # what is none of the others
}
