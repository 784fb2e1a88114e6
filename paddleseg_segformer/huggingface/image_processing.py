"""`SegformerImageProcessor`: images and segmentation maps to arrays for the model, and back."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from paddleseg_segformer.data.labels import IGNORE_INDEX
from paddleseg_segformer.data.resize import SIZE_RULES, SizeRule, resize_map
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface.outputs import (
    BatchFeature,
    LogitsOutput,
    SegmentationOutput,
)
from paddleseg_segformer.inference.upsample_argmax import upsampled_labels
from paddleseg_segformer.models.layers import upsample
from paddleseg_segformer.weights.sidecars.hub_processor import LAYOUTS, HubProcessor

RETURN_TENSORS = ("pd", "np", None)

logger = logging.getLogger(__name__)


@dataclass(init=False)
class SegformerImageProcessor(HubProcessor):
    """Resize, rescale and normalise images; see `HubProcessor` for the settings.

    Unknown settings are ignored with a warning, as in transformers.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        known = {*(item.name for item in dataclasses.fields(self)), "reduce_labels"}
        if unknown := sorted(settings.keys() - known):
            logger.warning("image processor: unknown settings are ignored: %s", ", ".join(unknown))
        super().__init__(*args, **{key: settings[key] for key in settings if key in known})

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        return_tensors: str | None = "pd",
        **overrides: Any,
    ) -> BatchFeature:
        """Return `pixel_values` (N, C, h, w) float32 and, of maps, `labels` (N, h, w) int64.

        Args:
            images: An image or a list of them, or lists in lists, which give one batch: PIL, or an
                array or tensor (H, W), (H, W, C) or (C, H, W) of 0..255, RGB; an array of four axes
                is a list.
            segmentation_maps: The same of maps (H, W) of class ids.
            return_tensors: "pd" for Paddle tensors, "np" for arrays, None for lists of arrays.
            overrides: Arguments of the constructor that replace the settings in this call.

        Raises:
            UserError: not images, or images of different sizes where one tensor is asked for.
        """
        if return_tensors not in RETURN_TENSORS:
            raise UserError(
                f"return_tensors: found {return_tensors!r}, expected 'pd' (Paddle's tensors), 'np' "
                "or None."
            )
        overrides = {key: value for key, value in overrides.items() if value is not None}
        settings = dataclasses.replace(self, **overrides) if overrides else self
        listed = _as_list(images, 3)
        features = {"pixel_values": [settings._image(image) for image in listed]}
        if segmentation_maps is not None:
            maps = _as_list(segmentation_maps, 2)
            if len(maps) != len(listed):
                shape = getattr(segmentation_maps, "shape", None)
                found = f"shape {tuple(shape)}" if shape is not None else len(maps)
                raise UserError(
                    f"segmentation_maps: found {found} for {len(listed)} images, expected class "
                    "ids (height, width) of each."
                )
            features["labels"] = [settings._map(item) for item in maps]
        if return_tensors is None:
            return BatchFeature(features)
        stacked = {name: _stacked(name, arrays) for name, arrays in features.items()}
        if return_tensors == "np":
            return BatchFeature(stacked)
        return BatchFeature({name: paddle.to_tensor(array) for name, array in stacked.items()})

    preprocess = __call__

    def post_process_semantic_segmentation(
        self,
        outputs: LogitsOutput,
        target_sizes: Sequence[Sequence[int]] | Tensor | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[SegmentationOutput]:
        """Return a map of class ids (h, w), int64, for each image.

        Args:
            outputs: Output of a segmentation model.
            target_sizes: (height, width) of each map: logits are resized to it in one bilinear
                step. Without it maps have the size of the logits.
            return_segmentation_scores: Return the logits at that size beside each map.

        Raises:
            UserError: not one size for each image.
        """
        logits = outputs.logits
        if logits is None:
            raise UserError("outputs: no logits. Give the output of a segmentation model.")
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise UserError(
                f"target_sizes: found {len(target_sizes)} sizes for {len(logits)} images, "
                "expected (height, width) of each."
            )
        if target_sizes is None:
            target_sizes = [logits.shape[2:]] * len(logits)
        sizes = [(int(height), int(width)) for height, width in target_sizes]
        if return_segmentation_scores:
            scores = [upsample(logits[i : i + 1], hw)[0] for i, hw in enumerate(sizes)]
            return [SegmentationOutput(item.argmax(axis=0), item) for item in scores]
        return [
            paddle.to_tensor(upsampled_labels(item, size_hw).astype(np.int64))
            for item, size_hw in zip(logits, sizes, strict=True)
        ]

    def _image(self, image: Any) -> np.ndarray:
        """Return one image (C, h, w) float32."""
        pixels = self._pixels(image)
        if self.do_resize:
            pixels = self._rule().apply(pixels)
        x = pixels.astype(np.float32)
        if self.do_rescale:
            x = x * np.float32(self.rescale_factor)
        if self.do_normalize:
            mean, std = (np.asarray(x, np.float32) for x in (self.image_mean, self.image_std))
            for name, values in (("image_mean", mean), ("image_std", std)):
                if x.shape[2] not in (1, values.size) and values.size > 1:
                    raise UserError(
                        f"{name}: found {values.size} numbers, expected one for each of the "
                        f"{x.shape[2]} channels of an image."
                    )
            x = (x - mean) / std
        x = x.transpose(2, 0, 1) if self.data_format == "channels_first" else x
        return np.ascontiguousarray(x)

    def _pixels(self, image: Any) -> np.ndarray:
        """Return an image as (H, W, C)."""
        is_made_rgb = self.do_convert_rgb is True
        layout, channels = self.input_data_format, {1, 3, np.size(self.image_mean)}
        channels |= {4} if is_made_rgb else set()
        if isinstance(image, Image.Image):
            if is_made_rgb:
                image = _on_white(image.convert("RGBA"))
            elif self.do_convert_rgb is not False:
                image = image.convert("RGB")
            layout = "channels_last"
        elif not hasattr(image, "shape"):
            raise UserError(
                f"images: found {image!r:.80}, expected PIL images, arrays or tensors. Open files "
                "first: PIL.Image.open(path)."
            )
        pixels = np.asarray(image)
        is_image = pixels.size > 0 and pixels.dtype.kind in "iuf"
        if pixels.ndim == 2 and is_image:
            return np.repeat(pixels[:, :, None], 3, axis=2)
        if layout is None and pixels.ndim == 3:
            is_known = [pixels.shape[axis] in channels for axis in (0, 2)]
            layout = LAYOUTS[is_known.index(True)] if any(is_known) else None
        if pixels.ndim != 3 or not is_image or layout is None:
            raise UserError(
                f"images: found {pixels.dtype} of shape {pixels.shape}, expected (height, width, "
                "3) or (3, height, width). For other channels give input_data_format, and a mean "
                "and std of each."
            )
        pixels = pixels.transpose(1, 2, 0) if layout == "channels_first" else pixels
        if is_made_rgb and pixels.shape[2] == 1:
            return pixels.repeat(3, axis=2)
        if is_made_rgb and pixels.shape[2] == 4 and pixels.dtype == np.uint8:
            return np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(pixels))))
        return pixels

    def _map(self, segmentation_map: Any) -> np.ndarray:
        """Return one map of class ids (h, w) int64."""
        label = np.asarray(segmentation_map)
        if label.ndim == 3 and 1 in (label.shape[0], label.shape[2]):
            label = label[0] if label.shape[0] == 1 else label[:, :, 0]
        if label.ndim != 2 or label.dtype.kind not in "iub":
            raise UserError(
                f"segmentation_maps: found {label.dtype} of shape {label.shape}, expected class "
                "ids (height, width)."
            )
        label = label.astype(np.int32)
        if self.do_reduce_labels:
            is_ignored = (label == 0) | (label == IGNORE_INDEX)
            label = np.where(is_ignored, IGNORE_INDEX, label - 1)
        if self.do_resize:
            label = resize_map(label, self._rule().new_size_hw(*label.shape), "NEAREST")
        return label.astype(np.int64)

    def _rule(self) -> SizeRule:
        """Return what resizes an image."""
        section = self.resizing()
        return SIZE_RULES[section.pop("type")](**section)


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture with transparency as one in RGB, on white."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _as_list(given: Any, num_axes: int) -> list[Any]:
    """Return one image or map, lists in lists, or an array of one more axis, as a flat list."""
    if isinstance(given, (list, tuple)):
        parts = [_as_list(x, num_axes) if isinstance(x, (list, tuple)) else [x] for x in given]
        return [item for part in parts for item in part]
    is_one = len(getattr(given, "shape", ())) <= num_axes
    is_one_map = not is_one and num_axes == 2 and given.shape[-1] == 1
    return [given] if is_one or is_one_map else list(given)


def _stacked(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise UserError(
            f"{name}: found {len(sizes)} different shapes, expected one. Resize them (do_resize), "
            "or take return_tensors=None."
        )
    return np.stack(arrays)
