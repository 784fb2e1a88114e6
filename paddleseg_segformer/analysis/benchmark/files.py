"""Weights, graphs and images of a run: made once per model, each by a process of its own.

`python -m paddleseg_segformer.analysis.benchmark.files KIND FOLDER VARIANT CLASSES [H W BATCH]`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path, make_folder

if TYPE_CHECKING:
    from paddleseg_segformer.export import Quantization

SEED = 0
LOGIT_STD = 4.0  # as of trained models: labels differ from place to place
OPSET = 17
CALIBRATION_HW, CALIBRATION_IMAGES = (512, 512), 16  # of INT8


@dataclass(frozen=True)
class Files:
    """Where the files of one model are."""

    root: Path
    variant: str
    num_classes: int

    @property
    def folder(self) -> Path:
        """Return the model's folder."""
        return self.root / f"{self.variant}_{self.num_classes}_classes"

    def path(self, kind: str) -> Path:
        """Return a file or folder by kind; `make` writes it."""
        return self.folder / KINDS[kind][0]

    def images_path(self, image_hw: tuple[int, int], batch: int) -> Path:
        """Return the file of the input images (N, H, W, 3) uint8."""
        return self.root / "images_{}x{}_{}.npy".format(*image_hw, batch)

    def logits_path(self, image_hw: tuple[int, int], batch: int) -> Path:
        """Return the file of our network's logits (N, K, H / 4, W / 4) of the input images."""
        return self.folder / "logits_{}x{}_{}.npy".format(*image_hw, batch)

    def images(self, image_hw: tuple[int, int], batch: int) -> np.ndarray:
        """Return the input images (N, H, W, 3) uint8."""
        return np.load(self.images_path(image_hw, batch))


def ensure(files: Files, kind: str) -> None:
    """Make a kind of file, and what it is made of, unless it is there.

    Raises:
        UserError: it cannot be made; the message is the last line of the process that tried.
    """
    if files.path(kind).exists():
        return
    for needed in KINDS[kind][1]:
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
    command = [sys.executable, "-m", "paddleseg_segformer.analysis.benchmark.files", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{kind} cannot be made: {lines[-1]}")


def build_model(files: Files) -> Any:
    """Return our model with the run's weights."""
    from paddleseg_segformer.checkpoints import load_weights

    model = _fresh_model(files)
    load_weights(model, files.path("weights"))
    model.eval()
    return model


def _fresh_model(files: Files) -> Any:
    from paddleseg_segformer.analysis.published import build_published

    return build_published(files.variant, files.num_classes)


def _make_weights(files: Files, path: Path) -> None:
    """Write random weights whose labels differ from place to place, as a trained model's do."""
    import paddle

    from paddleseg_segformer.checkpoints import save_weights

    paddle.seed(SEED)
    model = _fresh_model(files)
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


def normalized(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32."""
    from paddleseg_segformer.analysis.benchmark.cases import MEAN, STD
    from paddleseg_segformer.data.normalize import Normalize

    apply = Normalize(MEAN, STD).apply
    return np.ascontiguousarray(np.stack([apply(image) for image in images]).transpose(0, 3, 1, 2))


def _make_transformers(files: Files, path: Path) -> None:
    from paddleseg_segformer.checkpoints.converting import prepare, write

    write(prepare(files.path("weights"), "hf"), path)


def _make_export(
    files: Files,
    path: Path,
    formats: tuple[str, ...] = ("paddle",),
    quantization: Quantization | None = None,
) -> None:
    from paddleseg_segformer.analysis.benchmark.cases import MEAN, STD
    from paddleseg_segformer.export import export_model
    from paddleseg_segformer.inference.preprocess import Preprocess

    normalize = {"type": "Normalize", "mean": list(MEAN), "std": list(STD)}
    preprocess = Preprocess.from_transforms([normalize])
    export_model(
        build_model(files),
        path,
        preprocess=preprocess,
        formats=formats,
        is_verified=False,
        quantization=quantization,
    )


def _make_export_onnx(files: Files, path: Path) -> None:
    _make_export(files, path, ("onnx",))


def _make_export_int8(files: Files, path: Path) -> None:
    """Export INT8 as the export job does, calibrated on drawn scenes that no case measures."""
    from paddleseg_segformer.data.datasets import RawSample
    from paddleseg_segformer.data.street_scenes import render_scene
    from paddleseg_segformer.export import Quantization, Samples

    def draw(index: int) -> RawSample:
        return RawSample(*render_scene([SEED + 1, index], CALIBRATION_HW), f"scene {index}", None)

    quantization = Quantization(Samples(draw, range(CALIBRATION_IMAGES)))
    _make_export(files, path, ("int8",), quantization)


def _make_paddleseg_graph(files: Files, path: Path, is_labels: bool = False) -> None:
    from paddleseg_segformer.analysis.benchmark.paddleseg_peer import save_graph

    save_graph(files, path, is_labels)


def _make_paddleseg_onnx(files: Files, path: Path) -> None:
    _paddle_to_onnx(files.path("paddleseg_graph"), path)


def _make_paddleseg_label_graph(files: Files, path: Path) -> None:
    _make_paddleseg_graph(files, path, is_labels=True)


def _make_paddleseg_label_onnx(files: Files, path: Path) -> None:
    _paddle_to_onnx(files.path("paddleseg_label_graph"), path)


def _make_transformers_onnx(files: Files, path: Path) -> None:
    from paddleseg_segformer.analysis.benchmark.transformers_peer import save_onnx

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

KINDS: dict[str, tuple[str, tuple[str, ...], Make]] = {
    # name in the folder, what it is made of, how
    "weights": ("model.pdparams", (), _make_weights),
    "export": ("export", ("weights",), _make_export),
    "export_onnx": ("export_onnx", ("weights",), _make_export_onnx),
    "export_int8": ("export_int8", ("weights",), _make_export_int8),
    "paddleseg_graph": ("paddleseg", ("weights",), _make_paddleseg_graph),
    "paddleseg_onnx": ("paddleseg.onnx", ("paddleseg_graph",), _make_paddleseg_onnx),
    "paddleseg_label_graph": ("paddleseg_labels", ("weights",), _make_paddleseg_label_graph),
    "paddleseg_label_onnx": (
        "paddleseg_labels.onnx",
        ("paddleseg_label_graph",),
        _make_paddleseg_label_onnx,
    ),
    "transformers": ("transformers", ("weights",), _make_transformers),
    "transformers_onnx": ("transformers.onnx", ("transformers",), _make_transformers_onnx),
}


def _draw_images(files: Files, image_hw: tuple[int, int], batch: int) -> None:
    from paddleseg_segformer.data.street_scenes import render_scene

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
    KINDS[kind][2](files, files.path(kind))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, ImportError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
