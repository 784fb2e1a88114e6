"""`fit`: detect, prepare, audit, plan, train, report, export; each stage once, whole or not at all.

`fit.json` in the results' folder says which stages are done. A run that resumes does the others.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import paddle.distributed as dist

from paddleseg_segformer.annotations import Detected
from paddleseg_segformer.config import load_config
from paddleseg_segformer.errors import UserError, only_warned
from paddleseg_segformer.evaluation import Metrics
from paddleseg_segformer.export.checks import check_formats
from paddleseg_segformer.files import make_folder, only_writer, remove_folder, write_text
from paddleseg_segformer.fitting.card import model_card
from paddleseg_segformer.fitting.options import FitOptions
from paddleseg_segformer.fitting.plan import Plan, make_plan
from paddleseg_segformer.fitting.prepare import detect_data, prepare_data
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import CONFIG, build_model
from paddleseg_segformer.predictor import Predictor, label_set_of
from paddleseg_segformer.report import write_report
from paddleseg_segformer.training.checkpoints import BEST, checkpoints
from paddleseg_segformer.training.options import RunOptions
from paddleseg_segformer.training.run import train
from paddleseg_segformer.training.sample_record import MAX_NAMES, changes, pack
from paddleseg_segformer.training.writers import logged
from paddleseg_segformer.weights import load_weights

logger = logging.getLogger(__name__)

STATE, DATA, EXPORT, CARD, CLASSES, CALIBRATED = (
    *("fit.json", "data", "export", "README.md", "classes.txt", "calibrated.yml"),
)
FREE_OPTIONS = ("out", "resume", "dry_run")  # that may change when a run resumes
PROGRAM = "python -m paddleseg_segformer"
SCORE = '"Evaluate/mIoU"'  # a key of log.jsonl


@dataclass(frozen=True)
class FitReport:
    """What a run of `fit` concluded and left behind.

    Args:
        folder: Of all results; None after a dry run.
        conclusions: On the form of the data, each with its reason.
        choices: Of the recipe, each with its reason.
        config_yaml: The config, with the choices as comments.
        metrics: On the validation set, as `val` gives them; None after a dry run.
        seconds: Of each stage.
        first_score_s: From the start to the first evaluation, in seconds; None after a dry run.
    """

    folder: Path | None
    conclusions: list[str]
    choices: list[str]
    config_yaml: str
    metrics: Metrics | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    first_score_s: float | None = None

    @property
    def model(self) -> Path:
        """Return the folder of the best model."""
        return self._folder / BEST

    @property
    def export(self) -> Path:
        """Return the folder of the export."""
        return self._folder / EXPORT

    @property
    def page(self) -> Path:
        """Return the report's page."""
        return self._folder / "report.html"

    def predictor(self) -> Predictor:
        """Return a predictor of the best model."""
        return Predictor.from_pretrained(self.model)

    @property
    def _folder(self) -> Path:
        if self.folder is None:
            raise UserError("fit: a dry run leaves nothing behind. Run it without dry_run.")
        return self.folder

    def __str__(self) -> str:
        lines = [*self.conclusions, *self.choices]
        if self.metrics and self.folder:
            figures = f"mIoU {self.metrics.miou:.4f}, accuracy {self.metrics.accuracy:.4f}"
            lines.append(f"{self.folder}: {figures} on {self.metrics.num_images} images")
        return "\n".join(lines)


def fit(data: Any, **options: Any) -> FitReport:
    """Train, report and export a model on the images and annotations in `data`.

    Args:
        data: Folder of the data set, or the one annotation file that is meant.
        options: Those of the command `fit`, without the dashes: `minutes=4`, `model="b2"`,
            `export=["onnx"]`. The device is Paddle's current one.

    Returns:
        What was concluded, chosen and reached, and where it is.

    Raises:
        UserError: the data or the options are wrong.
    """
    return run(FitOptions.of(data, **options))


def run(
    options: FitOptions, detected: Detected | None = None, begun_s: float | None = None
) -> FitReport:
    """Do what the options say; see `fit`.

    Args:
        detected: The data, where it was detected before.
        begun_s: When `minutes` began, of `time.monotonic`; by default now.
    """
    begun_s = time.monotonic() if begun_s is None else begun_s
    if dist.get_world_size() > 1:
        raise UserError(
            "fit: found several processes, expected one. Train what it writes: --dry_run shows a "
            "config for `train`, which several processes or machines run."
        )
    if options.dry_run:
        with TemporaryDirectory() as folder, logged(None, to_console=True):
            conclusions, plan = _plan(options, detected, Path(folder, DATA), begun_s)
            text = _config_text(plan, options, options.out_dir)
            text = text.replace(folder, str(options.out_dir))
        return FitReport(None, conclusions, list(map(str, plan.recipe.choices)), text)
    out = make_folder(options.out_dir)
    with only_writer(out):
        state = _State.open(out, options, begun_s)
        return _run_stages(options, out, state, detected, begun_s)


