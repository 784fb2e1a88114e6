"""The one inference pipeline: image -> views -> windows -> network -> maps at the original size.

Windows are computed when the part of the output that they reach is asked for, several at a time,
and only their logits at the network's output resolution are kept. At most `CACHE_MIB` of them
outlive the part of the output they belong to; the rest are dropped, and computed again if asked for
again. So the memory needed beyond the image and the network's own is `CACHE_MIB` or the logits of
the windows that cross one row of tiles in every view, whichever is more, plus one tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, product
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.contracts import pad_multiple_of
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.arrays import (
    Array,
    Arrays,
    Network,
    NumpyArrays,
    Piece,
    arrays_for,
    arrays_on,
    device_of,
    run,
)
from paddleseg_segformer.inference.augmentation import View, scaled_size, views_of
from paddleseg_segformer.inference.geometry import Axis, back_steps, window_axis
from paddleseg_segformer.inference.interpolation import bilinear
from paddleseg_segformer.inference.preprocess import Preprocess, SizeStep
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.inference.upsample_argmax import (
    Tile,
    label_type,
    tile_probabilities,
    write_tile_labels,
)

if TYPE_CHECKING:
    from paddleseg_segformer.data.rasters import Picture
    from paddleseg_segformer.inference.memory_plan import MemoryPlan

CACHE_MIB = 512
GPU_WINDOW_BATCH = 4
STRIP_STEP_PX = 256  # a multiple of the heights of all tiles

Key = tuple[int, int, int]  # view, window row, window column


class Pipeline:
    """Whole-image and sliding-window inference with scales and flips.

    Args:
        network: (N, C, h, w) float32, normalised -> logits (N, K, about h/4, about w/4), or of
            another stride. They stand for the whole input; if the network has a `pad_multiple`
            above 1, for its input padded at the bottom and right to a multiple of so many pixels. A
            layer has to be in evaluation mode. It takes and gives Paddle tensors, or NumPy arrays
            if it has an attribute `takes_numpy` that is true.
        preprocess: Size rules and normalisation.
        settings: Windows, scales, flips and averaging.
        memory: What windows need and may take; without it nothing is checked.

    `watch`, if set, is called with the logits of an image after each of its windows. `smooth`, if
    set, gives the logits to keep of a window (K, h, w) by its key, pixels and logits.
    """

    watch: Callable[[ImageLogits], None] | None = None
    smooth: Callable[[Key, np.ndarray, np.ndarray], np.ndarray] | None = None

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        settings: InferenceSettings | None = None,
        memory: MemoryPlan | None = None,
    ) -> None:
        self.network = network
        self.preprocess = preprocess
        self.settings = settings or InferenceSettings()
        self.memory = memory

    def __call__(self, image: np.ndarray | Picture) -> ImageLogits:
        """Return the logits of an image (H, W, C), RGB, 0..255; computed as far as asked for."""
        return ImageLogits(self, image)

    def batch(self, images: Iterable[np.ndarray]) -> list[ImageLogits]:
        """Return the logits of several images; windows of equal size go through together."""
        logits = [self(image) for image in images]
        self.compute([(item, key) for item in logits for key in item.first_missing()])
        return logits

    def compute(self, wanted: Sequence[tuple[ImageLogits, Key]]) -> None:
        """Put windows of equal size through the network together, up to `window_batch`."""
        groups: dict[tuple[int, int], list[tuple[ImageLogits, Key]]] = defaultdict(list)
        for item, key in wanted:
            groups[item.window_hw(key)].append((item, key))
        held_mib = sum(item.held_mib for item in {item for item, _ in wanted})
        for size_hw, group in groups.items():
            step = self.window_batch(size_hw, held_mib)
            for start in range(0, len(group), step):
                self._compute_batch(group[start : start + step])

    def window_batch(self, size_hw: tuple[int, int], held_mib: float) -> int:
        """Return how many windows of a size go through the network together at most.

        Args:
            size_hw: Of the windows.
            held_mib: Logits that are kept meanwhile.

        Raises:
            UserError: the memory is not enough for one.
        """
        wanted = self.settings.window_batch
        if not wanted:
            wanted = GPU_WINDOW_BATCH if device_of(self.network).startswith("gpu") else 1
        return self.memory.window_batch(wanted, size_hw, held_mib) if self.memory else wanted

    @property
    def cache_mib(self) -> float:
        """Return how much of logits may be kept that are not needed at once."""
        return min(CACHE_MIB, self.memory.budget_mib / 4) if self.memory else CACHE_MIB

    @property
    def input_arrays(self) -> Arrays:
        """Return the operations that the network's input is made with."""
        return arrays_on(device_of(self.network))

    def _compute_batch(self, group: Sequence[tuple[ImageLogits, Key]]) -> None:
        windows = [item.read(key) for item, key in group]
        logits = run(self.network, self.input_arrays.concat(windows))
        arrays = arrays_for(logits)
        logits = arrays.float32(logits)
        if not arrays.is_finite(logits):
            raise UserError(
                "the network's logits are not finite (NaN or infinite): its weights are broken,"
                " or the image holds such values. Check both."
            )
        for (item, key), pixels, window_logits in zip(group, windows, logits, strict=True):
            if self.smooth:
                host = self.input_arrays.to_numpy(pixels)[0], arrays.to_numpy(window_logits)
                window_logits = arrays.matrix(self.smooth(key, *host))
            item.keep(key, window_logits, arrays)


