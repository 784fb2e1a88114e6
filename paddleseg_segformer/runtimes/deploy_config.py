"""`deploy.yaml`: all that a program needs to use an exported model as it was evaluated."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paddleseg_segformer.data.labels import LabelSet, generic_label_set
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import sha256, write_text
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.paddleseg_export import PADDLEX_FILE, read_section
from paddleseg_segformer.runtimes.paddleseg_export import SECTION as PADDLESEG_SECTION
from paddleseg_segformer.typed import from_plain
from paddleseg_segformer.yaml_files import Dumper, read_yaml

FILE_NAME = "deploy.yaml"
FORMAT = 3  # of deploy.yaml; raised when a reader of the old one would go wrong
VALUE_RANGE_FORMAT = 4  # the same with `preprocess.value_range`
ALIGN_CORNERS_FORMAT = 5  # the same with `inference.align_corners`
TEMPERATURES_FORMAT = 6  # the same with `inference.temperatures`
BLEND_FORMAT = 7  # the same with `inference.blend`
INPUT_NAME = "x"
OUTPUT_OPS = ("none", "argmax", "softmax")
# what an export can hold, and its files in the order in which engines take them
ARTEFACT_FILES = {
    "paddle": ("model.json", "model.pdiparams"),
    "onnx": ("model.onnx",),
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
    "int8": ("model_int8.xml", "model_int8.bin"),  # OpenVINO's, quantised
    "int8_onnx": ("model_int8.onnx",),  # ONNX Runtime's, quantised
    "onnx_with_preprocess": ("model_with_preprocess.onnx",),  # for programs without the pipeline
}
PADDLE_2_PROGRAM = "model.pdmodel"  # what Paddle 2 writes in the place of model.json
SPEED_FILES = ("speed.json", "speed.png")  # of `export --speed`
# an image of 1 or 3 channels, one of others (a page for each), and the labels expected for either
FIXTURE_FILES = ("fixture.png", "fixture.tif", "fixture_labels.png")


@dataclass(frozen=True)
class ModelFile:
    """A file beside deploy.yaml."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise UserError(f"name: found {self.name!r}, expected a file beside {FILE_NAME}.")

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """Describe an existing file."""
        return cls(path.name, sha256(path))