def _run_stages(
    options: FitOptions, out: Path, state: _State, detected: Detected | None, begun_s: float
) -> FitReport:
    """Do what is left to do."""
    with logged(out, to_console=True):
        if state.classes and "plan" in state.seconds and "card" not in state.seconds:
            with only_warned("the data have changed since the run began"):
                state.compare(detect_data(options))
        stages = _Stages(options, out, state, begun_s, detected)
        for name, stage in stages.in_order().items():
            if name in state.seconds:
                logger.info("%s: done before", name)
                continue
            logger.info("== %s", name)
            start = time.monotonic()
            stage()
            state.seconds[name] = round(time.monotonic() - start, 2)
            state.save(out)
        logger.info(_ending(out, state))
    return state.report(out)


@dataclass
class _State:
    """What a run has done so far, and all that its later stages need of the earlier ones.

    Args:
        options: As given.
        conclusions, choices: See `FitReport`.
        run: Fields of `RunOptions`.
        iters: Planned.
        facts: On the data, for the model card.
        classes: As they were detected.
        images: Their names, packed; "" where they are too many.
        metrics: `Metrics.to_dict` of the best model.
        verified: A line for each engine that the export was compared in.
        seconds: Of each stage that is done.
        begun_s: When the run began for the first time, of `time.time`.
        first_score_s: See `FitReport`.
    """

    options: dict[str, Any]
    conclusions: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    iters: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    images: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    begun_s: float = 0.0
    first_score_s: float | None = None

    @classmethod
    def open(cls, out: Path, options: FitOptions, begun_s: float) -> _State:
        """Return the state of a folder; a new one where nothing is in it.

        Raises:
            UserError: it holds something else, another run, or one that is not to be resumed.
        """
        path, asked = out / STATE, _plain(options)
        if not path.is_file():
            others = sorted(item.name for item in out.iterdir()) if out.is_dir() else []
            if others:
                raise UserError(
                    f"{out}: holds other files ({', '.join(others[:3])}), and a run takes a folder "
                    "of its own. Choose another --out."
                )
            state = cls(asked, begun_s=time.time() - (time.monotonic() - begun_s))
            state.save(out)
            return state
        if not options.resume:
            raise UserError(
                f"{out}: holds an earlier run. Go on with it by --resume, or choose another --out."
            )
        try:
            state = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise UserError(f"{path}: damaged. Choose another --out.") from None
        changed = [
            f"{name} was {state.options.get(name)!r}, now {value!r}"
            for name, value in asked.items()
            if name not in FREE_OPTIONS and state.options.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{out}: the run to resume had other options: {'; '.join(changed)}. Give the same, "
                "or choose another --out."
            )
        return state

    def save(self, out: Path) -> None:
        """Write it, whole."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        write_text(out / STATE, text + "\n")

    def note_data(self, detected: Detected) -> None:
        """Note what the data are, to be compared when the run is resumed."""
        self.classes = list(detected.classes)
        names = [str(sample.image.relative_to(detected.root)) for sample in detected.samples]
        self.images = pack(names) if len(names) <= MAX_NAMES else ""

    def compare(self, detected: Detected) -> None:
        """Compare the data with what the run began with.

        Raises:
            UserError: something has changed; the run is of what was prepared then.
        """
        now = _State({})
        now.note_data(detected)
        found = changes(self.images, now.images) if self.images != now.images else ""
        if self.classes != now.classes:
            found += f"{'; ' * bool(found)}classes were {self.classes}, are {now.classes}"
        if found:
            raise UserError(
                f"{found}. This run goes on with what it prepared then; for the data of today "
                "begin another, with another --out."
            )

    def report(self, out: Path) -> FitReport:
        """Return the report of a run whose stages are all done."""
        text = (out / CONFIG).read_text(encoding="utf-8")
        metrics = Metrics(
            np.asarray(self.metrics["confusion"], np.int64),
            tuple(self.metrics["classes"]),
            self.metrics["num_images"],
            self.metrics["absent_class"],
        )
        return FitReport(
            out,
            self.conclusions,
            self.choices,
            text,
            metrics,
            self.seconds,
            self.first_score_s,
        )


def _plain(options: FitOptions) -> dict[str, Any]:
    """Return the options by their plain names, as JSON gives them back."""
    values = dataclasses.asdict(options)
    values |= values.pop("annotations")
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found


class _Stages:
    """The stages of a run.

    Args:
        out: Folder of the results.
        begun_s: When the run began, of `time.monotonic`.
        detected: The data, where it was detected before.
    """

    def __init__(
        self,
        options: FitOptions,
        out: Path,
        state: _State,
        begun_s: float,
        detected: Detected | None,
    ) -> None:
        self.options = options
        self.out = out
        self.state = state
        self.begun_s = begun_s
        self.detected = detected

    def in_order(self) -> dict[str, Callable[[], None]]:
        """Return the stages by name."""
        return {
            "plan": self.plan,
            "train": self.train,
            "report": self.report,
            "export": self.export,
            "card": self.card,
        }

    def plan(self) -> None:
        """Find out about the data, and write `config.yml`."""
        state, options = self.state, self.options
        check_formats(options.formats)
        detected = self.detected or detect_data(options)
        state.note_data(detected)
        state.conclusions, plan = _plan(options, detected, self.out / DATA, self.begun_s)
        recipe = plan.recipe
        config = recipe.config(options.opts)
        assert config.val_dataset is not None
        state.choices = list(map(str, recipe.choices))
        state.run, state.iters = recipe.run, config.iters
        state.facts = {
            "num_train": plan.fingerprint.num_samples,
            "num_val": plan.num_val,
            "size_hw": plan.fingerprint.size_hw,
            "shares": plan.fingerprint.shares.tolist(),
        }
        classes = config.val_dataset["classes"]
        write_text(self.out / CLASSES, "".join(f"{name}\n" for name in classes))
        write_text(self.out / CONFIG, _config_text(plan, options, self.out))

    def train(self) -> None:
        """Train; remove the checkpoints when the best model is whole."""
        config, planned = load_config(self.out / CONFIG), dict(self.state.run)
        saved = checkpoints(self.out)  # of a run that was stopped
        if saved and "max_minutes" in planned:
            left = max(1 - int(saved[-1].name[5:]) / self.state.iters, 1e-3)
            planned["max_minutes"] *= left
        options = RunOptions(
            save_dir=str(self.out),
            do_eval=True,
            resume_model="auto",
            keep_checkpoint_max=1,
            seed=self.options.seed,
            **planned,
        )
        if not train(config, options).is_finished:
            raise UserError(
                f"{self.out}: the training was stopped. {BEST} there is its best model so far. Go "
                "on with it by --resume."
            )
        if self.state.begun_s and (scored_s := _first_score(self.out)):
            self.state.first_score_s = round(scored_s - self.state.begun_s, 1)

    def report(self) -> None:
        """Evaluate the best model and write the page."""
        title = f"{self.options.model} on {self.options.name}"
        self.state.metrics = write_report(self.out, self.out, title=title).metrics.to_dict()

    def export(self) -> None:
        """Export the best model and compare it in each engine."""
        from paddleseg_segformer.export import export_model

        config = load_config(self.out / CALIBRATED)
        model = build_model(config)
        load_weights(model, self.out / BEST)
        deploy = export_model(
            model,
            self.out / EXPORT,
            preprocess=Preprocess.from_config(config),
            settings=config.test_config.inference_settings(),
            label_set=label_set_of(config.val_dataset, model.num_classes),
            formats=self.options.formats,
        )
        self.state.verified = [
            f"{verified.engine}: {verified.label_agreement:.2%} of the labels equal"
            for artefact in deploy.artefacts.values()
            for verified in artefact.verified
        ]
        for line in self.state.verified:
            logger.info("export, %s", line)

    def card(self) -> None:
        """Write the model card; remove what was for resuming alone."""
        state = self.state
        text = model_card(state.report(self.out), self.options, state.facts, state.verified)
        write_text(self.out / CARD, text)
        for folder in checkpoints(self.out):
            remove_folder(folder)


def _plan(
    options: FitOptions, detected: Detected | None, folder: Path, begun_s: float
) -> tuple[list[str], Plan]:
    """Prepare the data in a folder and plan; log all conclusions."""
    prepared = prepare_data(detected or detect_data(options), folder)
    plan = make_plan(prepared.sections, options, prepared.background, begun_s)
    for choice in plan.recipe.choices:
        logger.info("%s", choice)
    return prepared.conclusions, plan


def _config_text(plan: Plan, options: FitOptions, out: Path) -> str:
    """Return `config.yml`, under the command that trains it again."""
    run = {name: value for name, value in plan.recipe.run.items() if name != "max_minutes"}
    flags = [f"--{name}" + ("" if value is True else f" {value}") for name, value in run.items()]
    header = (
        f"Written by: fit {shlex.quote(options.data)}. To train it again: {PROGRAM} train --config "
        f"{shlex.quote(str(out / CONFIG))} --do_eval --seed {options.seed} {' '.join(flags)} "
        "--save_dir output/again"
    )
    return plan.recipe.to_yaml(header, options.opts)


def _first_score(out: Path) -> float | None:
    """Return when the first evaluation of a training was logged, of `time.time`."""
    with (out / "log.jsonl").open(encoding="utf-8") as file:
        return next((json.loads(line)["time_s"] for line in file if SCORE in line), None)


def _ending(out: Path, state: _State) -> str:
    """Return what was reached, and the next commands."""
    folder = shlex.quote(str(out))
    miou = state.metrics["mIoU"]
    first = f"; first score after {state.first_score_s / 60:.1f} min" if state.first_score_s else ""
    return "\n".join(
        (
            f"model: {out / BEST}, mIoU {miou:.4f}{first}; report: {out / 'report.html'}",
            f"predict: {PROGRAM} predict --model_path {folder}/{BEST} --image_path IMAGES",
            f"serve:   {PROGRAM} serve --config {folder}/{EXPORT}",
            f"show:    {PROGRAM}.gradio_page --model {folder}/{BEST}",
        )
    )
