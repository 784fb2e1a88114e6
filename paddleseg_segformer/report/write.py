"""Writing a report's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddleseg_segformer.evaluation import Metrics

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What a report holds.

    Args:
        folder: Where its files are.
        metrics: As `evaluate` gives them.
        figures: All its figures as plain data; `report.json` holds the same.
        temperatures: Of the calibration: test_config.temperatures of `calibrated.yml`.
    """

    folder: Path
    metrics: Metrics
    figures: dict[str, Any]
    temperatures: tuple[float, ...]

    @property
    def page(self) -> Path:
        """Return the path of the page."""
        return self.folder / PAGE


def write_report(
    run_dir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    model_path: str | os.PathLike[str] | None = None,
    opts: Sequence[str] = (),
    num_workers: int = 2,
    num_shown: int = 8,
) -> Report:
    """Evaluate a training run's model on its `val_dataset` and write the report.

    The folder gets `report.html` (the page), `report.json`, `results.csv`, `images.csv`,
    `confusion.csv`, `confusion.png`, `curves.csv`, `curves.png`, `reliability.png`,
    `risk_coverage.png`, `worst/`, `best/`, and `calibrated.yml`, the model's config with the
    temperatures that `export --config` takes over. Other files in it stay.

    Args:
        run_dir: What `train` wrote.
        out: Folder of the report; by default `run_dir`/report.
        model_path: Weights; by default the run's best model, else its newest checkpoint.
        opts: Overrides of the config, such as "val_dataset.dataset_root=DIR".
        num_workers: Threads that read images ahead.
        num_shown: Images shown of the worst, and of the best.

    Raises:
        UserError: no run, no model or no `val_dataset`; or as of `evaluate`.
        MissingDependency: Matplotlib is not installed.
    """
    raise NotImplementedError
