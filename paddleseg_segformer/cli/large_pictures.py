"""Pictures that `predict` and `infer` do in strips: larger than memory, pyramids, mosaics."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.cli.prediction_files import STRIPS, ResultFiles
from paddleseg_segformer.cpu import free_memory_mib
from paddleseg_segformer.data.labels import LabelSet, generic_label_set, mark_unknown
from paddleseg_segformer.data.rasters import (
    GDAL_CACHE_MIB,
    Picture,
    Raster,
    open_raster,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import make_folder, only_writer
from paddleseg_segformer.inference.given_labels import LabelPipeline
from paddleseg_segformer.inference.image_sources import ImageFile
from paddleseg_segformer.inference.overlap import least_overlap, measure_seams, sample_places
from paddleseg_segformer.inference.pipeline import STRIP_STEP_PX, ImageLogits, Pipeline
from paddleseg_segformer.inference.strips import StripFolder, compute_strips, held_mib
from paddleseg_segformer.inference.windows import stride_of

if TYPE_CHECKING:
    from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)

WINDOW_SIDES_PX = (1024, 768, 512, 256)  # tried where no windows are asked for
OVERLAP = 0.25  # of windows where nothing else is asked for
MAX_LARGE_PX = 1 << 36  # what a header may claim: 262,144 x 262,144
FREE_SHARE = 0.5  # of the free memory, for the logits of windows
LOG_INTERVAL_S = 30.0
TILED_FROM_PX = 4096  # narrower pictures are no slower in rows


def predict_large(predictor: Predictor, image: ImageFile, files: ResultFiles) -> None:
    """Predict a picture in strips, and write what `--outputs` asks for.

    Raises:
        UserError: it cannot be read by windows, the model needs the picture as a whole, there is
            not enough memory, or an output needs something that the picture lacks.
    """
    with open_raster(image.path) as raster:
        files.check_large(raster)
        if raster.shape[0] * raster.shape[1] > MAX_LARGE_PX:
            raise UserError(
                f"{image.path}: the header claims {raster.shape[0]}x{raster.shape[1]} px, expected "
                f"at most {MAX_LARGE_PX} px. Cut it."
            )
        name = hashlib.sha256(image.name.encode()).hexdigest()[:16]
        folder = make_folder(Path(files.folder) / STRIPS / name)
        with only_writer(folder.parent):
            strips, label_set = _predicted(predictor, raster, files, folder)
            files.save_large(image, raster, strips, label_set)
            strips.remove()
        with suppress(OSError):  # others are kept there
            folder.parent.rmdir()


def _predicted(
    predictor: Predictor, raster: Raster, files: ResultFiles, folder: Path
) -> tuple[StripFolder, LabelSet]:
    """Return the finished strips of a picture, and the label set."""
    picture = Picture(raster, predictor.img_channels, predictor.pipeline.preprocess.value_range)
    pipeline = _pipeline(predictor.pipeline, picture)
    logits = _with_windows(pipeline, picture, files.args.overlap)
    made_from = {
        "picture": [str(raster.path.absolute()), *_stamp(raster.path)],
        "model": _model_key(pipeline.network),
        "settings": pipeline.settings.to_dict(),
        "preprocess": pipeline.preprocess.to_dict(),
        "limits": [files.args.min_confidence, files.args.class_confidence],
    }
    strips = StripFolder(folder, logits.size_hw, made_from, "confidence" in files.outputs)
    _tell_plan(raster, logits, pipeline, strips)
    label_set = predictor.label_set or generic_label_set(logits.num_classes)
    finish = None
    if files.args.min_confidence or files.args.class_confidence:
        finish = partial(mark_unknown, limits=files.limits(label_set), label_set=label_set)
    height = logits.size_hw[0]
    kept = done = height - sum(bottom - top for top, bottom in strips.missing())
    start_s = shown_s = time.monotonic()
    with tqdm(total=height, initial=done, unit="row", disable=None) as bar:
        for num_rows in compute_strips(logits, strips, finish):
            bar.update(num_rows)
            done += num_rows
            now_s = time.monotonic()
            if bar.disable and now_s - shown_s > LOG_INTERVAL_S:
                shown_s = now_s
                left_s = round((now_s - start_s) / (done - kept) * (height - done))
                logger.info("row %d of %d, about %s left", done, height, timedelta(seconds=left_s))
    return strips, label_set


def _pipeline(pipeline: Pipeline, picture: Picture) -> Pipeline:
    """Return a pipeline without size rules for windows of a picture."""
    height, width, _ = picture.shape
    name = picture.raster.path
    if isinstance(pipeline, LabelPipeline):
        pipeline(picture)  # refuses it
    for rule in pipeline.preprocess.size_rules:
        if rule.new_size_hw(height, width) != (height, width):
            raise UserError(
                f"{name}: {type(rule).__name__} of the model's transforms resizes pictures as a "
                f"whole, for which {height}x{width} px are too many. Predict tiles of it, or leave "
                "the rule out of the config's val_dataset.transforms."
            )
    if any(scale != 1 for scale in pipeline.settings.scales):
        raise UserError(
            f"{name}: scales need the picture as a whole, for which {height}x{width} px are too "
            "many. Leave --scales out; flips work."
        )
    if picture.dtype != np.uint8:
        for place in sample_places((height, width), (STRIP_STEP_PX, STRIP_STEP_PX), 8):
            pipeline.preprocess.check_values(picture[place])
    preprocess = dataclasses.replace(pipeline.preprocess, size_rules=())
    return Pipeline(pipeline.network, preprocess, pipeline.settings, pipeline.memory)


def _with_windows(pipeline: Pipeline, picture: Picture, overlap: float | str | None) -> ImageLogits:
    """Give the pipeline windows that fit into memory; return the picture's logits, for strips.

    Raises:
        UserError: none fits.
    """
    asked, excess = pipeline.settings, UserError()
    sizes = [(side, side) for side in WINDOW_SIDES_PX]
    deploy = getattr(pipeline.network, "deploy", None)
    if deploy and min(deploy.input.shape[2:]) > 0:
        sizes = [(deploy.input.shape[2], deploy.input.shape[3])]
    if asked.is_slide and asked.crop_size_hw:
        sizes = [asked.crop_size_hw]
    for crop_hw in sizes:
        if not asked.is_slide:
            share = overlap if isinstance(overlap, float) else OVERLAP
            windows = {"crop_size_hw": crop_hw, "stride_hw": stride_of(crop_hw, share)}
            pipeline.settings = asked.replace({**windows, "is_slide": True, "is_one_step": False})
        try:
            if overlap == "auto":
                measure_overlap(pipeline, picture)
            logits = pipeline(picture)
            logits.held_mib = held_mib(logits, STRIP_STEP_PX, *_output(pipeline))
            _check_memory(pipeline, logits, crop_hw)
        except UserError as error:
            if not str(error).startswith("memory:"):
                raise
            excess = error
        else:
            return logits
    raise excess


def _output(pipeline: Pipeline) -> tuple[int, int]:
    """Return the number of classes K, and input pixels per logit along an axis."""
    if pipeline.memory:
        return pipeline.memory.num_classes, pipeline.memory.stride
    output = pipeline.network.deploy.output  # type: ignore[attr-defined]  # of an export
    return output.num_classes, output.stride


def _check_memory(pipeline: Pipeline, logits: ImageLogits, crop_hw: tuple[int, int]) -> None:
    """Refuse windows for which there is not enough memory."""
    if pipeline.memory:
        pipeline.window_batch(crop_hw, logits.held_mib)
    elif logits.held_mib > FREE_SHARE * free_memory_mib():
        raise UserError(
            f"memory: windows of {crop_hw[0]}x{crop_hw[1]} px keep {logits.held_mib:.0f} MiB of "
            f"logits across {logits.size_hw[1]} px, but {free_memory_mib():.0f} MiB are free. Use "
            "smaller windows (--is_slide --crop_size W H), or less overlap."
        )


def measure_overlap(pipeline: Pipeline, picture: Picture | np.ndarray) -> None:
    """Set the stride to the least overlap that leaves no seams on samples of the picture."""
    crop_hw = pipeline.settings.crop_size_hw
    assert crop_hw
    places = sample_places(picture.shape[:2], (2 * crop_hw[0], 2 * crop_hw[1]))
    measured = measure_seams(pipeline, [picture[place] for place in places])
    chosen = least_overlap(measured)
    logger.info(
        "overlap: agreement with whole samples (%d) and cost: %s; chosen: %g",
        len(places),
        ", ".join(f"{each.overlap:g}: {each.agreement:.3%}, {each.cost:.2f}x" for each in measured),
        chosen.overlap,
    )
    stride_hw = stride_of(crop_hw, chosen.overlap)
    pipeline.settings = pipeline.settings.replace({"stride_hw": stride_hw})


def _tell_plan(
    raster: Raster, logits: ImageLogits, pipeline: Pipeline, strips: StripFolder
) -> None:
    """Log what is going to be done, before it is."""
    height, width, channels = raster.shape
    spans, missing = strips.spans(), strips.missing()
    kept = "" if len(missing) == len(spans) else f", {len(spans) - len(missing)} of them kept"
    logger.info(
        "%s: %dx%d px (height x width), %d bands of %s; %s; %d windows; %d strips of %d rows%s; "
        "about %.0f MiB of logits at a time",
        raster.path, height, width, channels, raster.dtype, pipeline.settings.describe(),
        logits.num_windows, len(spans), strips.rows, kept, logits.held_mib,
    )  # fmt: skip
    crop_hw = pipeline.settings.crop_size_hw
    row_bytes = width * channels * raster.dtype.itemsize
    is_striped = raster.block_hw[1] >= width > TILED_FROM_PX and raster.georeference is not None
    if crop_hw and is_striped and crop_hw[0] * row_bytes > GDAL_CACHE_MIB << 20:
        logger.warning(
            "%s: is stored in rows, not tiles, which are decoded again for each window. Faster: "
            "gdal_translate -co TILED=YES, or the environment's GDAL_CACHEMAX=%d (MiB).",
            raster.path,
            (crop_hw[0] + STRIP_STEP_PX) * row_bytes >> 20,
        )


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _model_key(network: Any) -> str:
    """Return what tells a network from others: of its weights, or of its export and engine."""
    digest = hashlib.sha256()
    if hasattr(network, "deploy"):
        exported = [dataclasses.asdict(part) for part in (network.deploy, network.options)]
        digest.update(json.dumps(exported, sort_keys=True, default=str).encode())
    else:
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.numpy()).data)
    return digest.hexdigest()