class ViewOfImage:
    """One view of one image: its windows, their pixels, and the maps back to the image."""

    def __init__(
        self,
        pipeline: Pipeline,
        image: np.ndarray | Picture,
        steps: Sequence[SizeStep],
        view: View,
    ) -> None:
        settings = pipeline.settings
        self.normalize = pipeline.preprocess.normalize
        self.image = image  # after the size rules
        size_hw = image.shape[0], image.shape[1]
        is_scaled_here = settings.scale_mode == "transformed"
        view_hw = scaled_size(size_hw, view.scale) if is_scaled_here else size_hw
        self.axes: list[Axis] = []
        for axis, back in enumerate(back_steps(steps, size_hw, view_hw)):
            window = None
            if settings.is_slide and settings.crop_size_hw and settings.stride_hw:
                window = (settings.crop_size_hw[axis], settings.stride_hw[axis])
            is_flipped = (view.flip_vertical, view.flip_horizontal)[axis]
            self.axes.append(
                window_axis(
                    view_hw[axis],
                    window,
                    is_flipped,
                    back,
                    settings.is_one_step,
                    pad_multiple_of(pipeline.network),
                    settings.align_corners,
                    settings.blend,
                )
            )

    def read(self, row: int, column: int, arrays: Arrays) -> Array:
        """Return the normalised pixels of a window, (1, C, h, w) float32."""
        spans, maps, flipped = [], [], []
        for axis, (window, length) in enumerate(zip((row, column), self.image.shape, strict=False)):
            start, stop = self.axes[axis].windows[window]
            if self.axes[axis].is_flipped:  # the window's place in the unflipped view
                start, stop = self.axes[axis].length - stop, self.axes[axis].length - start
                flipped.append(axis + 2)
            maps.append(bilinear(length, self.axes[axis].length).part(start, stop))
            spans.append(maps[-1].input_range)
        (top, bottom), (left, right) = spans
        pixels = np.ascontiguousarray(self.image[top:bottom, left:right])
        x = arrays.image(pixels, self.normalize)
        for axis, resample in enumerate(maps):
            x = resample.gather(x, axis + 2, arrays, offset=spans[axis][0])
        return arrays.flip(x, flipped) if flipped else x


