"""`export`: write a model for Paddle Inference, ONNX Runtime and OpenVINO, with `deploy.yaml`."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    load_config_from,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.cli.int8_flags import add_int8_arguments, quantization_of
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags
from paddleseg_segformer.cli.speed_flags import add_speed_arguments, check_speed, speed_ladder
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.export.checks import WITH_PREPROCESS, check_formats, check_save_dir
from paddleseg_segformer.export.triton import check_triton_formats, write_triton_repository
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import label_set_of
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES, OUTPUT_OPS

if TYPE_CHECKING:
    from paddleseg_segformer.runtimes.deploy_config import Verification

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser, "; without it: the initial weights of --config")
    add = parser.add_argument
    add("--save_dir", default="output/inference_model", help="folder of the export, its own")
    add(
        "--format",
        nargs="+",
        metavar="FORMAT",
        help=f"what to write, some of {', '.join(ARTEFACT_FILES)}; default paddle, or with --speed "
        "what the chosen form runs from",
    )
    add(
        "--with_preprocess",
        action="store_true",
        help="also model_with_preprocess.onnx: a uint8 RGB image (1, H, W, 3) of any size in, "
        "class ids (1, H, W) of that size out; the same as --format onnx_with_preprocess",
    )
    add(
        "--standard_onnx",
        action="store_true",
        help="write ONNX with its own operators alone, for backends other than ONNX Runtime and "
        "OpenVINO (TensorRT); attention is then slower in ONNX Runtime and holds all scores",
    )
    add(
        "--input_shape",
        nargs=4,
        type=int,
        metavar=("N", "C", "H", "W"),
        help="fixed input shape, -1 for any; without it: any batch, height and width",
    )
    add(
        "--output_op",
        choices=OUTPUT_OPS,
        help="none, the default: logits at a quarter of the input's size, which windows, scales "
        "and flips need; argmax: int32 class ids, softmax: probabilities, both at the input's size",
    )
    add(
        "--triton_dir",
        metavar="DIR",
        help="also write a model repository for NVIDIA's Triton Inference Server into this folder",
    )
    add(
        "--paddleseg_dir",
        metavar="DIR",
        help="also write inference.json, inference.pdiparams, deploy.yaml and inference.yml for "
        "PaddleSeg's infer.py, PaddleX and FastDeploy into this folder; needs --output_op argmax, "
        "or softmax for PaddleSeg's alone",
    )
    add(
        "--verify",
        action=BooleanOptionalAction,
        default=True,
        help="compare the export in its backends with the model, and discard it if they differ",
    )
    add_speed_arguments(parser)
    add_int8_arguments(parser)
    add_paddleseg_flags(parser, "export")


def run(args: Namespace) -> None:
    """Export."""
    set_up_logging()
    output_op = args.output_op or "none"
    wanted = args.format or ([] if args.speed else ["paddle"])
    formats = [name for item in wanted for name in item.split(",")]
    if args.with_preprocess and WITH_PREPROCESS not in formats:
        formats.append(WITH_PREPROCESS)
    check_speed(args, formats, output_op)
    check_formats([*formats, "onnx"] if args.speed else formats)
    if args.triton_dir:
        check_triton_formats(formats, "--triton_dir")
    check_save_dir(args.save_dir)
    check_folder(args.save_dir)
    config = load_config_from(args, build_model)
    preprocess = Preprocess.from_config(config)
    settings = config.test_config.inference_settings()
    if args.paddleseg_dir:
        from paddleseg_segformer.export.paddleseg_folder import (
            check_destination,
            check_for_paddleseg,
            paddlex_name,
            write_paddleseg_folder,
        )

        check_for_paddleseg(formats, output_op, preprocess, settings)
        check_destination(args.paddleseg_dir)
    quantization = None if args.speed else quantization_of(args, config, formats)
    set_device(args.device)
    if args.output_op is None:
        logger.info("without --output_op the export gives logits (PaddleSeg's gives class ids)")

    from paddleseg_segformer.export import export_model
    from paddleseg_segformer.weights import load_weights

    model = build_model(config)
    if args.model_path:
        load_weights(model, args.model_path)
    else:
        logger.warning("without --model_path the export holds initial weights, not trained ones")
    export = partial(
        export_model,
        model,
        preprocess=preprocess,
        settings=settings,
        label_set=label_set_of(config.val_dataset or config.train_dataset, model.num_classes),
        output_op=output_op,
        input_shape=args.input_shape,
        is_verified=args.verify,
        is_standard_onnx=args.standard_onnx,
    )
    if args.speed:
        with speed_ladder(args, config, model, export) as ladder:
            chosen = ladder.climb()
            print(ladder.table())
            deploy = ladder.write(chosen, formats, Path(args.save_dir))
        logger.info("chosen: %s; run by default in %s", chosen.form.title, deploy.precision)
    else:
        deploy = export(args.save_dir, formats=formats, quantization=quantization)
    for artefact in deploy.artefacts.values():
        for verified in artefact.verified:
            logger.info(_report(verified, artefact.precision))
    for path in sorted(Path(args.save_dir).iterdir()):
        logger.info("%s  %.1f MiB", path, path.stat().st_size / 2**20)
    if args.triton_dir:
        for folder in write_triton_repository(args.save_dir, args.triton_dir):
            logger.info("%s  for Triton", folder)
    if args.paddleseg_dir:
        for path in write_paddleseg_folder(args.save_dir, args.paddleseg_dir, paddlex_name(model)):
            logger.info("%s  for PaddleSeg and PaddleX", path)


def _report(verified: Verification, precision: str) -> str:
    """Return one line on what was compared and how it came out."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in verified.input_shapes)
    relation = "equals" if precision == "fp32" else "is close to"
    parts = [f"{verified.engine} {relation} the model on {shapes}"]
    if verified.max_abs_difference is not None:
        parts.append(f"max difference {verified.max_abs_difference:.1e} (std {verified.std:.2g})")
    parts.append(f"{verified.label_agreement:.2%} of the labels")
    return "; ".join(parts)
