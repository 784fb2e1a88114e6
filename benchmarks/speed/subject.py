"""What an engine gives the worker that times it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed.cases import Case
from benchmarks.speed.files import Files


@dataclass
class Subject:
    """One pass, and what came out of it.

    Args:
        run: one pass; its result is given to the other two.
        labels: the label maps (N, H, W) of a result, int; not timed.
        logits: the logits (N, K, h, w) of a result, float32, where it has them; not timed.
    """

    run: Callable[[], Any]
    labels: Callable[[Any], np.ndarray]
    logits: Callable[[Any], np.ndarray] | None = None


class Pictures:
    """The images of a case as files, and a folder for their label maps."""

    def __init__(self, case: Case, files: Files) -> None:
        root = files.root / "pictures" / f"{case.engine}-{case.precision}"
        shutil.rmtree(root, ignore_errors=True)
        self.folder, self.results = root / "images", root / "results"
        self.folder.mkdir(parents=True)
        self.results.mkdir()
        images = files.images(case.setting.image_hw, case.setting.batch)
        self.paths = [self.folder / f"{index:03}.png" for index in range(len(images))]
        for path, image in zip(self.paths, images, strict=True):
            Image.fromarray(image).save(path)

    def labels(self, result: Any) -> np.ndarray:
        """Return the label maps (N, H, W) in the folder of results, whatever a pass returned."""
        found = {path.stem: path for path in self.results.rglob("*.png")}
        return np.stack([np.asarray(Image.open(found[path.stem])) for path in self.paths])


def to_array(tensor: Any) -> np.ndarray:
    """Return a Paddle or PyTorch tensor as an array."""
    return tensor.numpy()


def labels_of_logits(logits: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(N, K, h, w) -> (N, H, W) class ids of the logits resized to `image_hw`."""
    import paddle

    from paddleseg_segformer.inference.upsample_argmax import upsampled_labels

    return np.stack([upsampled_labels(paddle.to_tensor(each), image_hw) for each in logits])