class ImageLogits:
    """The averaged logits of one image at its original size, never held as a whole.

    Each map is made tile by tile when it is asked for.

    Args:
        pipeline: What makes them.
        image: (H, W, C), RGB, 0..255; a `data.rasters.Picture` is read by windows.
    """

    def __init__(self, pipeline: Pipeline, image: np.ndarray | Picture) -> None:
        if image.ndim != 3 or 0 in image.shape:
            raise UserError(f"found an image of shape {image.shape}, expected (height, width, 3).")
        if isinstance(image, np.ndarray):
            pipeline.preprocess.check_values(image)
        self._pipeline = pipeline
        self._average = pipeline.settings.average
        self._temperatures = pipeline.settings.temperatures
        self.views = _views_of_image(pipeline, image)
        self._pieces: dict[Key, Piece] = {}
        self._cached_bytes = 0
        self._num_classes = 0
        self._arrays: Arrays = NumpyArrays
        self.size_hw = image.shape[0], image.shape[1]
        self.num_windows = sum(1 for _ in self._keys())
        self.num_computed = 0  # windows; one that was dropped counts again
        self.held_mib = self._most_held_mib()

    @property
    def num_classes(self) -> int:
        """Return the number of classes K that the network tells apart."""
        if not self._num_classes:
            self._pipeline.compute([(self, key) for key in self.first_missing()])
        return self._num_classes

    @property
    def is_computed(self) -> bool:
        """Return whether the maps can be made without the network, in any thread."""
        return self._arrays is NumpyArrays and all(key in self._pieces for key in self._keys())

    def labels(self, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Return the class ids (H, W): uint8, or int32 for more than 256 classes.

        Of classes with equal logits the lowest id is taken.

        Args:
            rows: First and last + 1 of a strip, (h, W), in the place of the image. Where strips
                begin at multiples of `STRIP_STEP_PX`, they are the image's labels to the bit.
        """
        top, bottom = rows or (0, self.size_hw[0])
        label = np.empty((bottom - top, self.size_hw[1]), label_type(self.num_classes))
        for tile, views in self._tiles(self._arrays.label_tile_hw, rows):
            part = label[tile.top - top : tile.bottom - top, tile.left : tile.right]
            write_tile_labels(views, tile, self._average, self._arrays, part)
        return label

    def probabilities(self) -> np.ndarray:
        """Return the class probabilities (K, H, W) float32: all classes at full size."""
        full = np.empty((self.num_classes, *self.size_hw), np.float32)
        for tile, probabilities in self.probability_tiles():
            full[:, tile.top : tile.bottom, tile.left : tile.right] = probabilities.transpose(
                1, 0, 2
            )
        return full

    def confidence(self, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Return the probability of the most probable class, (H, W) float32.

        Args:
            rows: As of `labels`.
        """
        top, bottom = rows or (0, self.size_hw[0])
        full = np.empty((bottom - top, self.size_hw[1]), np.float32)
        for tile, probabilities in self.probability_tiles(rows):
            part = full[tile.top - top : tile.bottom - top, tile.left : tile.right]
            part[:] = probabilities.max(axis=1)
        return full

    def entropy(self) -> np.ndarray:
        """Return the entropy of the class probabilities in nats, (H, W) float32."""
        full = np.empty(self.size_hw, np.float32)
        for tile, probabilities in self.probability_tiles():
            information = -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
            full[tile.top : tile.bottom, tile.left : tile.right] = np.einsum(
                "rkc,rkc->rc", probabilities, information
            )
        return full

    def log_probabilities(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the logarithms of the class probabilities at n pixels, (n, K) float32.

        They are not calibrated.

        Args:
            rows: Of the pixels, (n,).
            columns: Of the pixels, (n,).
        """
        found = np.empty((len(rows), self.num_classes), np.float32)
        for tile, views in self._tiles(self._arrays.tile_hw):
            is_inside = (rows >= tile.top) & (rows < tile.bottom)
            is_inside &= (columns >= tile.left) & (columns < tile.right)
            if is_inside.any():
                probabilities = tile_probabilities(views, tile, self._average, self._arrays)
                at = rows[is_inside] - tile.top, slice(None), columns[is_inside] - tile.left
                found[is_inside] = probabilities[at]
        return np.log(np.maximum(found, np.finfo(np.float32).tiny))

    def probability_tiles(
        self, rows: tuple[int, int] | None = None
    ) -> Iterator[tuple[Tile, np.ndarray]]:
        """Yield the class probabilities of one tile after the other, each (h, K, w) float32.

        Args:
            rows: As of `labels`.
        """
        temperatures = self._temperatures
        for tile, views in self._tiles(self._arrays.tile_hw, rows):
            yield tile, tile_probabilities(views, tile, self._average, self._arrays, temperatures)

    def _tiles(
        self, tile_hw: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> Iterator[tuple[Tile, list[list[Piece]]]]:
        """Yield the tiles row by row, each with every view's pieces that reach into its row.

        Args:
            tile_hw: Their size.
            rows: First and last + 1 of a strip.
        """
        width = self.size_hw[1]
        first, last = rows or (0, self.size_hw[0])
        for top in range(first, last, tile_hw[0]):
            bottom = min(top + tile_hw[0], last)
            self._pipeline.compute([(self, key) for key in self.missing(top, bottom)])
            views: list[list[Piece]] = [[] for _ in self.views]
            for key in self._reaching(top, bottom):
                views[key[0]].append(self._pieces[key])
            for left in range(0, width, tile_hw[1]):
                yield Tile(top, bottom, left, min(left + tile_hw[1], width)), views
            if not rows and self._cached_bytes > self._pipeline.cache_mib * 2**20:
                self.forget_above(bottom)

    def compute_rows(self, top: int, bottom: int) -> None:
        """Compute the windows that rows top .. bottom - 1 need, one row of windows at a time.

        So windows go through the network together with the same ones wherever strips begin.
        """
        for _, row in groupby(self.missing(top, bottom), key=lambda key: key[:2]):
            self._pipeline.compute([(self, key) for key in row])

    def first_missing(self) -> list[Key]:
        """Return the windows that the first row of tiles needs and that are not at hand."""
        return self.missing(0, self._arrays.tile_hw[0])

    def missing(self, top: int, bottom: int) -> list[Key]:
        """Return the windows that rows top .. bottom - 1 need and that are not at hand."""
        return [key for key in self._reaching(top, bottom) if key not in self._pieces]

    def _reaching(self, top: int, bottom: int) -> Iterator[Key]:
        for index, view in enumerate(self.views):
            rows, columns = view.axes
            for row in range(len(rows.windows)):
                first, last = rows.reach(row)
                if first < bottom and last > top:
                    yield from ((index, row, column) for column in range(len(columns.windows)))

    def forget_above(self, bottom: int) -> None:
        """Forget windows that only reach rows above `bottom`."""
        for key in list(self._pieces):
            if self.views[key[0]].axes[0].reach(key[1])[1] <= bottom:
                self._cached_bytes -= 4 * int(np.prod(self._pieces.pop(key).logits.shape))

    @property
    def num_held(self) -> int:
        """Return how many windows' logits are kept."""
        return len(self._pieces)

    def _most_held_mib(self) -> float:
        """Return the most that the logits kept will take; 0 where no memory plan tells."""
        memory, cache_mib = self._pipeline.memory, self._pipeline.cache_mib
        if memory is None:
            return 0.0
        sizes = {key: memory.logits_mib(self.window_hw(key)) for key in self._keys()}
        if sum(sizes.values()) <= cache_mib:
            return sum(sizes.values())
        height, step = self.size_hw[0], self._arrays.label_tile_hw[0]
        return cache_mib + max(
            sum(sizes[key] for key in self._reaching(top, min(top + step, height)))
            for top in range(0, height, step)
        )

    def _keys(self) -> Iterator[Key]:
        for index, view in enumerate(self.views):
            for row, column in product(*(range(len(axis.windows)) for axis in view.axes)):
                yield index, row, column

    def window_hw(self, key: Key) -> tuple[int, int]:
        """Return the size of a window in the network's input."""
        view, row, column = key
        rows, columns = self.views[view].axes
        (top, bottom), (left, right) = rows.windows[row], columns.windows[column]
        return bottom - top, right - left

    def read(self, key: Key) -> Array:
        """Return a window's normalised pixels, (1, C, h, w) float32."""
        return self.views[key[0]].read(key[1], key[2], self._pipeline.input_arrays)

    def keep(self, key: Key, logits: Array, arrays: Arrays) -> None:
        """Take a window's logits (K, h, w) from the network."""
        view, row, column = key
        rows, columns = self.views[view].axes
        self._arrays = arrays
        self._num_classes = logits.shape[0]
        self._pipeline.settings.check_temperatures(self._num_classes)
        self._pieces[key] = arrays.piece(
            logits,
            rows.to_original(row, logits.shape[1]),
            columns.to_original(column, logits.shape[2]),
        )
        self._cached_bytes += 4 * int(np.prod(logits.shape))
        self.num_computed += 1
        if self._pipeline.watch:
            self._pipeline.watch(self)


def _views_of_image(pipeline: Pipeline, image: np.ndarray | Picture) -> list[ViewOfImage]:
    """Return the views of an image; those of one size share the pixels."""
    views = views_of(pipeline.settings)
    is_source_scale = pipeline.settings.scale_mode == "source"
    ratios = [view.scale if is_source_scale else 1.0 for view in views]
    resized = {ratio: pipeline.preprocess.resize(image, ratio) for ratio in dict.fromkeys(ratios)}
    return [
        ViewOfImage(pipeline, *resized[ratio], view)
        for ratio, view in zip(ratios, views, strict=True)
    ]


def predict_label(
    network: Network, image: np.ndarray, preprocess: Preprocess, settings: InferenceSettings
) -> np.ndarray:
    """Return the class ids (H, W) of one image (H, W, C), RGB, 0..255."""
    return Pipeline(network, preprocess, settings)(image).labels()
