"""The model card of a run: data, licences, figures and use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle

import paddleseg_segformer
from paddleseg_segformer.annotations.archives import folder_of
from paddleseg_segformer.fitting.options import FitOptions

if TYPE_CHECKING:
    from paddleseg_segformer.fitting.run import FitReport

LICENCES = ("LICENSE*", "LICENCE*", "license*", "licence*", "COPYING*")


def model_card(
    report: FitReport, options: FitOptions, facts: dict[str, Any], verified: list[str]
) -> str:
    """Return the card in Markdown, with the front matter of model hubs.

    Args:
        facts: `num_train`, `num_val`, `size_hw` and `shares` of the data.
        verified: A line for each engine that the export was compared in.
    """
    metrics = report.metrics
    assert metrics is not None
    height, width = facts["size_hw"]
    rows = zip(metrics.classes, facts["shares"], metrics.iou, metrics.f1, strict=True)
    classes = [f"| {c} | {share:.2%} | {iou:.4f} | {f1:.4f} |" for c, share, iou, f1 in rows]
    return "\n".join(
        (
            "---",
            "library_name: paddlepaddle",
            "pipeline_tag: image-segmentation",
            "license: unknown",
            "---",
            "",
            f"# {options.model} on {options.name}",
            "",
            f"A model for semantic segmentation with {len(metrics.classes)} classes, trained by "
            f"paddleseg_segformer {paddleseg_segformer.__version__} with Paddle "
            f"{paddle.__version__}.",
            "",
            "## Figures",
            "",
            f"On {metrics.num_images} validation images that were not trained on: mIoU "
            f"{metrics.miou:.4f}, pixel accuracy {metrics.accuracy:.4f}, mean F1 "
            f"{metrics.mean_f1:.4f}. More in [report.html](report.html).",
            "",
            "| class | share of the training pixels | IoU | F1 |",
            "| - | - | - | - |",
            *classes,
            "",
            "## Data",
            "",
            f"`{options.data}`: {facts['num_train']} images for training, {facts['num_val']} for "
            f"validation, of {height}x{width} px (median). What was concluded of its form:",
            "",
            *(f"- {conclusion}" for conclusion in report.conclusions),
            "",
            "## Licences",
            "",
            f"- Data: {_licence(Path(options.data))}",
            "- Start weights: see the choices below; their licence is their owners'.",
            "- Program: Apache License 2.0.",
            "",
            "## Training",
            "",
            *(f"- {choice}" for choice in report.choices),
            "",
            "[config.yml](config.yml) holds it all.",
            "",
            "## Use",
            "",
            "```python",
            "from paddleseg_segformer import Predictor",
            "",
            'prediction = Predictor.from_pretrained("best_model")("image.jpg")',
            "prediction.label  # (H, W) class ids, in the order of classes.txt",
            "```",
            "",
            '`export/` needs no Paddle: `Predictor.from_export("export")`. It was compared with '
            "the model:",
            "",
            *(f"- {line}" for line in verified),
            "",
        )
    )


def _licence(data: Path) -> str:
    """Return what a data set says of its licence."""
    found = sorted({path.name for pattern in LICENCES for path in folder_of(data).glob(pattern)})
    if found:
        return f"see {', '.join(f'`{name}`' for name in found)} in its folder."
    return "not stated in its folder. Ask its owners before you pass the model on."
