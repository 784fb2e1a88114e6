"""`infer`: `predict` for an exported model, under the name and flags of PaddleSeg's program.

    python -m paddleseg_segformer infer --config output/export/deploy.yaml --image_path photos

Size rules, normalisation, windows and colours come from `deploy.yaml`. Paddle is imported only
where it runs the network.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli import predict
from paddleseg_segformer.cli.common import add_device_argument
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: those of `predict` for exported models."""
    parser.add_argument(
        "--config",
        dest="export_dir",
        required=True,
        help="deploy.yaml of the export, or its folder",
    )
    add_device_argument(parser)
    predict.add_prediction_arguments(parser, aug_flag=None)
    add_paddleseg_flags(parser, "infer")
    parser.set_defaults(
        save_dir="output/infer",
        config=None,
        model_path=None,
        aug_pred=True,
        memory_budget_mib=None,
        has_png_overlays=True,
    )


def run(args: Namespace) -> None:
    """Predict all images, or the frames of a video; see `predict.run`."""
    predict.run(args)
