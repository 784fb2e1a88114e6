"""What `fit` is asked for, checked before Paddle is imported."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paddleseg_segformer.annotations import Options
from paddleseg_segformer.annotations.archives import folder_of
from paddleseg_segformer.config.schema import find_config, load_yaml
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.export.checks import check_formats

# name -> packaged config whose `model` is taken; any other config is taken by its own name or path
MODELS = {
    **{f"b{n}": f"segformer_b{n}_ade20k_512x512_160k" for n in range(6)},
    **{
        f"segmenter-{size}-{head}": f"segmenter_vit_{size}_{head}_ade20k_512x512_160k"
        for size, head in (
            ("small", "linear"),
            ("small", "mask"),
            ("base", "linear"),
            ("base", "mask"),
        )
    },
}
AUTO = "auto"
MIN_SIDE_PX = 32


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit`; None stands for what the data and the machine decide.

    Args:
        data: Folder of the data set, or the one annotation file that is meant.
        out: Folder of all results.
        model: A key of `MODELS`, or a config (path or packaged name) whose model is taken.
        minutes: Of the whole run.
        epochs: Passes over the training images.
        iters: Optimizer steps.
        size: Side of the training crops in px.
        batch_size: Images per step.
        annotations: What a person says of the data, so that it is not concluded.
        pretrained: Start weights: auto, none, a file, a folder, a URL, or a known name.
        freeze: Stages of the backbone that keep their start weights, from the first on.
        export: Formats of the export.
        seed: Of the training; that of the split is in `annotations`.
        opts: `KEY=VALUE` that replace what the recipe chose in the config.
        imports: Modules that register components, which the config notes.
        resume: Continue a run in `out` that was stopped.
        dry_run: Conclude and plan, and write nothing.
    """

    data: str
    out: str | None = None
    model: str = "b0"
    minutes: float | None = None
    epochs: float | None = None
    iters: int | None = None
    size: int | None = None
    batch_size: int | None = None
    annotations: Options = field(default_factory=Options)
    pretrained: str = AUTO
    freeze: int = 0
    export: Sequence[str] = (AUTO,)
    seed: int = 0
    opts: Sequence[str] = ()
    imports: Sequence[str] = ()
    resume: bool = False
    dry_run: bool = False

    @classmethod
    def of(cls, data: Any, **options: Any) -> FitOptions:
        """Return checked options of plain names: those of `FitOptions` and of `Options`.

        Raises:
            UserError: an unknown name, or a wrong value.
        """
        own, of_data = ({item.name for item in fields(kind)} for kind in (cls, Options))
        known = own | of_data - {"data", "annotations"}
        for name in options:
            if name not in known:
                raise UserError(f"fit: no option '{name}'.{did_you_mean(name, known)}")
        for name in ("classes", "val_dir"):
            if options.get(name) is not None:
                options[name] = Path(options[name])
        for name, default in (("size", AUTO), ("bands", "all")):
            if options.get(name) == default:
                options[name] = None
        for name in ("export", "opts", "imports"):
            if isinstance(options.get(name), str):
                options[name] = [options[name]]
        given = {name: value for name, value in options.items() if name in of_data}
        others = {name: value for name, value in options.items() if name in own}
        return cls(str(data), annotations=Options(**given), **others)

    def __post_init__(self) -> None:
        if not Path(self.data).exists():
            raise UserError(
                f"{self.data}: no such file or folder. Name the folder of your images and labels."
            )
        data, out = Path(self.data).resolve(), self.out_dir.resolve()
        is_file = folder_of(data) == data.parent  # of annotations
        if not is_file and out.is_relative_to(folder_of(data)):
            raise UserError(
                f"--out {self.out_dir}: lies in the data, of which it would be a part next time. "
                "Name a folder outside of it."
            )
        for name in ("minutes", "epochs", "iters", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name}: found {value}, expected a number above 0.")
        given = [name for name in ("minutes", "epochs", "iters") if getattr(self, name) is not None]
        if len(given) > 1:
            flags = " and ".join(f"--{name}" for name in given)
            raise UserError(f"{flags} each say how long to train. Keep one.")
        for name in ("iters", "batch_size"):  # which other choices follow
            if any(item.startswith(f"{name}=") for item in self.opts):
                raise UserError(f"--opts {name}: say --{name}, which the rest of the recipe heeds.")
        if self.size is not None and (self.size < MIN_SIDE_PX or self.size % MIN_SIDE_PX):
            raise UserError(f"--size: found {self.size}, expected a multiple of {MIN_SIDE_PX} px.")
        if self.freeze < 0:
            raise UserError(f"--freeze: found {self.freeze}, expected 0 or more stages.")
        if list(self.export) != [AUTO]:
            check_formats(self.formats)
        with explained():
            if not find_spec("matplotlib"):  # for the report: better now than after the training
                raise ModuleNotFoundError(name="matplotlib")
        self.model_section()

    @property
    def formats(self) -> list[str]:
        """Return what to export; by default ONNX where its packages are installed, else Paddle."""
        names = [name for item in self.export for name in re.split(r"[,\s]+", item) if name]
        if names != [AUTO]:
            return names
        has_onnx = all(find_spec(name) for name in ("onnx", "onnxruntime"))
        return ["onnx" if has_onnx else "paddle"]

    @property
    def out_dir(self) -> Path:
        """Return the folder of all results, by default `output/` and the data's name."""
        return Path(self.out or Path("output", self.name))

    @property
    def name(self) -> str:
        """Return the name of the data: its folder's, or its file's."""
        data = Path(self.data).resolve()
        return data.name if data.is_dir() else data.stem

    def model_section(self) -> dict[str, Any]:
        """Return the `model` of the config that `model` stands for."""
        if self.model in MODELS or Path(self.model).suffix in (".yml", ".yaml"):
            path = find_config(MODELS.get(self.model, self.model))
            section = load_yaml(path).get("model")
            if not isinstance(section, dict) or not isinstance(section.get("type"), str):
                raise UserError(f"{path}: has no `model` with a `type`.")
            return section
        raise UserError(
            f"--model: found {self.model!r}, expected a config (.yml) or a name."
            f"{did_you_mean(self.model, MODELS)}"
        )
