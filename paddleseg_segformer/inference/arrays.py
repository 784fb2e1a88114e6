"""The pipeline's array operations: NumPy's on the host, Paddle's on another device.

What runs on the CPU goes through NumPy, a Paddle layer's pixels and logits too. So a network that
takes NumPy arrays itself needs no Paddle, and none is imported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from paddleseg_segformer.dependencies import explained

if TYPE_CHECKING:
    from paddle import Tensor

    from paddleseg_segformer.data.normalize import Normalize
    from paddleseg_segformer.inference.interpolation import LinearMap

Array = Any  # a NumPy array or a Paddle tensor
Network = Callable[[Array], Array]


class Piece(NamedTuple):
    """A window's logits, and the maps that resize them to the original image."""

    logits: Array  # (h, w, K)
    rows: LinearMap  # h -> H of the original image
    columns: LinearMap  # w -> W of the original image
    best: Array = None  # (h, w) lowest id of the largest logit, on the host


class NumpyArrays:
    """Array operations on the host.

    NumPy on tiles that fit into the processor's cache is several times faster than Paddle's CPU
    kernels for bilinear resizing and argmax.
    """

    tile_hw = (64, 64)
    label_tile_hw = (128, 2048)  # larger: only the scores of some cells are made at a time

    @staticmethod
    def image(pixels: np.ndarray, normalize: Normalize | None) -> np.ndarray:
        """(h, w, C) -> (1, C, h, w) float32, normalised."""
        planes = normalize.planes(pixels) if normalize else pixels.transpose(2, 0, 1)
        return planes[None].astype(np.float32, copy=False)

    @staticmethod
    def take(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
        return x.take(index, axis)

    @staticmethod
    def flip(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        return np.flip(x, tuple(axes))

    @staticmethod
    def concat(windows: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(windows) if len(windows) > 1 else np.ascontiguousarray(windows[0])

    @staticmethod
    def float32(logits: Array) -> np.ndarray:
        """Return logits as float32, a tensor's without a copy where they are that already."""
        if isinstance(logits, np.ndarray):
            return logits.astype(np.float32, copy=False)
        logits = logits.detach().astype("float32")
        return np.from_dlpack(logits) if hasattr(logits, "__dlpack__") else logits.numpy()

    @staticmethod
    def is_finite(x: np.ndarray) -> bool:
        return bool(np.isfinite(x).all())

    @staticmethod
    def piece(logits: Array, rows: LinearMap, columns: LinearMap) -> Piece:
        """(K, h, w) -> piece; the logits are copied once."""
        num_classes, h, w = logits.shape
        values = NumpyArrays.float32(logits).reshape(num_classes, h * w)
        values = cv2.transpose(values).reshape(h, w, num_classes)
        return Piece(values, rows, columns, values.argmax(axis=2).astype(np.int32))

    @staticmethod
    def matrix(block: np.ndarray) -> np.ndarray:
        return block

    @staticmethod
    def softmax(logits: np.ndarray) -> np.ndarray:
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)

    @staticmethod
    def argmax(scores: np.ndarray) -> np.ndarray:
        """Return the lowest id of the largest score, (R, K, C) -> (R, C) int32."""
        best = scores[:, 0].copy()
        label = np.zeros(best.shape, np.int32)
        is_better = np.empty(best.shape, bool)
        for class_id in range(1, scores.shape[1]):
            score = scores[:, class_id]
            np.greater(score, best, out=is_better)
            np.maximum(score, best, out=best)
            np.copyto(label, class_id, where=is_better)
        return label

    @staticmethod
    def to_numpy(array: np.ndarray) -> np.ndarray:
        return array


class PaddleArrays:
    """Array operations on a device of Paddle: few large tiles."""

    tile_hw = label_tile_hw = (256, 512)

    @staticmethod
    def image(pixels: np.ndarray, normalize: Normalize | None) -> Tensor:
        """(h, w, C) -> (1, C, h, w) float32, normalised; what is sent there is often 8 bits."""
        import paddle

        x = paddle.to_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])
        return normalize.on_device(x) if normalize else x.astype("float32")

    @staticmethod
    def take(x: Tensor, index: np.ndarray, axis: int) -> Tensor:
        import paddle

        return paddle.index_select(x, paddle.to_tensor(index), axis)

    @staticmethod
    def flip(x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.flip(axes)

    @staticmethod
    def concat(windows: Sequence[Tensor]) -> Tensor:
        import paddle

        return paddle.concat(windows) if len(windows) > 1 else windows[0]

    @staticmethod
    def float32(logits: Tensor) -> Tensor:
        return logits.astype("float32")

    @staticmethod
    def is_finite(x: Tensor) -> bool:
        return bool(x.isfinite().all())

    @staticmethod
    def piece(logits: Tensor, rows: LinearMap, columns: LinearMap) -> Piece:
        """(K, h, w) -> piece."""
        return Piece(PaddleArrays.float32(logits).transpose([1, 2, 0]), rows, columns)

    @staticmethod
    def matrix(block: np.ndarray) -> Tensor:
        import paddle

        return paddle.to_tensor(block)

    @staticmethod
    def softmax(logits: Tensor) -> Tensor:
        import paddle

        return paddle.nn.functional.softmax(logits, axis=1)

    @staticmethod
    def argmax(scores: Tensor) -> Tensor:
        return scores.argmax(axis=1, dtype="int32")

    @staticmethod
    def to_numpy(array: Tensor) -> np.ndarray:
        return array.numpy()


Arrays = type[NumpyArrays] | type[PaddleArrays]


def arrays_for(logits: Array) -> Arrays:
    """Return the operations for logits of an array's or tensor's device."""
    is_on_host = isinstance(logits, np.ndarray) or logits.place.is_cpu_place()
    return NumpyArrays if is_on_host else PaddleArrays


def arrays_on(device: str) -> Arrays:
    """Return the operations for the input of a network on a device."""
    return NumpyArrays if device == "cpu" else PaddleArrays


def takes_numpy(network: Network) -> bool:
    """Tell whether a network takes and gives NumPy arrays; others take and give Paddle tensors."""
    return bool(getattr(network, "takes_numpy", False))


def device_of(network: Network) -> str:
    """Return the device that a network's input is made on, as Paddle names it."""
    if takes_numpy(network):
        return "cpu"
    with explained():
        import paddle
    device: str = paddle.get_device()
    return device


def run(network: Network, x: Array) -> Array:
    """Put an array or a tensor (N, C, H, W) through a network, without gradients."""
    if takes_numpy(network):
        return network(x)
    import paddle

    with paddle.no_grad():
        return network(paddle.to_tensor(x) if isinstance(x, np.ndarray) else x)
