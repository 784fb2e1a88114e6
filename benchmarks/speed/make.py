"""Weights, graphs and images of a run: made once per model, each by a process of its own.

`python -m benchmarks.speed.make KIND FOLDER VARIANT CLASSES [H W BATCH]`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.speed.cases import MEAN, MERGE, STD
from benchmarks.speed.files import Files, build_model, fresh_model, normalized
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path, make_folder

if TYPE_CHECKING:
    from paddleseg_segformer.export import Quantization

SEED = 0
LOGIT_STD = 4.0  # as of trained models: labels differ from place to place
OPSET = 17
CALIBRATION_HW, CALIBRATION_IMAGES = (512, 512), 16  # of INT8


def ensure(files: Files, kind: str) -> None:
    """Make a kind of file, and what it is made of, unless it is there.

    Raises:
        UserError: it cannot be made; the message is the last line of the process that tried.
    """
    if files.path(kind).exists():
        return
    for needed in MAKERS[kind][0]:
        ensure(files, needed)
    make_folder(files.folder)
    _run(["make", kind, str(files.root), files.variant, str(files.num_classes)], kind)


def ensure_images(files: Files, image_hw: tuple[int, int], batch: int) -> None:
    """Draw the input images unless they are there."""
    if not files.images_path(image_hw, batch).exists():
        make_folder(files.root)
        numbers = [str(number) for number in (files.num_classes, *image_hw, batch)]
        _run(["images", "-", str(files.root), files.variant, *numbers], "images")


def ensure_logits(files: Files, image_hw: tuple[int, int], batch: int) -> None:
    """Compute the logits of the input images unless they are there."""
    if not files.logits_path(image_hw, batch).exists():
        ensure(files, "weights")
        numbers = [str(number) for number in (files.num_classes, *image_hw, batch)]
        _run(["logits", "-", str(files.root), files.variant, *numbers], "logits")


def _run(arguments: list[str], kind: str) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.make", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{kind} cannot be made: {lines[-1]}")


def _make_weights(files: Files, path: Path) -> None:
    """Write random weights whose labels differ from place to place, as a trained model's do."""
    import paddle

    from paddleseg_segformer.weights import save_weights

    paddle.seed(SEED)
    model = fresh_model(files)
    model.eval()
    scene = files.images((256, 256), 1)
    with paddle.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1 and "linear_pred" not in name:
                fan_in = tensor.shape[0] if tensor.ndim == 2 else int(np.prod(tensor.shape[1:]))
                tensor.set_value(paddle.randn(tensor.shape) / fan_in**0.5)
            elif tensor.ndim == 1:  # as initialised, engines drop gains of 1 and shifts of 0
                spread = 0.1 * paddle.randn(tensor.shape)
                tensor.set_value(tensor + spread.clip(-0.3, 0.3))
        logits = model(paddle.to_tensor(normalized(scene)))
        gain = LOGIT_STD / float((logits - logits.mean([2, 3], keepdim=True)).std())
        model.linear_pred.weight.set_value(model.linear_pred.weight * gain)
        mean = model(paddle.to_tensor(normalized(scene))).mean([0, 2, 3])
        model.linear_pred.bias.set_value(model.linear_pred.bias - mean)
    save_weights(model, path)


def _make_transformers(files: Files, path: Path) -> None:
    from paddleseg_segformer.converting import prepare, write

    write(prepare(files.path("weights"), "hf"), path)


def _make_export(
    files: Files,
    path: Path,
    formats: tuple[str, ...] = ("paddle",),
    quantization: Quantization | None = None,
    is_merged: bool = False,
) -> None:
    from paddleseg_segformer.export import export_model
    from paddleseg_segformer.export.speed_ladder import set_merge
    from paddleseg_segformer.inference.preprocess import Preprocess

    normalize = {"type": "Normalize", "mean": list(MEAN), "std": list(STD)}
    preprocess = Preprocess.from_transforms([normalize])
    model = build_model(files)
    if is_merged:
        set_merge(model, MERGE)
    export_model(
        model,
        path,
        preprocess=preprocess,
        formats=formats,
        is_verified=False,
        quantization=quantization,
    )


def _make_export_int8(
    files: Files, path: Path, is_merged: bool = False, artefact: str = "int8"
) -> None:
    """Export INT8 as the export job does, calibrated on drawn scenes that no case measures."""
    from paddleseg_segformer.data.datasets import RawSample
    from paddleseg_segformer.export import Quantization, Samples
    from paddleseg_segformer.street_scenes.dataset import render_scene

    def draw(index: int) -> RawSample:
        return RawSample(*render_scene([SEED + 1, index], CALIBRATION_HW), f"scene {index}", None)

    quantization = Quantization(Samples(draw, range(CALIBRATION_IMAGES)))
    _make_export(files, path, (artefact,), quantization, is_merged)


