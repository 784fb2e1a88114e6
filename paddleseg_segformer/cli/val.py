"""`val`: evaluate a trained model on the labelled images of a config's `val_dataset`."""

from __future__ import annotations

import dataclasses
import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    check_outputs,
    load_config_from,
    set_device,
    set_up_logging,
    true_or_false,
)
from paddleseg_segformer.cli.inference_flags import add_inference_arguments, settings_from_config
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags
from paddleseg_segformer.cli.prediction_files import LABELS
from paddleseg_segformer.config.building import (
    build_dataset,
    build_evaluation,
    build_val_dataset,
)
from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.errors import UserError, printable
from paddleseg_segformer.files import check_folder, write_text

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.data.datasets import SegmentationDataset
    from paddleseg_segformer.evaluation import Metrics
    from paddleseg_segformer.inference.settings import InferenceSettings

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    add = parser.add_argument
    add("--num_workers", type=int, default=2, help="threads that read images ahead")
    add("--batch_size", type=int, default=1, help="images whose windows are batched together")
    add_inference_arguments(parser, "aug_eval")
    add(
        "--absent_class",
        choices=("nan", "0", "1"),
        help="IoU of a class neither labelled nor predicted: nan leaves it out of the mean; "
        "by default as in the config",
    )
    add(
        "--auc_roc",
        nargs="?",
        const=True,
        default=False,
        type=true_or_false,
        metavar="True|False",
        help="also the area under the ROC curve of each class against the others, and their mean",
    )
    add("--json", metavar="FILE", help="also write all metrics to this JSON file")
    add("--per_image_csv", metavar="FILE", help="also write the metrics of each image")
    add(
        "--report",
        metavar="DIR",
        help="also write a page and tables: intervals, errors, boundaries, calibration, images",
    )
    add("--print_plan", action="store_true", help="print what would be computed, and exit")
    add(
        "--predictions",
        nargs="+",
        metavar="DIR",
        help="evaluate the label maps that `predict` wrote into these folders; no model is loaded",
    )
    add_paddleseg_flags(parser, "val")


def run(args: Namespace) -> None:
    """Evaluate, print the table, write the requested files."""
    set_up_logging()
    check_outputs(args.json, args.per_image_csv)
    if args.predictions:
        _evaluate_predictions(args)
        return
    if args.report:
        from paddleseg_segformer.report.figures import check_matplotlib

        check_folder(args.report)
        check_matplotlib()
    config = load_config_from(args, build_evaluation)
    if config.val_dataset is None:
        raise UserError(
            f"{args.config or args.model_path}: has no val_dataset, which evaluation needs."
        )
    if not args.model_path and not args.print_plan:
        raise UserError("--model_path is missing: name the weights to evaluate (.pdparams).")
    settings = settings_from_config(args, config.test_config, "aug_eval")
    if args.batch_size > 1 and settings.window_batch is None:
        settings = dataclasses.replace(settings, window_batch=args.batch_size)
    device = set_device(args.device)
    prepare_cpu()

    if args.print_plan:
        dataset = build_dataset(config.val_dataset, "val_dataset")
        print(printable(_plan(config, dataset, settings)))
        return
    metrics, is_first = _evaluate(args, config, settings, device)
    if is_first:
        subject = {"model_path": str(args.model_path), "inference": settings.to_dict()}
        _show(args, metrics, subject)


def _show(args: Namespace, metrics: Metrics, subject: dict[str, Any]) -> None:
    """Print the metrics; write them with what they are of to `--json`."""
    print(printable(metrics.table()))
    if args.json:
        report = {"config": str(args.config or args.model_path), **subject, **metrics.to_dict()}
        write_text(args.json, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))


def _evaluate_predictions(args: Namespace) -> None:
    """Evaluate the label maps of `--predictions`, without Paddle."""
    from paddleseg_segformer.evaluation.predictions import evaluate_predictions, find_predictions

    needless = ("report", "print_plan", "auc_roc", "aug_eval", "is_slide", "scales", "crop_size")
    for flag in needless:
        if getattr(args, flag):
            raise UserError(f"--{flag} has no effect with --predictions. Leave it out.")
    config = load_config_from(args, build_val_dataset)
    if config.val_dataset is None:
        raise UserError(
            f"{args.config or args.model_path}: has no val_dataset, which evaluation needs."
        )
    dataset = build_dataset(config.val_dataset, "val_dataset")
    folders = [Path(folder) for folder in args.predictions]
    folders = [folder / LABELS if (folder / LABELS).is_dir() else folder for folder in folders]
    metrics = evaluate_predictions(
        dataset,
        find_predictions(dataset, folders),
        absent_class=args.absent_class or config.test_config.absent_class,
        num_workers=args.num_workers,
        per_image_csv=args.per_image_csv,
    )
    _show(args, metrics, {"predictions": args.predictions})


def _plan(config: Config, dataset: SegmentationDataset, settings: InferenceSettings) -> str:
    """Return the plan for the first image of the data set."""
    from paddleseg_segformer.inference.pipeline import Pipeline
    from paddleseg_segformer.inference.plan import describe_plan
    from paddleseg_segformer.inference.preprocess import Preprocess

    sample = dataset.read(0)
    preprocess = Preprocess.from_config(config)
    pipeline = Pipeline(lambda x: x, preprocess, settings)
    height, width, num_channels = sample.image.shape
    return f"{sample.image_path}\n{describe_plan(pipeline, (height, width), num_channels)}"


def _evaluate(
    args: Namespace,
    config: Config,
    settings: InferenceSettings,
    device: str,
) -> tuple[Metrics, bool]:
    """Return the metrics over all processes, and whether this process is the first."""
    from paddleseg_segformer.evaluation import evaluate
    from paddleseg_segformer.inference.memory_plan import plan_memory
    from paddleseg_segformer.inference.preprocess import Preprocess
    from paddleseg_segformer.training.distributed import (
        init_distributed,
        lost_peers_explained,
        sum_over_processes,
    )
    from paddleseg_segformer.weights import load_weights

    rank, world_size = init_distributed()
    if args.report and world_size > 1:
        raise UserError("--report: found several processes, expected one. Start it without launch.")
    dataset, model = build_evaluation(config)
    load_weights(model, args.model_path)
    preprocess = Preprocess.from_config(config)
    findings = None
    if args.report:
        from paddleseg_segformer.report import Findings, Subject, write_findings

        findings = Findings(len(dataset), dataset.num_classes, dataset.ignore_index)
    logger.info("%s on %s (%d processes)", args.model_path, device, world_size)
    with lost_peers_explained():
        metrics = evaluate(
            model,
            dataset,
            preprocess,
            settings,
            absent_class=args.absent_class or config.test_config.absent_class,
            num_workers=args.num_workers,
            batch_size=args.batch_size,
            rank=rank,
            world_size=world_size,
            all_reduce=sum_over_processes,
            per_image_csv=args.per_image_csv,
            with_auc=args.auc_roc,
            memory=plan_memory(model, args.memory_budget_mib, dataset.img_channels),
            watch=findings,
        )
    if findings:
        model.eval()
        path = Path(args.model_path)
        subject = Subject(path, config, model, dataset, preprocess, settings, device)
        write_findings(subject, metrics, findings, args.report)
    return metrics, rank == 0
