"""Networks that give class ids instead of logits: exports with `--output_op argmax`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.data.resize import resize_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.arrays import run
from paddleseg_segformer.inference.pipeline import ImageLogits, Pipeline
from paddleseg_segformer.inference.upsample_argmax import Tile, label_type

if TYPE_CHECKING:
    from paddleseg_segformer.data.rasters import Picture


class LabelPipeline(Pipeline):
    """Whole-image inference with a network (N, C, H, W) -> class ids (N, H, W).

    Label maps go back to the image's size by the nearest pixel, as in PaddleX. There are no
    windows, scales, flips and probabilities, all of which need logits.

    Args as of `Pipeline`, and `num_classes`.
    """

    num_classes: int = 0

    def __call__(self, image: np.ndarray | Picture) -> ImageLabels:
        """Return the label map of an image (H, W, C), RGB, 0..255; computed when asked for.

        Raises:
            UserError: settings that need logits.
        """
        settings = self.settings
        is_lazy = not isinstance(image, np.ndarray)
        if is_lazy or settings.is_slide or settings.num_views > 1 or settings.scales != (1.0,):
            raise UserError(
                "windows, scales and flips need logits, but the model was exported with "
                "--output_op argmax. Switch them off, or export it with --output_op none."
            )
        return ImageLabels(self, image)

    def batch(self, images: Iterable[np.ndarray]) -> list[ImageLogits]:
        """Return the label maps of several images."""
        return [self(image) for image in images]


class ImageLabels(ImageLogits):
    """The label map of one image in the place of its logits."""

    def __init__(self, pipeline: LabelPipeline, image: Any) -> None:
        super().__init__(pipeline, image)
        self._image = image
        self._num_classes = pipeline.num_classes

    def labels(self, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Return the class ids (H, W): uint8, or int32 for more than 256 classes.

        Raises:
            UserError: the network gives an id that there is not.
        """
        resized, steps = self._pipeline.preprocess.resize(self._image)
        arrays = self._pipeline.input_arrays
        x = arrays.image(np.ascontiguousarray(resized), self._pipeline.preprocess.normalize)
        found = run(self._pipeline.network, arrays.concat([x]))
        label = (found if isinstance(found, np.ndarray) else found.numpy())[0]
        if label.min() < 0 or label.max() >= self.num_classes:
            raise UserError(
                f"the network gives class ids {label.min()} to {label.max()}, expected 0 to "
                f"{self.num_classes - 1}."
            )
        label = label.astype(label_type(self.num_classes))
        for index in reversed(range(len(steps))):
            height, width = steps[index].before_hw
            if steps[index].pads:
                label = np.ascontiguousarray(label[:height, :width])
            elif index == 0 or steps[index - 1].pads:  # resizes in a row are undone by one
                label = resize_label(label, (height, width))
        return label if rows is None else label[rows[0] : rows[1]]

    def probabilities(self) -> np.ndarray:
        raise _no_probabilities()

    def probability_tiles(
        self, rows: tuple[int, int] | None = None
    ) -> Iterator[tuple[Tile, np.ndarray]]:
        raise _no_probabilities()

    def log_probabilities(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        raise _no_probabilities()


def _no_probabilities() -> UserError:
    return UserError(
        "probabilities, confidence and entropy need logits, but the model was exported with "
        "--output_op argmax. Export it with --output_op none or softmax."
    )