def _make_paddleseg_graph(files: Files, path: Path, is_labels: bool = False) -> None:
    from benchmarks.speed.paddleseg_peer import save_graph

    save_graph(files, path, is_labels)


def _make_paddleseg_onnx(files: Files, path: Path) -> None:
    _paddle_to_onnx(files.path("paddleseg_graph"), path)


def _make_paddleseg_label_graph(files: Files, path: Path) -> None:
    _make_paddleseg_graph(files, path, is_labels=True)


def _make_paddleseg_label_onnx(files: Files, path: Path) -> None:
    _paddle_to_onnx(files.path("paddleseg_label_graph"), path)


def _make_transformers_onnx(files: Files, path: Path) -> None:
    from benchmarks.speed.transformers_peer import save_onnx

    save_onnx(files, path, OPSET)


def _paddle_to_onnx(folder: Path, path: Path) -> None:
    """Convert `model.json` and `model.pdiparams` of a folder, and simplify the graph."""
    with explained():
        paddle2onnx, onnxslim = import_module("paddle2onnx"), import_module("onnxslim")
    graph, weights = str(folder / "model.json"), str(folder / "model.pdiparams")
    with atomic_path(path) as temporary:
        # the default optimize_tool installs packages while it runs
        paddle2onnx.export(
            graph, weights, str(temporary), opset_version=OPSET, optimize_tool="None"
        )
        onnxslim.slim(str(temporary), str(temporary))


Make = Callable[[Files, Path], None]

MAKERS: dict[str, tuple[tuple[str, ...], Make]] = {
    # kind -> what it is made of, how
    "weights": ((), _make_weights),
    "export": (("weights",), _make_export),
    "export_onnx": (("weights",), partial(_make_export, formats=("onnx",))),
    "export_int8": (("weights",), _make_export_int8),
    "export_merged": (
        ("weights",),
        partial(_make_export, formats=("onnx",), is_merged=True),
    ),
    "export_merged_int8": (("weights",), partial(_make_export_int8, is_merged=True)),
    "export_int8_onnx": (("weights",), partial(_make_export_int8, artefact="int8_onnx")),
    "export_merged_int8_onnx": (
        ("weights",),
        partial(_make_export_int8, is_merged=True, artefact="int8_onnx"),
    ),
    "paddleseg_graph": (("weights",), _make_paddleseg_graph),
    "paddleseg_onnx": (("paddleseg_graph",), _make_paddleseg_onnx),
    "paddleseg_label_graph": (("weights",), _make_paddleseg_label_graph),
    "paddleseg_label_onnx": (("paddleseg_label_graph",), _make_paddleseg_label_onnx),
    "transformers": (("weights",), _make_transformers),
    "transformers_onnx": (("transformers",), _make_transformers_onnx),
}


def _draw_images(files: Files, image_hw: tuple[int, int], batch: int) -> None:
    from paddleseg_segformer.street_scenes.dataset import render_scene

    images = np.stack([render_scene([SEED, index], image_hw)[0] for index in range(batch)])
    with atomic_path(files.images_path(image_hw, batch)) as temporary:
        np.save(temporary, images)


def _compute_logits(files: Files, image_hw: tuple[int, int], batch: int) -> None:
    import paddle

    model = build_model(files)
    images = normalized(files.images(image_hw, batch))
    with paddle.no_grad():
        logits = np.concatenate([model(paddle.to_tensor(each[None])).numpy() for each in images])
    with atomic_path(files.logits_path(image_hw, batch)) as temporary:
        np.save(temporary, logits)


def main(arguments: list[str]) -> None:
    """Make what a command line of this module names."""
    what, kind, root, variant, *numbers = arguments
    num_classes, *rest = map(int, numbers)
    files = Files(Path(root), variant, num_classes)
    if what == "images":
        _draw_images(files, (rest[0], rest[1]), rest[2])
        return
    if what == "logits":
        _compute_logits(files, (rest[0], rest[1]), rest[2])
        return
    if kind == "weights" and not files.images_path((256, 256), 1).exists():
        _draw_images(files, (256, 256), 1)
    MAKERS[kind][1](files, files.path(kind))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, ImportError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