def artefact_paths(folder: Path, name: str) -> list[Path]:
    """Return the files of an artefact that was written into a folder."""
    paths = [folder / file for file in ARTEFACT_FILES[name]]
    if name == "paddle" and (folder / PADDLE_2_PROGRAM).is_file():
        paths[0] = folder / PADDLE_2_PROGRAM
    return paths


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: a normalised image (N, C, H, W), channels in the order RGB."""

    shape: list[int]  # -1 for any size
    min_side_px: int = 1  # of H and W
    name: str = INPUT_NAME
    dtype: str = "float32"
    channel_order: str = "RGB"

    @property
    def num_channels(self) -> int:
        """Return C."""
        return self.shape[1]


@dataclass(frozen=True)
class OutputSpec:
    """What the network gives.

    `op` none: logits (N, K, h, w), about one for each `stride` pixels per side; argmax: class ids
    (N, H, W); softmax: probabilities (N, K, H, W). Logits stand for the input padded at the bottom
    and right to a multiple of `pad_multiple` pixels: resize them to that size, then crop.
    """

    op: str
    stride: int
    num_classes: int
    dtype: str
    pad_multiple: int = 1


@dataclass(frozen=True)
class Verification:
    """How far the exported network was from the model it was made from."""

    engine: str  # its version and device
    input_shapes: list[list[int]]  # (N, C, H, W) of the inputs tried
    label_agreement: float  # share of equal labels on an image, by way of the whole pipeline
    max_abs_difference: float | None = None  # of the logits or probabilities; none for labels
    std: float | None = None  # standard deviation of the values compared
    layer_norm_epsilons: dict[str, int] = field(default_factory=dict)  # epsilon: how many


@dataclass(frozen=True)
class Artefact:
    """One form of the exported network, and the engines it was compared in."""

    files: list[ModelFile]  # as in `ARTEFACT_FILES`
    verified: list[Verification] = field(default_factory=list)
    precision: str = "fp32"  # of the computation
    quality: dict[str, Any] = field(default_factory=dict)  # measured where precision is reduced

    @classmethod
    def of(cls, folder: Path, name: str) -> Artefact:
        """Describe an artefact whose files exist."""
        return cls([ModelFile.of(path) for path in artefact_paths(folder, name)])


@dataclass(frozen=True)
class Fixture:
    """A small image and the labels that the model itself gives for it, for programs to try."""

    image: ModelFile
    labels: ModelFile  # class ids: at the image's size; for another output than logits, at its size
    # share of equal labels, in float32; rounding decides where two classes are equally likely,
    # while a wrong resize, channel order or normalisation changes far more
    min_agreement: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.min_agreement <= 1:
            raise UserError(
                f"min_agreement: found {self.min_agreement}, expected a share above 0, up to 1."
            )


@dataclass(frozen=True)
class DeployConfig:
    """The content of `deploy.yaml`. The model's files lie beside it."""

    made_with: dict[str, str]  # versions
    artefacts: dict[str, Artefact]  # keys of `ARTEFACT_FILES`
    input: InputSpec
    output: OutputSpec
    preprocess: dict[str, Any]  # Preprocess.to_dict(): values, size rules and normalisation
    inference: dict[str, Any]  # InferenceSettings.to_dict(): windows, scales, flips
    classes: list[str]
    palette: list[list[int]]  # RGB colour of each class, 0..255
    ignore_index: int = 255
    fixture: Fixture | None = None
    precision: str = "fp32"  # of the computation, unless the caller names one
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.artefacts:
            raise UserError("artefacts: found none, so there is nothing to run.")
        for name, artefact in self.artefacts.items():
            if name not in ARTEFACT_FILES:
                raise UserError(
                    f"artefacts: unknown key '{name}'.{did_you_mean(name, ARTEFACT_FILES)}"
                )
            if len(artefact.files) != len(ARTEFACT_FILES[name]):
                raise UserError(
                    f"artefacts.{name}.files: found {len(artefact.files)}, expected "
                    f"{' and '.join(ARTEFACT_FILES[name])}."
                )
        shape = self.input.shape
        if len(shape) != 4 or any(side < 1 and side != -1 for side in shape) or shape[1] < 1:
            raise UserError(f"input.shape: found {shape}, expected N, C, H, W; -1 for any, but C.")
        for name, found, known in (
            ("input.dtype", self.input.dtype, ("float32",)),
            ("input.channel_order", self.input.channel_order, ("RGB",)),
            ("output.op", self.output.op, OUTPUT_OPS),
        ):
            if found not in known:
                raise UserError(f"{name}: found {found!r}, expected {' or '.join(known)}.")
        for name, values in (("classes", self.classes), ("palette", self.palette)):
            if len(values) != self.output.num_classes:
                raise UserError(
                    f"{name}: found {len(values)} entries, but output.num_classes is "
                    f"{self.output.num_classes}."
                )
        if not all(len(c) == 3 and min(c) >= 0 and max(c) <= 255 for c in self.palette):
            raise UserError("palette: expected three numbers in 0..255 for each class.")
        Preprocess.from_dict(self.preprocess)
        settings = InferenceSettings.from_dict(self.inference)
        settings.check_temperatures(self.output.num_classes)

    @property
    def label_set(self) -> LabelSet:
        """Return names and colours of the classes."""
        palette = tuple((red, green, blue) for red, green, blue in self.palette)
        return LabelSet("deploy", tuple(self.classes), palette, self.ignore_index)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], check_files: bool = True) -> DeployConfig:
        """Read an export's `deploy.yaml`, or PaddleSeg's or PaddleX's description of theirs.

        Args:
            folder: The folder of the export, or the path of its `deploy.yaml`.
            check_files: Compare the model's files with their checksums.

        Raises:
            UserError: no such file, a wrong key or value, or model files that are missing or not
                those that were exported.
        """
        path = deploy_path(folder)
        content = read_yaml(path)
        if "format" not in content and isinstance(content.get(PADDLESEG_SECTION), dict):
            try:
                return cls._of_paddleseg(path, content[PADDLESEG_SECTION])
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        if "format" not in content:
            raise UserError(f"{path}: not a deploy.yaml of this package. Export the model again.")
        content.pop(PADDLESEG_SECTION, None)
        if content["format"] == 1:
            content = _from_format_1(content)
        if content["format"] == 2:  # the same without a fixture
            content = dict(content, format=FORMAT)
        if content["format"] not in range(FORMAT, BLEND_FORMAT + 1):
            raise UserError(
                f"{path}: format {content['format']}, but this version reads formats 1 to "
                f"{BLEND_FORMAT}. Export the model again, or use the version it was made "
                "with."
            )
        try:
            config = from_plain(cls, content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if check_files:
            config.check_files(path.parent)
        return config

    @classmethod
    def _of_paddleseg(cls, path: Path, section: dict[str, Any]) -> DeployConfig:
        """Return what PaddleSeg's section says; classes have no names there."""
        found = read_section(path, section)
        label_set = generic_label_set(found["num_classes"])
        return cls(
            made_with={"PaddleSeg": "unknown version"},
            artefacts={"paddle": Artefact([ModelFile.of(file) for file in found["files"]])},
            input=InputSpec(found["shape"]),
            output=OutputSpec(stride=1, num_classes=label_set.num_classes, **found["output"]),
            preprocess={"transforms": found["transforms"]},
            inference=InferenceSettings().to_dict(),
            classes=list(label_set.classes),
            palette=[list(color) for color in label_set.palette],
        )

    def check_files(self, folder: Path, names: Iterable[str] | None = None) -> list[Path]:
        """Compare files with their checksums.

        Args:
            folder: Where they are.
            names: The artefacts to check; by default all, and the fixture.

        Returns:
            Their paths.

        Raises:
            UserError: a file is missing, or not the one that was exported.
        """
        files = [
            file
            for name in (self.artefacts if names is None else names)
            for file in self.artefacts[name].files
        ]
        if names is None and self.fixture:
            files += [self.fixture.image, self.fixture.labels]
        return [self.check_file(folder, file) for file in files]

    @staticmethod
    def check_file(folder: Path, file: ModelFile) -> Path:
        """Compare a file with its checksum; return its path.

        Raises:
            UserError: it is missing, or not the one that was exported.
        """
        path = folder / file.name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {FILE_NAME} names it. Export again.")
        if sha256(path) != file.sha256:
            raise UserError(
                f"{path}: the file is damaged or was replaced (its checksum is not the one in "
                f"{FILE_NAME}). Copy the export's folder again, or export again."
            )
        return path

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `deploy.yaml` into `folder`; return its path."""
        path = Path(folder) / FILE_NAME
        config = self
        if self.preprocess.get("value_range") is not None:
            config = dataclasses.replace(self, format=VALUE_RANGE_FORMAT)
        if self.inference.get("align_corners"):
            config = dataclasses.replace(self, format=ALIGN_CORNERS_FORMAT)
        if self.inference.get("temperatures"):
            config = dataclasses.replace(self, format=TEMPERATURES_FORMAT)
        if self.inference.get("blend"):
            config = dataclasses.replace(self, format=BLEND_FORMAT)
        content = {"format": config.format, **dataclasses.asdict(config)}
        if self.precision == "fp32":  # programs that do not know the key compute in float32 anyway
            del content["precision"]
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        write_text(path, text)
        return path


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return content of format 1, which knew Paddle's two files alone, as format 2 puts it."""
    content = dict(content, format=2)
    paddle = {
        "files": [content.pop(key) for key in ("program", "weights") if key in content],
        "verified": [item for item in [content.pop("verified", None)] if item],
    }
    return {**content, "artefacts": {"paddle": paddle}}


def deploy_path(folder: str | os.PathLike[str]) -> Path:
    """Return the path of the `deploy.yaml` in a folder, or of PaddleX's `inference.yml`.

    The file itself may be given too.

    Raises:
        UserError: there is none.
    """
    path = Path(folder)
    if path.is_dir():
        has_only_theirs = (path / PADDLEX_FILE).is_file() and not (path / FILE_NAME).is_file()
        path = path / (PADDLEX_FILE if has_only_theirs else FILE_NAME)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Name the folder that an export was written into.")
    return path


class _Dumper(Dumper):
    """Writes lists of numbers in one line and repeats shared values in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    is_flat = all(isinstance(value, (int, float)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_flat)


_Dumper.add_representer(list, _represent_list)
