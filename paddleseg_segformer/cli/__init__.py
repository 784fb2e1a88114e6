"""The command lines: `python -m paddleseg_segformer JOB ...`, which `tools/*.py` call."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from paddleseg_segformer.components import import_components
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, UserErrors, did_you_mean, one_line, printable

JOBS = {
    "fit": "train, report and export a model on your own images and annotations of any form",
    "train": "train a model from a YAML config",
    "val": "evaluate a trained model on a labelled data set",
    "report": "write a page on a training run's model: figures, errors, calibration, curves",
    "curves": "write a page on the curves and settings of training runs, beside each other",
    "import_log": "make a run of a training log by PaddleSeg or mmsegmentation, to compare curves",
    "compare": "compare two models or exports on the same labelled images",
    "predict": "write label maps, overlays and more for images, folders, lists or videos",
    "infer": "predict images with an exported model, on any engine and without Paddle",
    "visualize": "draw the attention of a patch and a mask transformer's class maps over images",
    "erf": "draw effective receptive fields of stages and head, several models side by side",
    "robustness": "evaluate a model on corrupted images: the 16 corruptions of Cityscapes-C",
    "resolution_sweep": "evaluate models at several sizes of the images, whole and by windows",
    "export": "write a static graph and its deploy.yaml for Paddle Inference",
    "speed_ladder": "measure faster forms of a model on this machine, and what each loses",
    "serve": "answer HTTP requests with the predictions of an exported model",
    "convert_weights": "write weights as another code base's files, where that is possible exactly",
    "convert_dataset": "own data in any form: recognise, convert to labels and lists, split",
    "list_models": "published weights that can be named instead of a path",
    "check_dataset": "audit a data set and suggest class weights",
    "make_dataset": "generate the embedded street-scene data set",
    "complexity": "parameters, multiply-accumulates and activations, beside the published figures",
    "quickstart": "run the whole job on the embedded data set and print a report",
}
# jobs of the repository, which are not installed with the package
TOOLS = {
    "benchmark": ("benchmarks.speed.command", "time, memory and agreement of engines, interleaved"),
    "compare_engines": (
        "benchmarks.deployment.command",
        "the same images through every engine",
    ),
    "chaos": ("benchmarks.chaos", "kill a training run again and again and see nothing is lost"),
}
OLD_NAMES = {"demo": "quickstart"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; return its exit status (1 with a one-line message for a user's mistake).

    Mistakes in the flags themselves end the process with status 2. Where Python reads the names of
    files in another encoding than UTF-8, as in the C locale, it is started again in its UTF-8 mode.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # pipes of Windows cannot hold every character
            stream.reconfigure(errors="backslashreplace")
    try:
        with explained():
            _run(list(sys.argv[1:] if argv is None else argv))
    except UserErrors as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        is_lost = isinstance(error, FileNotFoundError) and not error.filename
        lost = "the current folder has been deleted. Go to another, or name absolute paths."
        print(f"error: {lost if is_lost else one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end the process."""
        line = " ".join(message.split()).rstrip(".")
        self.exit(2, f"error: {line} (see {self.prog} --help)\n")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments; refuse what is none, with the flag that was meant."""
        namespace, unknown = super().parse_known_args(*args, **kwargs)
        for item in unknown:
            flag = item.partition("=")[0]
            hint = did_you_mean(flag, (), self._option_string_actions)
            self.error(f"unknown argument {flag}.{hint}")
        return namespace, unknown


def _run(argv: list[str]) -> None:
    parser = _Parser(
        prog="python -m paddleseg_segformer",
        description="Train, evaluate, predict with and export SegFormer and Segmenter.",
    )
    subparsers = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    if argv and argv[0] in OLD_NAMES:
        argv = [OLD_NAMES[argv[0]], *argv[1:]]
    tools = {name: summary for name, (_, summary) in TOOLS.items() if find_spec("benchmarks")}
    for name, summary in (JOBS | tools).items():
        job_parser = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        if argv[:1] == [name]:  # import only the chosen job: the others' imports take seconds
            _module(name).add_arguments(job_parser)
    args = parser.parse_args(argv)
    if imports := getattr(args, "imports", None):
        args.imports = [import_components(source) for source in imports]
    _module(args.job).run(args)


def _module(job: str) -> ModuleType:
    """Import a job: its `add_arguments(parser)` and `run(args)`."""
    return importlib.import_module(TOOLS[job][0] if job in TOOLS else f"{__name__}.{job}")
