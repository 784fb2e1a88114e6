"""`speed_ladder`: measure faster forms of a model and what each loses, without an export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    load_config_from,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.cli.int8_flags import add_int8_arguments
from paddleseg_segformer.cli.speed_flags import add_speed_arguments, check_speed, speed_ladder
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.export.checks import check_formats
from paddleseg_segformer.files import check_folder, make_folder
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import label_set_of


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: those of `export --speed`."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    parser.add_argument(
        "--save_dir", default="output/speed_ladder", help="folder of speed.json and speed.png"
    )
    add_speed_arguments(parser)
    add_int8_arguments(parser)
    parser.set_defaults(speed="fastest")


def run(args: Namespace) -> None:
    """Measure, print the table, write it and the picture."""
    set_up_logging()
    check_formats(["onnx"])
    check_speed(args, [], "none")
    check_folder(args.save_dir)
    config = load_config_from(args, build_model)
    set_device(args.device)

    from paddleseg_segformer.export import export_model
    from paddleseg_segformer.weights import load_weights

    model = build_model(config)
    if args.model_path:
        load_weights(model, args.model_path)
    export = partial(
        export_model,
        model,
        preprocess=Preprocess.from_config(config),
        settings=config.test_config.inference_settings(),
        label_set=label_set_of(config.val_dataset or config.train_dataset, model.num_classes),
    )
    with speed_ladder(args, config, model, export) as ladder:
        best = ladder.climb()
        print(ladder.table())
        ladder.report(make_folder(Path(args.save_dir)), best)
