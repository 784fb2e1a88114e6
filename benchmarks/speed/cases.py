"""What is measured: engine x task x model x size x batch x threads x precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.runtimes.engines import INT8_PRECISIONS

VARIANTS = ("B0", "B1", "B2", "B3", "B4", "B5")
MIN_SIDE_PX = 64  # the smallest drawn scene
SLIDE_STRIDE = 0.75  # of the window's side
# our network with queries merged in stages 1 to 3 -> the precision it is computed in
MERGED = {"merged": "fp32", "merged-int8": "int8"}
MERGE = (2, 2, 2, 1)
PRECISIONS = ("fp32", "bf16", *INT8_PRECISIONS, *MERGED)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TASKS = {
    "network": "normalised float32 tensor in the engine's own form -> the network's own output",
    "end_to_end": "RGB uint8 array (H, W, 3) in memory -> label map (H, W): normalisation, network,"
    " resizing, argmax; file decoding is not included",
    "slide": "RGB uint8 array of H x 2H px in memory -> label map: windows of H x H px every "
    f"{SLIDE_STRIDE:g} H, network, averaging, argmax; file decoding is not included",
    "tail": "logits (N, K, H / 4, W / 4) float32 -> label map of H x W: resizing, argmax",
    "train": "one step: forward, resizing to the label's size, cross-entropy, backward, AdamW; "
    "loading of data is not included",
}


@dataclass(frozen=True)
class Engine:
    """One way to run the network.

    Args:
        title: for tables.
        module: of `analysis.benchmark`; its `build(case, files)` gives a `Subject`.
        file: what it loads, a kind of `files.NAMES`.
        packages: imported before the process counts as empty.
        tasks, precisions: what it can do.
        output: what the network task gives, where the engines differ.
        label_file: loaded instead of `file` where a graph gives the labels of a whole image.
        files: loaded instead of `file`, by precision.
    """

    title: str
    module: str
    file: str
    packages: tuple[str, ...]
    tasks: tuple[str, ...] = ("network", "end_to_end", "slide")
    precisions: tuple[str, ...] = ("fp32",)
    output: str = "logits at a quarter of the input's size"
    label_file: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


_FULL = "logits at the input's size"
_PADDLESEG = ("paddle", "paddleseg")
_TORCH = ("torch", "transformers")

_TENSOR_TO_LABEL = ("network", "end_to_end")  # tasks
_WITH_TRAINING = ("network", "end_to_end", "slide", "train")

ENGINES = {
    "ours": Engine("ours, dygraph", "ours", "weights", ("paddle",), tuple(TASKS)),
    "ours-recompute": Engine(
        "ours, dygraph, use_recompute", "ours", "weights", ("paddle",), ("train",)
    ),
    "ours-inference": Engine("ours, Paddle Inference", "ours", "export", ("paddle",)),
    "ours-onnxruntime": Engine(
        "ours, ONNX Runtime",
        "ours",
        "export_onnx",
        ("paddle", "onnxruntime"),
        precisions=("fp32", "int8", *MERGED),
        files={
            "int8": "export_int8_onnx",
            "merged": "export_merged",
            "merged-int8": "export_merged_int8_onnx",
        },
    ),
    "ours-openvino": Engine(
        "ours, OpenVINO",
        "ours",
        "export_onnx",
        ("paddle", "openvino"),
        precisions=PRECISIONS,
        files={
            **dict.fromkeys(INT8_PRECISIONS, "export_int8"),
            "merged": "export_merged",
            "merged-int8": "export_merged_int8",
        },
    ),
    "paddleseg": Engine(
        "PaddleSeg, dygraph", "paddleseg_peer", "weights", _PADDLESEG, _WITH_TRAINING, output=_FULL
    ),
    "paddle": Engine("Paddle, interpolate and argmax", "tail", "weights", ("paddle",), ("tail",)),
    "paddleseg-inference": Engine(
        "PaddleSeg, Paddle Inference",
        "paddleseg_peer",
        "paddleseg_graph",
        _PADDLESEG,
        output=_FULL,
        label_file="paddleseg_label_graph",
    ),
    "paddleseg-onnxruntime": Engine(
        "PaddleSeg, ONNX Runtime",
        "paddleseg_peer",
        "paddleseg_onnx",
        (*_PADDLESEG, "onnxruntime", "paddle2onnx", "onnxslim"),
        output=_FULL,
        label_file="paddleseg_label_onnx",
    ),
    "paddleseg-openvino": Engine(
        "PaddleSeg, OpenVINO",
        "paddleseg_peer",
        "paddleseg_onnx",
        (*_PADDLESEG, "openvino", "paddle2onnx", "onnxslim"),
        precisions=("fp32", "bf16"),
        output=_FULL,
        label_file="paddleseg_label_onnx",
    ),
    "transformers": Engine(
        "transformers, eager", "transformers_peer", "transformers", _TORCH, _TENSOR_TO_LABEL
    ),
    "transformers-compile": Engine(
        "transformers, torch.compile", "transformers_peer", "transformers", _TORCH, _TENSOR_TO_LABEL
    ),
    "transformers-onnxruntime": Engine(
        "transformers, ONNX Runtime",
        "transformers_peer",
        "transformers_onnx",
        (*_TORCH, "onnxruntime"),
        _TENSOR_TO_LABEL,
    ),
    "transformers-openvino": Engine(
        "transformers, OpenVINO",
        "transformers_peer",
        "transformers_onnx",
        (*_TORCH, "openvino"),
        _TENSOR_TO_LABEL,
        ("fp32", "bf16"),
    ),
}
REFERENCE = "ours"  # the engine whose float32 result the others are compared with


@dataclass(frozen=True)
class Setting:
    """What the cases of one comparison share; times are compared within one setting only."""

    task: str
    variant: str
    size_hw: tuple[int, int]
    batch: int
    threads: int
    num_classes: int

    @property
    def image_hw(self) -> tuple[int, int]:
        """Return the size of the input images."""
        height, width = self.size_hw
        return (height, 2 * width) if self.task == "slide" else (height, width)

    @property
    def stride_hw(self) -> tuple[int, int]:
        """Return the step between windows."""
        height, width = (int(side * SLIDE_STRIDE) for side in self.size_hw)
        return height, width

    @property
    def num_passes(self) -> int:
        """Return how many images or windows of `size_hw` go through the network."""
        if self.task != "slide":
            return self.batch
        return self.batch * (1 + -(-self.size_hw[1] // self.stride_hw[1]))

    def __str__(self) -> str:
        height, width = self.size_hw
        return (
            f"{self.task}  {self.variant}  {height}x{width}  batch {self.batch}  "
            f"{self.threads} thread{'s' * (self.threads > 1)}  {self.num_classes} classes"
        )


@dataclass(frozen=True)
class Case:
    """One engine under one setting."""

    engine: str
    setting: Setting
    precision: str = "fp32"

    @property
    def title(self) -> str:
        """Return the engine's title, with the precision where it is not float32."""
        title = ENGINES[self.engine].title
        return title if self.precision == "fp32" else f"{title}, {self.precision}"

    @property
    def file(self) -> str:
        """Return the kind of file that is loaded."""
        engine = ENGINES[self.engine]
        if self.precision in engine.files:
            return engine.files[self.precision]
        if self.setting.task == "end_to_end" and engine.label_file:
            return engine.label_file
        return engine.file

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` reads it back."""
        setting = {item.name: getattr(self.setting, item.name) for item in fields(Setting)}
        return {"engine": self.engine, "precision": self.precision, **setting}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        """Return the case of `to_dict`'s plain data."""
        names = [item.name for item in fields(Setting)]
        setting = {name: values[name] for name in names}
        setting["size_hw"] = tuple(setting["size_hw"])
        return cls(values["engine"], Setting(**setting), values["precision"])


def all_cases(
    engines: Sequence[str],
    tasks: Sequence[str],
    variants: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
    batches: Sequence[int],
    threads: Sequence[int],
    precisions: Sequence[str],
    num_classes: int,
) -> dict[Setting, list[Case]]:
    """Return the cases by setting; what an engine cannot do is left out.

    Raises:
        UserError: an unknown name, a number that is too small, or nothing is left.
    """
    for what, names, known in (
        ("engine", engines, ENGINES),
        ("task", tasks, TASKS),
        ("variant", variants, VARIANTS),
        ("precision", precisions, PRECISIONS),
    ):
        _check_names(what, names, known)
    for size in sizes_hw:
        if min(size) < MIN_SIDE_PX:
            raise UserError(f"size {size[0]}x{size[1]}: expected {MIN_SIDE_PX} px or more a side.")
    if min((*batches, *threads, num_classes)) < 1:
        raise UserError("batch, threads and classes: expected 1 or more.")
    cases: dict[Setting, list[Case]] = {}
    for values in product(tasks, variants, sizes_hw, batches, threads):
        setting = Setting(*values, num_classes)
        cases[setting] = [
            Case(engine, setting, precision)
            for precision, engine in product(precisions, engines)
            if setting.task in ENGINES[engine].tasks and precision in ENGINES[engine].precisions
        ]
    cases = {setting: found for setting, found in cases.items() if found}
    if not cases:
        raise UserError("none of these engines has that task in that precision.")
    return cases


# of the speed ladder: task, model, side; peers by task, the fastest ones of docs/performance.md
CELLS = (
    *[("network", variant, 512) for variant in ("B0", "B1", "B2", "B5")],
    *[("network", variant, 1024) for variant in ("B0", "B1", "B2")],
    ("slide", "B0", 1024),
)
LADDER_ENGINES = {
    "network": ("ours-openvino", "paddleseg-openvino", "transformers-openvino"),
    "slide": (
        *("ours-openvino", "ours-onnxruntime"),
        *("paddleseg-openvino", "paddleseg-onnxruntime"),
    ),
}
LADDER_PRECISIONS = ("fp32", "int8", *MERGED)


def ladder_cases(engines: Sequence[str], threads: int) -> dict[Setting, list[Case]]:
    """Return the cases of the speed ladder; engines that are not among `engines` are left out."""
    found: dict[Setting, list[Case]] = {}
    for task, variant, side in CELLS:
        chosen = [name for name in LADDER_ENGINES[task] if name in engines]
        found |= all_cases(
            chosen, [task], [variant], [(side, side)], [1], [threads], LADDER_PRECISIONS, 19
        )
    return found


def _check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{what}: found {name!r}.{did_you_mean(name, known)}")
