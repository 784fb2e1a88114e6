"""Flags of PaddleSeg's programs that have no meaning here: accepted and answered, or refused."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from typing import Any

_TENSORRT = "TensorRT finds its own subgraphs and shapes"
_LAYOUT = "maps are always (N, C, H, W)"
_EXPORT = "the job `export` exports the trained model"
IGNORED = {  # by job
    "train": {
        "--data_format": _LAYOUT,
        "--repeats": "samples are drawn without end",
        "--profiler_options": "log.jsonl has the time of each step",
        "--output_op": _EXPORT,
        "--input_shape": _EXPORT,
        "--for_fd": _EXPORT,
    },
    "val": {"--data_format": _LAYOUT},
    "infer": {
        "--enable_mkldnn": "oneDNN is used as far as its results are right",
        "--enable_auto_tune": _TENSORRT,
        "--auto_tuned_shape_file": _TENSORRT,
        "--min_subgraph_size": _TENSORRT,
        "--with_argmax": "the results are class ids, whatever the export gives",
        "--print_detail": "nothing is printed beyond this program's own lines",
        "--model_name": "the report of --benchmark has no name",
    },
}
_ONE_CLASS = "a pixel has one class here. Train one model of two classes per label"
REFUSED = {
    "train": {"--use_multilabel": _ONE_CLASS},
    "val": {"--use_multilabel": _ONE_CLASS},
    "predict": {
        "--use_multilabel": _ONE_CLASS,
        "--device_id": "name the device by its number, as in --device gpu:1",
    },
    "export": {"--for_fd": "such files are written by --output_op argmax --paddleseg_dir DIR"},
}


class _Answered(Action):
    """Says that a flag has no effect; its values are not kept."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        print(f"{option}: {self.help}", file=sys.stderr)


class _Refused(Action):
    """Ends the program with what to do instead of a flag."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        parser.error(f"{option}: {self.help}")


def add_paddleseg_flags(parser: ArgumentParser, job: str) -> None:
    """Add the flags of PaddleSeg's program of that name."""
    for table, action, title in (
        (IGNORED, _Answered, "PaddleSeg's, without effect here"),
        (REFUSED, _Refused, "PaddleSeg's, refused"),
    ):
        for flag, answer in table.get(job, {}).items():
            parser.add_argument(
                flag,
                action=action,
                nargs="*",
                metavar="VALUE",
                default=SUPPRESS,
                help=f"{title}: {answer}",
            )
