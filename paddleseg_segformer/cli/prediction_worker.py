"""What predicts images with one model and writes their results, for `predict` and `infer`."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from paddleseg_segformer.cli.common import load_config_from, set_device
from paddleseg_segformer.cli.inference_flags import settings_from_config, settings_with_flags
from paddleseg_segformer.cli.large_pictures import measure_overlap, predict_large
from paddleseg_segformer.cli.prediction_files import ResultFiles
from paddleseg_segformer.cli.prediction_record import identity
from paddleseg_segformer.cloud import CloudFile, read_bytes
from paddleseg_segformer.components import import_components
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import (
    ImageFile,
    in_order,
    in_streams,
    read_ahead,
)
from paddleseg_segformer.inference.plan import memory_line
from paddleseg_segformer.runtimes.engines import MAX_SIDE_PX

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.inference.settings import InferenceSettings
    from paddleseg_segformer.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

WINDOW_SIDES_PX = (1024, 768, 512, 256)  # tried for images that do not fit into memory
# flags of exported models alone, with their defaults
EXPORT_FLAGS: dict[str, Any] = {
    "backend": "auto",
    "precision": "auto",
    "cpu_threads": os.cpu_count() or 1,
    "use_trt": False,
    "max_side_px": MAX_SIDE_PX,
    "self_check": False,
    "streams": 0,
}

_Read = tuple[ImageFile, np.ndarray | UserError]
_Predicted = list[tuple[ImageFile, "Prediction | UserError"]]


class Worker:
    """Predicts images with one model, and writes their results.

    Args:
        args: flags of `predict`.

    Raises:
        UserError: a flag or the model is wrong.
    """

    def __init__(self, args: Namespace) -> None:
        for source in getattr(args, "imports", None) or ():  # in a process of Ray's
            import_components(source)
        self.args = args
        self.files = ResultFiles(args)
        self.timer = Timer()
        self.config: Config | None = None
        if args.export_dir:
            self.predictor, self.runs_on = _exported(args)
        else:
            self.predictor, self.runs_on, self.config = _built(args)
        if args.custom_color:
            assert self.predictor.label_set is not None
            self.predictor.label_set = _recolored(self.predictor.label_set, args.custom_color)

    def identity(self) -> dict[str, str]:
        """Return what the results depend on beside the images."""
        return identity(self.args, self.config)

    def read(self, path: Path | CloudFile) -> np.ndarray:
        """Read an image as the network is to see it."""
        if not isinstance(path, CloudFile):
            return self.predictor.read(path)
        content = read_bytes(path)
        if not content:
            raise UserError(f"{path}: the file is empty. Replace it or remove it.")
        return self.predictor.decode(path, content)

    def warm_up(self, image: ImageFile) -> None:
        """Predict an image of an export, whose times do not count: it sets up memory."""
        exported: Any = self.predictor.pipeline.network
        exported.watch = partial(self.timer, "network")
        _predict(list(read_ahead([image], self.read)), self.predictor, self.timer)
        self.timer.seconds.clear()

    def __call__(self, images: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, str]]:
        """Predict images in batches; yield each, and why it failed or "", once it is written.

        Raises:
            UserError: results cannot be written.
        """
        large: list[ImageFile] = []
        others: list[ImageFile] = []
        for image in images:
            try:
                self.files.check_names(image)
            except UserError as error:
                yield image, _named(image, error)
            else:
                (large if self.files.is_large(image.path) else others).append(image)
        predictions = self._predictions(others)
        if self.files.needs_network:  # in this thread, and one after the other
            yield from map(self._written, predictions)
        else:
            yield from in_order(self._written, predictions, self.predictor.num_callers)
        if large and self.predictor.num_callers > 1:  # they have one window at a time
            network: Any = self.predictor.pipeline.network
            network.use_streams(1)
        for image in large:
            try:
                predict_large(self.predictor, image, self.files)
            except UserError as error:
                yield image, _named(image, error)
            else:
                yield image, ""

    def _written(self, found: tuple[ImageFile, Prediction | UserError]) -> tuple[ImageFile, str]:
        """Write an image's results; return why there are none, or "".

        Raises:
            UserError: they cannot be written.
        """
        image, prediction = found
        if isinstance(prediction, UserError):
            return image, _named(image, prediction)
        with self.timer("write"):
            self.files.save(prediction, image)
        return image, ""

    def _predictions(
        self, images: Sequence[ImageFile]
    ) -> Iterator[tuple[ImageFile, Prediction | UserError]]:
        """Yield each image and its prediction, or why it failed."""

        def predict(batch: tuple[list[_Read], Predictor]) -> _Predicted:
            return _predict(*batch, self.timer)

        num_callers = self.predictor.num_callers
        yield from chain.from_iterable(in_streams(predict, self._batches(images), num_callers))

    def _batches(self, images: Sequence[ImageFile]) -> Iterator[tuple[list[_Read], Predictor]]:
        """Yield images that are predicted together, and the predictor for them."""
        source = read_ahead(images, self.read, self.predictor.num_callers)
        room = _Room(self.predictor, self.args.overlap == "auto")
        while True:
            with self.timer("read"):
                batch = list(islice(source, self.args.batch_size))
            if not batch:
                return
            for settings, items in room.groups(batch):
                yield items, self.predictor.with_settings(settings)


def _named(image: ImageFile, error: UserError) -> str:
    """Return an error's message with the image's name."""
    message = str(error)
    return message if str(image.path) in message else f"{image.path}: {message}"


def _exported(args: Namespace) -> tuple[Predictor, str]:
    """Return the predictor of `--export_dir`, and what it runs on in words."""
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.runtimes.engine_network import EngineNetwork
    from paddleseg_segformer.runtimes.self_check import self_check

    if args.memory_budget_mib is not None:
        raise UserError("--memory_budget_mib has no effect with --export_dir. Leave it out.")
    if args.config or args.model_path:
        raise UserError("--export_dir replaces --config and --model_path: give one of them.")
    given = {
        flag: default if getattr(args, flag) is None else getattr(args, flag)
        for flag, default in EXPORT_FLAGS.items()
    }
    threads, is_checked = given.pop("cpu_threads"), given.pop("self_check")
    predictor = Predictor.from_export(
        args.export_dir, args.device, threads, has_cache=True, **given
    )
    network = predictor.pipeline.network
    assert isinstance(network, EngineNetwork)
    if is_checked:
        logger.info(self_check(network, args.export_dir).line)
    settings = settings_with_flags(args, predictor.settings, "aug_pred", args.aug_pred)
    predictor.settings = _with_room_for(args, settings)
    return predictor, network.description


def _built(args: Namespace) -> tuple[Predictor, str, Config]:
    """Return the predictor of a config and weights, its device, and the config."""
    for flag in (*EXPORT_FLAGS, "benchmark"):
        if getattr(args, flag):
            raise UserError(f"--{flag} has no effect without --export_dir. Add --export_dir.")
    if not args.model_path:
        raise UserError("give --config and --model_path, or --export_dir, or --model_path alone.")
    from paddleseg_segformer.config.building import build_model

    config = load_config_from(args, build_model)
    settings = _with_room_for(args, settings_from_config(args, config.test_config, "aug_pred"))
    device = set_device(args.device)
    from paddle.nn import Layer

    from paddleseg_segformer.inference.memory_plan import plan_memory
    from paddleseg_segformer.predictor import Predictor

    predictor = Predictor.from_config(config, args.model_path, **vars(settings))
    network = predictor.pipeline.network
    assert isinstance(network, Layer)
    predictor.pipeline.memory = plan_memory(network, args.memory_budget_mib, predictor.img_channels)
    return predictor, device, config


def _with_room_for(args: Namespace, settings: InferenceSettings) -> InferenceSettings:
    """Let the windows of `--batch_size` images go through the network together."""
    if args.window_batch or args.batch_size == 1:
        return settings
    return settings.replace({"window_batch": max(settings.window_batch or 1, args.batch_size)})


def _recolored(label_set: LabelSet, values: Sequence[int]) -> LabelSet:
    """Return the label set with the colours of `--custom_color`."""
    num_classes = label_set.num_classes
    if len(values) != 3 * num_classes or not all(0 <= value <= 255 for value in values):
        raise UserError(
            f"--custom_color: found {len(values)} values, expected {3 * num_classes} in 0..255: "
            f"red, green and blue of {num_classes} classes."
        )
    colors = np.reshape(values, (-1, 3)).tolist()
    palette = tuple((red, green, blue) for red, green, blue in colors)
    return dataclasses.replace(label_set, palette=palette)


class _Room:
    """Tells the plan of larger images; chooses windows where they do not fit as a whole."""

    def __init__(self, predictor: Predictor, is_overlap_measured: bool) -> None:
        self.predictor = predictor
        self.is_overlap_measured = is_overlap_measured
        self.settings = predictor.settings
        self.fitting = 0  # values of the largest image that fits
        self.told = 0  # of the last one whose plan was told

    def groups(self, batch: list[_Read]) -> list[tuple[InferenceSettings, list[_Read]]]:
        """Return the images that are predicted as asked, and each other one with its windows."""
        found: list[tuple[InferenceSettings, list[_Read]]] = [(self.settings, [])]
        for item in batch:
            image, pixels = item
            settings = self.settings if isinstance(pixels, UserError) else self._for(image, pixels)
            if settings is self.settings:
                found[0][1].append(item)
            else:
                found.append((settings, [item]))
        return found if found[0][1] else found[1:]

    def _for(self, image: ImageFile, pixels: np.ndarray) -> InferenceSettings:
        if self.is_overlap_measured and self.settings.is_slide:
            try:
                measure_overlap(self.predictor.pipeline, pixels)
                return self.predictor.settings
            finally:
                self.predictor.settings = self.settings
        is_larger = pixels.size > 2 * self.told
        is_known = pixels.size <= self.fitting or not self.predictor.pipeline.memory
        if is_known and not is_larger:
            return self.settings
        line, excess = self._plan(self.settings, pixels)
        if is_larger:
            self.told = pixels.size
            if line:
                logger.info("%s: %s", image.path, line)
        if not excess:
            self.fitting = max(self.fitting, pixels.size)
            return self.settings
        for side in () if self.settings.is_slide else WINDOW_SIDES_PX:
            crop, stride = (side, side), (3 * side // 4, 3 * side // 4)
            windows = {"is_slide": True, "is_one_step": False, "crop_size_hw": crop}
            settings = self.settings.replace({**windows, "stride_hw": stride})
            if not self._plan(settings, pixels)[1]:
                logger.warning(
                    "%s: %s. It is predicted in windows of %dx%d px instead, which may give other "
                    "labels; --is_slide chooses them.",
                    image.path, excess, side, side,
                )  # fmt: skip
                return settings
        return self.settings

    def _plan(self, settings: InferenceSettings, pixels: np.ndarray) -> tuple[str, str]:
        """Return the plan of an image in a line, and why it does not fit into memory; or "" each.

        Both are "" where the image is refused for another reason: that comes with its prediction.
        """
        self.predictor.settings = settings
        try:
            return memory_line(self.predictor.pipeline, pixels.shape), ""
        except UserError as error:
            message = str(error).partition(". ")[0]
            return "", message if message.startswith("memory:") else ""
        finally:
            self.predictor.settings = self.settings


def _predict(batch: Sequence[_Read], predictor: Predictor, timer: Timer) -> _Predicted:
    """Return the prediction of each image, or why it has none."""
    try:
        images = []
        for _, pixels in batch:
            if isinstance(pixels, UserError):
                raise pixels
            images.append(pixels)
        with timer("predict"):
            predictions = predictor.predict_read(images)
            for prediction in predictions:
                if not prediction.is_computed:  # else while the next are, where they are written
                    prediction.label  # noqa: B018  here its errors are these images'
    except UserError as error:
        if len(batch) > 1:  # the others of the batch are not to blame
            return [item for one in batch for item in _predict([one], predictor, timer)]
        return [(batch[0][0], error)]
    return [(image, made) for (image, _), made in zip(batch, predictions, strict=True)]


class Timer:
    """Adds up the time of each step."""

    STEPS: ClassVar = {
        "read": "waiting for images, which are read meanwhile",
        "predict": "from images to logits, in each stream; of several windows, to label maps",
        "network": "part of predict",
        "write": "label maps and the other results, made meanwhile",
    }

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[step] += time.perf_counter() - start

    def report(self, num_images: int) -> str:
        """Return a line for each step: ms per image."""
        return "\n".join(
            f"{step:<8}{1000 * self.seconds[step] / num_images:>10.1f}  {meaning}"
            for step, meaning in self.STEPS.items()
        )
