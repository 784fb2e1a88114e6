"""Faster forms of a network: built, measured on this machine, gated, and the fastest one chosen.

A form merges queries in some stages, computes in fewer bits, or both. Which stages is searched
greedily: of those that may still be merged, the one whose gain costs the fewest labels comes next,
as long as the bound holds. INT8 that breaks the bound is made again with layers in float32, those
that change most labels first.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paddle import nn

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.quantization import INT8_ENGINES, Quantization
from paddleseg_segformer.export.speed_gate import Bound, Scores, SpeedGate
from paddleseg_segformer.files import write_text
from paddleseg_segformer.models.attention import EfficientSelfAttention
from paddleseg_segformer.models.mix_transformer import MixVisionTransformer
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import SPEED_FILES, DeployConfig
from paddleseg_segformer.runtimes.engine_network import EngineNetwork
from paddleseg_segformer.runtimes.engines import ENGINES
from paddleseg_segformer.runtimes.timing import least_s

logger = logging.getLogger(__name__)

MERGED = 2  # side of the squares of tokens that share a query
MIN_GAIN = 1.02  # times as fast; less is within what a machine varies
# the speeds by name; None: nothing may be lost
SPEEDS: dict[str, Bound | None] = {
    "exact": None,
    "fast": Bound(miou=0.1, class_iou=1.0, boundary_iou=0.5, agreement=0.99),
    "faster": Bound(miou=0.5, class_iou=2.0, boundary_iou=1.0, agreement=0.975),
    "fastest": Bound(miou=1.0, class_iou=4.0, boundary_iou=2.0, agreement=0.95),
}
ANY_LOSS = Bound(miou=np.inf, class_iou=np.inf, boundary_iou=np.inf, agreement=0.0)

Export = Callable[..., DeployConfig]


class Form(NamedTuple):
    """A form of a network."""

    merge: tuple[int, ...]  # of each stage; empty where the encoder has none to merge
    precision: str = "fp32"
    has_float_layers: bool = False  # of INT8: some, for the sake of the labels

    @property
    def title(self) -> str:
        """Return what it is in words."""
        merged = [str(stage) for stage, side in enumerate(self.merge, 1) if side > 1]
        parts = [f"queries merged in stage {', '.join(merged)}"] if merged else []
        if self.precision != "fp32":
            parts.append(self.precision + (" in part" if self.has_float_layers else ""))
        return ", ".join(parts) or "exact"


@dataclass(frozen=True)
class Rung:
    """A form, measured.

    Args:
        form: What it is.
        folder: Its export.
        scores: What it reaches.
        ms: Least processor time of a pass, of all threads.
        speed: Times as fast as the exact form, whose passes took turns with its own.
        faults: Which bounds it breaks.
    """

    form: Form
    folder: Path
    scores: Scores
    ms: float
    speed: float
    faults: tuple[str, ...] = ()


class SpeedLadder:
    """The search for the fastest form within a bound.

    Args:
        model: The model; the merging of its queries is as before when the search ends.
        export: `export_model` with all that concerns the model, but for folder and formats.
        samples: Images to compare on; labelled, or none of them.
        bound: What may be lost; None: nothing.
        quantization: Calibration images of INT8; None: no INT8.
        folder: Of the forms' exports.
        threads: CPU threads of the measurement.

    Raises:
        UserError: there is no engine for exports in ONNX, or no image.
    """

    def __init__(
        self,
        model: nn.Layer,
        export: Export,
        samples: Iterable[RawSample],
        bound: Bound | None,
        quantization: Quantization | None,
        folder: Path,
        threads: int = os.cpu_count() or 1,
    ) -> None:
        self.model, self.bound, self.quantization = model, bound, quantization
        self._export, self._folder, self._threads = export, folder, threads
        readers = (name for name, engine in ENGINES.items() if "onnx" in engine.artefacts)
        engines = [name for name in readers if find_spec(ENGINES[name].package)]
        if not engines:
            raise UserError(
                "speed: needs OpenVINO or ONNX Runtime. Run: pip install openvino, or pip install "
                "onnxruntime"
            )
        self.engine = engines[0]
        exact = Form(merge_of(model))
        predictor = self._load(self._made(exact), exact)
        self._exact_network = predictor.pipeline.network
        windows = predictor.pipeline(next(iter(samples)).image)
        self._x = windows.read(windows.missing(0, windows.size_hw[0])[0])
        self.gate = SpeedGate(samples, predictor)
        [seconds] = least_s([self._exact_network], self._x)
        self.rungs = [Rung(exact, self._made(exact), self.gate.exact, 1e3 * seconds, 1.0)]

    def climb(self) -> Rung:
        """Measure the forms, and return the fastest that holds the bound."""
        if self.bound is None:
            return self.rungs[0]
        path = [self.rungs[0], *self._merged()]
        for precision in self._float_precisions():
            for form in dict.fromkeys([path[0].form, path[-1].form]):
                self._measure(form._replace(precision=precision))
        if self.quantization:
            for rung in reversed(path):
                if self._int8(rung.form):
                    break
        return self.best

    @property
    def best(self) -> Rung:
        """Return the fastest form so far that holds the bound."""
        return max((rung for rung in self.rungs if not rung.faults), key=lambda rung: rung.speed)

    def _merged(self) -> Iterator[Rung]:
        """Yield one form after the other, each with one more stage merged."""
        current = self.rungs[0]
        while True:
            tried = []
            for stage, side in enumerate(current.form.merge):
                if side == 1 and _attentions(self.model)[stage]:
                    merge = list(current.form.merge)
                    merge[stage] = MERGED
                    tried.append(self._measure(Form(tuple(merge))))
            tried = [
                rung for rung in tried if not rung.faults and rung.speed > MIN_GAIN * current.speed
            ]
            if not tried:
                return
            current = max(tried, key=lambda rung: _gain_per_loss(current, rung))
            yield current

    def _float_precisions(self) -> list[str]:
        """Return the reduced precisions of floats that this processor computes in."""
        return ["bf16"] if "bf16" in ENGINES[self.engine].precisions and _has_bf16() else []

    def _int8(self, form: Form) -> bool:
        """Measure a form in INT8, with layers in float32 if need be; return whether one holds."""
        precisions = [
            name
            for name in ENGINES[self.engine].precisions
            if name == "int8" or (name == "int8-bf16" and _has_bf16())
        ]
        whole = [self._measure(form._replace(precision=name)) for name in precisions]
        if whole[0].faults and self.engine == "openvino":
            part = form._replace(has_float_layers=True)
            whole += [self._measure(part._replace(precision=name)) for name in precisions]
        return any(not rung.faults for rung in whole)

    def _measure(self, form: Form) -> Rung:
        folder = self._made(form)
        predictor = self._load(folder, form)
        scores = self.gate.score(predictor)
        exact_s, own_s = least_s([self._exact_network, predictor.pipeline.network], self._x)
        faults = self.bound.faults(scores, self.gate.exact) if self.bound else []
        rung = Rung(form, folder, scores, 1e3 * own_s, exact_s / own_s, tuple(faults))
        logger.info(
            "%s: %.2f times as fast, %.2f%% of the labels%s",
            form.title,
            rung.speed,
            100 * scores.agreement,
            "".join(f"; {fault}" for fault in faults),
        )
        self.rungs.append(rung)
        return rung

    def _load(self, folder: Path, form: Form) -> Predictor:
        return Predictor.from_export(folder, "cpu", self._threads, form.precision, self.engine)

    def _made(self, form: Form) -> Path:
        """Return the folder of a form's export; precisions share one where they can."""
        is_int8 = form.precision.startswith("int8")
        kind = ("int8-part" if form.has_float_layers else "int8") if is_int8 else "float"
        folder = self._folder / "-".join([kind, *map(str, form.merge)])
        if not folder.exists():
            quantization = self.quantization
            if quantization and form.has_float_layers:
                whole = self._rung_of(form._replace(precision="int8", has_float_layers=False))
                limit = (1 - whole.scores.agreement) / 2
                quantization = replace(quantization, max_difference=limit)
            formats = ("onnx", self.int8_artefact) if is_int8 else ("onnx",)
            with merged(self.model, form.merge):
                self._export(
                    folder,
                    formats=formats,
                    quantization=quantization,
                    is_verified=False,
                )
        return folder

    @property
    def int8_artefact(self) -> str:
        """Return the artefact that the engine computes in INT8 from."""
        return next(name for name, engine in INT8_ENGINES.items() if engine == self.engine)

    def _rung_of(self, form: Form) -> Rung:
        return next(rung for rung in self.rungs if rung.form == form)

    def write(self, chosen: Rung, formats: Sequence[str], save_dir: Path) -> DeployConfig:
        """Export a rung with the formats that were asked for, the table and the picture.

        Args:
            chosen: What is written.
            formats: Besides what the rung runs from.
            save_dir: As of `export_model`.
        """
        needed, quantization = ["onnx"], None
        if chosen.form.precision.startswith("int8"):
            needed.append(self.int8_artefact)
            assert self.quantization
            quantization = replace(self.quantization, made=chosen.folder, gate=None)
        others = [name for name in formats if name not in (*needed, *INT8_ENGINES)]

        def finish(folder: Path, deploy: DeployConfig) -> DeployConfig:
            self.report(folder, chosen)
            made_with = deploy.made_with | {"speed": chosen.form.title}
            return replace(deploy, precision=chosen.form.precision, made_with=made_with)

        with merged(self.model, chosen.form.merge):
            return self._export(
                save_dir, formats=[*others, *needed], quantization=quantization, finish=finish
            )

    def report(self, folder: Path, chosen: Rung) -> None:
        """Write the table as JSON, and the picture."""
        network = self._exact_network
        assert isinstance(network, EngineNetwork)
        content: dict[str, Any] = {
            "engine": network.description,
            "threads": self._threads,
            "input_shape": list(self._x.shape),
            "bound": vars(self.bound) if self.bound else None,
            "chosen": chosen.form.title,
            "forms": [self._plain(rung) for rung in self.rungs],
        }
        write_text(folder / SPEED_FILES[0], json.dumps(content, indent=1))
        draw(self.rungs, chosen, folder / SPEED_FILES[1])

    def _plain(self, rung: Rung) -> dict[str, Any]:
        return {
            "form": rung.form.title,
            "merge": list(rung.form.merge),
            "precision": rung.form.precision,
            "cpu_ms": round(rung.ms, 2),
            "times_as_fast": round(rung.speed, 3),
            **self.gate.describe(rung.scores),
            "faults": list(rung.faults),
        }

    def table(self) -> str:
        """Return the rungs as text, with the slowest speed that allows each; losses in points."""
        rows: list[tuple[str, ...]] = [
            ("form", "cpu ms", "times", "labels", "mIoU", "class", "boundary", "allowed by")
        ]
        for rung in self.rungs:
            losses = rung.scores.losses(self.gate.exact).values()
            rows.append(
                (
                    rung.form.title,
                    f"{rung.ms:.1f}",
                    f"{rung.speed:.2f}",
                    f"{rung.scores.agreement:.2%}",
                    *([f"{-loss:+.2f}" for loss in losses] or ["-"] * 3),
                    self.allowed_by(rung),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def allowed_by(self, rung: Rung) -> str:
        """Return the first of `SPEEDS` that a rung's losses allow."""
        if rung is self.rungs[0]:
            return "exact"
        bounds = ((name, bound) for name, bound in SPEEDS.items() if bound)
        exact = self.gate.exact
        allowing = (name for name, bound in bounds if not bound.faults(rung.scores, exact))
        return next(allowing, "none")


def _gain_per_loss(before: Rung, after: Rung) -> float:
    """Return what a step gains for each share of labels that it changes."""
    lost = before.scores.agreement - after.scores.agreement
    return (after.speed - before.speed) / max(lost, 1e-6)


def _has_bf16() -> bool:
    from paddleseg_segformer.runtimes.openvino_backend import import_openvino

    core = import_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _attentions(model: nn.Layer) -> list[list[EfficientSelfAttention]]:
    """Return the attention layers of each stage; none where the encoder is no MiT."""
    encoder = getattr(model, "backbone", None)
    if not isinstance(encoder, MixVisionTransformer):
        return []
    return [[block.attn for block in getattr(encoder, f"block{stage}")] for stage in range(1, 5)]


def merge_of(model: nn.Layer) -> tuple[int, ...]:
    """Return the merging of each stage of a model; empty where it has none."""
    return tuple(layers[0].merge if layers else 1 for layers in _attentions(model))


@contextmanager
def merged(model: nn.Layer, merge: Sequence[int]) -> Iterator[None]:
    """Merge a model's queries for a while."""
    before = merge_of(model)
    set_merge(model, merge)
    try:
        yield
    finally:
        set_merge(model, before)


def set_merge(model: nn.Layer, merge: Sequence[int]) -> None:
    """Merge a model's queries: the side of the squares that share one, of each stage."""
    for layers, side in zip(_attentions(model), merge, strict=True):
        for layer in layers:
            layer.merge = side


def draw(rungs: Sequence[Rung], chosen: Rung, path: Path) -> None:
    """Draw speed against loss: mIoU where there are labels, else the share of other labels."""
    from matplotlib.figure import Figure

    exact = rungs[0].scores
    has_labels = exact.iou is not None
    lost = [
        rung.scores.losses(exact)["miou"] if has_labels else 100 * (1 - rung.scores.agreement)
        for rung in rungs
    ]
    speeds = [rung.speed for rung in rungs]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    colors = ["#767676" if rung.faults else "#3987e5" for rung in rungs]
    axes.scatter(speeds, lost, c=colors, zorder=3)
    position = next(index for index, rung in enumerate(rungs) if rung is chosen)
    axes.scatter(speeds[position], lost[position], s=160, facecolors="none", edgecolors="#d9730d")
    order = np.argsort(speeds)[::-1]  # the front: no form is faster and loses less
    front = [i for n, i in enumerate(order) if all(lost[i] < lost[j] for j in order[:n])]
    axes.plot([speeds[i] for i in front], [lost[i] for i in front], color="#d9730d", linewidth=1)
    for rung, x, y in zip(rungs, speeds, lost, strict=True):
        axes.annotate(
            rung.form.title, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=7
        )
    axes.set_xlabel("times as fast as the exact network")
    axes.set_ylabel("mIoU lost, points" if has_labels else "labels that differ, %")
    axes.set_title("ringed: chosen; grey: loses more than allowed; line: Pareto front", fontsize=9)
    axes.grid(alpha=0.3)
    axes.margins(x=0.2)
    figure.savefig(path, dpi=120)
